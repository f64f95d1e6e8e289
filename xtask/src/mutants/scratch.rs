//! The copy of the tree that faults are put into, kept from run to run so that builds are short.
//!
//! It has a build folder of its own: cargo tells two copies of a workspace apart by their place inside
//! it only, so in a shared folder the real tree would take over what was built with a fault in it. What
//! is the same for both, it is lent.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions, TryLockError};
use std::path::{Path, PathBuf};

use super::lend::lend;
use super::patch::Mutant;
use crate::checkout::{self, Workspace};
use crate::command::Command;
use crate::failure::{Done, Failure, While};

/// A folder with `tree`, `build` and `logs`, and what `tree` holds without a fault.
pub(crate) struct Scratch {
    dir: PathBuf,
    files: BTreeMap<String, (Vec<u8>, Permissions)>,
    /// Held for as long as this lives; the system gives it back when the process ends.
    _owner: File,
}

impl Scratch {
    /// Reads the checkout as it is now; what changes there later does not matter to this run.
    pub(crate) fn open(workspace: &Workspace) -> Done<Self> {
        let scratch = Self::of(&checkout::root(), &workspace.target_dir.join("mutants"))?;
        let ours: Vec<String> = workspace.packages.iter().map(|package| package.name.clone()).collect();
        lend(&workspace.target_dir.join("debug"), &scratch.build().join("debug"), &ours)?;
        Ok(scratch)
    }

    fn of(root: &Path, dir: &Path) -> Done<Self> {
        for part in ["tree", "logs"] {
            fs::create_dir_all(dir.join(part)).when(dir.display())?;
        }
        let owner = File::create(dir.join("owner")).when(dir.display())?;
        match owner.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new(format!(
                    "another `cargo xtask mutants` works in {}",
                    dir.display()
                )));
            }
            tried => tried.when(dir.display())?,
        }
        let mut files = BTreeMap::new();
        for path in checkout::files(root)? {
            let source = root.join(&path);
            let bytes = fs::read(&source).when(&path)?;
            let permissions = fs::metadata(&source).when(&path)?.permissions();
            files.insert(path, (bytes, permissions));
        }
        Ok(Self { dir: dir.to_owned(), files, _owner: owner })
    }

    pub(super) fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    pub(super) fn build(&self) -> PathBuf {
        self.dir.join("build")
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(name)
    }

    /// Brings the tree back to what was read. Files that are right already keep their times, so that
    /// cargo builds only what differs.
    pub(crate) fn restore(&self) -> Done {
        self.remove_strangers(&self.tree())?;
        for (path, (bytes, permissions)) in &self.files {
            let file = self.tree().join(path);
            if fs::read(&file).is_ok_and(|found| found == *bytes) {
                continue;
            }
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder).when(path)?;
            }
            fs::write(&file, bytes).when(path)?;
            fs::set_permissions(&file, permissions.clone()).when(path)?;
        }
        Ok(())
    }

    fn remove_strangers(&self, folder: &Path) -> Done {
        for entry in fs::read_dir(folder).when(folder.display())? {
            let path = entry.when(folder.display())?.path();
            let known = path.strip_prefix(self.tree()).ok().and_then(Path::to_str);
            if path.is_dir() {
                self.remove_strangers(&path)?;
            } else if !known.is_some_and(|known| self.files.contains_key(known)) {
                fs::remove_file(&path).when(path.display())?;
            }
        }
        Ok(())
    }

    pub(crate) fn apply(&self, mutant: &Mutant) -> Done {
        let patch = self.tree().join("mutants").join(format!("{}.patch", mutant.name));
        // Inside a checkout git would take the paths from that checkout's root, and pass over files
        // outside the current folder without a word.
        let apply = Command::new("git apply").arg(patch.display().to_string());
        apply.env("GIT_CEILING_DIRECTORIES", self.dir.display().to_string()).dir(&self.tree()).output()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "breaks: a.\npackage: p\ntarget: lib\ntest: t\n\
        diff --git a/src/a.rs b/src/a.rs\n--- a/src/a.rs\n+++ b/src/a.rs\n@@ -1 +1 @@\n-right\n+wrong\n";

    /// A git checkout of two files with a scratch folder inside it, as `target` is.
    fn checkout(name: &str) -> (PathBuf, PathBuf) {
        let root = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        for folder in ["src", "mutants"] {
            fs::create_dir_all(root.join(folder)).expect("temporary folder");
        }
        fs::write(root.join("src/a.rs"), "right\n").expect("write");
        fs::write(root.join("mutants/m.patch"), PATCH).expect("write");
        fs::write(root.join(".gitignore"), "/target\n").expect("write");
        Command::new("git init --quiet").dir(&root).run().expect("git init");
        let dir = root.join("target/mutants");
        (root, dir)
    }

    #[test]
    fn fault_goes_into_the_copy_and_comes_out_again() {
        let (root, dir) = checkout("fault");
        let scratch = Scratch::of(&root, &dir).expect("opened");
        scratch.restore().expect("laid");
        let read = |path: PathBuf| fs::read_to_string(path).expect("there");
        let mutant = Mutant::parse("m", PATCH).expect("well formed");
        scratch.apply(&mutant).expect("applies");
        fs::write(scratch.tree().join("src/stranger.rs"), "").expect("write");
        assert_eq!(read(scratch.tree().join("src/a.rs")), "wrong\n");
        assert_eq!(read(root.join("src/a.rs")), "right\n");
        assert!(scratch.apply(&mutant).is_err(), "it does not apply twice");
        scratch.restore().expect("restored");
        assert_eq!(read(scratch.tree().join("src/a.rs")), "right\n");
        assert!(!scratch.tree().join("src/stranger.rs").exists());
        fs::remove_dir_all(root).expect("temporary folder");
    }

    #[test]
    fn second_run_in_the_same_folder_is_refused() {
        let (root, dir) = checkout("second");
        let first = Scratch::of(&root, &dir).expect("opened");
        let refused = Scratch::of(&root, &dir).err().expect("taken").to_string();
        assert!(refused.starts_with("another `cargo xtask mutants` works in"), "{refused}");
        drop(first);
        Scratch::of(&root, &dir).expect("free again");
        fs::remove_dir_all(root).expect("temporary folder");
    }
}
