//! The specification of one record, made of the pure transitions: which answers a call may get where the record stands,
//! and what a call without an answer may have left behind.
//!
//! The store's clock is not seen, only the window in which a call read it. So a step is tried at each time that can
//! make a difference: the one its answer shows, the start of its window, and each at which the record lapses or expires.
//!
//! Next: [`mod@super::search`], which asks this.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use semel::clock::Timestamp;
use semel::record::{AttemptId, Step};
use semel::store::{Claimed, Guard, Written};
use semel::{Record, State as Stands, Token};

use super::history::{Answer, Call, Operation, shown};
use super::search::Specification;

const MICRO: Duration = Duration::from_micros(1);

/// What stands under one record id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    record: Option<Arc<Record>>,
    /// The newest token given.
    last: Token,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.last.hash(hasher);
        if let Some(record) = &self.record {
            (record.guard.token, record.guard.attempt, record.claimed_at, record.generation).hash(hasher);
            (record.state.kind(), record.expires_at()).hash(hasher);
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.record {
            Some(record) => f.write_str(&shown(record)),
            None => write!(f, "absent after token {}", self.last),
        }
    }
}

impl State {
    /// The state of a record that stands, or of one that never did.
    #[must_use]
    pub fn of(record: Option<Record>) -> Self {
        let last = record.as_ref().map_or(Token(0), |record| record.guard.token);
        Self { record: record.map(Arc::new), last }
    }

    fn record(&self) -> Option<Record> {
        self.record.as_deref().cloned()
    }

    /// When something happens to it by itself.
    fn thresholds(&self) -> [Option<Timestamp>; 2] {
        let Some(record) = &self.record else { return [None, None] };
        match record.state {
            Stands::InFlight { lease_until, execute_until } => {
                let lapses = lease_until.min(execute_until);
                [Some(lapses), Some(lapses.plus(record.doubt_retention))]
            }
            _ => [record.expires_at(), None],
        }
    }

    fn written(&self, record: Record) -> Self {
        Self { last: self.last.max(record.guard.token), record: Some(Arc::new(record)) }
    }

    fn removed(&self) -> Self {
        Self { last: self.last, record: None }
    }
}

/// What the answers of a history show of calls that were not answered.
#[derive(Debug, Default)]
pub struct Records {
    /// Guards under which an attempt was seen, and when it claimed.
    claims: HashMap<AttemptId, Vec<(Guard, Timestamp)>>,
    /// When the holder of a guard completed, doubted, or renewed until.
    writes: HashMap<(Token, AttemptId), Vec<Seen>>,
    /// The highest generation that was seen.
    generations: u32,
    /// When records were taken over: each was in doubt then, and not forgotten.
    takeovers: Vec<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Completed(Timestamp),
    Doubted(Timestamp),
    Leased(Timestamp),
}

impl Records {
    /// The specification of one record, whose whole history this is.
    #[must_use]
    pub fn of(operations: &[Operation]) -> Self {
        let mut records = Self::default();
        if operations.iter().all(|operation| operation.answer.is_some()) {
            return records;
        }
        for record in operations.iter().filter_map(|operation| operation.answer.as_ref()?.1.record()) {
            records.generations = records.generations.max(record.generation);
            if record.generation > 1 && !records.takeovers.contains(&record.claimed_at) {
                records.takeovers.push(record.claimed_at);
            }
            let claim = (record.guard, record.claimed_at);
            let claims = records.claims.entry(record.guard.attempt).or_default();
            if !claims.contains(&claim) {
                claims.push(claim);
            }
            let writes = records.writes.entry((record.guard.token, record.guard.attempt)).or_default();
            let mut add = |seen| {
                if !writes.contains(&seen) {
                    writes.push(seen);
                }
            };
            match record.state {
                Stands::InFlight { lease_until, .. } => add(Seen::Leased(lease_until)),
                Stands::InDoubt { since, .. } => {
                    add(Seen::Doubted(since));
                    add(Seen::Leased(since));
                }
                Stands::Completed { completed_at, .. } | Stands::Failed { completed_at, .. } => {
                    add(Seen::Completed(completed_at));
                }
            }
        }
        records
    }

    fn seen(&self, guard: Guard) -> impl Iterator<Item = Seen> {
        self.writes.get(&(guard.token, guard.attempt)).into_iter().flatten().copied()
    }

    /// When a call without an answer may have been carried out, as far as later answers show it.
    fn shown_times(&self, call: &Call) -> Vec<Timestamp> {
        match call {
            Call::Claim(args) => {
                self.claims.get(&args.attempt).into_iter().flatten().map(|(_, at)| *at).collect()
            }
            Call::Renew(args) => {
                let at = |seen| match seen {
                    Seen::Leased(until) => earlier(until, args.lease),
                    _ => None,
                };
                self.seen(args.guard).filter_map(at).collect()
            }
            Call::Complete(args) => {
                let at = |seen| if let Seen::Completed(at) = seen { Some(at) } else { None };
                self.seen(args.guard).filter_map(at).collect()
            }
            Call::Doubt(args) => {
                let at = |seen| if let Seen::Doubted(at) = seen { Some(at) } else { None };
                self.seen(args.guard).filter_map(at).collect()
            }
            Call::Release(_) | Call::Import(_) | Call::Get(_) => Vec::new(),
        }
    }

    /// When a call that was never seen may have been carried out to leave the doubt that was taken over later.
    fn before_takeovers(&self, call: &Call) -> Vec<Timestamp> {
        let by = match call {
            Call::Claim(args) => args.lease.min(args.max_execution),
            Call::Renew(args) => args.lease,
            Call::Doubt(_) => Duration::ZERO,
            Call::Complete(_) | Call::Release(_) | Call::Import(_) | Call::Get(_) => return Vec::new(),
        };
        self.takeovers.iter().filter_map(|at| earlier(*at, by)).collect()
    }

    /// What a call without an answer leaves behind at `now`; `None` when it changes nothing.
    fn effect(&self, state: &State, call: &Call, now: Timestamp) -> Vec<State> {
        match (call.step(state.record(), state.last, now), call) {
            (Step::Write(record), Call::Claim(args)) => {
                let mut tokens: Vec<Token> = self.claims.get(&args.attempt).map_or(Vec::new(), |claims| {
                    let fits = |(guard, at): &(Guard, Timestamp)| {
                        (*at == now && guard.token > state.last).then_some(guard.token)
                    };
                    claims.iter().filter_map(fits).collect()
                });
                if tokens.is_empty() {
                    tokens.push(Token(state.last.0 + 1));
                }
                let with = |token| {
                    let guard = Guard { token, attempt: args.attempt };
                    state.written(Record { guard, ..record.clone() })
                };
                tokens.into_iter().map(with).collect()
            }
            (Step::Write(record), _) => vec![state.written(record)],
            (Step::Remove, _) => vec![state.removed()],
            (Step::Already(_) | Step::Refused(_), _) => Vec::new(),
        }
    }
}

impl Records {
    fn was_seen(&self, attempt: AttemptId) -> bool {
        self.claims.contains_key(&attempt)
    }

    /// Whether a claim that nobody ever saw can explain anything. It can make room by being absent after it took over
    /// a record that was seen, and it can be one generation before another; after a claim like it, or before none,
    /// it does what would have come about without it.
    fn explains(&self, before: &State, after: &State) -> bool {
        let Some(record) = &after.record else { return true };
        if self.was_seen(record.guard.attempt) {
            return true;
        }
        let before = before.record.as_ref();
        let was_seen = before.is_some_and(|before| self.was_seen(before.guard.attempt));
        match record.generation {
            1 => self.generations > 1 && (was_seen || before.is_none_or(|before| before.generation > 1)),
            generation => was_seen || generation < self.generations,
        }
    }
}

fn earlier(time: Timestamp, by: Duration) -> Option<Timestamp> {
    let by = u64::try_from(by.as_micros()).ok()?;
    time.as_micros().checked_sub(by).map(Timestamp::from_micros)
}

/// The time that an answer itself shows.
fn shown_time(operation: &Operation) -> Option<Timestamp> {
    let (_, answer) = operation.answer.as_ref()?;
    match (&operation.asked.call, answer) {
        (Call::Claim(_), Answer::Claimed(Claimed::Won(record))) => Some(record.claimed_at),
        (Call::Renew(args), Answer::Written(Written::Done(Some(record)))) => match record.state {
            Stands::InFlight { lease_until, .. } => earlier(lease_until, args.lease),
            _ => None,
        },
        (_, Answer::Written(Written::Done(Some(record)))) => match record.state {
            Stands::InDoubt { since, .. } => Some(since),
            Stands::Completed { completed_at, .. } | Stands::Failed { completed_at, .. } => {
                Some(completed_at)
            }
            Stands::InFlight { .. } => None,
        },
        _ => None,
    }
}

/// The state that a step with this answer leaves; `None` when the step is answered otherwise.
fn fits(state: &State, step: Step, answer: &Answer) -> Option<State> {
    match (step, answer) {
        (Step::Write(mut record), Answer::Claimed(Claimed::Won(won))) => {
            // Tokens grow and never repeat (S2). That they follow the clock is the transitions' way, not every store's.
            if won.guard.token <= state.last {
                return None;
            }
            record.guard.token = won.guard.token;
            (record == *won).then(|| state.written(record))
        }
        (Step::Already(record), Answer::Claimed(Claimed::Won(won))) => {
            (record == *won).then(|| state.clone())
        }
        (Step::Refused(Some(record)), Answer::Claimed(Claimed::Standing(standing))) => {
            (record == *standing).then(|| state.clone())
        }
        (Step::Write(record), Answer::Written(Written::Done(Some(done)))) => {
            (record == *done).then(|| state.written(record))
        }
        (Step::Remove, Answer::Written(Written::Done(None))) => Some(state.removed()),
        (Step::Already(record), Answer::Written(Written::Done(Some(done)))) => {
            (record == *done).then(|| state.clone())
        }
        (Step::Refused(standing), Answer::Written(Written::Refused(shown)) | Answer::Read(shown)) => {
            (standing == *shown).then(|| state.clone())
        }
        _ => None,
    }
}

impl Specification for Records {
    type State = State;
    type Operation = Operation;

    fn explain(&self, state: &State, operation: &Operation) -> Option<State> {
        let (_, answer) = operation.answer.as_ref()?;
        let window = &operation.asked.window;
        let [first, second] = state.thresholds();
        let imported = match &operation.asked.call {
            Call::Import(record) => record.expires_at(),
            _ => None,
        };
        let mut times = [shown_time(operation), Some(*window.start()), first, second, imported];
        if let (Call::Renew(args), Some(record)) = (&operation.asked.call, &state.record)
            && let Stands::InFlight { execute_until, .. } = record.state
        {
            // A lease that is cut short does not show when it was renewed.
            times[4] = earlier(execute_until, args.lease).map(|at| at.max(*window.start()));
        }
        let call = &operation.asked.call;
        times
            .into_iter()
            .flatten()
            .filter(|now| window.contains(now))
            .find_map(|now| fits(state, call.step(state.record(), state.last, now), answer))
    }

    fn effects(&self, state: &State, operation: &Operation) -> Vec<State> {
        let call = &operation.asked.call;
        let window = &operation.asked.window;
        let start = *window.start();
        let mut effects: Vec<State> = self
            .shown_times(call)
            .into_iter()
            .chain(self.before_takeovers(call))
            .filter(|now| window.contains(now))
            .flat_map(|now| self.effect(state, call, now))
            .collect();
        // What is never seen matters only by what it makes room for, and then the earliest is best.
        let [first, second] = state.thresholds();
        let imported = if let Call::Import(record) = call { record.expires_at() } else { None };
        let unseen = [Some(start), first, second, imported]
            .into_iter()
            .flatten()
            .filter(|now| window.contains(now))
            .map(|now| self.effect(state, call, now))
            .find(|effect| !effect.is_empty());
        effects.extend(unseen.into_iter().flatten());
        if let (Call::Renew(_), Some(lapses)) = (call, first) {
            // A renewal keeps alive: the latest is best.
            let latest = earlier(lapses, MICRO).map_or(start, |at| at.clamp(start, *window.end()));
            effects.extend(self.effect(state, call, latest));
        }
        effects.retain(|effect| effect != state);
        if let Call::Claim(_) = call {
            effects.retain(|effect| self.explains(state, effect));
        }
        effects
    }

    fn settles(&self, operation: &Operation) -> bool {
        match (&operation.asked.call, &operation.answer) {
            // These two can find the record as they would have left it, and leave it so again later.
            (Call::Renew(_) | Call::Import(_), Some((_, Answer::Written(Written::Done(_))))) | (_, None) => {
                false
            }
            (_, Some(_)) => true,
        }
    }

    fn covers(&self, state: &State, other: &State) -> bool {
        state.record == other.record && state.last <= other.last
    }

    fn harmless(&self, operation: &Operation) -> bool {
        let Some((_, answer)) = &operation.answer else { return false };
        matches!(
            answer,
            Answer::Claimed(Claimed::Standing(_)) | Answer::Written(Written::Refused(_)) | Answer::Read(_)
        )
    }

    fn twins(&self, one: &Operation, other: &Operation) -> bool {
        match (&one.asked.call, &other.asked.call) {
            (Call::Claim(one), Call::Claim(other)) => {
                !self.was_seen(one.attempt)
                    && !self.was_seen(other.attempt)
                    && (one.fingerprint, one.takeover, one.on_mismatch)
                        == (other.fingerprint, other.takeover, other.on_mismatch)
                    && (one.lease, one.max_execution, one.doubt_retention)
                        == (other.lease, other.max_execution, other.doubt_retention)
            }
            (Call::Renew(one), Call::Renew(other)) => (one.guard, one.lease) == (other.guard, other.lease),
            (Call::Complete(one), Call::Complete(other)) => {
                (one.guard, one.retention, &one.ending) == (other.guard, other.retention, &other.ending)
            }
            (Call::Doubt(one), Call::Doubt(other)) => (one.guard, one.cause) == (other.guard, other.cause),
            (Call::Release(one), Call::Release(other)) => (one.guard, one.from) == (other.guard, other.from),
            _ => false,
        }
    }
}
