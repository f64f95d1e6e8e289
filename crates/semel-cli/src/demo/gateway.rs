//! Starts the real gateway in front of the payments API: a child process of this same binary.
//!
//! Its records are in a temporary folder of their own, which goes when the child has gone. What the gateway does is not
//! known here; it only has to say on stderr where it listens.

use std::env;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::process::{Child, Command};

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A gateway that is ready to serve. Dropping it kills the child and removes its folder; [`Gateway::stop`] does the
/// same and waits for it.
pub(crate) struct Gateway {
    addr: SocketAddr,
    // Fields are dropped in this order: nobody writes into the folder when it goes.
    child: Child,
    folder: TempDir,
}

impl Gateway {
    /// Starts `semel gateway` in front of `upstream` on a free port and waits until it says where it listens.
    ///
    /// # Errors
    /// When the child cannot be started, ends early, or is not ready within 10 s; with what it said on stderr.
    pub(crate) async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("semel-demo-").tempdir()?;
        let mut child = command(upstream, &folder)?.spawn()?;
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("the gateway has no stderr"))?;
        let mut lines = BufReader::new(stderr).lines();
        let mut said = Vec::new();
        let ready = tokio::time::timeout(START_TIMEOUT, wait_until_ready(&mut lines, &mut said)).await;
        let Some(addr) = ready.ok().transpose()?.flatten() else {
            let said = said.join("\n");
            return Err(io::Error::other(format!("the gateway of the demo did not start; it said:\n{said}")));
        };
        // A child whose stderr nobody reads would stop at a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { addr, child, folder })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Kills the child, waits for its end and removes its folder.
    ///
    /// # Errors
    /// When the child had ended on its own before, or the folder cannot be removed.
    pub(crate) async fn stop(mut self) -> io::Result<()> {
        let ended = self.child.try_wait()?;
        self.child.kill().await?;
        self.folder.close()?;
        match ended {
            Some(status) => Err(io::Error::other(format!("the gateway of the demo ended early: {status}"))),
            None => Ok(()),
        }
    }
}

fn command(upstream: SocketAddr, folder: &TempDir) -> io::Result<Command> {
    let mut store = OsString::from("embedded:");
    store.push(folder.path().join("demo.sqlite"));
    let mut command = Command::new(env::current_exe()?);
    command
        .args(["gateway", "--upstream", &format!("http://{upstream}")])
        .args(["--listen", "127.0.0.1:0", "--admin", "off", "--store"])
        .arg(store)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // The settings of the user's own gateway are not meant for this one.
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"SEMEL_")) {
        command.env_remove(name);
    }
    Ok(command)
}

/// Reads until the child says where it listens; `None` when it ends before.
async fn wait_until_ready(
    lines: &mut Lines<BufReader<impl AsyncRead + Unpin>>,
    said: &mut Vec<String>,
) -> io::Result<Option<SocketAddr>> {
    while let Some(line) = lines.next_line().await? {
        if let Some(addr) = listening_address(&line) {
            return Ok(Some(addr));
        }
        said.push(line);
    }
    Ok(None)
}

/// `semel gateway listening on http://127.0.0.1:8787, upstream …` names 127.0.0.1:8787.
fn listening_address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("listening on")?;
    let (_, rest) = rest.split_once("http://")?;
    rest.split([',', ' ', '/']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_one_after_listening_on() {
        let line =
            "semel gateway listening on http://127.0.0.1:41234, upstream http://127.0.0.1:3000, store x";
        assert_eq!(listening_address(line), Some(([127, 0, 0, 1], 41234).into()));
        assert_eq!(listening_address("listening on http://[::1]:80/"), "[::1]:80".parse().ok());
        assert_eq!(listening_address("upstream http://127.0.0.1:3000"), None);
    }
}
