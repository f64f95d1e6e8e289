//! How long to wait before trying again: exponential with jitter. Pure; the caller sleeps.

use std::time::Duration;

/// `base * 2^n`, at most `cap`, times a jitter of 0.4 to 1.6: a thousand who were refused at one moment come back over
/// 600 ms of half a second, and the fullest 50 ms of it stay below 13 per cent of them.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// The delay before the first retry, without jitter.
    pub base: Duration,
    /// The longest delay, without jitter.
    pub cap: Duration,
}

impl Backoff {
    /// The delay before retry `n`, from 0. `random` is uniform over all of `u16`.
    #[must_use]
    pub fn delay(&self, n: u32, random: u16) -> Duration {
        let plain = self.base.saturating_mul(1_u32.checked_shl(n).unwrap_or(u32::MAX)).min(self.cap);
        plain.mul_f64(0.4 + 1.2 * f64::from(random) / f64::from(u16::MAX))
    }
}

/// A random number for [`Backoff::delay`] and for spreading callers that are told when to come back.
#[must_use]
pub fn random() -> u16 {
    #[cfg(feature = "simulation")]
    if let Some(number) = seeded::next() {
        return number;
    }
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    u16::try_from(high >> 48).unwrap_or_default()
}

#[cfg(feature = "simulation")]
pub use seeded::seed;

/// Chance that can be repeated, for a simulation that runs on one thread.
#[cfg(feature = "simulation")]
mod seeded {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// From here on [`super::random`] on this thread follows from `seed`; `None` gives it back to the system.
    pub fn seed(seed: Option<u64>) {
        STATE.set(seed);
    }

    /// The SplitMix64 sequence.
    pub(super) fn next() -> Option<u16> {
        let state = STATE.get()?.wrapping_add(0x9e37_79b9_7f4a_7c15);
        STATE.set(Some(state));
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u16::try_from((mixed ^ (mixed >> 31)) >> 48).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(8) };

    #[test]
    fn delay_doubles_up_to_its_cap_with_0_4_to_1_6_of_jitter() {
        assert_eq!(BACKOFF.delay(0, 0), Duration::from_millis(200));
        assert_eq!(BACKOFF.delay(0, u16::MAX), Duration::from_millis(800));
        assert_eq!(BACKOFF.delay(2, 0), Duration::from_millis(800));
        assert_eq!(BACKOFF.delay(40, u16::MAX), Duration::from_millis(12_800));
    }
}
