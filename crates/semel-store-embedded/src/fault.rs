//! What goes wrong inside a step, and which [`StoreErrorKind`] the caller is told.

use std::fmt;

use rusqlite::ErrorCode;
use semel::store::{StoreError, StoreErrorKind};

/// Why a step failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// SQLite said so.
    Sqlite(rusqlite::Error),
    /// A log file cannot be read or written.
    Io(String),
    /// What was read is not what was written.
    Damaged(String),
    /// A row that the index names is not there: damage, unless the reader raced the writer.
    Missing(i64),
}

impl Fault {
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    /// The kind to report when the step certainly did not happen.
    pub(crate) fn kind(&self) -> StoreErrorKind {
        match self {
            Self::Damaged(_) | Self::Missing(_) => StoreErrorKind::Corrupt,
            Self::Io(_) => StoreErrorKind::Unavailable,
            Self::Sqlite(error) => match error {
                rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
                    ErrorCode::DiskFull => StoreErrorKind::Full,
                    ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => StoreErrorKind::Corrupt,
                    _ => StoreErrorKind::Unavailable,
                },
                rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::Utf8Error(..) => StoreErrorKind::Corrupt,
                _ => StoreErrorKind::Unavailable,
            },
        }
    }

    /// Whether somebody else was in the way.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self, Self::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy))
    }

    pub(crate) fn into_error(self) -> StoreError {
        StoreError::new(self.kind(), self.to_string())
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<bytes::TryGetError> for Fault {
    fn from(_: bytes::TryGetError) -> Self {
        Self::damaged("an entry of the log ends early")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(error) => error.fmt(f),
            Self::Io(what) | Self::Damaged(what) => f.write_str(what),
            Self::Missing(place) => write!(f, "the row at place {place} is gone"),
        }
    }
}

impl std::error::Error for Fault {}
