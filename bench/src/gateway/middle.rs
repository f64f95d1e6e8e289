//! What is measured: a process between the callers and the upstream, on a core of its own, and the server of its store
//! beside it.

use std::any::Any;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use semel_testkit::server::postgres::PostgresServer;
use semel_testkit::server::redis::RedisServer;

use super::load::{Load, Saw};
use crate::servers;

/// The core of whatever is measured, and that of callers and upstream.
const MIDDLE_CORE: &str = "0";
const OTHER_CORE: &str = "1";

/// A child process, killed when dropped.
pub(super) struct Process(Child);

impl Process {
    fn cpu(&self) -> Duration {
        servers::cpu(&[self.0.id().to_string()])
    }

    /// Resident memory, in MiB.
    fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.unwrap_or_default() / 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Whether it ended by itself is of no interest here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pinned(core: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).arg(program);
    command
}

/// One of this program's own hidden commands, on the callers' core or the middle's.
fn own(core: &str, arguments: &[&str]) -> Result<Command, Box<dyn Error>> {
    let mut command = pinned(core, &std::env::current_exe()?);
    command.arg("gateway-part").args(arguments);
    Ok(command)
}

/// Starts it, and reads the port that its first line names.
fn serving(command: &mut Command) -> Result<(Process, u16, BufReader<ChildStdout>), Box<dyn Error>> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let process = Process(child);
    let mut line = String::new();
    let mut output = BufReader::new(output);
    output.read_line(&mut line)?;
    let port = line.trim().parse().map_err(|_| format!("it said no port but {line:?}"))?;
    Ok((process, port, output))
}

/// Callers and upstream, on a core of their own.
pub(super) struct Outside {
    process: Process,
    output: BufReader<ChildStdout>,
    /// The upstream's port.
    pub(super) upstream: u16,
}

impl Outside {
    pub(super) fn start() -> Result<Self, Box<dyn Error>> {
        let mut command = own(OTHER_CORE, &["outside"])?;
        let (process, upstream, output) = serving(command.stdin(Stdio::piped()))?;
        Ok(Self { process, output, upstream })
    }

    /// Runs the callers to their end.
    pub(super) fn call(&mut self, load: &Load) -> Result<Saw, Box<dyn Error>> {
        let input = self.process.0.stdin.as_mut().ok_or("it has no input")?;
        writeln!(input, "{}", serde_json::to_string(load)?)?;
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("the callers met a wrong answer, see above".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

/// What stands between callers and upstream.
pub(super) struct Middle {
    pub(super) name: &'static str,
    pub(super) port: u16,
    process: Option<Process>,
    /// First processes of the store's server.
    store: Vec<String>,
    /// What it needs to live: a folder, a server.
    _parts: Vec<Box<dyn Any>>,
}

impl Middle {
    /// CPU time of the process, and of its store's server.
    pub(super) fn cpu(&self) -> (Duration, Duration) {
        let own = self.process.as_ref().map_or(Duration::ZERO, Process::cpu);
        (own, servers::cpu(&self.store))
    }

    /// Whether it knows no keys.
    pub(super) fn is_bare(&self) -> bool {
        matches!(self.name, "none" | "floor" | "nginx")
    }

    pub(super) fn resident_mib(&self) -> f64 {
        self.process.as_ref().map_or(0.0, Process::resident_mib)
    }

    /// By name, one of [`NAMES`].
    pub(super) fn start(
        name: &str,
        upstream: u16,
        semel: &Path,
        folder: &Path,
    ) -> Result<Self, Box<dyn Error>> {
        match name {
            "none" => Ok(Self {
                name: "none",
                port: upstream,
                process: None,
                store: Vec::new(),
                _parts: Vec::new(),
            }),
            "floor" => {
                let (process, port, _) =
                    serving(&mut own(MIDDLE_CORE, &["floor", &format!("127.0.0.1:{upstream}")])?)?;
                Ok(Self {
                    name: "floor",
                    port,
                    process: Some(process),
                    store: Vec::new(),
                    _parts: Vec::new(),
                })
            }
            "nginx" => nginx(upstream),
            "memory" => semel_with("memory", semel, upstream, "memory:".to_owned(), Vec::new(), Vec::new()),
            "embedded" => {
                let folder = tempfile::Builder::new().prefix("gateway-").tempdir_in(folder)?;
                let url = format!("embedded:{}", folder.path().join("keys.sqlite").display());
                semel_with("embedded", semel, upstream, url, Vec::new(), vec![Box::new(folder)])
            }
            "redis" => {
                let server = RedisServer::start();
                let store = vec![server.info("process_id")];
                pin(&store);
                let url = server.url();
                semel_with("redis", semel, upstream, url, store, vec![Box::new(server)])
            }
            "postgres" => {
                let server = PostgresServer::start_with(&[]);
                let store = vec![postmaster(&server)];
                pin(&store);
                let url = server.database("semel");
                let migrated =
                    Command::new(semel).args(["store", "migrate", &url]).stdout(Stdio::null()).status()?;
                if !migrated.success() {
                    return Err("the database could not be migrated".into());
                }
                semel_with("postgres", semel, upstream, url, store, vec![Box::new(server)])
            }
            other => Err(format!("nothing is called {other}; there are {}", NAMES.join(", ")).into()),
        }
    }
}

/// Everything that can be measured.
pub(super) const NAMES: [&str; 7] = ["none", "floor", "nginx", "memory", "embedded", "redis", "postgres"];

fn postmaster(server: &PostgresServer) -> String {
    let folder = server.sql("postgres", "SHOW data_directory");
    let file = std::fs::read_to_string(Path::new(&folder).join("postmaster.pid")).unwrap_or_default();
    file.lines().next().unwrap_or_default().to_owned()
}

/// Moves a server that runs already, with its threads, to the middle's core. Its later children stay there.
fn pin(roots: &[String]) {
    for root in roots {
        let _ = Command::new("taskset")
            .args(["-a", "-p", "-c", MIDDLE_CORE, root])
            .stdout(Stdio::null())
            .status();
    }
}

fn semel_with(
    name: &'static str,
    semel: &Path,
    upstream: u16,
    url: String,
    store: Vec<String>,
    parts: Vec<Box<dyn Any>>,
) -> Result<Middle, Box<dyn Error>> {
    let mut command = pinned(MIDDLE_CORE, semel);
    command.args(["gateway", "--listen", "127.0.0.1:0", "--admin", "off", "--log", "warn", "--store", &url]);
    command.arg("--upstream").arg(format!("http://127.0.0.1:{upstream}"));
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let output = child.stderr.take().ok_or("no output")?;
    let process = Process(child);
    let mut lines = BufReader::new(output);
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Err("the gateway ended before it listened".into());
        }
    }
    std::thread::spawn(move || std::io::copy(&mut lines.by_ref(), &mut std::io::stderr()));
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
    Ok(Middle {
        name,
        port: port.ok_or(format!("it said no port but {line:?}"))?,
        process: Some(process),
        store,
        _parts: parts,
    })
}

fn nginx(upstream: u16) -> Result<Middle, Box<dyn Error>> {
    let folder = tempfile::Builder::new().prefix("semel-nginx-").tempdir()?;
    let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let at = folder.path().display();
    let file: PathBuf = folder.path().join("nginx.conf");
    std::fs::write(
        &file,
        format!(
            "daemon off; master_process off; worker_processes 1; pid {at}/pid; error_log {at}/error.log;\n\
             events {{ worker_connections 12000; }}\n\
             http {{\n access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n \
             fastcgi_temp_path {at}/f; uwsgi_temp_path {at}/u; scgi_temp_path {at}/s; keepalive_requests 1000000000;\n \
             upstream up {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 1000000000; }}\n \
             server {{ listen 127.0.0.1:{port} backlog=12000; location / {{ proxy_pass http://up; proxy_http_version 1.1; \
             proxy_set_header Connection ''; proxy_set_header Host $host; }} }}\n}}\n"
        ),
    )?;
    let mut command = pinned(MIDDLE_CORE, Path::new("nginx"));
    let process = Process(command.arg("-c").arg(&file).spawn()?);
    let parts: Vec<Box<dyn Any>> = vec![Box::new(folder)];
    Ok(Middle { name: "nginx", port, process: Some(process), store: Vec::new(), _parts: parts })
}
