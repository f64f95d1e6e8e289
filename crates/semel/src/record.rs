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
//! absent -> in doubt | completed | failed    moved here from another store
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

    fn expires_at(&self) -> Option<Timestamp> {
        match self {
            Self::InFlight { .. } => None,
            Self::InDoubt { expires_at, .. }
            | Self::Completed { expires_at, .. }
            | Self::Failed { expires_at, .. } => Some(*expires_at),
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
        if let Some(doubt) = self.lapsed(now) {
            self.state = doubt;
        }
        self.expires_at().is_none_or(|expires_at| now < expires_at).then_some(self)
    }

    /// Whether [`Record::at`] gives nothing.
    pub(crate) fn is_absent_at(&self, now: Timestamp) -> bool {
        now >= self.absent_from()
    }

    /// From when on [`Record::at`] gives nothing, when nobody changes the record.
    pub(crate) fn absent_from(&self) -> Timestamp {
        match self.state {
            State::InFlight { lease_until, execute_until } => {
                lease_until.min(execute_until).plus(self.doubt_retention)
            }
            State::InDoubt { expires_at, .. }
            | State::Completed { expires_at, .. }
            | State::Failed { expires_at, .. } => expires_at,
        }
    }

    /// What has become of a claim whose lease has run out by `now`; `None` for any other record.
    fn lapsed(&self, now: Timestamp) -> Option<State> {
        let State::InFlight { lease_until, execute_until } = self.state else { return None };
        let since = lease_until.min(execute_until);
        (now >= since).then(|| self.doubt_since(since, DoubtCause::LeaseExpired))
    }

    /// When the record becomes absent by itself; `None` while in flight.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.state.expires_at()
    }

    /// The stored outcome of a completed or failed record.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Completed { outcome, .. } | State::Failed { outcome, .. } => Some(outcome),
            State::InFlight { .. } | State::InDoubt { .. } => None,
        }
    }

    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        const OVERHEAD: usize = 512;
        let outcome = self.outcome().map_or(0, |outcome| outcome.head.len() + outcome.body.len());
        u64::try_from(OVERHEAD + outcome).unwrap_or(u64::MAX)
    }

    /// A record in flight as a doubt that began at `now`; any other as it is. For whoever moves records out of a
    /// store whose claims nobody renews any more.
    #[must_use]
    pub fn doubted(mut self, cause: DoubtCause, now: Timestamp) -> Self {
        if let State::InFlight { .. } = self.state {
            self.state = self.doubt_since(now, cause);
        }
        self
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
    when_held(current, guard, now, |mut record| {
        let State::InFlight { execute_until, .. } = record.state else {
            return Step::Refused(Some(record));
        };
        let lease_until = now.plus(lease).min(execute_until);
        record.state = State::InFlight { lease_until, execute_until };
        Step::Write(record)
    })
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
    when_held(current, guard, now, |mut record| {
        if record.outcome().is_some() {
            return Step::Already(record);
        }
        let expires_at = now.plus(retention);
        record.state = match ending {
            Ending::Completed(outcome) => State::Completed { outcome, completed_at: now, expires_at },
            Ending::Failed(outcome) => State::Failed { outcome, completed_at: now, expires_at },
        };
        Step::Write(record)
    })
}

/// in flight -> in doubt, said by the holder of the claim.
#[must_use]
pub fn doubt(current: Option<Record>, guard: Guard, cause: DoubtCause, now: Timestamp) -> Step {
    when_held(current, guard, now, |mut record| match record.state {
        State::InFlight { .. } => {
            record.state = record.doubt_since(now, cause);
            Step::Write(record)
        }
        State::InDoubt { .. } => Step::Already(record),
        State::Completed { .. } | State::Failed { .. } => Step::Refused(Some(record)),
    })
}

/// The record becomes absent, when it is in one of the states that `from` names.
#[must_use]
pub fn release(current: Option<Record>, guard: Guard, from: ReleaseFrom, now: Timestamp) -> Step {
    when_held(current, guard, now, |record| {
        let allowed = match record.state.kind() {
            StateKind::InFlight => from == ReleaseFrom::Claim,
            StateKind::InDoubt => from != ReleaseFrom::Finished,
            StateKind::Completed | StateKind::Failed => from == ReleaseFrom::Finished,
        };
        if allowed { Step::Remove } else { Step::Refused(Some(record)) }
    })
}

/// absent -> `record`, just as it stood in another store. What has expired on this store's clock stays absent.
///
/// `record` is finished or in doubt: a live claim is renewed where it was made, and cannot be moved.
#[must_use]
pub fn import(current: Option<Record>, record: Record, now: Timestamp) -> Step {
    match current.and_then(|standing| standing.at(now)) {
        Some(standing) if standing.guard == record.guard => Step::Already(standing),
        Some(standing) => Step::Refused(Some(standing)),
        None => record.at(now).map_or(Step::Remove, Step::Write),
    }
}

/// The fence: only the holder of the record's guard takes a step.
fn when_held(
    current: Option<Record>,
    guard: Guard,
    now: Timestamp,
    step: impl FnOnce(Record) -> Step,
) -> Step {
    match current.and_then(|record| record.at(now)) {
        Some(record) if record.guard == guard => step(record),
        other => Step::Refused(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::{PayloadParts, payload, target};
    use crate::key::Key;
    use crate::scope::{Operation, Tenant};
    use proptest::prelude::*;

    const START: Timestamp = Timestamp::from_micros(1_000_000_000);
    const MICRO: Duration = Duration::from_micros(1);
    const SECOND: Duration = Duration::from_secs(1);
    const LEASE: Duration = Duration::from_secs(10);
    const LONGEST: Duration = Duration::from_secs(60);
    const RETENTION: Duration = Duration::from_secs(100);
    const DOUBT_RETENTION: Duration = Duration::from_secs(1_000);
    const FROMS: [ReleaseFrom; 3] = [ReleaseFrom::Claim, ReleaseFrom::Doubt, ReleaseFrom::Finished];

    fn asking(path: &str, body: &str) -> ClaimArgs {
        ClaimArgs {
            id: RecordId::new(Tenant::public(), Operation::http(), Key::new("k").unwrap()),
            fingerprint: Fingerprint {
                target: target("POST", path, None),
                payload: payload(body.as_bytes(), &PayloadParts::Raw),
            },
            attempt: AttemptId::fresh(),
            lease: LEASE,
            max_execution: LONGEST,
            doubt_retention: DOUBT_RETENTION,
            takeover: false,
            on_mismatch: OnMismatch::Reject,
        }
    }

    fn first() -> ClaimArgs {
        asking("/pay", "100")
    }

    fn taking_over() -> ClaimArgs {
        ClaimArgs { takeover: true, ..first() }
    }

    fn written(step: Step) -> Record {
        match step {
            Step::Write(record) => record,
            other => panic!("not written: {other:?}"),
        }
    }

    fn outcome(text: &str) -> Outcome {
        Outcome { code: 201, body: text.to_owned().into(), body_kept: true, ..Outcome::default() }
    }

    fn completing(record: &Record, ending: Ending, now: Timestamp) -> Step {
        complete(Some(record.clone()), record.guard, ending, RETENTION, now)
    }

    fn in_flight() -> Record {
        written(claim(None, &first(), Token::default(), START))
    }

    fn in_doubt() -> Record {
        let record = in_flight();
        written(doubt(Some(record.clone()), record.guard, DoubtCause::NoAnswer, START))
    }

    fn completed() -> Record {
        written(completing(&in_flight(), Ending::Completed(outcome("a")), START))
    }

    fn failed() -> Record {
        written(completing(&in_flight(), Ending::Failed(outcome("declined")), START))
    }

    fn every_state() -> [Record; 4] {
        [in_flight(), in_doubt(), completed(), failed()]
    }

    fn kind_at(record: &Record, now: Timestamp) -> Option<StateKind> {
        record.clone().at(now).map(|record| record.state.kind())
    }

    /// A microsecond before, at, and after.
    fn around(edge: Timestamp) -> [Timestamp; 3] {
        [Timestamp::from_micros(edge.as_micros() - 1), edge, edge.plus(MICRO)]
    }

    /// Guards that share the token, the attempt, or neither with `guard`.
    fn strangers(guard: Guard) -> [Guard; 5] {
        let Guard { token: Token(token), attempt } = guard;
        let other = AttemptId::fresh();
        [
            Guard { token: Token(token - 1), attempt },
            Guard { token: Token(token + 1), attempt },
            Guard { token: Token(token - 1), attempt: other },
            Guard { token: Token(token + 1), attempt: other },
            Guard { token: Token(token), attempt: other },
        ]
    }

    fn assert_fenced(transition: impl Fn(Record, Guard) -> Step) {
        for record in every_state() {
            for stranger in strangers(record.guard) {
                assert_eq!(transition(record.clone(), stranger), Step::Refused(Some(record.clone())));
            }
        }
    }

    #[test]
    fn token_follows_the_clock_and_grows_when_it_stands_or_goes_back() {
        let now = Timestamp::from_micros(50);
        assert_eq!(Token::next(now, Token(7)), Token(50));
        assert_eq!(Token::next(now, Token(49)), Token(50));
        assert_eq!(Token::next(now, Token(50)), Token(51));
        assert_eq!(Token::next(now, Token(90)), Token(91));
        assert_eq!(Token::next(now, Token(u64::MAX)), Token(u64::MAX));
    }

    #[test]
    fn attempts_are_never_the_same_and_survive_being_stored() {
        let (one, two) = (AttemptId::fresh(), AttemptId::fresh());
        assert_ne!(one, two);
        assert_eq!(AttemptId::from_bytes(one.to_bytes()), one);
        let process = |attempt: AttemptId| attempt.0 >> 64;
        assert_eq!(process(one), process(two));
        assert_ne!(process(one), 0, "another process would give the same");
    }

    #[test]
    fn stored_names_are_these() {
        let causes = DoubtCause::ALL.map(DoubtCause::as_str);
        assert_eq!(causes, ["lease-expired", "no-answer", "failed-answer", "abandoned", "restarted"]);
        let kinds = every_state().map(|record| record.state.kind());
        assert_eq!(kinds, StateKind::ALL);
        assert_eq!(kinds.map(StateKind::as_str), ["in-flight", "in-doubt", "completed", "failed"]);
        assert_eq!(Token(17).to_string(), "17");
    }

    #[test]
    fn a_record_weighs_as_much_as_its_outcome_and_something_more() {
        let mut record = completed();
        let State::Completed { outcome, .. } = &mut record.state else { panic!("it is completed") };
        (outcome.head, outcome.body) = ("head".into(), "the body".into());
        assert_eq!(record.memory_bytes(), in_flight().memory_bytes() + 4 + 8);
        assert!(in_flight().memory_bytes() > 100);
    }

    #[test]
    fn only_a_record_in_flight_is_doubted_when_it_moves() {
        let now = START.plus(SECOND);
        let state = State::InDoubt {
            since: now,
            expires_at: now.plus(DOUBT_RETENTION),
            cause: DoubtCause::Restarted,
        };
        assert_eq!(in_flight().doubted(DoubtCause::Restarted, now).state, state);
        for record in [in_doubt(), completed(), failed()] {
            assert_eq!(record.clone().doubted(DoubtCause::Restarted, now), record);
        }
    }

    #[test]
    fn lapsed_lease_is_a_doubt_from_its_end_on() {
        let record = in_flight();
        let end = START.plus(LEASE);
        let [before, at, after] = around(end);
        assert_eq!(record.clone().at(before), Some(record.clone()));
        for now in [at, after, START.plus(LONGEST)] {
            let state = record.clone().at(now).unwrap().state;
            let expires_at = end.plus(DOUBT_RETENTION);
            assert_eq!(state, State::InDoubt { since: end, expires_at, cause: DoubtCause::LeaseExpired });
        }
    }

    #[test]
    fn longest_execution_ends_a_claim_whose_lease_goes_on() {
        let mut record = in_flight();
        let execute_until = START.plus(LONGEST);
        record.state = State::InFlight { lease_until: execute_until.plus(LEASE), execute_until };
        let [before, at, after] = around(execute_until);
        assert_eq!(kind_at(&record, before), Some(StateKind::InFlight));
        for now in [at, after] {
            assert!(matches!(record.clone().at(now).unwrap().state,
                State::InDoubt { since, cause: DoubtCause::LeaseExpired, .. } if since == execute_until));
        }
    }

    #[test]
    fn finished_records_are_absent_from_their_expiry_on() {
        for record in [completed(), failed()] {
            let [before, at, after] = around(START.plus(RETENTION));
            assert_eq!(record.clone().at(before), Some(record.clone()));
            assert_eq!((kind_at(&record, at), kind_at(&record, after)), (None, None));
        }
    }

    #[test]
    fn doubts_are_absent_from_their_expiry_on() {
        for (record, since) in [(in_doubt(), START), (in_flight(), START.plus(LEASE))] {
            let [before, at, after] = around(since.plus(DOUBT_RETENTION));
            assert_eq!(kind_at(&record, before), Some(StateKind::InDoubt));
            assert_eq!((kind_at(&record, at), kind_at(&record, after)), (None, None));
        }
    }

    #[test]
    fn only_finished_and_doubted_records_expire_by_themselves() {
        assert_eq!(in_flight().expires_at(), None);
        assert_eq!(in_doubt().expires_at(), Some(START.plus(DOUBT_RETENTION)));
        assert_eq!(completed().expires_at(), Some(START.plus(RETENTION)));
        assert_eq!(failed().expires_at(), Some(START.plus(RETENTION)));
    }

    #[test]
    fn claim_of_an_absent_record_is_in_flight() {
        let args = first();
        let record = written(claim(None, &args, Token(7), START));
        let guard = Guard { token: Token(START.as_micros()), attempt: args.attempt };
        assert_eq!((record.id, record.fingerprint, record.guard), (args.id, args.fingerprint, guard));
        assert_eq!(
            (record.generation, record.claimed_at, record.doubt_retention),
            (1, START, DOUBT_RETENTION)
        );
        let (lease_until, execute_until) = (START.plus(LEASE), START.plus(LONGEST));
        assert_eq!(record.state, State::InFlight { lease_until, execute_until });
    }

    #[test]
    fn claim_never_gets_a_lease_beyond_the_longest_execution() {
        let args = ClaimArgs { lease: LONGEST + SECOND, ..first() };
        let record = written(claim(None, &args, Token::default(), START));
        let until = START.plus(LONGEST);
        assert_eq!(record.state, State::InFlight { lease_until: until, execute_until: until });
    }

    #[test]
    fn claim_never_takes_a_live_lease_and_takes_over_from_its_end_on() {
        let record = in_flight();
        let [before, at, after] = around(START.plus(LEASE));
        for now in [START, before] {
            let step = claim(Some(record.clone()), &taking_over(), Token::default(), now);
            assert_eq!(step, Step::Refused(Some(record.clone())));
        }
        for now in [at, after] {
            let args = taking_over();
            let taken = written(claim(Some(record.clone()), &args, Token::default(), now));
            assert!(taken.guard.token > record.guard.token);
            assert_eq!((taken.guard.attempt, taken.generation, taken.claimed_at), (args.attempt, 2, now));
            assert_eq!(taken.state.kind(), StateKind::InFlight);
        }
    }

    #[test]
    fn claim_leaves_a_doubt_to_stand_unless_it_takes_over() {
        let record = in_doubt();
        let step = claim(Some(record.clone()), &first(), Token::default(), START);
        assert_eq!(step, Step::Refused(Some(record.clone())));
        let taken = written(claim(Some(record), &taking_over(), Token::default(), START));
        assert_eq!((taken.generation, taken.state.kind()), (2, StateKind::InFlight));
    }

    #[test]
    fn claim_takes_a_doubt_over_only_for_the_same_request() {
        let record = in_doubt();
        let takes = |path, body, on_mismatch| {
            let args = ClaimArgs { takeover: true, on_mismatch, ..asking(path, body) };
            match claim(Some(record.clone()), &args, Token::default(), START) {
                Step::Write(_) => true,
                Step::Refused(standing) => {
                    assert_eq!(standing, Some(record.clone()));
                    false
                }
                other => panic!("{other:?}"),
            }
        };
        assert!(takes("/pay", "100", OnMismatch::Reject));
        assert!(!takes("/pay", "900", OnMismatch::Reject));
        assert!(takes("/pay", "900", OnMismatch::Replay));
        for on_mismatch in OnMismatch::ALL {
            assert!(!takes("/refund", "100", on_mismatch));
        }
    }

    #[test]
    fn claim_never_takes_a_finished_record_before_its_expiry() {
        for record in [completed(), failed()] {
            let [before, at, after] = around(START.plus(RETENTION));
            for now in [START, before] {
                let step = claim(Some(record.clone()), &taking_over(), Token::default(), now);
                assert_eq!(step, Step::Refused(Some(record.clone())));
            }
            for now in [at, after] {
                let fresh = written(claim(Some(record.clone()), &first(), record.guard.token, now));
                assert_eq!(fresh.generation, 1);
                assert!(fresh.guard.token > record.guard.token);
            }
        }
    }

    #[test]
    fn claim_tokens_grow_when_the_clock_stands_or_goes_back() {
        let record = in_doubt();
        for now in [START, Timestamp::from_micros(1)] {
            let taken = written(claim(Some(record.clone()), &taking_over(), Token::default(), now));
            assert_eq!(taken.guard.token, Token(record.guard.token.0 + 1));
            let last = Token(record.guard.token.0 + 9);
            let fresh = written(claim(None, &first(), last, now));
            assert_eq!(fresh.guard.token, Token(last.0 + 1));
        }
    }

    #[test]
    fn claim_repeated_by_its_attempt_has_already_been_won() {
        for record in every_state() {
            for takeover in [false, true] {
                let args = ClaimArgs { attempt: record.guard.attempt, takeover, ..first() };
                let step = claim(Some(record.clone()), &args, Token::default(), START.plus(SECOND));
                assert_eq!(step, Step::Already(record.clone()));
            }
        }
    }

    #[test]
    fn renew_moves_the_lease_on_from_now() {
        let record = in_flight();
        let [before, _, _] = around(START.plus(LEASE));
        for now in [START, START.plus(3 * SECOND), before] {
            let renewed = written(renew(Some(record.clone()), record.guard, LEASE, now));
            let (lease_until, execute_until) = (now.plus(LEASE), START.plus(LONGEST));
            assert_eq!(
                renewed,
                Record { state: State::InFlight { lease_until, execute_until }, ..record.clone() }
            );
        }
    }

    #[test]
    fn renew_never_passes_the_longest_execution() {
        let mut record = in_flight();
        for second in 1..60 {
            record = written(renew(Some(record.clone()), record.guard, LEASE, START.plus(second * SECOND)));
        }
        let until = START.plus(LONGEST);
        assert_eq!(record.state, State::InFlight { lease_until: until, execute_until: until });
        let over = renew(Some(record.clone()), record.guard, LEASE, until);
        assert_eq!(over, Step::Refused(record.at(until)));
    }

    #[test]
    fn renew_never_revives_a_lapsed_lease() {
        let record = in_flight();
        let [_, at, after] = around(START.plus(LEASE));
        for now in [at, after] {
            let Step::Refused(Some(standing)) = renew(Some(record.clone()), record.guard, LEASE, now) else {
                panic!("a lapsed lease was renewed");
            };
            assert_eq!(standing.state.kind(), StateKind::InDoubt);
        }
    }

    #[test]
    fn renew_is_refused_unless_in_flight() {
        for record in [in_doubt(), completed(), failed()] {
            let step = renew(Some(record.clone()), record.guard, LEASE, START);
            assert_eq!(step, Step::Refused(Some(record)));
        }
        assert_eq!(renew(None, in_flight().guard, LEASE, START), Step::Refused(None));
    }

    #[test]
    fn renew_by_a_stale_guard_changes_nothing() {
        assert_fenced(|record, guard| renew(Some(record), guard, LEASE, START));
    }

    #[test]
    fn complete_keeps_the_outcome_from_now_for_its_retention() {
        let record = in_flight();
        let now = START.plus(5 * SECOND);
        let (outcome, expires_at) = (outcome("a"), now.plus(RETENTION));
        let stored = written(completing(&record, Ending::Completed(outcome.clone()), now));
        assert_eq!(stored.outcome(), Some(&outcome));
        let state = State::Completed { outcome: outcome.clone(), completed_at: now, expires_at };
        assert_eq!(stored, Record { state, ..record.clone() });
        let stored = written(completing(&record, Ending::Failed(outcome.clone()), now));
        let state = State::Failed { outcome, completed_at: now, expires_at };
        assert_eq!(stored, Record { state, ..record });
    }

    #[test]
    fn complete_turns_a_doubt_into_an_outcome_while_the_doubt_is_kept() {
        for (record, since) in [(in_doubt(), START), (in_flight(), START.plus(LEASE))] {
            let [before, at, after] = around(since.plus(DOUBT_RETENTION));
            for now in [START.plus(LEASE), START.plus(LONGEST), before] {
                for ending in [Ending::Completed(outcome("late")), Ending::Failed(outcome("late"))] {
                    let stored = written(completing(&record, ending, now));
                    assert_eq!(stored.outcome(), Some(&outcome("late")));
                    assert_eq!(stored.expires_at(), Some(now.plus(RETENTION)));
                }
            }
            for now in [at, after] {
                let step = completing(&record, Ending::Completed(outcome("late")), now);
                assert_eq!(step, Step::Refused(None));
            }
        }
    }

    #[test]
    fn complete_repeated_by_its_guard_keeps_the_first_outcome() {
        for record in [completed(), failed()] {
            for ending in [Ending::Completed(outcome("other")), Ending::Failed(outcome("other"))] {
                let step = completing(&record, ending, START.plus(SECOND));
                assert_eq!(step, Step::Already(record.clone()));
            }
            let gone = completing(&record, Ending::Completed(outcome("a")), START.plus(RETENTION));
            assert_eq!(gone, Step::Refused(None));
        }
    }

    #[test]
    fn complete_of_an_absent_record_is_refused() {
        let ending = Ending::Completed(outcome("a"));
        assert_eq!(complete(None, in_flight().guard, ending, RETENTION, START), Step::Refused(None));
    }

    #[test]
    fn complete_by_a_stale_guard_changes_nothing() {
        assert_fenced(|record, guard| {
            complete(Some(record), guard, Ending::Completed(outcome("stale")), RETENTION, START)
        });
    }

    #[test]
    fn complete_by_the_claim_that_was_taken_over_changes_nothing() {
        let stale = in_flight();
        let fresh = written(claim(Some(stale.clone()), &taking_over(), Token::default(), START.plus(LEASE)));
        let step = complete(
            Some(fresh.clone()),
            stale.guard,
            Ending::Completed(outcome("stale")),
            RETENTION,
            START.plus(LEASE),
        );
        assert_eq!(step, Step::Refused(Some(fresh)));
    }

    #[test]
    fn doubt_of_a_claim_in_flight_says_since_when_and_why() {
        let record = in_flight();
        let now = START.plus(SECOND);
        for cause in DoubtCause::ALL {
            let state = State::InDoubt { since: now, expires_at: now.plus(DOUBT_RETENTION), cause };
            let doubted = written(doubt(Some(record.clone()), record.guard, cause, now));
            assert_eq!(doubted, Record { state, ..record.clone() });
        }
    }

    #[test]
    fn doubt_of_a_doubt_keeps_the_first_cause() {
        let now = START.plus(LEASE);
        for record in [in_doubt(), in_flight()] {
            let standing = record.clone().at(now).unwrap();
            let step = doubt(Some(record.clone()), record.guard, DoubtCause::Abandoned, now);
            assert_eq!(step, Step::Already(standing));
        }
    }

    #[test]
    fn doubt_of_a_finished_or_absent_record_is_refused() {
        for record in [completed(), failed()] {
            let step = doubt(Some(record.clone()), record.guard, DoubtCause::Abandoned, START);
            assert_eq!(step, Step::Refused(Some(record)));
        }
        let step = doubt(None, in_flight().guard, DoubtCause::Abandoned, START);
        assert_eq!(step, Step::Refused(None));
    }

    #[test]
    fn doubt_by_a_stale_guard_changes_nothing() {
        assert_fenced(|record, guard| doubt(Some(record), guard, DoubtCause::Abandoned, START));
    }

    #[test]
    fn release_is_allowed_from_the_states_it_names_and_no_other() {
        use ReleaseFrom::{Claim, Doubt, Finished};
        let lapsed = in_flight().at(START.plus(LEASE)).unwrap();
        let cases: [(Record, &[ReleaseFrom]); 5] = [
            (in_flight(), &[Claim]),
            (in_doubt(), &[Claim, Doubt]),
            (lapsed, &[Claim, Doubt]),
            (completed(), &[Finished]),
            (failed(), &[Finished]),
        ];
        for (record, allowed) in cases {
            for from in FROMS {
                let step = release(Some(record.clone()), record.guard, from, START);
                let expected = match allowed.contains(&from) {
                    true => Step::Remove,
                    false => Step::Refused(Some(record.clone())),
                };
                assert_eq!(step, expected, "{:?} from {from:?}", record.state.kind());
            }
        }
    }

    #[test]
    fn release_of_a_doubt_needs_the_lease_to_have_run_out() {
        let record = in_flight();
        let [before, at, after] = around(START.plus(LEASE));
        let step = |now| release(Some(record.clone()), record.guard, ReleaseFrom::Doubt, now);
        assert_eq!(step(before), Step::Refused(Some(record.clone())));
        assert_eq!((step(at), step(after)), (Step::Remove, Step::Remove));
    }

    #[test]
    fn release_of_an_absent_or_expired_record_is_refused() {
        let record = completed();
        for from in FROMS {
            assert_eq!(release(None, record.guard, from, START), Step::Refused(None));
            let expired = release(Some(record.clone()), record.guard, from, START.plus(RETENTION));
            assert_eq!(expired, Step::Refused(None));
        }
    }

    #[test]
    fn release_by_a_stale_guard_changes_nothing() {
        for from in FROMS {
            assert_fenced(|record, guard| release(Some(record), guard, from, START));
        }
    }

    #[test]
    fn import_writes_what_stood_elsewhere_unless_it_has_expired() {
        for record in [in_doubt(), completed(), failed()] {
            assert_eq!(import(None, record.clone(), START), Step::Write(record.clone()));
            let expired = record.expires_at().unwrap();
            assert_eq!(import(None, record.clone(), expired), Step::Remove);
        }
    }

    #[test]
    fn import_replaces_no_record_that_stands() {
        let brought = completed();
        for standing in every_state() {
            let step = import(Some(standing.clone()), brought.clone(), START);
            assert_eq!(step, Step::Refused(Some(standing)));
        }
        let standing = Record { guard: brought.guard, ..failed() };
        assert_eq!(import(Some(standing.clone()), brought.clone(), START), Step::Already(standing));
    }

    #[test]
    fn import_takes_the_place_of_what_has_expired() {
        let (expired, brought) = (completed(), in_doubt());
        let step = import(Some(expired), brought.clone(), START.plus(RETENTION));
        assert_eq!(step, Step::Write(brought));
    }

    /// What one party does next: to claim, or to write under one of the guards it has seen.
    #[derive(Clone, Copy, Debug)]
    enum Move {
        Claim { takeover: bool },
        Renew,
        Complete { failed: bool },
        Doubt,
        Release(usize),
    }

    fn moves() -> impl Strategy<Value = Move> {
        prop_oneof![
            any::<bool>().prop_map(|takeover| Move::Claim { takeover }),
            Just(Move::Renew),
            any::<bool>().prop_map(|failed| Move::Complete { failed }),
            Just(Move::Doubt),
            (0..FROMS.len()).prop_map(Move::Release),
        ]
    }

    proptest! {
        /// Whatever is done by whomever, also when the clock stands or goes back by a second.
        #[test]
        fn no_walk_repeats_a_token_extends_an_execution_or_rewrites_an_outcome(
            walk in proptest::collection::vec((moves(), 0..8_usize, 0..40_u32, any::<bool>()), 1..60),
        ) {
            let (mut now, mut last, mut current) = (START, Token::default(), None::<Record>);
            let mut guards = vec![in_flight().guard];
            for (nth, (step, whose, seconds, back)) in walk.into_iter().enumerate() {
                now = match back {
                    true => Timestamp::from_micros(now.as_micros() - 1_000_000),
                    false => now.plus(seconds * SECOND),
                };
                let guard = guards[whose % guards.len()];
                let before = current.clone().and_then(|record: Record| record.at(now));
                let was = current.clone();
                let ended = |failed| match failed {
                    true => Ending::Failed(outcome(&nth.to_string())),
                    false => Ending::Completed(outcome(&nth.to_string())),
                };
                let claims = matches!(step, Move::Claim { .. });
                let stepped = match step {
                    Move::Claim { takeover } => claim(was, &ClaimArgs { takeover, ..first() }, last, now),
                    Move::Renew => renew(was, guard, LEASE, now),
                    Move::Complete { failed } => complete(was, guard, ended(failed), RETENTION, now),
                    Move::Doubt => doubt(was, guard, DoubtCause::NoAnswer, now),
                    Move::Release(from) => release(was, guard, FROMS[from], now),
                };
                match stepped {
                    Step::Write(record) => {
                        prop_assert!(before.as_ref().is_none_or(|before| before.outcome().is_none()));
                        if claims {
                            prop_assert!(record.guard.token > last);
                            prop_assert!(before.is_none_or(|before| before.state.kind() == StateKind::InDoubt));
                            last = record.guard.token;
                            guards.push(record.guard);
                        } else {
                            prop_assert_eq!(record.guard, guard);
                            prop_assert_eq!(before.map(|before| before.guard), Some(guard));
                        }
                        if let State::InFlight { lease_until, execute_until } = record.state {
                            prop_assert!(lease_until <= execute_until);
                            prop_assert_eq!(execute_until, record.claimed_at.plus(LONGEST));
                        }
                        current = Some(record);
                    }
                    Step::Remove => {
                        prop_assert_eq!(before.map(|before| before.guard), Some(guard));
                        current = None;
                    }
                    Step::Already(record) => prop_assert_eq!(Some(record), before),
                    Step::Refused(standing) => prop_assert_eq!(standing, before),
                }
            }
        }
    }
}
