//! One process per file: an flock on `PATH.owner`, held as long as the store is open.
//!
//! Not SQLite's own locking, which lets a second process in between two transactions.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::config::{OpenError, OpenErrorKind};

/// Opens or creates a file that only its owner may read: it has other people's answers in it.
pub(crate) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Holds the file until dropped. The kernel lets go of it when the process dies.
#[derive(Debug)]
pub(crate) struct Owner(#[expect(dead_code, reason = "held for its lock")] File);

impl Owner {
    pub(crate) fn take(path: &Path) -> Result<Self, OpenError> {
        let mut side = path.as_os_str().to_owned();
        side.push(".owner");
        let io = |error| OpenError::new(OpenErrorKind::Io, path, error);
        let file = private().open(side).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                Err(OpenError::new(OpenErrorKind::Owned, path, "its side file is locked by its owner"))
            }
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }
}
