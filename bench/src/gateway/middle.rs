//! What is measured: a process between the callers and the upstream, on a core of its own, and the server of its store
//! beside it.

use std::any::Any;
use std::error::Error;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use semel_testkit::server::postgres::PostgresServer;
use semel_testkit::server::redis::RedisServer;

use super::load::{Load, Saw};
use super::peer::Peer;
use super::process::{Cores, Process, own, pin, pinned, serving};
use crate::servers;

/// Callers and upstream, on a core of their own.
pub(super) struct Outside {
    process: Process,
    output: BufReader<ChildStdout>,
    /// The upstream's port.
    pub(super) upstream: u16,
}

impl Outside {
    pub(super) fn start(cores: &Cores) -> Result<Self, Box<dyn Error>> {
        let sleeps = cores.is_one().then_some("--sleeps");
        let arguments: Vec<&str> = ["outside"].into_iter().chain(sleeps).collect();
        let mut command = own(&cores.outside, &arguments)?;
        let (process, upstream, output) = serving(command.stdin(Stdio::piped()))?;
        Ok(Self { process, output, upstream })
    }

    /// Runs the callers to their end.
    pub(super) fn call(&mut self, load: &Load) -> Result<Saw, Box<dyn Error>> {
        let input = self.process.input().ok_or("it has no input")?;
        writeln!(input, "{}", serde_json::to_string(load)?)?;
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("the callers ended, see above".into());
        }
        Ok(serde_json::from_str::<Result<Saw, String>>(&line)??)
    }
}

/// What a middle is started with.
pub(super) struct Surroundings<'a> {
    pub(super) upstream: u16,
    pub(super) semel: &'a Path,
    /// Where the embedded store's file is made.
    pub(super) folder: &'a Path,
    pub(super) cores: &'a Cores,
    pub(super) http2: bool,
}

/// What stands between callers and upstream.
pub(super) struct Middle {
    pub(super) name: String,
    pub(super) port: u16,
    /// The page with counters of the gateway.
    metrics: Option<u16>,
    process: Option<Process>,
    /// First processes of the store's server.
    store: Vec<String>,
    pub(super) peer: Option<Peer>,
    /// What it needs to live: a folder, a server.
    _parts: Vec<Box<dyn Any>>,
}

/// Everything that can be measured, beside the folders of `bench/peers`.
pub(super) const NAMES: [&str; 11] = [
    "none",
    "floor",
    "nginx",
    "memory",
    "embedded",
    "redis",
    "postgres",
    "axum",
    "axum-memory",
    "axum-redis",
    "axum-postgres",
];

impl Middle {
    fn new(name: &str, port: u16, process: impl Into<Option<Process>>) -> Self {
        Self {
            name: name.to_owned(),
            port,
            metrics: None,
            process: process.into(),
            store: Vec::new(),
            peer: None,
            _parts: Vec::new(),
        }
    }

    /// With the server of its store: its first process and what keeps it alive.
    fn with(mut self, store: Vec<String>, part: impl Any) -> Self {
        self.store.extend(store);
        self._parts.push(Box::new(part));
        self
    }

    /// CPU time of the process, and of its store's server.
    pub(super) fn cpu(&self) -> (Duration, Duration) {
        let own = self.process.as_ref().map_or(Duration::ZERO, Process::cpu);
        (own, if self.store.is_empty() { Duration::ZERO } else { servers::cpu(&self.store) })
    }

    /// Whether it knows no keys.
    pub(super) fn is_bare(&self) -> bool {
        matches!(self.name.as_str(), "none" | "floor" | "nginx" | "axum")
    }

    /// Who tells what took effect.
    pub(super) fn ledger(&self, upstream: u16) -> u16 {
        match &self.peer {
            Some(peer) => peer.ledger(self.port, upstream),
            None if self.name.starts_with("axum") => self.port,
            None => upstream,
        }
    }

    pub(super) fn memory_mib(&self) -> (f64, f64) {
        self.process.as_ref().map_or((0.0, 0.0), Process::memory_mib)
    }

    /// How often the gateway has asked its store.
    pub(super) fn store_calls(&self) -> Result<Option<f64>, Box<dyn Error>> {
        let Some(port) = self.metrics else { return Ok(None) };
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let counts = page.lines().filter(|line| line.starts_with("semel_store_seconds_count"));
        Ok(Some(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()))
    }

    /// By name, one of [`NAMES`] or a folder of `bench/peers`.
    pub(super) fn start(name: &str, around: &Surroundings<'_>) -> Result<Self, Box<dyn Error>> {
        let core = around.cores.middle.as_str();
        match name {
            "none" => Ok(Self::new(name, around.upstream, None)),
            "floor" => {
                let upstream = format!("127.0.0.1:{}", around.upstream);
                let (process, port, _) = serving(&mut own(core, &["floor", &upstream])?)?;
                Ok(Self::new(name, port, process))
            }
            "axum" => axum(name, core, &[]),
            "axum-memory" => axum(name, core, &["--store", "memory:"]),
            "axum-redis" => {
                let (server, root) = redis(core);
                Ok(axum(name, core, &["--store", &server.url()])?.with(vec![root], server))
            }
            "axum-postgres" => {
                let (server, root) = postgres(core);
                Ok(axum(name, core, &["--store", &server.database("semel")])?.with(vec![root], server))
            }
            "nginx" => nginx(around),
            "memory" => gateway(name, around, "memory:"),
            "embedded" => {
                let folder = tempfile::Builder::new().prefix("gateway-").tempdir_in(around.folder)?;
                let url = format!("embedded:{}", folder.path().join("keys.sqlite").display());
                Ok(gateway(name, around, &url)?.with(Vec::new(), folder))
            }
            "redis" => {
                let (server, root) = redis(core);
                Ok(gateway(name, around, &server.url())?.with(vec![root], server))
            }
            "postgres" => {
                let (server, root) = postgres(core);
                let url = server.database("semel");
                let migrate = ["store", "migrate", &url];
                let migrated = Command::new(around.semel).args(migrate).stdout(Stdio::null()).status()?;
                if !migrated.success() {
                    return Err("the database could not be migrated".into());
                }
                Ok(gateway(name, around, &url)?.with(vec![root], server))
            }
            other => Self::peer(other, around),
        }
    }

    fn peer(name: &str, around: &Surroundings<'_>) -> Result<Self, Box<dyn Error>> {
        let core = around.cores.middle.as_str();
        let peer = Peer::named(name)?;
        let (url, roots, server): (_, _, Box<dyn Any>) = match peer.about.server.as_deref() {
            Some("redis") => {
                let (server, root) = redis(core);
                (server.url(), vec![root], Box::new(server))
            }
            Some("postgres") => {
                let (server, root) = postgres(core);
                (server.database("peer"), vec![root], Box::new(server))
            }
            Some(other) => return Err(format!("{name}: no server is called {other}").into()),
            None => (String::new(), Vec::new(), Box::new(())),
        };
        let (process, port) = peer.start(core, around.upstream, &url)?;
        let mut middle = Self::new(name, port, process).with(roots, server);
        middle.peer = Some(peer);
        Ok(middle)
    }
}

fn redis(core: &str) -> (RedisServer, String) {
    let server = RedisServer::start();
    let root = server.info("process_id");
    pin(core, std::slice::from_ref(&root));
    (server, root)
}

fn postgres(core: &str) -> (PostgresServer, String) {
    let server = PostgresServer::start_with(&[]);
    let folder = server.sql("postgres", "SHOW data_directory");
    let file = std::fs::read_to_string(Path::new(&folder).join("postmaster.pid")).unwrap_or_default();
    let root = file.lines().next().unwrap_or_default().to_owned();
    pin(core, std::slice::from_ref(&root));
    (server, root)
}

/// A port that was free a moment ago.
pub(super) fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The effect inside a program.
fn axum(name: &str, core: &str, store: &[&str]) -> Result<Middle, Box<dyn Error>> {
    let (process, port, _) = serving(&mut own(core, &[&["axum"], store].concat())?)?;
    Ok(Middle::new(name, port, process))
}

/// Semel's gateway, with room for the largest crowd.
fn gateway(name: &str, around: &Surroundings<'_>, store: &str) -> Result<Middle, Box<dyn Error>> {
    let folder = tempfile::Builder::new().prefix("semel-gateway-").tempdir()?;
    let (config, admin) = (folder.path().join("semel.toml"), free_port()?);
    std::fs::write(&config, "[limits]\nwaiters_per_record = 12000\nconnections = 12000\n")?;
    let mut command = pinned(&around.cores.middle, around.semel);
    command.args(["gateway", "--listen", "127.0.0.1:0", "--log", "warn", "--store", store]);
    command.arg("--config").arg(&config).arg("--admin").arg(format!("127.0.0.1:{admin}"));
    command.arg("--upstream").arg(format!("http://127.0.0.1:{}", around.upstream));
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    let output = child.stderr.take().ok_or("no output")?;
    let process = Process::new(child);
    let mut lines = BufReader::new(output);
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Err("the gateway ended before it listened".into());
        }
    }
    std::thread::spawn(move || {
        // What `semel check` would say of these settings is known.
        let lines = lines.lines().map_while(Result::ok).filter(|line| !line.starts_with("warning: "));
        lines.for_each(|line| eprintln!("{line}"));
    });
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
    let port = port.ok_or(format!("it said no port but {line:?}"))?;
    Ok(Middle { metrics: Some(admin), ..Middle::new(name, port, process) }.with(Vec::new(), folder))
}

fn nginx(around: &Surroundings<'_>) -> Result<Middle, Box<dyn Error>> {
    let folder = tempfile::Builder::new().prefix("semel-nginx-").tempdir()?;
    let (port, upstream) = (free_port()?, around.upstream);
    let http2 = if around.http2 { " http2" } else { "" };
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
             server {{ listen 127.0.0.1:{port}{http2} backlog=12000; location / {{ proxy_pass http://up; proxy_http_version 1.1; \
             proxy_set_header Connection ''; proxy_set_header Host $host; }} }}\n}}\n"
        ),
    )?;
    let mut command = pinned(&around.cores.middle, Path::new("nginx"));
    let process = Process::new(command.arg("-c").arg(&file).spawn()?);
    Ok(Middle::new("nginx", port, process).with(Vec::new(), folder))
}
