//! PostgreSQL with any setting: killed, stopped, started again, with a standby that is promoted.
//!
//! One `initdb` for the machine, copied for each server, so that one is up in a fraction of a second. Everything here
//! blocks for a moment, so that it works in every test and on drop. A server that root starts runs as `nobody`, and
//! none outlives the process that started it. Next: the tests of the store.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::port::Port;
use crate::shim::Shim;

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);
/// Who runs a server that root starts: PostgreSQL refuses root.
const NOBODY: u32 = 65_534;
const OLDEST: u32 = 15;

/// A PostgreSQL server, running or not. Its superuser is `semel`, without a password, over TCP on 127.0.0.1.
#[derive(Debug)]
pub struct PostgresServer {
    folder: TempDir,
    data: PathBuf,
    environment: Vec<(&'static str, OsString)>,
    port: Port,
    settings: Vec<(String, String)>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    pid: Pid,
    ended: Mutex<mpsc::Receiver<()>>,
}

impl Running {
    /// Whether it has ended, after waiting for that as long as `patience`.
    fn ends_within(&self, patience: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.recv_timeout(patience).is_ok()
    }
}

impl PostgresServer {
    /// A server that does not wait for its disk: for tests that cut no power.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[("fsync", "off")])
    }

    /// A server with PostgreSQL's own defaults and `settings` of postgresql.conf over them.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    #[must_use]
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_under(None, None, settings)
    }

    /// The same, with `shim` between it and its files, and with its data in the folder `home`, where there are such.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    #[must_use]
    pub fn start_under(shim: Option<&Shim>, home: Option<&Path>, settings: &[(&str, &str)]) -> Self {
        Self::start_on(shim, home, settings, |data| copy(&template(), data))
    }

    /// A server of this one's data and settings that follows it, known to it as `name`. It is waited for by the primary's commits
    /// when its `synchronous_standby_names` says so.
    ///
    /// # Panics
    /// When it does not start, with what it said.
    #[must_use]
    pub fn standby(&self, name: &str) -> Self {
        let from = format!("host=127.0.0.1 port={} user=semel application_name={name}", self.port());
        let settings: Vec<_> =
            self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let standby = Self::start_on(None, None, &settings, |data| {
            let mut backup = run_as_server(&program("pg_basebackup"));
            backup.arg("-D").arg(data).args(["-d", &from, "-R", "-X", "stream", "-c", "fast", "-N"]);
            succeed(backup);
        });
        let streams = format!("SELECT count(*) FROM pg_stat_replication WHERE application_name = '{name}'");
        wait_until("the standby streams", || self.sql("postgres", &streams) == "1");
        standby
    }

    fn start_on(
        shim: Option<&Shim>,
        home: Option<&Path>,
        settings: &[(&str, &str)],
        make_data: impl Fn(&Path),
    ) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let folder = tempfile::Builder::new().prefix("semel-postgres-").tempdir();
        let folder = folder.unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        give_to_server(folder.path());
        let data = home.unwrap_or(folder.path()).join("data");
        if let Some(home) = home {
            give_to_server(home);
        }
        make_data(&data);
        if home.is_some() {
            // As `initdb` leaves it: a copy is not on the disk by itself.
            let mut sync = Command::new("sync");
            sync.arg("-f").arg(&data);
            succeed(sync);
        }
        let environment = shim.map(|shim| shim.environment(&data)).unwrap_or_default();
        let settings = settings.iter().map(own).collect();
        let mut server = Self { folder, data, environment, port: Port::take(), settings, running: None };
        server.start_again();
        server
    }

    /// Sets `name` from the next start on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Adds a file to the data folder that only the server may read, and returns its path.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn put_file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.data.join(name);
        let put = fs::write(&path, contents)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o600)));
        put.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        give_to_server(&path);
        path
    }

    /// Starts it on the data and the port it has.
    ///
    /// # Panics
    /// When it runs already, or does not start.
    pub fn start_again(&mut self) {
        assert!(self.running.is_none(), "PostgreSQL runs already");
        // What a kill has left; the server would wait to see whether it is still true.
        let _ = fs::remove_file(self.data.join("postmaster.pid"));
        let mut command = Command::new("setpriv");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(as_server()).args(["--pdeathsig", "QUIT", "--"]).arg(program("postgres"));
        command.arg("-D").arg(&self.data);
        let port = self.port().to_string();
        let ours =
            [("port", port.as_str()), ("listen_addresses", "127.0.0.1"), ("unix_socket_directories", "")];
        let theirs = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in ours.into_iter().chain(theirs) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let log = File::create(self.folder.path().join("log"));
        let log = log.unwrap_or_else(|error| panic!("no log of PostgreSQL: {error}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).current_dir("/");
        let running = keep(command);
        // The last line of this file says how far it is.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
            if state.lines().nth(7).is_some_and(|line| matches!(line.trim(), "ready" | "standby")) {
                self.running = Some(running);
                return;
            }
            assert!(!running.ends_within(Duration::ZERO), "PostgreSQL did not start: {}", self.log());
            assert!(Instant::now() < deadline, "PostgreSQL was not ready in time: {}", self.log());
            thread::sleep(PAUSE);
        }
    }

    /// Ends all its processes at once, as `kill -9` does.
    pub fn kill(&mut self) {
        let Some(running) = self.running.take() else { return };
        // Stopped first, so that it does not start to mend what is killed under it.
        let _ = kill_process(running.pid, Signal::STOP);
        let children = children_of(running.pid);
        for pid in children.into_iter().chain([running.pid]) {
            let _ = kill_process(pid, Signal::KILL);
        }
        running.ends_within(PATIENCE);
    }

    /// Ends it in order: its sessions are ended, and everything is on the disk.
    pub fn stop(&mut self) {
        self.end_with(Signal::INT);
    }

    fn end_with(&mut self, signal: Signal) {
        let Some(running) = self.running.take() else { return };
        let _ = kill_process(running.pid, signal);
        if !running.ends_within(PATIENCE) {
            self.running = Some(running);
            self.kill();
        }
    }

    /// Stops every process where it stands, until [`PostgresServer::thaw`]: it takes connections and says nothing.
    pub fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets it go on after [`PostgresServer::freeze`].
    pub fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        let Some(running) = &self.running else { return };
        for pid in [running.pid].into_iter().chain(children_of(running.pid)) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Makes a standby the primary, and waits until it takes writes.
    ///
    /// # Panics
    /// When it does not become one.
    pub fn promote(&self) {
        let mut promote = run_as_server(&program("pg_ctl"));
        promote.arg("promote").arg("-w").arg("-D").arg(&self.data);
        succeed(promote);
        wait_until("it is the primary", || self.sql("postgres", "SELECT pg_is_in_recovery()") == "f");
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The URL of `database` on it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://semel@127.0.0.1:{}/{database}", self.port.number())
    }

    /// Makes an empty database and returns its URL.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn database(&self, name: &str) -> String {
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url(name)
    }

    /// Runs statements with `psql` and returns what they gave, a row a line.
    ///
    /// # Panics
    /// When one fails, with what it said.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        let mut psql = Command::new(program("psql"));
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            &self.url(database),
            "-c",
            statements,
        ]);
        succeed(psql)
    }

    /// What it has written to its log since it was started last.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.thaw();
        self.end_with(Signal::QUIT);
    }
}

/// PgBouncer in front of a server, handing out its connections transaction by transaction.
#[derive(Debug)]
pub struct Pooler {
    _folder: TempDir,
    port: Port,
    running: Running,
}

impl Pooler {
    /// Starts one with `settings`, lines of pgbouncer.ini.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(server: &PostgresServer, settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("semel-pgbouncer-").tempdir();
        let folder = folder.unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        give_to_server(folder.path());
        let port = Port::take();
        let file = folder.path().join("pgbouncer.ini");
        let ini = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = transaction\n{settings}\n",
            server.port(),
            port.number()
        );
        // With `auth_type = any` everybody is this user of the server.
        let ini = ini.replace("port=", "user=semel port=");
        fs::write(&file, ini).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut command = Command::new("setpriv");
        command.args(as_server()).args(["--pdeathsig", "QUIT", "--", "pgbouncer", "-q"]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let running = keep(command);
        wait_until("PgBouncer listens", || {
            assert!(!running.ends_within(Duration::ZERO), "PgBouncer did not start; is it installed?");
            TcpStream::connect(("127.0.0.1", port.number())).is_ok()
        });
        Self { _folder: folder, port, running }
    }

    /// The URL of `database` through it.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://semel@127.0.0.1:{}/{database}", self.port.number())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = kill_process(self.running.pid, Signal::KILL);
    }
}

/// Where a program of the newest PostgreSQL on this machine is: Debian puts them outside the `PATH`.
///
/// # Panics
/// When there is none of version 15 or newer.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let versions = installed.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    if let Some(newest) = versions.filter(|version| *version >= OLDEST).max() {
        return format!("/usr/lib/postgresql/{newest}/bin/{name}").into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file());
    found.unwrap_or_else(|| {
        panic!("PostgreSQL {OLDEST} or newer is not installed: apt-get install postgresql")
    })
}

/// A data folder as `initdb` makes it, made once.
fn template() -> PathBuf {
    let initdb = program("initdb");
    let version = succeed({
        let mut command = Command::new(&initdb);
        command.arg("--version");
        command
    });
    let version: String = version.chars().filter(char::is_ascii_digit).collect();
    let home = std::env::temp_dir().join(format!("semel-testkit-postgres-{}", getuid().as_raw()));
    let made = home.join(format!("template-{version}"));
    fs::create_dir_all(&home).unwrap_or_else(|error| panic!("{}: {error}", home.display()));
    give_to_server(&home);
    let turn = File::create(home.join("turn"));
    let turn = turn.unwrap_or_else(|error| panic!("{}: {error}", home.display()));
    turn.lock().unwrap_or_else(|error| panic!("{}: {error}", home.display()));
    if !made.exists() {
        let half = home.join("half");
        let _ = fs::remove_dir_all(&half);
        let mut command = run_as_server(&initdb);
        command.arg("-D").arg(&half).args(["-U", "semel", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"]);
        succeed(command);
        fs::rename(&half, &made).unwrap_or_else(|error| panic!("{}: {error}", made.display()));
    }
    made
}

fn copy(from: &Path, to: &Path) {
    let mut command = run_as_server(Path::new("cp"));
    command.arg("-a").arg(from).arg(to);
    succeed(command);
}

fn run_as_server(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(as_server()).arg("--").arg(program).stdin(Stdio::null()).current_dir("/");
    command
}

/// What makes `setpriv` start a program as somebody else than root.
fn as_server() -> Vec<String> {
    if !getuid().is_root() {
        return Vec::new();
    }
    vec![format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()]
}

fn give_to_server(path: &Path) {
    if getuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

fn succeed(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {said}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// Starts the server from a thread that stays until it ends: it is told when that thread is gone, which is when this
/// process is.
fn keep(mut command: Command) -> Running {
    let (pid, started) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    thread::spawn(move || {
        let child: Result<Child, _> = command.spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let _ = pid.send(Pid::from_child(&child));
        let _ = child.wait();
        let _ = end.send(());
    });
    let pid = started.recv().unwrap_or_else(|_| panic!("`setpriv` of util-linux is not installed"));
    Running { pid, ended: Mutex::new(ended) }
}

fn children_of(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of_parent = pids.filter(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name in parentheses: the state, then the parent.
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        after_name.split(' ').nth(1).and_then(|text| text.parse().ok()) == Some(parent.as_raw_nonzero().get())
    });
    of_parent.filter_map(Pid::from_raw).collect()
}

fn wait_until(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !state() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}");
        thread::sleep(PAUSE);
    }
}
