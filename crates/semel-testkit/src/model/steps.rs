//! Everything that can happen next, and what it does: the executors follow the engine, the store the transitions.
//!
//! A claim whose reply is lost is looked for by its attempt and given back when it shows later; a write is sent again
//! until it is answered or given up; whoever is refused takes what stands. Next: [`super::plant`].

use semel::record::{self, DoubtCause, ReleaseFrom, Token};
use semel::store::{CompleteArgs, DoubtArgs, ReleaseArgs, RenewArgs};

use super::Machine;
use super::plant::{self, Plant};
use super::row::{self, Held, LEASE, RETENTION, Row, Stands};
use super::world::{Broken, Doing, Sent, World};
use crate::check::Call;

/// What the operator says an effect produced.
const OPERATORS: u8 = 200;

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Time passes.
    Tick,
    /// An executor brings a key.
    Asks(u8, u8),
    /// Its call arrives and the reply comes back.
    Answered(u8),
    /// Nobody hears of its call again; it may arrive later, or has arrived already.
    ReplyLost(u8),
    /// It reads what stands.
    Looks(u8),
    /// Its effect happens.
    Runs(u8),
    /// The effect answered: it stores the outcome.
    Completes(u8),
    /// The effect gave no answer: it says so.
    Doubts(u8),
    /// The effect was not begun: it gives the claim back.
    Releases(u8),
    /// It renews its lease.
    Renews(u8),
    /// It renews its lease, by a call that is late.
    RenewsLate(u8),
    /// It gives up on its write.
    GivesUp(u8),
    /// It is killed, and begins anew without memory.
    Crashes(u8),
    /// A call that nobody waits for arrives.
    Arrives(u8),
    /// What has expired is removed.
    Purges(u8),
    /// The operator looks at a doubt.
    Inspects(u8),
    /// The operator says that the effect did not happen.
    ResolvesAbsent,
    /// The operator says that it did.
    ResolvesCompleted,
}

impl Machine {
    fn takes_over(key: u8) -> bool {
        key % 2 == 1
    }

    pub(super) fn possible(&self, world: &World, steps: &mut Vec<Step>) {
        if world.now < self.shape.ticks {
            steps.push(Step::Tick);
        }
        for (nth, executor) in (0..).zip(&world.executors) {
            match executor.doing {
                Doing::Idle if executor.asked < self.shape.asks => {
                    steps.extend((0..).zip(&world.rows).map(|(key, _)| Step::Asks(nth, key)));
                }
                Doing::Idle => {}
                Doing::Asking { .. } => steps.extend([Step::Answered(nth), Step::ReplyLost(nth)]),
                Doing::Looking { .. } => steps.push(Step::Looks(nth)),
                Doing::Holding { ran: false, .. } => {
                    steps.extend([Step::Runs(nth), Step::Releases(nth), Step::Renews(nth)]);
                }
                Doing::Holding { .. } => {
                    steps.extend([Step::Completes(nth), Step::Doubts(nth)]);
                    steps.extend([Step::Renews(nth), Step::RenewsLate(nth)]);
                }
                Doing::Settling(_) => {
                    steps.extend([Step::Answered(nth), Step::ReplyLost(nth), Step::GivesUp(nth)]);
                }
            }
            if executor.doing != Doing::Idle {
                steps.push(Step::Crashes(nth));
            }
        }
        steps.extend((0..).zip(&world.late).map(|(nth, _)| Step::Arrives(nth)));
        for (key, row) in (0..).zip(&world.rows) {
            if row.is_some() {
                steps.push(Step::Purges(key));
            }
            if world.operator.0 > 0 && self.in_doubt(world, key).is_some() {
                steps.push(Step::Inspects(key));
            }
        }
        if world.operator.1.is_some() {
            steps.extend([Step::ResolvesAbsent, Step::ResolvesCompleted]);
        }
    }

    fn in_doubt(&self, world: &World, key: u8) -> Option<Held> {
        let row = self.read(world, key)?;
        matches!(row.stands, Stands::InDoubt { .. }).then_some(row.guard)
    }

    fn read(&self, world: &World, key: u8) -> Option<Row> {
        let key = usize::from(key);
        let record = self.keys[key].record(world.rows[key]?).at(row::time(world.now))?;
        Some(Row::from(&record))
    }

    pub(super) fn take(&self, world: &mut World, step: Step) {
        match step {
            Step::Tick => world.now += 1,
            Step::Asks(nth, key) => {
                let executor = &mut world.executors[usize::from(nth)];
                let attempt = 1 + nth * self.shape.asks + executor.asked;
                executor.asked += 1;
                executor.doing = Doing::Asking { key, attempt };
            }
            Step::Purges(key) => self.purge(world, usize::from(key)),
            Step::Arrives(nth) => self.arrive(world, usize::from(nth)),
            Step::Inspects(key) => {
                world.operator.1 = self.in_doubt(world, key).map(|held| (key, held));
            }
            Step::ResolvesAbsent | Step::ResolvesCompleted => self.resolve(world, step),
            Step::Answered(nth)
            | Step::ReplyLost(nth)
            | Step::Looks(nth)
            | Step::Runs(nth)
            | Step::Completes(nth)
            | Step::Doubts(nth)
            | Step::Releases(nth)
            | Step::Renews(nth)
            | Step::RenewsLate(nth)
            | Step::GivesUp(nth)
            | Step::Crashes(nth) => {
                let doing = world.executors[usize::from(nth)].doing;
                let next = self.act(world, doing, step);
                world.executors[usize::from(nth)].doing = next;
            }
        }
    }

    /// What an executor does next.
    fn act(&self, world: &mut World, doing: Doing, step: Step) -> Doing {
        match (doing, step) {
            (Doing::Asking { key, attempt }, Step::Answered(_)) => {
                self.deliver(world, Sent::Claim { key, attempt });
                self.decide(world, key, attempt)
            }
            (Doing::Asking { key, attempt }, Step::ReplyLost(_)) => {
                world.abandon(Sent::Claim { key, attempt }, self.shape);
                match self.plant {
                    Some(Plant::LostReplyIsWon) => {
                        let held = Held { token: world.now, attempt };
                        let until = world.now + LEASE;
                        Doing::Holding { key, held, generation: 1, until, ran: false, forgotten: false }
                    }
                    _ => Doing::Looking { key, attempt },
                }
            }
            (Doing::Looking { key, attempt }, Step::Looks(_)) => self.decide(world, key, attempt),
            (Doing::Settling(sent), Step::Answered(_)) => {
                self.deliver(world, sent);
                Doing::Idle
            }
            (Doing::Settling(sent), Step::ReplyLost(_)) => {
                world.abandon(sent, self.shape);
                doing
            }
            (Doing::Settling(sent), Step::GivesUp(_) | Step::Crashes(_)) => {
                world.abandon(sent, self.shape);
                Doing::Idle
            }
            (Doing::Asking { key, attempt }, Step::Crashes(_)) => {
                world.abandon(Sent::Claim { key, attempt }, self.shape);
                Doing::Idle
            }
            (Doing::Holding { key, held, generation, .. }, _) => {
                self.hold(world, doing, (key, held, generation), step)
            }
            (_, _) => Doing::Idle,
        }
    }

    fn hold(
        &self,
        world: &mut World,
        doing: Doing,
        (key, held, generation): (u8, Held, u8),
        step: Step,
    ) -> Doing {
        let Doing::Holding { forgotten, until, ran, .. } = doing else { return doing };
        match step {
            Step::Runs(_) => {
                let judged = &mut world.keys[usize::from(key)];
                if !forgotten {
                    judged.effects = (judged.effects + 1).min(3);
                    if judged.effects > 1 && !Self::takes_over(key) {
                        world.breaks(Broken::SecondEffect);
                    }
                }
                Doing::Holding { key, held, generation, until, ran: true, forgotten }
            }
            Step::Completes(_) => {
                if self.plant == Some(Plant::AnswerBeforeStoring) {
                    world.keep(usize::from(key), held.attempt);
                }
                Doing::Settling(Sent::Complete { key, held })
            }
            // What was taken over may have happened before: giving it up does not undo that.
            Step::Releases(_) if generation == 1 => Doing::Settling(Sent::Release { key, held }),
            Step::Releases(_) | Step::Doubts(_) => Doing::Settling(Sent::Doubt { key, held }),
            Step::Renews(_) => {
                self.deliver(world, Sent::Renew { key, held });
                let until = match self.read(world, key) {
                    Some(Row { guard, stands: Stands::InFlight { lease_until, .. }, .. })
                        if guard == held =>
                    {
                        lease_until
                    }
                    _ => world.now,
                };
                Doing::Holding { key, held, generation, until, ran, forgotten }
            }
            Step::RenewsLate(_) => {
                world.abandon(Sent::Renew { key, held }, self.shape);
                doing
            }
            _ => Doing::Idle,
        }
    }

    /// What a caller gets from what stands.
    fn decide(&self, world: &mut World, key: u8, attempt: u8) -> Doing {
        let Some(row) = self.read(world, key) else { return Doing::Idle };
        match row.stands {
            Stands::InFlight { lease_until, .. } if row.guard.attempt == attempt => Doing::Holding {
                key,
                held: row.guard,
                generation: row.generation,
                until: lease_until,
                ran: false,
                forgotten: false,
            },
            Stands::Completed { value, .. } => {
                world.keep(usize::from(key), value);
                Doing::Idle
            }
            Stands::InFlight { .. } | Stands::InDoubt { .. } => Doing::Idle,
        }
    }

    fn arrive(&self, world: &mut World, nth: usize) {
        let sent = world.late.remove(nth);
        self.deliver(world, sent);
        let Sent::Claim { key, attempt } = sent else { return };
        let looked_for =
            world.executors.iter().any(|executor| executor.doing == Doing::Looking { key, attempt });
        if !looked_for
            && let Some(row) = world.rows[usize::from(key)]
            && row.guard.attempt == attempt
        {
            // Nobody was given it: it is given back, which may be late as well.
            let held = row.guard;
            let back =
                if row.generation == 1 { Sent::Release { key, held } } else { Sent::Doubt { key, held } };
            world.abandon(back, self.shape);
        }
    }

    fn purge(&self, world: &mut World, key: usize) {
        let Some(row) = world.rows[key] else { return };
        let expired = self.keys[key].record(row).at(row::time(world.now)).is_none();
        let in_flight = matches!(row.stands, Stands::InFlight { .. });
        if expired || (in_flight && self.plant == Some(Plant::PurgeTakesInFlight)) {
            if world.is_over(key) {
                world.forget(key);
            }
            world.rows[key] = None;
        }
    }

    fn resolve(&self, world: &mut World, step: Step) {
        let (left, Some((key, held))) = world.operator else { return };
        world.operator = (left - 1, None);
        let id = self.keys[usize::from(key)].id();
        let guard = held.guard();
        if step == Step::ResolvesCompleted {
            let retention = row::duration(RETENTION);
            let args = CompleteArgs { id, guard, ending: row::outcome(OPERATORS), retention };
            self.apply(world, key, Some(held), Call::Complete(args));
        } else if self.apply(
            world,
            key,
            Some(held),
            Call::Release(ReleaseArgs { id, guard, from: ReleaseFrom::Doubt }),
        ) {
            // The operator's word is believed: who still holds it is on the operator's account.
            world.forget(usize::from(key));
        }
    }

    fn deliver(&self, world: &mut World, sent: Sent) {
        let template = |key: u8| &self.keys[usize::from(key)];
        let (key, held, call) = match sent {
            Sent::Claim { key, attempt } => {
                let args = template(key).claim(attempt, Self::takes_over(key));
                (key, None, Call::Claim(args))
            }
            Sent::Renew { key, held } => {
                let (id, guard, lease) = (template(key).id(), held.guard(), row::duration(LEASE));
                (key, Some(held), Call::Renew(RenewArgs { id, guard, lease }))
            }
            Sent::Complete { key, held } => {
                let (id, guard, retention) = (template(key).id(), held.guard(), row::duration(RETENTION));
                let ending = row::outcome(held.attempt);
                (key, Some(held), Call::Complete(CompleteArgs { id, guard, ending, retention }))
            }
            Sent::Doubt { key, held } => {
                let (id, guard, cause) = (template(key).id(), held.guard(), DoubtCause::NoAnswer);
                (key, Some(held), Call::Doubt(DoubtArgs { id, guard, cause }))
            }
            Sent::Release { key, held } => {
                let (id, guard, from) = (template(key).id(), held.guard(), ReleaseFrom::Claim);
                (key, Some(held), Call::Release(ReleaseArgs { id, guard, from }))
            }
        };
        self.apply(world, key, held, call);
    }

    /// One atomic step of the store, and what the judge makes of it. Says whether the record was removed.
    fn apply(&self, world: &mut World, key: u8, held: Option<Held>, call: Call) -> bool {
        let (key, is_claim) = (usize::from(key), held.is_none());
        let before = world.rows[key];
        let current = before.map(|row| self.keys[key].record(row));
        let last = Token(u64::from(world.last));
        let step = plant::step(self.plant, call, current, last, row::time(world.now));
        let (written, removed) = match step {
            record::Step::Write(record) => (Some(Row::from(&record)), false),
            record::Step::Remove => (None, true),
            record::Step::Already(_) | record::Step::Refused(_) => return false,
        };
        if !is_claim && before.map(|row| row.guard) != held {
            world.breaks(Broken::StaleWrite);
        }
        if let Some(row) = written {
            if is_claim {
                self.judge_claim(world, key, row);
            }
            if let Stands::Completed { value, .. } = row.stands {
                world.keep(key, value);
            }
            world.last = world.last.max(row.guard.token);
        }
        world.rows[key] = written;
        removed
    }

    fn judge_claim(&self, world: &mut World, key: usize, row: Row) {
        if world.is_over(key) {
            world.forget(key);
        }
        if world.kept(key).is_some() {
            world.breaks(Broken::ClaimedAgain);
        }
        if row.guard.token <= world.keys[key].newest {
            world.breaks(Broken::TokenRepeats);
        }
        world.keys[key].newest = row.guard.token;
    }
}
