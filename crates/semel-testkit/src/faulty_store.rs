//! A store that answers late, loses calls or replies, or refuses, by script: what a network and a server do to a
//! store that is not in this process.
//!
//! Wraps any store. Next: `fault_proxy`, which does the same to the bytes of a real server.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::check::load::Dice;
use semel::store::{
    Capabilities, ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Guard, Page, ReleaseArgs, RenewArgs, ScanArgs,
    Store, StoreError, StoreErrorKind, StoreFuture, Tier, Written,
};
use semel::{Record, RecordId};
use tokio::sync::watch;

/// A method of [`Store`] that a fault can be set on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are the methods of the trait")]
pub enum Method {
    Claim,
    Renew,
    Complete,
    Doubt,
    Release,
    Import,
    Get,
    Scan,
    Purge,
}

/// What happens to a call.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It is refused, and nothing is changed.
    Refuse,
    /// It never arrives; the caller is told that it is unknown.
    LoseCall,
    /// It is made; the caller is told that it is unknown.
    LoseReply,
    /// It arrives late.
    Delay(Duration),
    /// It arrives, and is answered, after others had so many turns.
    Yield(usize),
    /// It arrives when [`FaultyStore::let_go`] is called.
    HoldCall,
    /// It is made at once and answered when [`FaultyStore::let_go`] is called.
    HoldReply,
}

/// See the module.
#[derive(Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    plans: Mutex<HashMap<Method, Plan>>,
    let_go: watch::Sender<()>,
    dice: Option<Mutex<Dice>>,
}

#[derive(Debug, Default)]
struct Plan {
    next: VecDeque<Fault>,
    rest: Option<Fault>,
    calls: usize,
}

impl FaultyStore {
    /// `inner`, without a fault so far.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, plans: Mutex::default(), let_go: watch::Sender::new(()), dice: None }
    }

    /// `inner`, whose calls wait for each other, and of which one in twenty loses its call, its reply or both, as the
    /// dice of `seed` say.
    #[must_use]
    pub fn by_seed(inner: Arc<dyn Store>, seed: u64) -> Self {
        Self { dice: Some(Mutex::new(Dice::new(seed))), ..Self::new(inner) }
    }

    fn throw(&self) -> Option<Fault> {
        let mut dice = self.dice.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(match dice.below(60) {
            0 => Fault::LoseCall,
            1 => Fault::LoseReply,
            2 => Fault::Refuse,
            _ => Fault::Yield(dice.below(6)),
        })
    }

    /// The next call of `method` that has no fault yet gets this one.
    pub fn once(&self, method: Method, fault: Fault) {
        self.plans().entry(method).or_default().next.push_back(fault);
    }

    /// Every later call of `method` without a fault of its own gets this one; `None` for none.
    pub fn always(&self, method: Method, fault: impl Into<Option<Fault>>) {
        self.plans().entry(method).or_default().rest = fault.into();
    }

    /// Lets go of everything that is held now.
    pub fn let_go(&self) {
        self.let_go.send_replace(());
    }

    /// How often `method` was called.
    pub fn calls(&self, method: Method) -> usize {
        self.plans().get(&method).map_or(0, |plan| plan.calls)
    }

    fn plans(&self) -> MutexGuard<'_, HashMap<Method, Plan>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, method: Method) -> Option<Fault> {
        let mut plans = self.plans();
        let plan = plans.entry(method).or_default();
        plan.calls += 1;
        plan.next.pop_front().or(plan.rest).or_else(|| self.throw())
    }

    fn through<'a, T: Send + 'a>(
        &'a self,
        method: Method,
        step: impl FnOnce(&'a dyn Store) -> StoreFuture<'a, T> + Send + 'a,
    ) -> StoreFuture<'a, T> {
        let fault = self.fault(method);
        let mut held = self.let_go.subscribe();
        Box::pin(async move {
            let store = &*self.inner;
            match fault {
                None => step(store).await,
                Some(Fault::Refuse) => Err(StoreError::new(StoreErrorKind::Unavailable, "cut off")),
                Some(Fault::LoseCall) => Err(StoreError::new(StoreErrorKind::Unknown, "the call was lost")),
                Some(Fault::LoseReply) => {
                    let _ = step(store).await;
                    Err(StoreError::new(StoreErrorKind::Unknown, "the reply was lost"))
                }
                Some(Fault::Delay(duration)) => {
                    tokio::time::sleep(duration).await;
                    step(store).await
                }
                Some(Fault::Yield(turns)) => {
                    others_first(turns).await;
                    let reply = step(store).await;
                    others_first(turns).await;
                    reply
                }
                Some(Fault::HoldCall) => {
                    let _ = held.changed().await;
                    step(store).await
                }
                Some(Fault::HoldReply) => {
                    let reply = step(store).await;
                    let _ = held.changed().await;
                    reply
                }
            }
        })
    }
}

async fn others_first(turns: usize) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

impl Store for FaultyStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn tier(&self) -> Tier {
        self.inner.tier()
    }
    fn claim(&self, args: ClaimArgs) -> StoreFuture<'_, Claimed> {
        self.through(Method::Claim, move |store| store.claim(args))
    }
    fn renew(&self, args: RenewArgs) -> StoreFuture<'_, Written> {
        self.through(Method::Renew, move |store| store.renew(args))
    }
    fn complete(&self, args: CompleteArgs) -> StoreFuture<'_, Written> {
        self.through(Method::Complete, move |store| store.complete(args))
    }
    fn doubt(&self, args: DoubtArgs) -> StoreFuture<'_, Written> {
        self.through(Method::Doubt, move |store| store.doubt(args))
    }
    fn release(&self, args: ReleaseArgs) -> StoreFuture<'_, Written> {
        self.through(Method::Release, move |store| store.release(args))
    }
    fn import(&self, record: Record) -> StoreFuture<'_, Written> {
        self.through(Method::Import, move |store| store.import(record))
    }
    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>> {
        let id = id.clone();
        self.through(Method::Get, move |store| store.get(&id))
    }
    fn scan(&self, args: ScanArgs) -> StoreFuture<'_, Page> {
        self.through(Method::Scan, move |store| store.scan(args))
    }
    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        self.through(Method::Purge, move |store| store.purge(limit))
    }
    fn watch(&self, id: &RecordId, seen: Guard) -> StoreFuture<'_, ()> {
        self.inner.watch(id, seen)
    }
}
