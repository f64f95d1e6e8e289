//! Puts an adapter's packages into a cache folder, once for each set of pins and version of the interpreter.
//!
//! A folder is installed under another name and renamed when whole, so that what is there is complete. Not started
//! here: that is `start.rs`.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::{Adapter, Language, SdkError, SdkErrorKind};

/// The file that says what was installed; written last.
const RECORD: &str = "installed.json";

/// How many lines of an installer's complaint are shown.
const LAST_LINES: usize = 15;

/// An adapter whose packages are there.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The adapter.
    pub adapter: Adapter,
    /// Where they are.
    pub folder: PathBuf,
    /// The interpreter, with its version: `Python 3.11.7`.
    pub runtime: String,
    /// Everything that was installed, as `name version`, by name.
    pub packages: Vec<String>,
    /// The version of the audited package.
    pub version: String,
}

#[derive(Serialize, Deserialize)]
struct Record {
    runtime: String,
    packages: BTreeMap<String, String>,
}

/// `$XDG_CACHE_HOME/semel/audit`, or `~/.cache/semel/audit`; below the temporary folder for who has no home.
#[must_use]
pub fn cache_folder() -> PathBuf {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    cache.unwrap_or_else(env::temp_dir).join("semel").join("audit")
}

/// Installs the packages into a folder below `cache`, unless they are there. Needs the network only then.
///
/// Dropped mid-await: the installer is killed, and what it left has a name that begins with `.partial`.
///
/// # Errors
/// [`SdkErrorKind::Unavailable`] without the interpreter or its installer, and with the last lines of an installer
/// that fails.
pub async fn install(adapter: &Adapter, cache: &Path) -> Result<Installed, SdkError> {
    let runtime = runtime(adapter.language).await?;
    let folder = cache.join(format!("{}-{}-{}", adapter.language, adapter.name, digest(adapter, &runtime)));
    if !folder.join(RECORD).is_file() {
        let unwritable = |error: io::Error| {
            unavailable(adapter, format!("{} cannot be written: {error}", cache.display()))
        };
        fs::create_dir_all(cache).map_err(unwritable)?;
        let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(cache).map_err(unwritable)?;
        fetch(adapter, partial.path()).await?;
        let packages = match adapter.language {
            Language::Python => python_packages(partial.path()),
            Language::Node => node_packages(partial.path()),
        };
        let packages = packages.map_err(unwritable)?;
        let record = serde_json::to_vec_pretty(&Record { runtime: runtime.clone(), packages });
        fs::write(partial.path().join(RECORD), record.map_err(io::Error::other).map_err(unwritable)?)
            .map_err(unwritable)?;
        // Another process may have been quicker; what it installed is the same.
        if let Err(error) = fs::rename(partial.path(), &folder)
            && !folder.join(RECORD).is_file()
        {
            return Err(unwritable(error));
        }
    }
    read(adapter, folder)
}

fn read(adapter: &Adapter, folder: PathBuf) -> Result<Installed, SdkError> {
    let path = folder.join(RECORD);
    let damaged =
        |error: String| unavailable(adapter, format!("{}: {error}; remove its folder", path.display()));
    let text = fs::read(&path).map_err(|error| damaged(error.to_string()))?;
    let record: Record = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    let same = |name: &&String| plain(name) == plain(adapter.package());
    let version = record.packages.keys().find(same).map(|name| record.packages[name].clone());
    let version = version.ok_or_else(|| damaged(format!("{} is not in it", adapter.package())))?;
    let packages = record.packages.iter().map(|(name, version)| format!("{name} {version}")).collect();
    Ok(Installed { adapter: adapter.clone(), folder, runtime: record.runtime, packages, version })
}

/// Asked each time: what was built for one version need not work with another.
async fn runtime(language: Language) -> Result<String, SdkError> {
    let (program, name) = match language {
        Language::Python => ("python3", ""),
        Language::Node => ("node", "Node "),
    };
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().await;
    match output {
        Ok(output) if output.status.success() => {
            Ok(format!("{name}{}", String::from_utf8_lossy(&output.stdout).trim()))
        }
        Ok(output) => Err(missing(program, &output.status.to_string())),
        Err(error) => Err(missing(program, &error.to_string())),
    }
}

fn missing(program: &str, why: &str) -> SdkError {
    SdkError::new(SdkErrorKind::Unavailable, format!("`{program}` is needed and cannot be run: {why}"))
}

async fn fetch(adapter: &Adapter, folder: &Path) -> Result<(), SdkError> {
    let mut command = match adapter.language {
        Language::Python => {
            let mut pip = Command::new("python3");
            pip.args([
                "-m",
                "pip",
                "install",
                "--no-input",
                "--disable-pip-version-check",
                "--quiet",
                "--target",
            ]);
            pip.arg(folder.join("packages"));
            pip
        }
        Language::Node => {
            // Without it npm installs into the nearest folder above that has one.
            let own = fs::write(folder.join("package.json"), "{\"private\":true}\n");
            own.map_err(|error| unavailable(adapter, error.to_string()))?;
            let mut npm = Command::new("npm");
            npm.args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--loglevel=error",
                "--prefix",
            ]);
            npm.arg(folder);
            npm
        }
    };
    command.args(&adapter.packages).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await;
    let output =
        output.map_err(|error| unavailable(adapter, format!("the installer cannot be run: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n  ");
    Err(unavailable(adapter, format!("{} cannot be installed:\n  {last}", adapter.packages.join(" "))))
}

fn unavailable(adapter: &Adapter, what: String) -> SdkError {
    SdkError::new(SdkErrorKind::Unavailable, format!("{}: {what}", adapter.id()))
}

/// Names the folder: other pins or another interpreter, another folder.
fn digest(adapter: &Adapter, runtime: &str) -> String {
    let digest = Sha256::digest(format!("{runtime}\n{}", adapter.packages.join("\n")));
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// From the names of the folders that pip leaves: `stripe-16.1.0.dist-info`.
fn python_packages(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut packages = BTreeMap::new();
    for entry in fs::read_dir(folder.join("packages"))? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if let Some((name, version)) = name.strip_suffix(".dist-info").and_then(|name| name.rsplit_once('-'))
        {
            packages.insert(plain(name), version.to_owned());
        }
    }
    Ok(packages)
}

/// From the list that npm keeps of what it installed.
fn node_packages(folder: &Path) -> io::Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Lock {
        packages: BTreeMap<String, Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        version: Option<String>,
    }
    let text = fs::read(folder.join("node_modules/.package-lock.json"))?;
    let lock: Lock = serde_json::from_slice(&text)?;
    let outermost = lock.packages.into_iter().filter_map(|(path, package)| {
        let name =
            path.strip_prefix("node_modules/").filter(|name| !name.contains("node_modules/"))?.to_owned();
        Some((name, package.version?))
    });
    Ok(outermost.collect())
}

/// Python's packages may be written in several ways.
fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace(['_', '.'], "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_pins_or_another_interpreter_are_another_folder() {
        let mut adapter = crate::sdk::built_in().expect("they are ours").remove(0);
        let first = digest(&adapter, "Python 3.11.7");
        assert_ne!(first, digest(&adapter, "Python 3.12.0"));
        adapter.packages.push("certifi==1".to_owned());
        assert_ne!(first, digest(&adapter, "Python 3.11.7"));
    }

    #[test]
    fn versions_are_read_from_what_the_installers_leave() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("packages/modern_treasury-1.80.0.dist-info"))
            .expect("a folder");
        let python = python_packages(folder.path()).expect("it can be read");
        assert_eq!(python["modern-treasury"], "1.80.0");

        fs::create_dir_all(folder.path().join("node_modules")).expect("a folder");
        let lock = r#"{"packages":{"node_modules/@a/b":{"version":"2.0.0"},
            "node_modules/@a/b/node_modules/c":{"version":"1.0.0"}}}"#;
        fs::write(folder.path().join("node_modules/.package-lock.json"), lock).expect("it is written");
        let node = node_packages(folder.path()).expect("it can be read");
        assert_eq!(node.into_iter().collect::<Vec<_>>(), [("@a/b".to_owned(), "2.0.0".to_owned())]);
    }
}
