//! redis-server, alone or as a Cluster, with any setting; killed, stopped, started again, emptied. The environment's
//! `SEMEL_REDIS_SERVER` names another program that takes the same configuration, such as valkey-server.
//!
//! Everything here blocks for a moment, so that it works in every test and on drop. Next: the tests of the store.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::port::Port;
use crate::shim::Shim;

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(10);

/// A redis-server, running or not.
#[derive(Debug)]
pub struct RedisServer {
    folder: TempDir,
    port: Port,
    _bus: Port,
    settings: Vec<(String, String)>,
    environment: Vec<(&'static str, OsString)>,
    child: Option<Child>,
}

impl RedisServer {
    /// A server with an append-only file and `appendfsync everysec`.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with `settings` of redis.conf over it.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    #[must_use]
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        let mut server = Self::not_started(settings);
        server.start_again();
        server
    }

    /// The same as [`RedisServer::start`], with `shim` between it and its files and clock.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    #[must_use]
    pub fn start_under(shim: &Shim) -> Self {
        let mut server = Self::not_started(&[]);
        server.environment = shim.environment(server.folder());
        server.start_again();
        server
    }

    fn not_started(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("semel-redis-").tempdir();
        let folder = folder.unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        let [port, bus] = [Port::take(), Port::take()];
        let mut all: Vec<(String, String)> = [
            ("bind", "127.0.0.1".to_owned()),
            ("port", port.number().to_string()),
            ("cluster-port", bus.number().to_string()),
            ("dir", folder.path().display().to_string()),
            ("logfile", folder.path().join("log").display().to_string()),
            ("daemonize", "no".to_owned()),
            ("appendonly", "yes".to_owned()),
            ("appendfsync", "everysec".to_owned()),
            ("save", "\"\"".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        for (name, value) in settings {
            // Those may stand several times, and are no second thought about the first.
            if !["user", "rename-command"].contains(name) {
                all.retain(|(other, _)| other != name);
            }
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
        Self { folder, port, _bus: bus, settings: all, environment: Vec::new(), child: None }
    }

    /// Starts it with the data it has, and waits until it answers, if only to say that it is loading.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    pub fn start_again(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.try_start() {
            assert!(Instant::now() < deadline, "redis-server did not start; it said:\n{}", self.log());
            sleep(PAUSE);
        }
    }

    /// False when it ended instead.
    fn try_start(&mut self) -> bool {
        assert!(self.child.is_none(), "the server runs already");
        let mut conf = String::new();
        for (name, value) in &self.settings {
            writeln!(conf, "{name} {value}").expect("a string takes everything");
        }
        let path = self.folder.path().join("redis.conf");
        fs::write(&path, conf).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let program = std::env::var_os("SEMEL_REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let mut command = Command::new(&program);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let spawned = command.spawn();
        let mut child = spawned.unwrap_or_else(|error| {
            panic!("{program:?} cannot be started ({error}); install it: apt-get install redis-server")
        });
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            if matches!(child.try_wait(), Ok(Some(_))) {
                return false;
            }
            assert!(Instant::now() < deadline, "redis-server does not answer; it said:\n{}", self.log());
            sleep(PAUSE);
        }
        self.child = Some(child);
        true
    }

    fn answers(&self) -> bool {
        let mut reply = [0; 1];
        TcpStream::connect(("127.0.0.1", self.port())).is_ok_and(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE)).is_ok()
                && stream.write_all(b"PING\r\n").is_ok()
                && stream.read_exact(&mut reply).is_ok()
        })
    }

    /// `redis://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr())
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where its data is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Changes a setting from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(other, _)| other != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// What redis-cli prints for a command.
    ///
    /// # Panics
    /// When the server does not answer, or answers with an error.
    #[must_use]
    pub fn ask(&self, command: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["-e", "-p", &self.port().to_string()]).args(command).stdin(Stdio::null());
        let ran = cli.output().unwrap_or_else(|error| panic!("{cli:?}: {error}"));
        let said = String::from_utf8_lossy(&ran.stdout).trim_end().to_owned();
        assert!(ran.status.success(), "{command:?}: {said}{}", String::from_utf8_lossy(&ran.stderr));
        said
    }

    /// The number of a field of INFO, such as `used_memory`.
    ///
    /// # Panics
    /// When there is no such number.
    #[must_use]
    pub fn info(&self, field: &str) -> String {
        let info = self.ask(&["INFO", "everything"]);
        let found = info.lines().find_map(|line| line.trim_end().strip_prefix(field)?.strip_prefix(':'));
        found.unwrap_or_else(|| panic!("no {field} in INFO")).to_owned()
    }

    /// SIGKILL, and waits for its end.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("the server does not run");
        child.kill().unwrap_or_else(|error| panic!("the server cannot be killed: {error}"));
        child.wait().unwrap_or_else(|error| panic!("the server does not end: {error}"));
    }

    /// Whether it was started and not killed.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Removes everything it has on disk; it must not run.
    ///
    /// # Panics
    /// When it runs, or its files cannot be removed.
    pub fn forget(&self) {
        assert!(self.child.is_none(), "the server runs");
        for entry in fs::read_dir(self.folder.path()).expect("the folder lives as long as the server") {
            let path: PathBuf = entry.expect("the folder can be read").path();
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    /// SIGSTOP: its connections stay and nothing answers.
    ///
    /// # Panics
    /// When it does not run.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server does not run");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has an id");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("the server cannot be signalled: {error}"));
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A Cluster: the masters first, then their replicas in the same order.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
    masters: usize,
}

const SLOTS: usize = 16_384;

impl RedisCluster {
    /// `masters` nodes with all slots, each with `replicas` replicas, connected and writable. A node is held for
    /// dead after one second.
    ///
    /// # Panics
    /// When it does not come about within half a minute.
    #[must_use]
    pub fn start(masters: usize, replicas: usize) -> Self {
        Self::start_with(masters, replicas, &[])
    }

    /// The same, with `settings` of redis.conf at every node.
    ///
    /// # Panics
    /// When it does not come about within half a minute.
    #[must_use]
    pub fn start_with(masters: usize, replicas: usize, settings: &[(&str, &str)]) -> Self {
        let mut all = vec![
            ("cluster-enabled", "yes"),
            ("cluster-node-timeout", "1000"),
            ("cluster-replica-validity-factor", "0"),
            ("repl-diskless-sync-delay", "0"),
        ];
        all.extend(settings);
        let nodes = (0..masters * (1 + replicas)).map(|_| RedisServer::start_with(&all)).collect();
        let cluster = Self { nodes, masters };
        cluster.join(replicas);
        cluster
    }

    fn join(&self, replicas: usize) {
        let first = &self.nodes[0];
        for (n, node) in self.nodes.iter().enumerate() {
            // Distinct epochs from the start, so that nobody has to settle who is older.
            let _ = node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]);
            let bus = node.setting("cluster-port");
            let _ = first.ask(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), bus]);
        }
        for (n, master) in self.nodes[..self.masters].iter().enumerate() {
            let slot = |nth: usize| nth * SLOTS / self.masters;
            let range = (slot(n).to_string(), (slot(n + 1) - 1).to_string());
            let _ = master.ask(&["CLUSTER", "ADDSLOTSRANGE", &range.0, &range.1]);
        }
        self.wait_for("every node knows every other", |node| {
            node.ask(&["CLUSTER", "NODES"]).lines().filter(|line| !line.contains("handshake")).count()
                == self.nodes.len()
        });
        for (n, replica) in self.nodes[self.masters..].iter().enumerate() {
            let master = self.nodes[n / replicas].ask(&["CLUSTER", "MYID"]);
            let _ = replica.ask(&["CLUSTER", "REPLICATE", &master]);
        }
        self.settle();
    }

    /// Waits until every node that runs says that the Cluster is well, and all replicas follow their masters.
    ///
    /// # Panics
    /// When that is not so within half a minute.
    pub fn settle(&self) {
        // Until then it does not say what the others are.
        self.wait_for("every node has read its data", |node| node.info("loading") == "0");
        self.wait_for("replicas follow their masters", |node| {
            node.info("role") == "master" || node.info("master_link_status") == "up"
        });
        self.wait_for("the cluster is well", |node| {
            node.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        });
        // One that comes back believes for a moment that it is still a master.
        self.wait_for("there are as many masters as at first", |_| self.masters().len() == self.masters);
    }

    fn wait_for(&self, what: &str, holds: impl Fn(&RedisServer) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        for node in self.nodes.iter().filter(|node| node.runs()) {
            while !holds(node) {
                let said = node.ask(&["CLUSTER", "NODES"]);
                assert!(Instant::now() < deadline, "waited for: {what}; a node says\n{said}");
                sleep(PAUSE * 5);
            }
        }
    }

    /// `redis-cluster://` and the addresses of the masters.
    #[must_use]
    pub fn url(&self) -> String {
        let addresses: Vec<_> = self.nodes[..self.masters].iter().map(RedisServer::addr).collect();
        format!("redis-cluster://{}", addresses.join(","))
    }

    /// The nodes: the first masters, then their first replicas.
    #[must_use]
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// The same, to be killed and started.
    pub fn nodes_mut(&mut self) -> &mut [RedisServer] {
        &mut self.nodes
    }

    /// Which of the nodes that run are masters with slots now.
    #[must_use]
    pub fn masters(&self) -> Vec<usize> {
        let running = self.nodes.iter().enumerate().filter(|(_, node)| node.runs());
        running
            .filter(|(_, node)| {
                let nodes = node.ask(&["CLUSTER", "NODES"]);
                let own = nodes.lines().find(|line| line.contains("myself")).unwrap_or_default();
                own.contains("master") && own.split_whitespace().count() > 8
            })
            .map(|(n, _)| n)
            .collect()
    }
}

impl RedisServer {
    fn setting(&self, name: &str) -> &str {
        let found = self.settings.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str()).expect("every server has this setting")
    }
}
