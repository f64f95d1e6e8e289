//! The tree of this project: where it is, which files belong to it, which crates are in it.
//!
//! Not its contents: `tidy/tree.rs` and `mutants/scratch.rs` read those.

use std::path::{Path, PathBuf};

use crate::command::Command;
use crate::failure::{Done, Failure, While};

/// The folder that holds the workspace's Cargo.toml.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask is a folder of the workspace").to_owned()
}

/// Every file that git tracks or would track, relative to `root`, sorted.
pub(crate) fn files(root: &Path) -> Done<Vec<String>> {
    // A checkout that another user owns is read like any other: its build scripts run anyway.
    let listing = Command::new("git -c safe.directory=* ls-files -z --cached --others --exclude-standard");
    let listed = String::from_utf8(listing.dir(root).output()?).when("git lists a name that is not UTF-8")?;
    let mut files: Vec<String> =
        listed.split('\0').filter(|path| root.join(path).is_file()).map(str::to_owned).collect();
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

/// What cargo knows of the workspace.
pub(crate) struct Workspace {
    pub(crate) packages: Vec<Package>,
    pub(crate) target_dir: PathBuf,
}

/// A crate and the names of its features, without `default`.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) features: Vec<String>,
}

impl Workspace {
    pub(crate) fn load() -> Done<Self> {
        let json = Command::new("cargo metadata --no-deps --format-version 1").output()?;
        Self::parse(&json)
    }

    fn parse(json: &[u8]) -> Done<Self> {
        let metadata: serde_json::Value = serde_json::from_slice(json).when("cargo metadata")?;
        let read = || {
            let target_dir = PathBuf::from(metadata["target_directory"].as_str()?);
            let mut packages = Vec::new();
            for package in metadata["packages"].as_array()? {
                let name = package["name"].as_str()?.to_owned();
                let features = package["features"].as_object()?.keys();
                let features = features.filter(|feature| *feature != "default").cloned().collect();
                packages.push(Package { name, features });
            }
            Some(Self { packages, target_dir })
        };
        read().ok_or_else(|| Failure::new("cargo metadata has another shape than checkout.rs expects"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_read_without_default() {
        let json = br#"{ "target_directory": "/t", "packages": [
            { "name": "a", "features": { "default": ["x"], "x": [], "y": [] } },
            { "name": "b", "features": {} } ] }"#;
        let workspace = Workspace::parse(json).expect("the shape of cargo metadata");
        assert_eq!(workspace.target_dir, Path::new("/t"));
        assert_eq!(workspace.packages[0].features, ["x", "y"]);
        assert!(workspace.packages[1].features.is_empty());
    }

    #[test]
    fn another_shape_is_a_failure_and_not_an_empty_workspace() {
        assert!(Workspace::parse(b"{}").is_err());
    }

    #[test]
    fn this_file_belongs_to_the_checkout_and_build_products_do_not() {
        let files = files(&root()).expect("a git checkout");
        assert!(files.iter().any(|path| path == "xtask/src/checkout.rs"));
        assert!(!files.iter().any(|path| path.starts_with("target/")));
    }
}
