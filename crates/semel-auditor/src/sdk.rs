//! SDKs that can be audited without writing anything: an adapter says which packages to install and how to make one
//! call with them.
//!
//! In reading order: [`Adapter`] (`sdk/adapter.rs`) is what `adapters/NAME/` holds, built in or from a folder of the
//! user's; [`install`] puts its packages into a cache folder; [`start`] runs its driver, which
//! [`Process`](crate::drive::process::Process) then talks to. Not a package manager: `pip` and `npm` do the installing.

use std::fmt;

mod adapter;
mod install;
mod start;

pub use adapter::{Adapter, Language, built_in, find, from_folder};
pub use install::{Installed, cache_folder, install};
pub use start::start;

/// Why an SDK cannot be audited; one line, or several when a tool said more.
#[derive(Debug)]
pub struct SdkError {
    kind: SdkErrorKind,
    what: String,
}

/// What stands in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SdkErrorKind {
    /// No adapter has this name.
    Unknown,
    /// An adapter says what cannot be; the text begins with file and line.
    BadAdapter,
    /// Its packages cannot be installed, or its driver does not start.
    Unavailable,
}

impl SdkError {
    pub(crate) fn new(kind: SdkErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }

    /// What stands in the way.
    #[must_use]
    pub const fn kind(&self) -> SdkErrorKind {
        self.kind
    }
}

impl fmt::Display for SdkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for SdkError {}
