//! Time and chance of this process. The only file that reads the system's clocks.
//!
//! Next: [`crate::core::call::World`], which a test may answer instead.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use crate::core::call::World;

/// The system's clocks and its randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl World for System {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    fn elapsed(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn random(&self) -> u16 {
        semel::backoff::random()
    }
}
