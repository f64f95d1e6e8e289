//! What can be chosen about an embedded store, and why one could not be opened.
//!
//! Next: [`crate::store`].

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use semel::clock::Clock;
use semel::store::Durability;

/// Where the file is and how it is kept.
#[derive(Clone, Debug)]
pub struct EmbeddedConfig {
    pub(crate) path: PathBuf,
    pub(crate) durability: Durability,
    pub(crate) compress_above_bytes: usize,
    pub(crate) segment_rows: u32,
    pub(crate) file_max_bytes: Option<u64>,
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

impl EmbeddedConfig {
    /// The file at `path`, made when it does not exist. Beside it lie `path.owner`, and while it is open, or after a
    /// crash, `path-wal`, `path-shm` and the files of the log, `path.log-…`, of up to 16 MiB each.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::Power,
            compress_above_bytes: 4 * 1024,
            segment_rows: 1 << 17,
            file_max_bytes: None,
            clock: None,
        }
    }

    /// What an acknowledged write survives. Default [`Durability::Power`]: an fsync before every acknowledgement.
    /// [`Durability::None`] is kept as [`Durability::Process`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability.max(Durability::Process);
        self
    }

    /// Bodies with more bytes than this are stored compressed when that makes them smaller. Default 4 KiB;
    /// `usize::MAX` for never.
    #[must_use]
    pub fn compress_above_bytes(mut self, bytes: usize) -> Self {
        self.compress_above_bytes = bytes;
        self
    }

    /// After how many records a segment is sealed and the next begun. 16 to 2^20, default 2^17. Smaller ones open
    /// faster, larger ones make claims cheaper over many millions of records.
    #[must_use]
    pub fn segment_rows(mut self, rows: u32) -> Self {
        self.segment_rows = rows.clamp(16, 1 << 20);
        self
    }

    /// The file never grows beyond this; what does not fit is refused as full. Default: as the disk allows.
    #[must_use]
    pub fn file_max_bytes(mut self, bytes: u64) -> Self {
        self.file_max_bytes = Some(bytes);
        self
    }

    /// The clock that decides leases, retention and tokens, instead of the system's: for tests. The store never
    /// goes behind the time that the file vouches for, whatever the clock says.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }
}

/// Why a store could not be opened. Nothing was changed, except for what recovery after a crash repaired.
#[derive(Debug)]
pub struct OpenError {
    kind: OpenErrorKind,
    path: PathBuf,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The kinds of [`OpenError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenErrorKind {
    /// The file or its folder cannot be read or written.
    Io,
    /// Another process, or another store value of this one, has it open.
    Owned,
    /// It is a file of something else.
    Foreign,
    /// It was written by a newer version, whose format this one does not know.
    Newer,
    /// It is damaged.
    Damaged,
}

impl OpenError {
    pub(crate) fn new(
        kind: OpenErrorKind,
        path: &Path,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, path: path.to_owned(), source: source.into() }
    }

    /// What stood in the way.
    #[must_use]
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.kind {
            OpenErrorKind::Io => write!(f, "the store {path} cannot be read or written"),
            OpenErrorKind::Owned => write!(
                f,
                "the store {path} is open already: one process at a time owns the file; stop the other one, or \
                 give this one another file"
            ),
            OpenErrorKind::Foreign => write!(f, "{path} is not a store of semel"),
            OpenErrorKind::Newer => {
                write!(
                    f,
                    "the store {path} was written by a newer version of semel; use that version or a newer one"
                )
            }
            OpenErrorKind::Damaged => {
                write!(
                    f,
                    "the store {path} is damaged; restore it from a backup, or move it away to start empty"
                )
            }
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.source.as_ref())
    }
}
