//! A record in a few bytes, so that millions fit into memory and can be told apart; what the transitions never read is
//! left out. Next: [`super::world`].

use std::time::Duration;

use semel::clock::Timestamp;
use semel::record::{AttemptId, ClaimArgs, DoubtCause, Ending, Guard};
use semel::{
    Fingerprint, Key, Operation, Outcome, Policy, Record, RecordId, State, Tenant, Token, fingerprint,
};

/// How long a claim is believed alive, in ticks. One tick is a microsecond of the transitions' time.
pub(super) const LEASE: u8 = 2;
/// How long it may be renewed.
pub(super) const LONGEST: u8 = 3;
/// How long an outcome is kept.
pub(super) const RETENTION: u8 = 2;
/// How long a doubt is kept.
pub(super) const DOUBT_RETENTION: u8 = 2;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    /// The newest claim's.
    pub guard: Held,
    /// How many times it was claimed afresh.
    pub generation: u8,
    /// Where it stands.
    pub stands: Stands,
}

/// A guard in two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Held {
    /// The token.
    pub token: u8,
    /// The attempt.
    pub attempt: u8,
}

/// A state in three bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are the states of a record")]
pub enum Stands {
    InFlight { lease_until: u8, execute_until: u8 },
    InDoubt { expires_at: u8 },
    Completed { value: u8, expires_at: u8 },
}

pub(super) fn duration(ticks: u8) -> Duration {
    Duration::from_micros(u64::from(ticks))
}

pub(super) fn time(ticks: u8) -> Timestamp {
    Timestamp::from_micros(u64::from(ticks))
}

fn ticks(micros: u64) -> u8 {
    u8::try_from(micros).unwrap_or(u8::MAX)
}

pub(super) fn outcome(value: u8) -> Ending {
    Ending::Completed(Outcome { code: u16::from(value), body_kept: true, ..Outcome::default() })
}

impl Held {
    pub(super) fn guard(self) -> Guard {
        Guard { token: Token(u64::from(self.token)), attempt: attempt_id(self.attempt) }
    }

    fn of(guard: Guard) -> Self {
        Self { token: ticks(guard.token.0), attempt: guard.attempt.to_bytes()[15] }
    }
}

fn attempt_id(attempt: u8) -> AttemptId {
    let mut bytes = [0; 16];
    bytes[15] = attempt;
    AttemptId::from_bytes(bytes)
}

/// What all records and claims of one key share.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    claim: ClaimArgs,
}

impl Template {
    pub(super) fn of_key(key: usize) -> Self {
        let key = Key::new(&format!("k{key}")).unwrap_or_else(|_| unreachable!("a short key"));
        let id = RecordId::new(Tenant::public(), Operation::http(), key);
        let request = Fingerprint {
            target: fingerprint::target("POST", "/", None),
            payload: fingerprint::payload(b"", &fingerprint::PayloadParts::Raw),
        };
        let mut claim = ClaimArgs::new(id, request, &Policy::default());
        claim.lease = duration(LEASE);
        claim.max_execution = duration(LONGEST);
        claim.doubt_retention = duration(DOUBT_RETENTION);
        Self { claim }
    }

    pub(super) fn id(&self) -> RecordId {
        self.claim.id.clone()
    }

    pub(super) fn claim(&self, attempt: u8, takeover: bool) -> ClaimArgs {
        let mut claim = self.claim.clone();
        (claim.attempt, claim.takeover) = (attempt_id(attempt), takeover);
        claim
    }

    pub(super) fn record(&self, row: Row) -> Record {
        let zero = time(0);
        Record {
            id: self.id(),
            fingerprint: self.claim.fingerprint,
            guard: row.guard.guard(),
            generation: u32::from(row.generation),
            claimed_at: zero,
            doubt_retention: self.claim.doubt_retention,
            state: match row.stands {
                Stands::InFlight { lease_until, execute_until } => {
                    State::InFlight { lease_until: time(lease_until), execute_until: time(execute_until) }
                }
                Stands::InDoubt { expires_at } => State::InDoubt {
                    since: zero,
                    expires_at: time(expires_at),
                    cause: DoubtCause::LeaseExpired,
                },
                Stands::Completed { value, expires_at } => {
                    let (Ending::Completed(outcome) | Ending::Failed(outcome)) = outcome(value);
                    State::Completed { outcome, completed_at: zero, expires_at: time(expires_at) }
                }
            },
        }
    }
}

impl From<&Record> for Row {
    fn from(record: &Record) -> Self {
        let stands = match &record.state {
            State::InFlight { lease_until, execute_until } => Stands::InFlight {
                lease_until: ticks(lease_until.as_micros()),
                execute_until: ticks(execute_until.as_micros()),
            },
            State::InDoubt { expires_at, .. } => {
                Stands::InDoubt { expires_at: ticks(expires_at.as_micros()) }
            }
            State::Completed { outcome, expires_at, .. } | State::Failed { outcome, expires_at, .. } => {
                Stands::Completed {
                    value: ticks(u64::from(outcome.code)),
                    expires_at: ticks(expires_at.as_micros()),
                }
            }
        };
        Self { guard: Held::of(record.guard), generation: ticks(u64::from(record.generation)), stands }
    }
}
