//! Chance that follows from the seed: every host, connection and call has dice of its own, so that what happens to one
//! does not depend on how much another has thrown.

use std::time::Duration;

use semel_testkit::check::load::Dice;

/// Dice with a few more ways to throw them.
#[derive(Clone, Debug)]
pub struct Chance(Dice);

impl Chance {
    /// The dice of `who` in the world of `seed`.
    #[must_use]
    pub fn of(seed: u64, who: &str) -> Self {
        // FNV-1a: it only has to tell names apart, and to be the same everywhere.
        let hash = who.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(Dice::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash))
    }

    /// From 0 on and below `below`.
    pub fn below(&mut self, below: usize) -> usize {
        self.0.below(below)
    }

    /// From `least` to `most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        let span = usize::try_from(most - least).unwrap_or(usize::MAX - 1) + 1;
        least + u64::try_from(self.0.below(span)).unwrap_or(0)
    }

    /// From `least` to `most` milliseconds.
    pub fn millis(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.between(least, most))
    }

    /// True so often in a thousand.
    pub fn permille(&mut self, often: u64) -> bool {
        self.between(0, 999) < often
    }
}
