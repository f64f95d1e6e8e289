//! What all hosts share: the options, the log, the tally, and when it all began.
//!
//! Time is tokio's, paused: it jumps to the next timer when nobody has anything to do.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::chance::Chance;
use crate::fault::{Fault, Kind, Tally};
use crate::options::Options;

/// Shared by all hosts.
#[derive(Debug)]
pub struct Sim {
    /// What the seed decided.
    pub options: Options,
    /// What struck.
    pub tally: Tally,
    start: Instant,
    calm: AtomicBool,
    log: Mutex<Vec<String>>,
}

impl Sim {
    /// A world about to begin.
    #[must_use]
    pub fn new(options: Options) -> Arc<Self> {
        Arc::new(Self {
            options,
            tally: Tally::default(),
            start: Instant::now(),
            calm: AtomicBool::new(false),
            log: Mutex::default(),
        })
    }

    /// The dice of `who`.
    #[must_use]
    pub fn dice(&self, who: &str) -> Chance {
        Chance::of(self.options.seed, who)
    }

    /// Since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// When `after` has passed since the start.
    #[must_use]
    pub fn moment(&self, after: Duration) -> Instant {
        self.start + after
    }

    /// Writes a line of the log.
    pub fn say(&self, who: &str, what: &str) {
        lock(&self.log).push(format!("{:>8} {who:<10} {what}", self.elapsed().as_millis()));
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        lock(&self.log).clone()
    }

    /// From here on nothing strikes.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    /// Whether nothing strikes any more.
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::SeqCst)
    }

    /// The fault of `kind` that strikes now, if any.
    pub fn strike(&self, kind: Kind, dice: &mut Chance) -> Option<Fault> {
        if self.is_calm() { None } else { self.options.strike(kind, dice) }
    }

    /// It has struck `whom`.
    pub fn struck(&self, fault: Fault, whom: &str) {
        self.tally.strike(fault);
        self.say(whom, &format!("! {fault}"));
    }
}

/// A mutex of a world that has one thread.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One life of a process. Its tasks are not ended with it: nothing they do is seen by anybody any more, which is what
/// kill -9 looks like from outside, and no destructor is heard.
#[derive(Debug, Default)]
pub struct Life {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    dead: bool,
    frozen_until: Option<Instant>,
}

impl Life {
    /// A process that has just started.
    #[must_use]
    pub fn begin() -> Arc<Self> {
        Arc::default()
    }

    /// Ends it.
    pub fn kill(&self) {
        lock(&self.state).dead = true;
        self.changed.notify_waiters();
    }

    /// Whether it has ended.
    pub fn is_dead(&self) -> bool {
        lock(&self.state).dead
    }

    /// Until when it stands still.
    pub fn freeze(&self, until: Instant) {
        lock(&self.state).frozen_until = Some(until);
    }

    /// Until when it stands still, if it does.
    pub fn frozen_until(&self) -> Option<Instant> {
        lock(&self.state).frozen_until.filter(|until| *until > Instant::now())
    }

    /// Resolves when the process runs; never once it is dead.
    pub async fn runs(&self) {
        while let Some(until) = self.frozen_until() {
            tokio::time::sleep_until(until).await;
        }
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }
}
