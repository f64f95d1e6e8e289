//! What a user would take instead: a folder of `bench/peers` with `peer.json`, `install` and `serve`.
//!
//! Nothing is installed from here: `bench/peers/README.md` says how.

use std::error::Error;
use std::fs::File;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::middle::free_port;
use super::process::{Process, pinned};

/// Where they are, and where their `install` puts what they need.
const FOLDER: &str = "bench/peers";
const INSTALLED: &str = "target/peers";

/// `peer.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct About {
    /// What is installed, with its version.
    pub(crate) version: String,
    /// What a record survives, with the settings that are measured.
    pub(crate) durability: String,
    /// What it says becomes of a second request while the first runs.
    pub(crate) concurrent: String,
    /// The server that its records are on: `redis` or `postgres`.
    pub(crate) server: Option<String>,
    /// Whether it is part of the program that the effect happens in.
    pub(crate) library: bool,
    /// Whether its ledger is at a port of its own.
    #[serde(default)]
    pub(crate) ledger_apart: bool,
    /// A header that carries the key to the effect, where `Idempotency-Key` does not arrive there.
    pub(crate) key_header: Option<String>,
    #[serde(default = "default_path")]
    pub(crate) path: String,
    #[serde(default = "default_status")]
    pub(crate) status: u16,
}

fn default_path() -> String {
    "/charges".to_owned()
}

fn default_status() -> u16 {
    201
}

pub(super) struct Peer {
    pub(super) about: About,
    folder: PathBuf,
    installed: PathBuf,
    ledger: u16,
}

impl Peer {
    pub(super) fn named(name: &str) -> Result<Self, Box<dyn Error>> {
        let folder = Path::new(FOLDER).join(name);
        let text = std::fs::read(folder.join("peer.json")).map_err(|_| {
            format!(
                "nothing is called {name}; there are {} and the folders of {FOLDER}",
                super::NAMES.join(", ")
            )
        })?;
        let about = serde_json::from_slice(&text).map_err(|error| format!("{name}/peer.json: {error}"))?;
        Ok(Self {
            about,
            folder,
            installed: std::path::absolute(INSTALLED)?.join(name),
            ledger: free_port()?,
        })
    }

    /// The names of those that are installed.
    pub(super) fn all() -> Result<Vec<String>, Box<dyn Error>> {
        let folders = std::fs::read_dir(FOLDER).map_err(|error| format!("{FOLDER}: {error}"))?;
        let names = folders.flatten().filter(|entry| entry.path().join("peer.json").is_file());
        let mut names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        let (there, missing): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|name| Path::new(INSTALLED).join(name).join("done").is_file());
        if !missing.is_empty() {
            eprintln!("not installed, see {FOLDER}/README.md: {}", missing.join(", "));
        }
        Ok(there)
    }

    /// Who tells what took effect, when it listens at `port`.
    pub(super) fn ledger(&self, port: u16, upstream: u16) -> u16 {
        match (self.about.library, self.about.ledger_apart) {
            (false, _) => upstream,
            (true, false) => port,
            (true, true) => self.ledger,
        }
    }

    /// Starts it and waits until it accepts connections.
    pub(super) fn start(
        &self,
        core: &str,
        upstream: u16,
        store: &str,
    ) -> Result<(Process, u16), Box<dyn Error>> {
        let port = free_port()?;
        let mut command = pinned(core, Path::new("sh"));
        command.arg(std::path::absolute(self.folder.join("serve"))?).current_dir(&self.installed);
        command
            .env("PORT", port.to_string())
            .env("UPSTREAM_PORT", upstream.to_string())
            .env("STORE_URL", store);
        command.env("LEDGER_PORT", self.ledger.to_string()).env("PEER", std::path::absolute(&self.folder)?);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(self.installed.join("log"))?);
        let mut process = Process::new(command.spawn()?);
        for _ in 0..300 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok((process, port));
            }
            if !process.runs() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(format!("{}: it does not serve; see {}/log", self.folder.display(), self.installed.display())
            .into())
    }
}
