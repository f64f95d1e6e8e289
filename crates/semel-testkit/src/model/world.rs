//! The state of the model: what the store has, what each executor does, which calls are under way without anybody who
//! waits for them, and what a judge outside of it all remembers. Next: [`super::steps`].

use super::row::{Held, RETENTION, Row, Stands};

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Who claim and run effects.
    pub executors: u8,
    /// Key 0 holds its doubts, key 1 lets them be taken over, and so on in turn.
    pub keys: usize,
    /// How often each executor asks in all.
    pub asks: u8,
    /// How far the clock goes.
    pub ticks: u8,
    /// How many calls may be late at once.
    pub late: usize,
    /// How many doubts the operator resolves.
    pub resolutions: u8,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct World {
    /// The store's clock.
    pub now: u8,
    /// What the store has under each key, expired or not.
    pub rows: Vec<Option<Row>>,
    /// The newest token the store knows.
    pub last: u8,
    /// Who does what.
    pub executors: Vec<Executor>,
    /// Calls that nobody waits for any more, in order: any may still arrive, and none has to.
    pub late: Vec<Sent>,
    /// The operator: how many doubts are left to resolve, and which one was looked at.
    pub operator: (u8, Option<(u8, Held)>),
    /// What the judge remembers of each key.
    pub keys: Vec<Judged>,
    /// What happened that must not.
    pub broken: Option<Broken>,
}

/// One executor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Executor {
    /// How often it asked.
    pub asked: u8,
    /// What it does.
    pub doing: Doing,
}

/// What an executor does. A pause is doing nothing for a while, in any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Doing {
    /// Nothing.
    Idle,
    /// It waits for the reply to its claim.
    Asking {
        /// Of which key.
        key: u8,
        /// Under which attempt.
        attempt: u8,
    },
    /// The reply was lost; it is about to read what stands.
    Looking {
        /// Of which key.
        key: u8,
        /// Under which attempt.
        attempt: u8,
    },
    /// It holds a claim, alive or not.
    Holding {
        /// Of which key.
        key: u8,
        /// Under which guard.
        held: Held,
        /// Which claim of the record it is.
        generation: u8,
        /// Until when, as the store said last.
        until: u8,
        /// Whether the effect was started.
        ran: bool,
        /// Whether the promise ended meanwhile: the record was forgotten, or an operator said that it never ran.
        forgotten: bool,
    },
    /// It waits for the reply to the write that ends its claim.
    Settling(Sent),
}

/// A call under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are the methods of the store")]
pub enum Sent {
    Claim { key: u8, attempt: u8 },
    Renew { key: u8, held: Held },
    Complete { key: u8, held: Held },
    Doubt { key: u8, held: Held },
    Release { key: u8, held: Held },
}

/// What the judge remembers of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Judged {
    /// The newest token that was won.
    pub newest: u8,
    /// Effects since the record was forgotten last.
    pub effects: u8,
    /// The outcome that was stored or told, and until when it is promised.
    pub kept: Option<(u8, u8)>,
}

/// What must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they say it")]
pub enum Broken {
    StaleWrite,
    TokenRepeats,
    ClaimedAgain,
    AnotherOutcome,
    SecondEffect,
}

impl World {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            now: 1,
            rows: vec![None; shape.keys],
            last: 0,
            executors: vec![Executor { asked: 0, doing: Doing::Idle }; usize::from(shape.executors)],
            late: Vec::new(),
            operator: (shape.resolutions, None),
            keys: vec![Judged::default(); shape.keys],
            broken: None,
        }
    }

    /// How many executors may believe that they hold a live claim of `key`.
    pub(super) fn alive(&self, key: usize) -> usize {
        let alive = |executor: &&Executor| match executor.doing {
            Doing::Holding { key: held, until, .. } => usize::from(held) == key && self.now < until,
            _ => false,
        };
        self.executors.iter().filter(alive).count()
    }

    pub(super) fn breaks(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    /// The outcome that is promised now.
    pub(super) fn kept(&self, key: usize) -> Option<u8> {
        self.keys[key].kept.filter(|(_, until)| self.now < *until).map(|(value, _)| value)
    }

    /// Somebody is told an outcome, or the store has it.
    pub(super) fn keep(&mut self, key: usize, value: u8) {
        match self.kept(key) {
            Some(kept) if kept != value => self.breaks(Broken::AnotherOutcome),
            Some(_) => {}
            None => self.keys[key].kept = Some((value, self.now + RETENTION)),
        }
    }

    /// Whether the promise about what stands under `key` has ended, as the settings say and not the store.
    pub(super) fn is_over(&self, key: usize) -> bool {
        let Some(row) = &self.rows[key] else { return false };
        match row.stands {
            Stands::InFlight { lease_until, execute_until } => {
                self.now >= lease_until.min(execute_until) + super::row::DOUBT_RETENTION
            }
            Stands::InDoubt { expires_at } => self.now >= expires_at,
            Stands::Completed { .. } => self.kept(key).is_none(),
        }
    }

    /// The promise about `key` ends here, also for who holds a claim of it.
    pub(super) fn forget(&mut self, key: usize) {
        (self.keys[key].effects, self.keys[key].kept) = (0, None);
        for executor in &mut self.executors {
            if let Doing::Holding { key: held, forgotten, .. } = &mut executor.doing
                && usize::from(*held) == key
            {
                *forgotten = true;
            }
        }
    }

    /// One more call that nobody waits for, if there may be one.
    pub(super) fn abandon(&mut self, sent: Sent, shape: Shape) {
        if self.late.len() < shape.late && !self.late.contains(&sent) {
            self.late.push(sent);
            self.late.sort_unstable();
        }
    }
}
