//! What can go wrong, under stable codes: each says whether sending again is safe and whose fault it is.
//!
//! HTTP statuses are not here; the HTTP layer gives them. Each code has a page in `docs/errors/`.

use std::fmt;

use crate::key::KeyError;
use crate::store::{StoreError, StoreErrorKind};

/// Whether the same request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// Not before something about it is changed.
    Never,
    /// Yes, with the same key.
    SameKey,
    /// Yes, with the same key, after a while.
    After,
    /// With the same key it does no harm, and it may never help: the outcome is unknown.
    Unknown,
}

/// Who can mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Whoever sent the request.
    Caller,
    /// The API behind Semel.
    Upstream,
    /// The store, or the way to it.
    Store,
    /// Whoever operates Semel.
    Operator,
}

/// A stable code of an error or refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The route requires a key and the request has none.
    KeyMissing,
    /// The key cannot be read.
    KeyInvalid,
    /// The request has several keys.
    KeyRepeated,
    /// The key was used for another request.
    Mismatch,
    /// The first request with this key still runs.
    InProgress,
    /// The effect may or may not have happened.
    OutcomeUnknown,
    /// The effect happened and its answer was too large to keep.
    AnswerNotKept,
    /// There is a credential, and no setting says which tenant it belongs to.
    TenantNotConfigured,
    /// There is a credential, and no tenant can be derived from it.
    TenantUnknown,
    /// The store cannot be reached; nothing was run.
    StoreUnavailable,
    /// The request is larger than what is protected.
    TooLarge,
    /// The tenant has too much in flight, or too many wait for one key.
    Quota,
    /// A keyed request came in TLS early data.
    EarlyData,
    /// The request is ambiguous or malformed.
    BadRequest,
    /// The request did not arrive in time.
    RequestTimeout,
    /// The upstream could not be reached; nothing was sent.
    UpstreamUnreachable,
    /// The upstream failed after the request was sent.
    UpstreamFailed,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The caller may not see this outcome any more.
    NotAuthorised,
    /// The configuration is refused.
    Config,
    /// The store cannot be opened.
    StoreOpen,
    /// There is no such record.
    RecordNotFound,
    /// The record is not in a state that allows what was asked.
    RecordState,
    /// The record cannot be read: it is damaged, another's, or sealed under a key that is not there.
    RecordUnreadable,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 24] = [
        Self::KeyMissing,
        Self::KeyInvalid,
        Self::KeyRepeated,
        Self::Mismatch,
        Self::InProgress,
        Self::OutcomeUnknown,
        Self::AnswerNotKept,
        Self::TenantNotConfigured,
        Self::TenantUnknown,
        Self::StoreUnavailable,
        Self::TooLarge,
        Self::Quota,
        Self::EarlyData,
        Self::BadRequest,
        Self::RequestTimeout,
        Self::UpstreamUnreachable,
        Self::UpstreamFailed,
        Self::UpstreamTimeout,
        Self::NotAuthorised,
        Self::Config,
        Self::StoreOpen,
        Self::RecordNotFound,
        Self::RecordState,
        Self::RecordUnreadable,
    ];

    /// The code as printed, its short name, whether to send again, and whose fault it is.
    const fn row(self) -> (&'static str, &'static str, Resend, Fault) {
        use {Fault as F, Resend as R};
        match self {
            Self::KeyMissing => ("SEMEL-0001", "key-missing", R::Never, F::Caller),
            Self::KeyInvalid => ("SEMEL-0002", "key-invalid", R::Never, F::Caller),
            Self::KeyRepeated => ("SEMEL-0003", "key-repeated", R::Never, F::Caller),
            Self::Mismatch => ("SEMEL-0004", "mismatch", R::Never, F::Caller),
            Self::InProgress => ("SEMEL-0005", "in-progress", R::After, F::Caller),
            Self::OutcomeUnknown => ("SEMEL-0006", "outcome-unknown", R::Unknown, F::Upstream),
            Self::AnswerNotKept => ("SEMEL-0007", "answer-not-kept", R::Never, F::Operator),
            Self::TenantNotConfigured => ("SEMEL-0008", "tenant-not-configured", R::Never, F::Operator),
            Self::TenantUnknown => ("SEMEL-0009", "tenant-unknown", R::Never, F::Caller),
            Self::StoreUnavailable => ("SEMEL-0010", "store-unavailable", R::After, F::Store),
            Self::TooLarge => ("SEMEL-0011", "too-large", R::Never, F::Caller),
            Self::Quota => ("SEMEL-0012", "quota", R::After, F::Caller),
            Self::EarlyData => ("SEMEL-0013", "early-data", R::SameKey, F::Caller),
            Self::BadRequest => ("SEMEL-0014", "bad-request", R::Never, F::Caller),
            Self::RequestTimeout => ("SEMEL-0015", "request-timeout", R::SameKey, F::Caller),
            Self::UpstreamUnreachable => ("SEMEL-0016", "upstream-unreachable", R::SameKey, F::Upstream),
            Self::UpstreamFailed => ("SEMEL-0017", "upstream-failed", R::Unknown, F::Upstream),
            Self::UpstreamTimeout => ("SEMEL-0018", "upstream-timeout", R::Unknown, F::Upstream),
            Self::NotAuthorised => ("SEMEL-0019", "not-authorised", R::Never, F::Caller),
            Self::Config => ("SEMEL-0020", "config", R::Never, F::Operator),
            Self::StoreOpen => ("SEMEL-0021", "store-open", R::Never, F::Operator),
            Self::RecordNotFound => ("SEMEL-0022", "record-not-found", R::Never, F::Operator),
            Self::RecordState => ("SEMEL-0023", "record-state", R::Never, F::Operator),
            Self::RecordUnreadable => ("SEMEL-0024", "record-unreadable", R::Never, F::Operator),
        }
    }

    /// The code as printed and documented: `SEMEL-0001`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The short name, the last part of a problem type: `key-missing`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// Whether the same request may be sent again.
    #[must_use]
    pub const fn resend(self) -> Resend {
        self.row().2
    }

    /// Who can mend it.
    #[must_use]
    pub const fn fault(self) -> Fault {
        self.row().3
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the engine could not decide.
#[derive(Debug)]
pub struct Error {
    code: Code,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Error {
    /// An error under `code`, caused by `source`.
    pub fn new(code: Code, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { code, source: source.into() }
    }

    /// The stable code, which says whether to send again and whose fault it is.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.code.name().replace('-', " "), self.code)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.source.as_ref())
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::new(code_of(&error), error)
    }
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        Self::new(Code::KeyInvalid, error)
    }
}

/// What cannot be read stands all the same: it is no store that is away, where a route may choose to run unprotected.
pub(crate) fn code_of(error: &StoreError) -> Code {
    match error.kind() {
        StoreErrorKind::Corrupt => Code::RecordUnreadable,
        StoreErrorKind::Unavailable | StoreErrorKind::Unknown | StoreErrorKind::Full => {
            Code::StoreUnavailable
        }
    }
}

/// An error and everything that caused it, in one line for a log.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_and_names_are_unique() {
        let codes: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        let names: HashSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert_eq!((codes.len(), names.len()), (Code::ALL.len(), Code::ALL.len()));
    }
}
