//! The way from a gateway to the store, which loses calls and replies, delays them and is down at times; and the store's
//! clock, which steps.
//!
//! The store behind it forgets nothing. Next: [`crate::plant`], what sits between the engine and this.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use semel::clock::{Clock, Timestamp};
use semel::record::State;
use semel::store::{
    Capabilities, ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Guard, Page, ReleaseArgs, RenewArgs, ScanArgs,
    Store, StoreError, StoreErrorKind, StoreFuture, Tier, Written,
};
use semel::{Record, RecordId, Tenant, Token};
use tokio::time::Instant;

use crate::chance::Chance;
use crate::fault::{Fault, Kind};
use crate::sim::{Life, Sim, lock};

/// The simulation's time of day, and how far the store's clock has stepped from it.
#[derive(Debug)]
pub struct StepClock {
    sim: Arc<Sim>,
    step_us: AtomicI64,
}

const EPOCH_US: u64 = 1_800_000_000_000_000;

impl StepClock {
    /// A clock that has not stepped.
    #[must_use]
    pub fn new(sim: Arc<Sim>) -> Arc<Self> {
        Arc::new(Self { sim, step_us: AtomicI64::new(0) })
    }

    /// Steps ahead, or back.
    pub fn step(&self, by: Duration, ahead: bool) {
        let by = i64::try_from(by.as_micros()).unwrap_or(0);
        self.step_us.fetch_add(if ahead { by } else { -by }, Ordering::SeqCst);
    }
}

impl Clock for StepClock {
    fn now(&self) -> Timestamp {
        let now = Timestamp::from_micros(EPOCH_US).plus(self.sim.elapsed());
        let stepped = now.as_micros().saturating_add_signed(self.step_us.load(Ordering::SeqCst));
        Timestamp::from_micros(stepped)
    }
}

/// What all gateways see of the store.
#[derive(Debug, Default)]
pub struct Service {
    down_until: Mutex<Option<Instant>>,
    paused_until: Mutex<Option<Instant>>,
    /// The newest token won for a key.
    tokens: Mutex<BTreeMap<String, Token>>,
    /// Whose record each token is of.
    tenants: Mutex<BTreeMap<Token, Tenant>>,
    /// How many calls about a key did not go well.
    failed: Mutex<BTreeMap<String, usize>>,
    /// Until when outcomes of a key are kept, as was promised.
    completed: Mutex<BTreeMap<String, Vec<Timestamp>>>,
}

impl Service {
    /// Refuses everything until then.
    pub fn go_down(&self, until: Instant) {
        *lock(&self.down_until) = Some(until);
    }

    /// Answers nothing until then.
    pub fn pause(&self, until: Instant) {
        *lock(&self.paused_until) = Some(until);
    }

    /// The newest token won for a key.
    pub fn token(&self, key: &str) -> Option<Token> {
        lock(&self.tokens).get(key).copied()
    }

    /// Whose record a token is of.
    pub fn tenant(&self, token: Token) -> Option<Tenant> {
        lock(&self.tenants).get(&token).cloned()
    }

    /// How many calls about a key did not go well.
    pub fn failed(&self, key: &str) -> usize {
        lock(&self.failed).get(key).copied().unwrap_or(0)
    }

    /// How many outcomes of a key have expired by then.
    pub fn expired(&self, key: &str, by: Timestamp) -> usize {
        lock(&self.completed).get(key).map_or(0, |kept| kept.iter().filter(|until| **until <= by).count())
    }

    fn paused(&self) -> Option<Instant> {
        lock(&self.paused_until).filter(|until| *until > Instant::now())
    }

    fn is_down(&self) -> bool {
        lock(&self.down_until).is_some_and(|until| until > Instant::now())
    }

    fn won(&self, record: &Record) {
        lock(&self.tokens).insert(record.id.key().as_str().to_owned(), record.guard.token);
        lock(&self.tenants).insert(record.guard.token, record.id.tenant().clone());
    }

    /// An outcome was stored for `asked`, where `promised` is due.
    pub fn kept(&self, record: &Record, asked: Duration, promised: Duration) {
        if let State::Completed { .. } | State::Failed { .. } = record.state
            && let Some(until) = record.expires_at()
        {
            let until = until.plus(promised.saturating_sub(asked));
            let mut completed = lock(&self.completed);
            let kept = completed.entry(record.id.key().as_str().to_owned()).or_default();
            if !kept.contains(&until) {
                kept.push(until);
            }
        }
    }
}

/// One gateway's way to the store.
#[derive(Debug)]
pub struct Gate {
    inner: Arc<dyn Store>,
    service: Arc<Service>,
    sim: Arc<Sim>,
    life: Arc<Life>,
    name: String,
    dice: Mutex<Chance>,
}

impl Gate {
    /// The way of the process `name` to `inner`.
    #[must_use]
    pub fn new(
        inner: Arc<dyn Store>,
        service: Arc<Service>,
        sim: Arc<Sim>,
        life: Arc<Life>,
        name: String,
    ) -> Self {
        let dice = Mutex::new(sim.dice(&name));
        Self { inner, service, sim, life, name, dice }
    }

    /// How long the call takes on its way there and back.
    fn way(&self) -> (Option<Fault>, Duration, Duration) {
        let mut dice = lock(&self.dice);
        let fault = self.sim.strike(Kind::Store, &mut dice);
        let (mut there, mut back) = (dice.millis(0, 4), dice.millis(0, 4));
        let late = dice.millis(50, 8_000);
        match fault {
            Some(Fault::StoreSlow) => there += late,
            Some(Fault::StoreReplyLate) => back += late,
            _ => {}
        }
        (fault, there, back)
    }

    fn through<'a, T: Send + 'a>(
        &'a self,
        method: &'static str,
        id: Option<RecordId>,
        step: impl FnOnce(&'a dyn Store) -> StoreFuture<'a, T> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        Box::pin(async move {
            self.life.runs().await;
            let (fault, there, back) = self.way();
            let key = id.as_ref().map_or("", |id| id.key().as_str());
            if let Some(fault) = fault.filter(|fault| *fault != Fault::StoreWatchLost) {
                self.sim.struck(fault, &self.name);
                self.sim.say(&self.name, &format!("  in {method} {key}"));
            }
            if fault.is_some() {
                *lock(&self.service.failed).entry(key.to_owned()).or_default() += 1;
            }
            tokio::time::sleep(there).await;
            while let Some(until) = self.service.paused() {
                self.sim.struck(Fault::StorePause, &self.name);
                tokio::time::sleep_until(until).await;
            }
            self.life.runs().await;
            if self.service.is_down() {
                self.sim.struck(Fault::StoreDown, &self.name);
                return Err(StoreError::new(StoreErrorKind::Unavailable, "down"));
            }
            match fault {
                Some(Fault::StoreRefuses) => {
                    return Err(StoreError::new(StoreErrorKind::Unavailable, "refused"));
                }
                Some(Fault::StoreCallLost) => {
                    return Err(StoreError::new(StoreErrorKind::Unknown, "the call was lost"));
                }
                _ => {}
            }
            let reply = step(&*self.inner).await;
            tokio::time::sleep(back).await;
            self.life.runs().await;
            if fault == Some(Fault::StoreReplyLost) {
                return Err(StoreError::new(StoreErrorKind::Unknown, "the reply was lost"));
            }
            reply
        })
    }
}

impl Store for Gate {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn tier(&self) -> Tier {
        self.inner.tier()
    }
    fn claim(&self, args: ClaimArgs) -> StoreFuture<'_, Claimed> {
        let (id, service, sim) = (args.id.clone(), &self.service, &self.sim);
        self.through("claim", Some(id), move |store| {
            Box::pin(async move {
                let claimed = store.claim(args).await;
                if let Ok(Claimed::Won(record)) = &claimed {
                    service.won(record);
                    sim.say("store", &format!("{} won by token {}", record.id.key(), record.guard.token));
                }
                claimed
            })
        })
    }
    fn renew(&self, args: RenewArgs) -> StoreFuture<'_, Written> {
        self.through("renew", Some(args.id.clone()), move |store| store.renew(args))
    }
    fn complete(&self, args: CompleteArgs) -> StoreFuture<'_, Written> {
        let (id, service, sim) = (args.id.clone(), &self.service, &self.sim);
        let (asked, promised) = (args.retention, sim.options.retention);
        self.through("complete", Some(id), move |store| {
            Box::pin(async move {
                let written = store.complete(args).await;
                if let Ok(Written::Done(Some(record))) = &written {
                    service.kept(record, asked, promised);
                    sim.say(
                        "store",
                        &format!("{} completed by token {}", record.id.key(), record.guard.token),
                    );
                }
                written
            })
        })
    }
    fn doubt(&self, args: DoubtArgs) -> StoreFuture<'_, Written> {
        self.through("doubt", Some(args.id.clone()), move |store| store.doubt(args))
    }
    fn release(&self, args: ReleaseArgs) -> StoreFuture<'_, Written> {
        self.through("release", Some(args.id.clone()), move |store| store.release(args))
    }
    fn import(&self, record: Record) -> StoreFuture<'_, Written> {
        self.through("import", Some(record.id.clone()), move |store| store.import(record))
    }
    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>> {
        let id = id.clone();
        self.through("get", Some(id.clone()), move |store| Box::pin(async move { store.get(&id).await }))
    }
    fn scan(&self, args: ScanArgs) -> StoreFuture<'_, Page> {
        self.through("scan", None, move |store| store.scan(args))
    }
    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        self.sim.struck(Fault::PurgeRuns, &self.name);
        self.through("purge", None, move |store| store.purge(limit))
    }
    fn watch(&self, id: &RecordId, seen: Guard) -> StoreFuture<'_, ()> {
        let lost = self.sim.options.rate(Fault::StoreWatchLost);
        if !self.sim.is_calm() && lock(&self.dice).permille(lost) {
            self.sim.struck(Fault::StoreWatchLost, &self.name);
            return Box::pin(std::future::pending());
        }
        let id = id.clone();
        Box::pin(async move {
            self.life.runs().await;
            let seen = self.inner.watch(&id, seen).await;
            self.life.runs().await;
            seen
        })
    }
}
