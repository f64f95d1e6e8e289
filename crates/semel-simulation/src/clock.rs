//! How long a search takes, for its report. The only file that reads the system's clock.

use std::time::{Duration, Instant};

/// Runs from its creation.
#[derive(Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Since the start.
    #[must_use]
    pub fn read(&self) -> Duration {
        self.0.elapsed()
    }
}
