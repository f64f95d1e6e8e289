//! Starts the driver of an installed SDK.
//!
//! Driver and script are written beside the packages, because Node looks for packages above the file that asks for
//! them. What is said between the two is in [`crate::drive::process`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::{Installed, Language, SdkError, SdkErrorKind};
use crate::drive::process::Process;
use crate::report::Subject;

/// Starts the driver and waits until its SDK is loaded.
///
/// # Errors
/// [`SdkErrorKind::Unavailable`] when it cannot be written or started, or ends before it is ready; with its last words.
pub async fn start(installed: &Installed) -> Result<Process, SdkError> {
    let adapter = &installed.adapter;
    let unavailable =
        |why: String| SdkError::new(SdkErrorKind::Unavailable, format!("{}: {why}", adapter.id()));
    let (driver, script) = write(installed).map_err(|error| unavailable(error.to_string()))?;
    let ready = json!({"ready": true, "sdk": adapter.package(), "version": installed.version, "supports": adapter.supports});
    let mut command = match adapter.language {
        Language::Python => {
            let mut python = Command::new("python3");
            // Nothing that is installed elsewhere is seen.
            python.args(["-s", "-S"]).arg(&driver).arg(&script).arg(installed.folder.join("packages"));
            python.env_remove("PYTHONPATH").env_remove("PYTHONHOME");
            python
        }
        Language::Node => {
            let mut node = Command::new("node");
            node.arg(&driver).arg(&script).env_remove("NODE_OPTIONS").env_remove("NODE_PATH");
            node
        }
    };
    command.arg(ready.to_string()).current_dir(&installed.folder);
    // An SDK that finds a proxy would not reach the server.
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(name);
    }
    let supports = std::iter::once("calls".to_owned()).chain(adapter.supports.iter().cloned());
    let subject = Subject {
        name: adapter.id(),
        version: Some(format!("{} {}", adapter.package(), installed.version)),
        command: Some(format!("semel audit sdk {}", adapter.id())),
        language: Some(installed.runtime.clone()),
        supports: Some(supports.collect()),
        packages: installed.packages.clone(),
    };
    Process::start(command, subject).await.map_err(unavailable)
}

/// The driver's file and the script's. Another version of either has another folder, so that nobody's files change
/// while they are read.
fn write(installed: &Installed) -> io::Result<(PathBuf, PathBuf)> {
    let (driver, text) = installed.adapter.language.driver();
    let script = installed.adapter.language.script();
    let digest = Sha256::new()
        .chain_update(&text)
        .chain_update([0])
        .chain_update(&installed.adapter.script)
        .finalize();
    let name: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let folder = installed.folder.join(format!("run-{name}"));
    fs::create_dir_all(&folder)?;
    put(&folder, driver, &text)?;
    put(&folder, script, &installed.adapter.script)?;
    Ok((folder.join(driver), folder.join(script)))
}

/// Whole or not at all.
fn put(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let path = folder.join(name);
    if fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    let written = tempfile::NamedTempFile::new_in(folder)?;
    fs::write(written.path(), text)?;
    written.persist(path)?;
    Ok(())
}
