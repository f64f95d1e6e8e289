//! What went wrong with a statement, sorted by what is known of its effect.

use std::fmt;

use semel::store::{StoreError, StoreErrorKind};
use tokio_postgres::error::{Severity, SqlState};

use crate::address::chain;

/// A statement, and all steps in it, that gave no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It changed nothing, and would not the next time either.
    NotDone(StoreError),
    /// It changed nothing because somebody else was at the same rows: it may be made again at once.
    Again(String),
    /// It changed nothing: a transaction of somebody else holds one of the rows.
    Held(String),
    /// It may have been made.
    Unknown(String),
}

impl Failure {
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::NotDone(StoreError::new(StoreErrorKind::Corrupt, what.into()))
    }

    /// What a caller is told when nothing more is tried.
    pub(crate) fn into_error(self) -> StoreError {
        match self {
            Self::NotDone(error) => error,
            Self::Again(reason) | Self::Held(reason) => StoreError::new(StoreErrorKind::Unavailable, reason),
            Self::Unknown(reason) => StoreError::new(StoreErrorKind::Unknown, reason),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDone(error) => f.write_str(&chain(error)),
            Self::Again(reason) | Self::Held(reason) | Self::Unknown(reason) => f.write_str(reason),
        }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let reason = chain(&error);
        let Some(said) = error.as_db_error() else { return Self::Unknown(reason) };
        // An error undoes its statement; what ends the session may come after the commit.
        if said.parsed_severity() != Some(Severity::Error) {
            return Self::Unknown(reason);
        }
        let code = said.code();
        if [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code) {
            Self::Again(reason)
        } else if *code == SqlState::LOCK_NOT_AVAILABLE {
            Self::Held(reason)
        } else if [SqlState::DISK_FULL, SqlState::CONFIGURATION_LIMIT_EXCEEDED].contains(code) {
            Self::NotDone(StoreError::new(StoreErrorKind::Full, reason))
        } else if [SqlState::DATA_CORRUPTED, SqlState::INDEX_CORRUPTED].contains(code) {
            Self::damaged(reason)
        } else {
            Self::NotDone(StoreError::new(StoreErrorKind::Unavailable, reason))
        }
    }
}
