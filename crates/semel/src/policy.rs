//! Policies: what is chosen per route or per call, with the defaults.
//!
//! Not the choices that only HTTP has (which answers are stored, what a missing key means); those live beside the
//! HTTP layer. Next: [`crate::engine`], which obeys them.

use std::time::Duration;

/// What a second caller gets while the first still runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDuplicate {
    /// It waits for the outcome, up to [`Policy::wait_timeout`].
    #[default]
    Wait,
    /// It is refused at once.
    Conflict,
}

/// What happens to a record in doubt when its key is brought again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDoubt {
    /// It is refused until a person or a rule resolves it: the effect runs at most once.
    #[default]
    Hold,
    /// It is claimed again with a new token: unless the effect's target deduplicates or fences, **two effects are
    /// possible**.
    Retry,
    /// It is claimed again, and the surface first asks whether the effect happened.
    Probe,
}

impl OnDoubt {
    /// Whether a record in doubt is claimed again.
    #[must_use]
    pub const fn claims_again(self) -> bool {
        matches!(self, Self::Retry | Self::Probe)
    }
}

/// What happens when a key is brought again with another payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMismatch {
    /// It is refused; the stored outcome is not shown.
    #[default]
    Reject,
    /// The stored outcome is replayed whatever the payload says.
    Replay,
    /// The payload is part of the record's identity, so it is another record.
    Distinct,
}

impl OnMismatch {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Reject, Self::Replay, Self::Distinct];
}

/// How records of one route or call are treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Default: wait.
    pub on_duplicate: OnDuplicate,
    /// Default: hold.
    pub on_doubt: OnDoubt,
    /// Default: reject.
    pub on_mismatch: OnMismatch,
    /// How long a claim is believed alive without renewal; renewed at a third of it. Default 10 s.
    pub lease: Duration,
    /// How long a lease is renewed at most; after that the record is in doubt. Default 10 min.
    pub max_execution: Duration,
    /// How long a finished record is kept, from completion. 1 s to 1 year, default 24 h.
    pub retention: Duration,
    /// How long a doubt is kept; the promise not to run again ends with it. Default 30 days.
    pub doubt_retention: Duration,
    /// How long a duplicate waits before it is told that the first still runs. Default 10 s.
    pub wait_timeout: Duration,
    /// How long storing an outcome is tried when the store is unreachable. Default 5 s.
    pub complete_timeout: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            on_duplicate: OnDuplicate::default(),
            on_doubt: OnDoubt::default(),
            on_mismatch: OnMismatch::default(),
            lease: Duration::from_secs(10),
            max_execution: Duration::from_secs(10 * 60),
            retention: Duration::from_secs(24 * 60 * 60),
            doubt_retention: Duration::from_secs(30 * 24 * 60 * 60),
            wait_timeout: Duration::from_secs(10),
            complete_timeout: Duration::from_secs(5),
        }
    }
}
