//! Upstreams in other people's servers, as child processes: Python's `http.server` and Node's `node:http`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::{Noted, Running, Upstream};
use crate::ledger::Ledger;

/// What Python's server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PythonProtocol {
    /// Its default: a connection per request.
    Http10,
    /// Connections are kept alive.
    Http11,
}

impl Upstream {
    /// Python's `ThreadingHTTPServer`, with its ledger in `folder`. `?delay_ms=300` says how long an effect takes.
    ///
    /// # Panics
    /// When there is no `python3`, or it does not start.
    pub async fn python(folder: &Path, protocol: PythonProtocol) -> Self {
        let protocol = match protocol {
            PythonProtocol::Http10 => "HTTP/1.0",
            PythonProtocol::Http11 => "HTTP/1.1",
        };
        let ledger = ledger_in(folder);
        let mut command = Command::new("python3");
        command.arg(asset("upstream.py")).arg(&ledger).arg(protocol);
        start(command, ledger).await
    }

    /// Node's `http` server, with its ledger in `folder`. `?delay_ms=300` says how long an effect takes.
    ///
    /// # Panics
    /// When there is no `node`, or it does not start.
    pub async fn node(folder: &Path) -> Self {
        let ledger = ledger_in(folder);
        let mut command = Command::new("node");
        command.arg(asset("upstream.mjs")).arg(&ledger);
        start(command, ledger).await
    }
}

fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets").join(name)
}

fn ledger_in(folder: &Path) -> PathBuf {
    static LEDGERS: AtomicUsize = AtomicUsize::new(0);
    folder.join(format!("ledger-{}.jsonl", LEDGERS.fetch_add(1, Ordering::Relaxed)))
}

async fn start(mut command: Command, ledger: PathBuf) -> Upstream {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
    let stdout = child.stdout.take().expect("it was asked for");
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await;
    let Ok(Ok(Some(port))) = line else { panic!("{command:?} did not say where it listens: {line:?}") };
    let port = port.parse().unwrap_or_else(|error| panic!("{port} is not a port: {error}"));
    Upstream {
        addr: SocketAddr::from(([127, 0, 0, 1], port)),
        ledger: Ledger::of_file(ledger),
        noted: Noted::default(),
        _running: Running::Child(child),
    }
}
