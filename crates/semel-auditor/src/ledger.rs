//! The payments that the server made: one for each new key, and one for each request without a key.
//!
//! This is an API that honours keys, so that what is counted twice is the client's doing.

use std::collections::HashSet;

/// The payments of one scenario.
#[derive(Debug, Default)]
pub struct Ledger {
    keys: HashSet<String>,
    payments: u64,
}

impl Ledger {
    /// Pays, unless this key was paid for before. Says whether it did.
    pub fn pay(&mut self, key: Option<&str>) -> bool {
        let new = key.is_none_or(|key| self.keys.insert(key.to_owned()));
        self.payments += u64::from(new);
        new
    }

    /// How many payments were made.
    #[must_use]
    pub fn payments(&self) -> u64 {
        self.payments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_pays_once_and_no_key_pays_every_time() {
        let mut ledger = Ledger::default();
        let paid = [Some("a"), Some("a"), Some("b"), None, None].map(|key| ledger.pay(key));
        assert_eq!(paid, [true, false, true, true, true]);
        assert_eq!(ledger.payments(), 4);
    }
}
