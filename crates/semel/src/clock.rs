//! Time. The only file that reads the system's clocks; everything else is handed a [`Timestamp`] or a [`Clock`].
//!
//! Not a scheduler: waiting is tokio's. Next: [`crate::record`], where time decides leases and expiry.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A point in time on a store's clock, in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The time `micros` microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// This time and `duration` later; saturates at the end of time.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How much later this is than `earlier`; zero when it is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Where a store reads the time. Leases, retention and tokens are decided on it and on nothing else.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The time now. Never goes backwards within one clock.
    fn now(&self) -> Timestamp;
}

/// The system's wall clock at the moment of creation, carried on by the monotonic clock, so that a step of the
/// wall clock neither ends a lease nor repeats a token.
#[derive(Debug)]
pub struct SystemClock {
    base: Timestamp,
    started: Instant,
}

impl SystemClock {
    /// A clock that starts at the system's wall time.
    #[must_use]
    pub fn new() -> Self {
        Self::not_before(Timestamp::default())
    }

    /// A clock that starts at the system's wall time, or at `floor` when the wall clock is behind it. A store on
    /// disk passes the last time it vouched for.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads them")]
    pub fn not_before(floor: Timestamp) -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { base: Timestamp::default().plus(wall).max(floor), started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        self.base.plus(self.started.elapsed())
    }
}

/// A clock that moves only when told to: for tests and simulations.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    /// A clock that stands at `start`.
    #[must_use]
    pub fn at(start: Timestamp) -> Self {
        Self(AtomicU64::new(start.as_micros()))
    }

    /// Moves the clock on by `duration`.
    pub fn advance(&self, duration: Duration) {
        self.0.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clock_never_starts_before_its_floor() {
        let floor = Timestamp::from_micros(u64::MAX / 2);
        assert!(SystemClock::not_before(floor).now() >= floor);
    }

    #[test]
    fn manual_clock_moves_only_when_told() {
        let clock = ManualClock::at(Timestamp::from_micros(5));
        assert_eq!(clock.now(), clock.now());
        clock.advance(Duration::from_millis(1));
        assert_eq!(clock.now().as_micros(), 1_005);
    }
}
