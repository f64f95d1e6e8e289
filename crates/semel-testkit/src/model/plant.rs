//! Faults around the pure transitions, one at a time: that the search finds each shows that it looks where it hurts.
//!
//! The transitions themselves are not touched; `mutants/` has faults inside them. Next: [`super::steps`].

use semel::clock::Timestamp;
use semel::record::{self, Record, State, Step, Token};

use super::row::{self, LEASE};
use super::world::Shape;
use crate::check::Call;

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plant {
    /// A completion is let through whatever its guard.
    CompleteUnfenced,
    /// A release is let through whatever its guard.
    ReleaseUnfenced,
    /// The purge takes records in flight.
    PurgeTakesInFlight,
    /// A claim takes over a lease that has not run out.
    ClaimTakesLiveLease,
    /// A record whose lease ran out is absent instead of in doubt.
    LeaseIsRetention,
    /// A completion replaces the outcome that stands.
    CompletionRewrites,
    /// Tokens begin again once a record was absent, on a clock that stands.
    TokenRepeats,
    /// A doubt is taken over although the key holds its doubts.
    HoldTakesOver,
    /// Callers are told the outcome before it is stored.
    AnswerBeforeStoring,
    /// An outcome is kept for less than was promised.
    OutcomeExpiresEarly,
    /// A claim whose reply was lost is believed won, and not looked for.
    LostReplyIsWon,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::CompleteUnfenced,
        Self::ReleaseUnfenced,
        Self::PurgeTakesInFlight,
        Self::ClaimTakesLiveLease,
        Self::LeaseIsRetention,
        Self::CompletionRewrites,
        Self::TokenRepeats,
        Self::HoldTakesOver,
        Self::AnswerBeforeStoring,
        Self::OutcomeExpiresEarly,
        Self::LostReplyIsWon,
    ];
}

impl Plant {
    /// The guarantee that it breaks, and the smallest world in which that shows.
    #[must_use]
    pub const fn breaks(self) -> (&'static str, Shape) {
        let shape = Shape { executors: 2, keys: 1, asks: 1, ticks: 5, late: 1, resolutions: 0 };
        let retrying = Shape { keys: 2, ..shape };
        match self {
            Self::CompleteUnfenced | Self::ReleaseUnfenced | Self::ClaimTakesLiveLease => ("G1", retrying),
            Self::TokenRepeats | Self::PurgeTakesInFlight | Self::LostReplyIsWon => ("G1", shape),
            Self::CompletionRewrites => ("G2", Shape { resolutions: 1, ..shape }),
            Self::AnswerBeforeStoring => ("G2", retrying),
            Self::OutcomeExpiresEarly => ("G2", shape),
            Self::LeaseIsRetention | Self::HoldTakesOver => ("G7", shape),
        }
    }
}

/// What the transitions make of `call`, with the fault around them.
pub(super) fn step(
    plant: Option<Plant>,
    mut call: Call,
    current: Option<Record>,
    last: Token,
    now: Timestamp,
) -> Step {
    let mut current = current;
    let mut last = last;
    match (plant, &mut call) {
        (Some(Plant::CompleteUnfenced), Call::Complete(args)) => {
            args.guard = current.as_ref().map_or(args.guard, |record| record.guard);
        }
        (Some(Plant::ReleaseUnfenced), Call::Release(args)) => {
            args.guard = current.as_ref().map_or(args.guard, |record| record.guard);
        }
        (Some(Plant::ClaimTakesLiveLease), Call::Claim(args)) => {
            args.takeover = true;
            current = current.map(|record| record.doubted(record::DoubtCause::LeaseExpired, now));
        }
        (Some(Plant::LeaseIsRetention), _) => {
            let lapsed = |record: &Record| matches!(record.state, State::InFlight { lease_until, .. } if now >= lease_until);
            current = current.filter(|record| !lapsed(record));
        }
        (Some(Plant::CompletionRewrites), Call::Complete(args)) => {
            let until = now.plus(row::duration(LEASE));
            if let Some(record) = current.as_mut().filter(|record| record.outcome().is_some()) {
                record.state = State::InFlight { lease_until: until, execute_until: until };
                record.guard = args.guard;
            }
        }
        (Some(Plant::TokenRepeats), Call::Claim(_)) => last = Token(0),
        (Some(Plant::HoldTakesOver), Call::Claim(args)) => args.takeover = true,
        (Some(Plant::OutcomeExpiresEarly), Call::Complete(args)) => args.retention /= 2,
        _ => {}
    }
    call.step(current, last, now)
}
