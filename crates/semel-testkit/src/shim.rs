//! A library between a program and the C library, built from `shim/shim.c` when a test asks for it: it notes every
//! change of files in order, so that a power cut at any moment can be played afterwards; it moves the program's clock,
//! fills its disk and fails its syncs.
//!
//! For children only: `LD_PRELOAD` does nothing to who set it. Needs a C compiler, as the stores' own libraries do.
//! Next: [`disk`], which plays the trace.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

pub mod disk;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/shim/shim.c");

/// What the shim does to the program, from when it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The wall clock is so many nanoseconds off; clocks that only count are not.
    ClockStepNs = 0,
    /// Not 0: writes to its files find no room.
    DiskFull = 1,
    /// Not 0: syncs of its files fail, and what was not synced before may be lost.
    SyncsFail = 2,
    /// Not 0: a write that would make a file longer finds no room; what a file has already can be written over, as on
    /// a disk that is full.
    NoGrowth = 3,
}

const FAULTS: usize = 4;

/// The library, its trace and its controls, for one program.
#[derive(Debug)]
pub struct Shim {
    folder: TempDir,
    control: File,
    traced: bool,
}

impl Shim {
    /// Builds it. With `traced` what the program does to its files is noted.
    ///
    /// # Panics
    /// When there is no C compiler `cc`, or no room.
    #[must_use]
    pub fn build(traced: bool) -> Self {
        let folder = tempfile::Builder::new().prefix("semel-shim-").tempdir();
        let folder = folder.unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        // A server that runs as somebody else loads it too.
        let open = fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755));
        open.unwrap_or_else(|error| panic!("{}: {error}", folder.path().display()));
        let library = folder.path().join("shim.so");
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(SOURCE);
        let built = cc.output().unwrap_or_else(|error| panic!("{cc:?}: {error}; a C compiler is needed"));
        assert!(built.status.success(), "{cc:?}: {}", String::from_utf8_lossy(&built.stderr));
        let path = folder.path().join("control");
        fs::write(&path, [0; 8 * FAULTS]).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let control = File::options().write(true).open(&path);
        let control = control.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { folder, control, traced }
    }

    /// What a child needs in its environment to run with it; only files below `files` are its business.
    #[must_use]
    pub fn environment(&self, files: &Path) -> Vec<(&'static str, OsString)> {
        let own = |name: &str| self.folder.path().join(name).into_os_string();
        let mut all = vec![
            ("LD_PRELOAD", own("shim.so")),
            ("SEMEL_SHIM_CONTROL", own("control")),
            ("SEMEL_SHIM_FOLDER", files.as_os_str().to_owned()),
        ];
        if self.traced {
            all.push(("SEMEL_SHIM_TRACE", self.trace().into_os_string()));
        }
        all
    }

    /// The trace.
    #[must_use]
    pub fn trace(&self) -> PathBuf {
        self.folder.path().join("trace")
    }

    /// Sets a fault; 0 ends it.
    ///
    /// # Panics
    /// When the control file is gone.
    pub fn set(&self, fault: Fault, value: i64) {
        let at = 8 * fault as u64;
        self.control
            .write_all_at(&value.to_ne_bytes(), at)
            .unwrap_or_else(|error| panic!("no control: {error}"));
    }
}
