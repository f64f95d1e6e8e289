//! The record: its states and every allowed transition, as pure functions over an explicit time.
//!
//! Stores that can run Rust inside their atomic step (memory, embedded) call these functions; the others restate
//! them in SQL or Lua and are tested against them. Nothing here reads a clock, draws a number or waits.
//!
//! ```text
//! absent -> in flight(token, lease) -> completed(outcome, expires) | failed(outcome, expires)
//! in flight -> in doubt        the lease ran out, or the effect gave no answer
//! in flight -> absent          release: the effect certainly did not happen
//! in doubt  -> in flight(token + 1) | completed | failed | absent
//! completed | failed -> absent by expiry or purge
//! ```
//!
//! Next: [`crate::store`], which says how these become atomic.

use std::fmt;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::fingerprint::Fingerprint;
use crate::policy::OnMismatch;
use crate::scope::RecordId;

/// Fencing token: grows with every claim and never repeats for one record, also after the record was absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl Token {
    /// The token of a claim made at `now`: later than the clock, and than every token given before.
    #[must_use]
    pub fn next(now: Timestamp, last: Token) -> Token {
        Token(now.as_micros().max(last.0.saturating_add(1)))
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one attempt to claim, so that a caller whose reply was lost can recognise its own claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttemptId(u128);

impl AttemptId {
    /// A number never used before: 64 random bits of this process, then a counter.
    #[must_use]
    pub fn fresh() -> Self {
        static PROCESS: LazyLock<u64> = LazyLock::new(|| uuid::Uuid::new_v4().as_u64_pair().1);
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self(u128::from(*PROCESS) << 64 | u128::from(COUNT.fetch_add(1, Ordering::Relaxed)))
    }

    /// The bytes to store.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// An attempt id from its stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

/// What every write names: a record changes only for the holder of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The claim's fencing token.
    pub token: Token,
    /// The attempt that won it.
    pub attempt: AttemptId,
}

/// What an effect produced. Opaque to the engine; the surface that made it reads it back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The surface's own code, shown to operators: an HTTP status, or 0 where there is none.
    pub code: u16,
    /// What precedes the body, in the surface's encoding: HTTP headers, or empty.
    pub head: Bytes,
    /// The body, or the value.
    pub body: Bytes,
    /// False when the body was too large to keep: the effect is still never run again.
    pub body_kept: bool,
}

/// Why nobody knows whether the effect happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DoubtCause {
    /// The claim's lease ran out, or its longest execution time did.
    LeaseExpired,
    /// The effect was started and gave no answer, or half of one.
    NoAnswer,
    /// The effect answered that it failed in a way that may have taken effect.
    FailedAnswer,
    /// The executor ended without settling its claim: a panic, an abort, a shutdown.
    Abandoned,
    /// The store's owner process was restarted while the claim was in flight.
    Restarted,
}

impl DoubtCause {
    /// Every cause, for codecs and metrics.
    pub const ALL: [Self; 5] =
        [Self::LeaseExpired, Self::NoAnswer, Self::FailedAnswer, Self::Abandoned, Self::Restarted];

    /// The stored and printed name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LeaseExpired => "lease-expired",
            Self::NoAnswer => "no-answer",
            Self::FailedAnswer => "failed-answer",
            Self::Abandoned => "abandoned",
            Self::Restarted => "restarted",
        }
    }
}

/// Where a record stands. *Absent* is the lack of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A claim is believed alive.
    InFlight {
        /// Until when the claim is believed alive.
        lease_until: Timestamp,
        /// Past this the lease is not renewed any more.
        execute_until: Timestamp,
    },
    /// The effect may or may not have happened.
    InDoubt {
        /// Since when.
        since: Timestamp,
        /// When the doubt is forgotten, and with it the promise not to run again.
        expires_at: Timestamp,
        /// Why.
        cause: DoubtCause,
    },
    /// The effect happened and this is its outcome.
    Completed {
        /// What is replayed.
        outcome: Outcome,
        /// When it was stored.
        completed_at: Timestamp,
        /// From when on the record is absent.
        expires_at: Timestamp,
    },
    /// The effect ended in a terminal error, which is replayed.
    Failed {
        /// What is replayed.
        outcome: Outcome,
        /// When it was stored.
        completed_at: Timestamp,
        /// From when on the record is absent.
        expires_at: Timestamp,
    },
}

/// The name of a [`State`], without its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateKind {
    /// See [`State::InFlight`].
    InFlight,
    /// See [`State::InDoubt`].
    InDoubt,
    /// See [`State::Completed`].
    Completed,
    /// See [`State::Failed`].
    Failed,
}

impl StateKind {
    /// Every kind, for codecs, filters and metrics.
    pub const ALL: [Self; 4] = [Self::InFlight, Self::InDoubt, Self::Completed, Self::Failed];

    /// The stored and printed name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InFlight => "in-flight",
            Self::InDoubt => "in-doubt",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }
}

impl State {
    /// The state's name.
    #[must_use]
    pub const fn kind(&self) -> StateKind {
        match self {
            Self::InFlight { .. } => StateKind::InFlight,
            Self::InDoubt { .. } => StateKind::InDoubt,
            Self::Completed { .. } => StateKind::Completed,
            Self::Failed { .. } => StateKind::Failed,
        }
    }
}

/// Everything known about one (tenant, operation, key).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub id: RecordId,
    /// What the claiming request looked like.
    pub fingerprint: Fingerprint,
    /// Token and attempt of the newest claim.
    pub guard: Guard,
    /// How many times the record was claimed afresh, from 1.
    pub generation: u32,
    /// When the newest claim was made.
    pub claimed_at: Timestamp,
    /// How long a doubt about this record is kept.
    pub doubt_retention: Duration,
    /// Where it stands.
    pub state: State,
}

impl Record {
    /// The record as it stands at `now`: `None` when it has expired, in doubt when its lease has run out.
    /// Expired means `now >= expires_at`.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Option<Self> {
        if let State::InFlight { lease_until, execute_until } = self.state {
            let since = lease_until.min(execute_until);
            if now >= since {
                self.state = self.doubt_since(since, DoubtCause::LeaseExpired);
            }
        }
        (!self.expires_at().is_some_and(|expires_at| now >= expires_at)).then_some(self)
    }

    /// When the record becomes absent by itself; `None` while in flight.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        match self.state {
            State::InFlight { .. } => None,
            State::InDoubt { expires_at, .. }
            | State::Completed { expires_at, .. }
            | State::Failed { expires_at, .. } => Some(expires_at),
        }
    }

    /// The stored outcome of a completed or failed record.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Completed { outcome, .. } | State::Failed { outcome, .. } => Some(outcome),
            State::InFlight { .. } | State::InDoubt { .. } => None,
        }
    }

    fn doubt_since(&self, since: Timestamp, cause: DoubtCause) -> State {
        State::InDoubt { since, expires_at: since.plus(self.doubt_retention), cause }
    }
}

/// What a caller brings to [`claim`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClaimArgs {
    /// Which record.
    pub id: RecordId,
    /// What the request looks like.
    pub fingerprint: Fingerprint,
    /// This attempt; recognised when the reply is lost.
    pub attempt: AttemptId,
    /// How long the claim is believed alive without renewal.
    pub lease: Duration,
    /// How long the lease may be renewed, counted from the claim.
    pub max_execution: Duration,
    /// How long a doubt about this record is kept.
    pub doubt_retention: Duration,
    /// Whether a record in doubt is claimed again, with a new token, instead of standing.
    pub takeover: bool,
    /// Which fingerprints may take over.
    pub on_mismatch: OnMismatch,
}

impl ClaimArgs {
    /// A fresh attempt to claim `id`, under the durations and choices of `policy`.
    #[must_use]
    pub fn new(id: RecordId, fingerprint: Fingerprint, policy: &crate::Policy) -> Self {
        Self {
            id,
            fingerprint,
            attempt: AttemptId::fresh(),
            lease: policy.lease,
            max_execution: policy.max_execution,
            doubt_retention: policy.doubt_retention,
            takeover: policy.on_doubt.claims_again(),
            on_mismatch: policy.on_mismatch,
        }
    }
}

/// How an effect ended, for [`complete`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It produced an outcome.
    Completed(Outcome),
    /// It ended in a terminal error, to be replayed.
    Failed(Outcome),
}

/// From which states [`release`] may remove a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseFrom {
    /// The holder of the claim knows that the effect did not happen: in flight, or in doubt by a lapsed lease.
    Claim,
    /// Somebody resolves a doubt: the effect did not happen.
    Doubt,
    /// A finished record is purged by name.
    Finished,
}

/// What a transition does to the stored record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This record is written.
    Write(Record),
    /// The record is removed.
    Remove,
    /// Nothing changes, because the asked-for change has already been made by this guard.
    Already(Record),
    /// Nothing changes: the guard is not the record's, or its state does not allow it. What stands is given.
    Refused(Option<Record>),
}

/// absent -> in flight, and in doubt -> in flight where `args.takeover` allows it. Anything else stands.
///
/// `last` is the newest token the store knows of, so that tokens grow even when the clock does not.
#[must_use]
pub fn claim(current: Option<Record>, args: &ClaimArgs, last: Token, now: Timestamp) -> Step {
    let current = current.and_then(|record| record.at(now));
    let (last, generation) = match current {
        None => (last, 1),
        Some(standing) if standing.guard.attempt == args.attempt => return Step::Already(standing),
        Some(standing) => {
            let doubted = standing.state.kind() == StateKind::InDoubt;
            if !(doubted
                && args.takeover
                && args.fingerprint.matches(&standing.fingerprint, args.on_mismatch))
            {
                return Step::Refused(Some(standing));
            }
            (last.max(standing.guard.token), standing.generation.saturating_add(1))
        }
    };
    let execute_until = now.plus(args.max_execution);
    Step::Write(Record {
        id: args.id.clone(),
        fingerprint: args.fingerprint,
        guard: Guard { token: Token::next(now, last), attempt: args.attempt },
        generation,
        claimed_at: now,
        doubt_retention: args.doubt_retention,
        state: State::InFlight { lease_until: now.plus(args.lease).min(execute_until), execute_until },
    })
}

/// Moves the lease of a live claim on to `now + lease`, never past its longest execution.
#[must_use]
pub fn renew(current: Option<Record>, guard: Guard, lease: Duration, now: Timestamp) -> Step {
    match held(current, guard, now) {
        Ok(mut record) => {
            let State::InFlight { execute_until, .. } = record.state else {
                return Step::Refused(Some(record));
            };
            let lease_until = now.plus(lease).min(execute_until);
            record.state = State::InFlight { lease_until, execute_until };
            Step::Write(record)
        }
        Err(refused) => refused,
    }
}

/// in flight | in doubt -> completed | failed, kept for `retention` from `now`. The late completion of a claim
/// that still holds the token turns doubt into an outcome.
#[must_use]
pub fn complete(
    current: Option<Record>,
    guard: Guard,
    ending: Ending,
    retention: Duration,
    now: Timestamp,
) -> Step {
    match held(current, guard, now) {
        Ok(record) if record.outcome().is_some() => Step::Already(record),
        Ok(mut record) => {
            let expires_at = now.plus(retention);
            record.state = match ending {
                Ending::Completed(outcome) => State::Completed { outcome, completed_at: now, expires_at },
                Ending::Failed(outcome) => State::Failed { outcome, completed_at: now, expires_at },
            };
            Step::Write(record)
        }
        Err(refused) => refused,
    }
}

/// in flight -> in doubt, said by the holder of the claim.
#[must_use]
pub fn doubt(current: Option<Record>, guard: Guard, cause: DoubtCause, now: Timestamp) -> Step {
    match held(current, guard, now) {
        Ok(mut record) => match record.state {
            State::InFlight { .. } => {
                record.state = record.doubt_since(now, cause);
                Step::Write(record)
            }
            State::InDoubt { .. } => Step::Already(record),
            State::Completed { .. } | State::Failed { .. } => Step::Refused(Some(record)),
        },
        Err(refused) => refused,
    }
}

/// The record becomes absent, when it is in one of the states that `from` names.
#[must_use]
pub fn release(current: Option<Record>, guard: Guard, from: ReleaseFrom, now: Timestamp) -> Step {
    match held(current, guard, now) {
        Ok(record) => {
            let allowed = match record.state.kind() {
                StateKind::InFlight => from == ReleaseFrom::Claim,
                StateKind::InDoubt => from != ReleaseFrom::Finished,
                StateKind::Completed | StateKind::Failed => from == ReleaseFrom::Finished,
            };
            if allowed { Step::Remove } else { Step::Refused(Some(record)) }
        }
        Err(refused) => refused,
    }
}

fn held(current: Option<Record>, guard: Guard, now: Timestamp) -> Result<Record, Step> {
    match current.and_then(|record| record.at(now)) {
        Some(record) if record.guard == guard => Ok(record),
        other => Err(Step::Refused(other)),
    }
}
