//! Why a task stopped: one text for the person at the terminal, nothing to match on.
//!
//! Not the errors of Semel itself; those have codes and pages (`docs/errors`).

use std::fmt;

/// What every fallible function of xtask returns.
pub(crate) type Done<T = ()> = Result<T, Failure>;

/// What went wrong and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says what was being done when an error came up.
pub(crate) trait While<T> {
    fn when(self, doing: impl fmt::Display) -> Done<T>;
}

impl<T, E: fmt::Display> While<T> for Result<T, E> {
    fn when(self, doing: impl fmt::Display) -> Done<T> {
        self.map_err(|error| Failure(format!("{doing}: {error}")))
    }
}
