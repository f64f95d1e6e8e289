//! The engine: begin, then complete, release or doubt. Read this first.
//!
//! [`Engine::begin`] decides what a caller gets: the claim (run the effect), a replay, or a refusal. The claim
//! ([`Claim`]) is settled by complete, release or doubt, and is in doubt when dropped unsettled. The engine knows no
//! HTTP and no store by name.
//!
//! Next: [`claim`] (what the holder of a claim does), `wait` (how ten thousand duplicates cost one watcher),
//! `call` (how the store is called), `renew` (leases), `sweep` (expiry in the background), [`crate::record`] (the states).

mod board;
mod call;
pub mod claim;
mod renew;
mod sweep;
mod wait;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

pub use claim::{Claim, Completion};

use crate::detached::Detached;
use crate::error::{Code, Error, code_of, error_chain};
use crate::event::{Event, Observer, Silent};
use crate::fingerprint::{Difference, Fingerprint};
use crate::key::Key;
use crate::policy::{OnDuplicate, OnMismatch, Policy};
use crate::record::{Record, State, StateKind};
use crate::scope::{Operation, RecordId, Tenant};
use crate::store::{Claimed, Store, StoreError};
use renew::Renewals;
use wait::{Entered, Flight, Flights, Phase, Seat};

/// Caps that keep one tenant from exhausting what all share. Counted in this process.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Claims that one tenant may hold at once. Default 10,000.
    pub in_flight_per_tenant: usize,
    /// Callers that may wait for one record. Default 1,000.
    pub waiters_per_record: usize,
    /// How long an answer of the store is awaited. Default 5 s.
    pub store_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight_per_tenant: 10_000,
            waiters_per_record: 1_000,
            store_timeout: Duration::from_secs(5),
        }
    }
}

/// What a caller brings to [`Engine::begin`].
#[derive(Clone, Debug)]
pub struct Ask {
    /// Which record.
    pub id: RecordId,
    /// What the request looks like.
    pub fingerprint: Fingerprint,
    /// How it is to be treated.
    pub policy: Arc<Policy>,
}

impl Ask {
    /// Asks for `key` of `tenant` under `policy`. Under *distinct* the payload becomes part of the identity.
    #[must_use]
    pub fn new(
        tenant: Tenant,
        operation: Operation,
        key: Key,
        fingerprint: Fingerprint,
        policy: Arc<Policy>,
    ) -> Self {
        let variant = (policy.on_mismatch == OnMismatch::Distinct).then_some(fingerprint.payload);
        Self { id: RecordId::with_variant(tenant, operation, key, variant), fingerprint, policy }
    }
}

/// What [`Engine::begin`] decided.
#[derive(Debug)]
pub enum Begun {
    /// The caller holds the claim: run the effect, then settle it.
    Run(Claim),
    /// The stored outcome, completed or failed.
    Replay(Arc<Record>),
    /// Neither: nothing was run and nothing was changed.
    Refuse(Refusal),
}

/// Why a caller gets neither the claim nor an outcome.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// The key was used for another request.
    Mismatch(Difference),
    /// The first caller still runs.
    InProgress,
    /// The effect may or may not have happened. `None` when the outcome was lost with the store.
    InDoubt(Option<Arc<Record>>),
    /// Too much in flight for this tenant, or too many wait for this record.
    Quota,
}

impl Refusal {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Mismatch(_) => Code::Mismatch,
            Self::InProgress => Code::InProgress,
            Self::InDoubt(_) => Code::OutcomeUnknown,
            Self::Quota => Code::Quota,
        }
    }
}

/// Decides and keeps what effects produced. Cheap to clone; all clones share their callers in flight.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    observer: Arc<dyn Observer>,
    limits: Limits,
    flights: Flights,
    renewals: Renewals,
    tenants: Mutex<HashMap<Tenant, usize>>,
    live: AtomicUsize,
}

impl Engine {
    /// An engine on `store`, with the default limits and nobody told of events.
    pub fn new(store: impl Store) -> Self {
        Self::with(Arc::new(store), Arc::new(Silent), Limits::default())
    }

    /// An engine on a shared store.
    #[must_use]
    pub fn with(store: Arc<dyn Store>, observer: Arc<dyn Observer>, limits: Limits) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                observer,
                limits,
                flights: Flights::default(),
                renewals: Renewals::default(),
                tenants: Mutex::default(),
                live: AtomicUsize::new(0),
            }),
        }
    }

    /// The store this engine keeps its records in.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// How many claims this engine's callers hold now.
    #[must_use]
    pub fn live_claims(&self) -> usize {
        self.inner.live.load(Ordering::SeqCst)
    }

    /// Decides what a caller of `ask` gets, waiting for a running duplicate as the policy says.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Code::StoreUnavailable`] when the store cannot say: then nothing may be run.
    ///
    /// # Cancellation
    /// A dropped call leaves nothing behind: a claim won meanwhile is released.
    pub async fn begin(&self, ask: Ask) -> Result<Begun, Error> {
        let started = Instant::now();
        let begun = self.decide(&ask, started).await;
        match &begun {
            Ok(Begun::Run(_)) => {}
            Ok(Begun::Replay(_)) => {
                self.inner.tell(Event::Replayed { id: &ask.id, waited: started.elapsed() });
            }
            Ok(Begun::Refuse(refusal)) => {
                self.inner.tell(Event::Refused { id: &ask.id, code: refusal.code() });
            }
            Err(error) => self.inner.tell(Event::Refused { id: &ask.id, code: error.code() }),
        }
        begun
    }

    async fn decide(&self, ask: &Ask, started: Instant) -> Result<Begun, Error> {
        if let Some(record) = self.inner.store.near(&ask.id)
            && let Followed::Begun(begun) = judge(&Arc::new(record), ask)
        {
            return Ok(begun);
        }
        loop {
            let (flight, seat) = match self.inner.flights.enter(&ask.id, self.inner.limits.waiters_per_record)
            {
                Entered::Full => return Ok(Begun::Refuse(Refusal::Quota)),
                Entered::Leader(flight) => match self.lead(&flight, ask).await? {
                    Led::Begun(begun) => return Ok(begun),
                    Led::RunsElsewhere(seat) => (flight, seat),
                },
                Entered::Follower(flight, seat) => (flight, seat),
            };
            match self.follow(&flight, seat, ask, started).await? {
                Followed::Begun(begun) => return Ok(begun),
                Followed::Again => {}
            }
        }
    }

    /// Waits at a flight until it says something for this caller.
    async fn follow(
        &self,
        flight: &Arc<Flight>,
        seat: Seat,
        ask: &Ask,
        started: Instant,
    ) -> Result<Followed, Error> {
        let timeout = tokio::time::sleep_until(deadline(started, ask.policy.wait_timeout));
        tokio::pin!(timeout);
        loop {
            let (seen, standing) = {
                let shown = flight.phase();
                let standing = match &*shown {
                    Phase::Claiming | Phase::Vacant => None,
                    Phase::Running(fingerprint, _) => Some(*fingerprint),
                    Phase::Elsewhere(record) => Some(record.fingerprint),
                    Phase::Over(record) => return Ok(judge(record, ask)),
                    Phase::Unknown => return Ok(Followed::Begun(Begun::Refuse(Refusal::InDoubt(None)))),
                    Phase::Unreadable(code, reason) => return Err(Error::new(*code, reason.clone())),
                };
                (shown.changes(), standing)
            };
            if let Some(refusal) = standing.and_then(|standing| refuse_duplicate(&standing, ask)) {
                return Ok(Followed::Begun(Begun::Refuse(refusal)));
            }
            tokio::select! {
                biased;
                () = flight.baton() => {
                    if flight.take_over() {
                        drop(seat);
                        return match self.lead(flight, ask).await? {
                            Led::Begun(begun) => Ok(Followed::Begun(begun)),
                            Led::RunsElsewhere(_) => Ok(Followed::Again),
                        };
                    }
                }
                () = flight.changed(seen) => {}
                () = &mut timeout => return Ok(Followed::Begun(Begun::Refuse(Refusal::InProgress))),
            }
        }
    }

    /// Claims for a flight. Goes on without its caller, who would leave a claim behind by going away.
    async fn lead(&self, flight: &Arc<Flight>, ask: &Ask) -> Result<Led, Error> {
        let (inner, flight, ask) = (Arc::clone(&self.inner), Arc::clone(flight), ask.clone());
        let claiming = Detached::new(async move {
            let claiming = Claiming { inner: &inner, flight: &flight };
            let led = inner.claim(&flight, &ask).await;
            std::mem::forget(claiming);
            led
        });
        claiming.await.unwrap_or_else(|panicked| Err(Error::new(Code::StoreUnavailable, panicked)))
    }
}

/// Tells the waiters when a claim ends without an answer, as by a panic in a store.
struct Claiming<'a> {
    inner: &'a Inner,
    flight: &'a Arc<Flight>,
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        self.inner.flights.end(
            self.flight,
            Phase::Unreadable(Code::StoreUnavailable, "the claim ended without an answer".to_owned()),
        );
    }
}

enum Led {
    Begun(Begun),
    RunsElsewhere(Seat),
}

enum Followed {
    Begun(Begun),
    Again,
}

impl Inner {
    async fn claim(self: &Arc<Self>, flight: &Arc<Flight>, ask: &Ask) -> Result<Led, Error> {
        match self.ask_store(ask).await {
            Ok(Some(Claimed::Won(record))) => {
                flight.publish(Phase::Running(ask.fingerprint, record.guard));
                self.tell(Event::Claimed { id: &ask.id, generation: record.generation });
                let claim =
                    Claim::new(Arc::clone(self), Arc::clone(flight), &record, Arc::clone(&ask.policy));
                Ok(Led::Begun(Begun::Run(claim)))
            }
            Ok(Some(Claimed::Standing(record))) if record.state.kind() == StateKind::InFlight => {
                let seat = self.flights.seat(flight);
                flight.publish(Phase::Elsewhere(Arc::new(record.clone())));
                wait::watch_elsewhere(Arc::clone(self), Arc::clone(flight), record);
                Ok(Led::RunsElsewhere(seat))
            }
            Ok(Some(Claimed::Standing(record))) => {
                let record = Arc::new(record);
                self.flights.end(flight, Phase::Over(Arc::clone(&record)));
                match judge(&record, ask) {
                    Followed::Begun(begun) => Ok(Led::Begun(begun)),
                    Followed::Again => Ok(Led::Begun(Begun::Refuse(Refusal::InDoubt(Some(record))))),
                }
            }
            Ok(None) => {
                self.flights.vacate(flight);
                Ok(Led::Begun(Begun::Refuse(Refusal::Quota)))
            }
            Err(error) => {
                let reason = error_chain(&error);
                self.flights.end(flight, Phase::Unreadable(code_of(&error), reason));
                Err(error.into())
            }
        }
    }

    /// Claims at the store; `None` when the tenant holds too many claims already and the record does not stand.
    async fn ask_store(self: &Arc<Self>, ask: &Ask) -> Result<Option<Claimed>, StoreError> {
        if self.held_by(ask.id.tenant()) >= self.limits.in_flight_per_tenant {
            return Ok(self.look(ask).await?.map(Claimed::Standing));
        }
        self.claim_at_store(ask).await.map(Some)
    }

    fn held_by(&self, tenant: &Tenant) -> usize {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner).get(tenant).copied().unwrap_or(0)
    }

    fn count_claim(&self, tenant: &Tenant) {
        self.live.fetch_add(1, Ordering::SeqCst);
        *self.tenants.lock().unwrap_or_else(PoisonError::into_inner).entry(tenant.clone()).or_default() += 1;
    }

    fn uncount_claim(&self, tenant: &Tenant) {
        self.live.fetch_sub(1, Ordering::SeqCst);
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = tenants.get_mut(tenant) {
            *held -= 1;
            if *held == 0 {
                tenants.remove(tenant);
            }
        }
    }

    fn tell(&self, event: Event<'_>) {
        self.observer.observe(&event);
    }
}

/// What a caller gets from a record that is not in flight. The fingerprint is compared before the state.
fn judge(record: &Arc<Record>, ask: &Ask) -> Followed {
    if let Some(difference) = ask.fingerprint.difference(&record.fingerprint, ask.policy.on_mismatch) {
        return Followed::Begun(Begun::Refuse(Refusal::Mismatch(difference)));
    }
    Followed::Begun(match record.state {
        State::Completed { .. } | State::Failed { .. } => Begun::Replay(Arc::clone(record)),
        State::InDoubt { .. } if ask.policy.on_doubt.claims_again() => return Followed::Again,
        State::InDoubt { .. } => Begun::Refuse(Refusal::InDoubt(Some(Arc::clone(record)))),
        State::InFlight { .. } => Begun::Refuse(Refusal::InProgress),
    })
}

/// Why a duplicate does not wait, if it does not.
fn refuse_duplicate(standing: &Fingerprint, ask: &Ask) -> Option<Refusal> {
    match ask.fingerprint.difference(standing, ask.policy.on_mismatch) {
        Some(difference) => Some(Refusal::Mismatch(difference)),
        None => (ask.policy.on_duplicate == OnDuplicate::Conflict).then_some(Refusal::InProgress),
    }
}

/// `timeout` after `started`; for ever means a year.
fn deadline(started: Instant, timeout: Duration) -> Instant {
    const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    started + timeout.min(YEAR)
}

/// When a refused caller is told to come back: spread over one to three seconds, so that thousands do not return
/// at once.
#[must_use]
pub fn retry_after() -> Duration {
    Duration::from_secs(1 + u64::from(crate::backoff::random() % 3))
}
