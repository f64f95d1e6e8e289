//! A `semel gateway` as a child process: started on a store of its own, killed, started again, asked about its keys.
//!
//! It knows the program only by its path, its flags and what it prints. Next: [`crate::upstream`].

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a gateway may take to say where it listens; a debug build on a busy machine is slow.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The last ones, because the end of a program is in them.
const LOG_LINES_KEPT: usize = 5_000;
/// How many of them are shown when it does not start.
const LOG_LINES_SHOWN: usize = 40;

type Log = Arc<Mutex<VecDeque<String>>>;

/// A gateway, running or not.
#[derive(Debug)]
pub struct Gateway {
    program: PathBuf,
    upstream: String,
    folder: TempDir,
    config: Option<PathBuf>,
    /// A store that is not its own.
    shared: Option<String>,
    environment: Vec<(&'static str, OsString)>,
    log: Log,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    addr: SocketAddr,
    started_in: Duration,
}

/// How a gateway ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// From the signal to its end.
    pub took: Duration,
}

/// What `semel keys` said.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Its exit code.
    pub code: Option<i32>,
    /// The JSON documents on its standard output, a line each.
    pub documents: Vec<Value>,
    /// Its standard error.
    pub said: String,
}

impl Gateway {
    /// Starts `program` in front of `upstream`, on a new store.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(program: &str, upstream: &str) -> Self {
        Self::start_with(program, upstream, "").await
    }

    /// As [`Gateway::start`], with a configuration file.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(program: &str, upstream: &str, config: &str) -> Self {
        let mut gateway = Self::not_started(program, upstream, config);
        gateway.start_again().await;
        gateway
    }

    /// As [`Gateway::start_with`], on the store at a URL, which others may use as well.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_on(store: &str, program: &str, upstream: &str, config: &str) -> Self {
        let mut gateway = Self::not_started(program, upstream, config);
        gateway.shared = Some(store.to_owned());
        gateway.start_again().await;
        gateway
    }

    /// A gateway that has a store and was not started.
    ///
    /// # Panics
    /// When there is no place for its store.
    #[must_use]
    pub fn not_started(program: &str, upstream: &str, config: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("semel-test-").tempdir();
        let folder = folder.unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let file = (!config.is_empty()).then(|| folder.path().join("semel.toml"));
        if let Some(file) = &file {
            fs::write(file, config).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
        let (program, upstream) = (PathBuf::from(program), upstream.to_owned());
        let (environment, log) = (Vec::new(), Arc::default());
        Self { program, upstream, folder, config: file, shared: None, environment, log, running: None }
    }

    /// With more in the environment of the gateway itself, from its next start on; not of `semel keys`.
    pub fn set_environment(&mut self, environment: Vec<(&'static str, OsString)>) {
        self.environment = environment;
    }

    /// Starts it on the store it has.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    pub async fn start_again(&mut self) {
        assert!(self.running.is_none(), "the gateway runs already");
        let mut command = self.command();
        command.args(["gateway", "--upstream", &self.upstream, "--listen", "127.0.0.1:0", "--admin", "off"]);
        command.args(["--store", &self.store()]).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped()).kill_on_drop(true);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let began = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stderr = child.stderr.take().expect("it was asked for");
        let (ready, listens) = oneshot::channel();
        tokio::spawn(read_log(BufReader::new(stderr), Arc::clone(&self.log), ready));
        let Ok(Ok(addr)) = tokio::time::timeout(START_TIMEOUT, listens).await else {
            let waited = began.elapsed();
            self.folder.disable_cleanup(true);
            let status = child.try_wait();
            let log = self.log();
            panic!(
                "the gateway did not start, {status:?} after {waited:?}; its store is kept in {}; it said:\n{}",
                self.folder().display(),
                log[log.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
            );
        };
        self.running = Some(Running { child, addr, started_in: began.elapsed() });
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"SEMEL_"))
        {
            command.env_remove(name);
        }
        command
    }

    /// Where it listens.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.running().addr
    }

    /// How long it took from its start to the line that says where it listens.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn started_in(&self) -> Duration {
        self.running().started_in
    }

    /// The store's URL.
    #[must_use]
    pub fn store(&self) -> String {
        let own = || format!("embedded:{}", self.folder.path().join("store.sqlite").display());
        self.shared.clone().unwrap_or_else(own)
    }

    /// The folder of the store.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has said on standard error.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the gateway does not run")
    }

    fn pid(&self) -> Pid {
        let pid = self.running().child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        pid.expect("a child that was not waited for has an id")
    }

    /// Sends SIGKILL and returns at once; [`Gateway::start_again`] needs [`Gateway::wait`] before.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&self) {
        self.signal(Signal::KILL);
    }

    /// Sends SIGTERM and returns at once.
    ///
    /// # Panics
    /// When it does not run.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGSTOP: it stands still until [`Gateway::thaw`], and its connections stay open.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after [`Gateway::freeze`].
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal)
            .unwrap_or_else(|error| panic!("the gateway cannot be signalled: {error}"));
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it has not ended within 90 s.
    pub async fn wait(&mut self) -> Ended {
        let Running { mut child, .. } = self.running.take().expect("the gateway does not run");
        let began = Instant::now();
        let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(90), child.wait()).await else {
            panic!("the gateway did not end; it said:\n{}", self.log().join("\n"));
        };
        Ended { status, took: began.elapsed() }
    }

    /// Memory it has resident now, in bytes.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most memory it ever had resident, in bytes.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn resident_peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, line: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let kib = status
            .lines()
            .find_map(|own| own.strip_prefix(line))
            .and_then(|rest| rest.trim().strip_suffix("kB").and_then(|kib| kib.trim().parse::<u64>().ok()));
        kib.unwrap_or_else(|| panic!("no {line} in {path}")) * 1024
    }

    /// Runs `semel keys` with `args`, on the store of this gateway.
    ///
    /// # Panics
    /// When it cannot be run, or prints something else than JSON.
    pub async fn keys(&self, args: &[&str]) -> Keys {
        let mut command = self.command();
        command.arg("keys").args(args).args(["--json", "--store", &self.store()]).stdin(Stdio::null());
        let ran = command.output().await.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        let documents: Result<Vec<Value>, _> =
            serde_json::Deserializer::from_slice(&ran.stdout).into_iter().collect();
        let documents = documents.unwrap_or_else(|error| panic!("{error}; it said {said}"));
        Keys { code: ran.status.code(), documents, said }
    }

    /// The keys of all records in `state`.
    ///
    /// # Panics
    /// When they cannot be listed.
    pub async fn keys_in(&self, state: &str) -> std::collections::BTreeSet<String> {
        let listed = self.keys(&["list", "--state", state, "--all"]).await;
        assert_eq!(listed.code, Some(0), "{}", listed.said);
        let keys = listed.documents.iter().map(|record| record["key"].as_str().expect("a record has a key"));
        keys.map(str::to_owned).collect()
    }
}

async fn read_log(
    stderr: impl tokio::io::AsyncBufRead + Unpin,
    log: Log,
    ready: oneshot::Sender<SocketAddr>,
) {
    let (mut lines, mut ready) = (stderr.lines(), Some(ready));
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some(addr) = listening_address(&line)
            && let Some(ready) = ready.take()
        {
            // The test may have given up already.
            let _ = ready.send(addr);
        }
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LOG_LINES_KEPT {
            log.pop_front();
        }
        log.push_back(line);
    }
}

/// `semel gateway listening on http://127.0.0.1:8787, upstream …` names 127.0.0.1:8787.
fn listening_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on")?;
    let (_, rest) = rest.split_once("://")?;
    rest.split([',', ' ', '/']).next()?.parse().ok()
}

/// How many connections to `addr` this machine has open.
///
/// # Panics
/// When the system does not say.
#[must_use]
pub fn connections_to(addr: SocketAddr) -> usize {
    sockets().iter().filter(|socket| socket.remote == addr.port() && socket.established).count()
}

/// Whether everything that was sent to `addr` has been read there.
///
/// # Panics
/// When the system does not say.
#[must_use]
pub fn has_read_everything(addr: SocketAddr) -> bool {
    sockets().iter().filter(|socket| socket.local == addr.port()).all(|socket| socket.unread_bytes == 0)
}

/// A socket on this machine, from `/proc/net/tcp`.
struct Socket {
    local: u16,
    remote: u16,
    established: bool,
    unread_bytes: u64,
}

fn sockets() -> Vec<Socket> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_else(|error| panic!("/proc/net/tcp: {error}"));
    let sockets = table.lines().skip(1).map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = |field: &str| u16::from_str_radix(field.rsplit(':').next()?, 16).ok();
        Some(Socket {
            local: port(fields.get(1)?)?,
            remote: port(fields.get(2)?)?,
            established: *fields.get(3)? == "01",
            unread_bytes: u64::from_str_radix(fields.get(4)?.rsplit(':').next()?, 16).ok()?,
        })
    });
    sockets.collect::<Option<_>>().unwrap_or_else(|| panic!("/proc/net/tcp is not as expected:\n{table}"))
}
