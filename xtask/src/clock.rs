//! How long a step took; the only place in xtask that reads a clock.
//!
//! Not for deciding anything: no task behaves differently because time passed.

#![allow(clippy::disallowed_methods, reason = "this is xtask's clock.rs")]

use std::fmt;
use std::time::{Duration, Instant};

/// Started when made.
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn read(&self) -> Took {
        Took(self.0.elapsed())
    }
}

/// A measured time, shown in seconds.
#[derive(Clone, Copy)]
pub(crate) struct Took(Duration);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.1} s", self.0.as_secs_f64()))
    }
}
