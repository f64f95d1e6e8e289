//! The claim: what its holder does with it. Complete, release or doubt settle it; dropping it unsettled puts the
//! record in doubt, or releases it when the effect was never [started](Claim::start).
//!
//! While it is held, its lease is renewed at a third of its length. Next: [`crate::record`] for what each step
//! allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::wait::{Flight, Phase};
use super::{Inner, call};
use crate::backoff::{self, Backoff};
use crate::error::error_chain;
use crate::event::Event;
use crate::policy::Policy;
use crate::record::{DoubtCause, Ending, Guard, Outcome, Record, StateKind, Token};
use crate::scope::RecordId;
use crate::store::{
    CompleteArgs, DoubtArgs, ReleaseArgs, ReleaseFrom, RenewArgs, Store, StoreError, StoreFuture, Written,
};

const AGAIN: Backoff = Backoff { base: Duration::from_millis(20), cap: Duration::from_millis(500) };

/// The right to run the effect, won by exactly one caller.
#[derive(Debug)]
pub struct Claim {
    inner: Arc<Inner>,
    flight: Arc<Flight>,
    id: RecordId,
    guard: Guard,
    generation: u32,
    policy: Arc<Policy>,
    started: AtomicBool,
    renewal: AbortHandle,
    settled: bool,
    /// Made by `Drop`: not settled by another task again, even when the runtime is shutting down.
    orphan: bool,
}

/// What became of an outcome handed to [`Claim::complete`].
#[derive(Clone, Debug)]
pub enum Completion {
    /// The store has it; replays will equal it.
    Stored(Arc<Record>),
    /// The claim was lost meanwhile and nothing was written: what stands is to be answered with. `None` when
    /// nothing stands any more.
    Superseded(Option<Arc<Record>>),
    /// The store could not be told within [`Policy::complete_timeout`]. The outcome is real, and the record ends in
    /// doubt. Says why.
    Unrecorded(String),
}

impl Claim {
    pub(super) fn new(inner: Arc<Inner>, flight: Arc<Flight>, record: &Record, policy: Arc<Policy>) -> Self {
        inner.count_claim(record.id.tenant());
        let renewal = renew_while_held(Arc::clone(&inner), Arc::clone(&flight), record, policy.lease);
        Self {
            inner,
            flight,
            id: record.id.clone(),
            guard: record.guard,
            generation: record.generation,
            policy,
            // An earlier attempt may have taken effect: giving this one up does not undo that.
            started: AtomicBool::new(record.generation > 1),
            renewal,
            settled: false,
            orphan: false,
        }
    }

    /// Which record is claimed.
    #[must_use]
    pub fn id(&self) -> &RecordId {
        &self.id
    }

    /// The fencing token: a target that stores the highest one it saw can refuse an older claim.
    #[must_use]
    pub fn token(&self) -> Token {
        self.guard.token
    }

    /// How many times the record was claimed afresh, from 1. Above 1 the effect may have happened before.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Says that the effect begins: from here on a claim that is dropped is in doubt instead of released.
    pub fn start(&self) {
        self.started.store(true, Ordering::SeqCst);
    }

    /// Stores what the effect produced, durably, for [`Policy::retention`]; tries again for
    /// [`Policy::complete_timeout`] when the store cannot be reached.
    ///
    /// # Cancellation
    /// Dropped mid-await, the outcome is stored or the record is in doubt.
    pub async fn complete(self, outcome: Outcome) -> Completion {
        self.end(Ending::Completed(outcome)).await
    }

    /// Stores the terminal error that the effect ended in, to be replayed. As [`Claim::complete`].
    pub async fn fail(self, outcome: Outcome) -> Completion {
        self.end(Ending::Failed(outcome)).await
    }

    async fn end(mut self, ending: Ending) -> Completion {
        self.start();
        let retention = self.policy.retention;
        let (Ending::Completed(brought) | Ending::Failed(brought)) = &ending;
        let brought = brought.clone();
        let args = CompleteArgs { id: self.id.clone(), guard: self.guard, ending, retention };
        let written = self
            .insist("complete", self.policy.complete_timeout, move |store| store.complete(args.clone()))
            .await;
        self.settled = true;
        match written {
            // An operator who resolved the doubt meanwhile wrote under this very guard, and was first.
            Ok(Written::Done(Some(record))) if record.outcome() == Some(&brought) => {
                self.tell(Event::Completed { id: &self.id });
                let record = Arc::new(record);
                land(&self.inner, &self.flight, self.guard, Some(Arc::clone(&record)));
                Completion::Stored(record)
            }
            Ok(Written::Done(standing) | Written::Refused(standing)) => {
                self.tell(Event::Superseded { id: &self.id });
                let standing = standing.map(Arc::new);
                land(&self.inner, &self.flight, self.guard, standing.clone());
                Completion::Superseded(standing)
            }
            Err(error) => {
                self.tell(Event::Unrecorded { id: &self.id });
                self.inner.flights.end_by(&self.flight, self.guard, Phase::Unknown);
                Completion::Unrecorded(error_chain(&error))
            }
        }
    }

    /// Gives the claim back: the effect certainly did not happen, and the same key may run again. When the store
    /// cannot be told, or an earlier attempt left a doubt that this claim took over, the record ends in doubt.
    pub async fn release(mut self) {
        if self.generation > 1 {
            return self.doubt(DoubtCause::NoAnswer).await;
        }
        let args = ReleaseArgs { id: self.id.clone(), guard: self.guard, from: ReleaseFrom::Claim };
        let written = self
            .insist("release", self.policy.complete_timeout, move |store| store.release(args.clone()))
            .await;
        self.settled = true;
        match written {
            Ok(Written::Done(_)) => {
                self.tell(Event::Released { id: &self.id });
                self.inner.flights.vacate_by(&self.flight, self.guard);
            }
            Ok(Written::Refused(standing)) => {
                land(&self.inner, &self.flight, self.guard, standing.map(Arc::new))
            }
            Err(_) => self.inner.flights.end_by(&self.flight, self.guard, Phase::Unknown),
        }
    }

    /// Says that nobody knows whether the effect happened.
    pub async fn doubt(mut self, cause: DoubtCause) {
        let args = DoubtArgs { id: self.id.clone(), guard: self.guard, cause };
        let written =
            self.insist("doubt", self.policy.complete_timeout, move |store| store.doubt(args.clone())).await;
        self.settled = true;
        self.tell(Event::Doubted { id: &self.id, cause });
        match written {
            Ok(Written::Done(standing) | Written::Refused(standing)) => {
                land(&self.inner, &self.flight, self.guard, standing.map(Arc::new));
            }
            Err(_) => self.inner.flights.end_by(&self.flight, self.guard, Phase::Unknown),
        }
    }

    /// Calls the store until it answers, or until `timeout` has passed. All calls are the same guarded write, so
    /// that any of them may be the one that is answered: a late one is joined by another and not given up.
    async fn insist<T, F>(&self, method: &'static str, timeout: Duration, call: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> Fn(&'a dyn Store) -> StoreFuture<'a, T> + Clone + Send + 'static,
    {
        let deadline = super::deadline(timeout);
        let patience = self.inner.limits.store_timeout.min(timeout / 3);
        let (answer, mut answers) = mpsc::unbounded_channel();
        let mut tries = 0;
        loop {
            let (inner, call, answer) = (Arc::clone(&self.inner), call.clone(), answer.clone());
            tokio::spawn(async move {
                // Nobody listens once another of the calls was answered.
                let _ = answer.send(inner.carry_out(method, call).await);
            });
            let patient_until = deadline.min(Instant::now() + patience);
            let error = match tokio::time::timeout_at(patient_until, answers.recv()).await {
                Ok(Some(Ok(done))) => return Ok(done),
                Ok(Some(Err(error))) => error,
                Ok(None) | Err(_) => call::late(patience),
            };
            let pause = AGAIN.delay(tries, backoff::random());
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            tries += 1;
        }
    }

    fn tell(&self, event: Event<'_>) {
        self.inner.tell(event);
    }

    /// The same claim in another value, so that `Drop` can settle it in a task.
    fn take(&mut self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            flight: Arc::clone(&self.flight),
            id: self.id.clone(),
            guard: self.guard,
            generation: self.generation,
            policy: Arc::clone(&self.policy),
            started: AtomicBool::new(self.started.load(Ordering::SeqCst)),
            renewal: self.renewal.clone(),
            settled: false,
            orphan: true,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.settled
            && !self.orphan
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let claim = self.take();
            runtime.spawn(async move {
                if claim.started.load(Ordering::SeqCst) {
                    claim.doubt(DoubtCause::Abandoned).await;
                } else {
                    claim.release().await;
                }
            });
            return;
        }
        if !self.settled {
            self.inner.flights.end_by(&self.flight, self.guard, Phase::Unknown);
        }
        self.renewal.abort();
        self.inner.uncount_claim(self.id.tenant());
    }
}

/// Ends a flight that the claim under `guard` leads with what stands in the store now.
fn land(inner: &Inner, flight: &Arc<Flight>, guard: Guard, standing: Option<Arc<Record>>) {
    match standing {
        Some(record) if record.state.kind() != StateKind::InFlight => {
            inner.flights.end_by(flight, guard, Phase::Over(record));
        }
        _ => inner.flights.vacate_by(flight, guard),
    }
}

/// Renews at a third of the lease until aborted, refused, or past the longest execution. A renewal that fails for
/// a passing reason is tried again at the next third; only the store's refusal means that the lease is gone, and
/// then duplicates are told what stands instead of waiting for this claim.
fn renew_while_held(inner: Arc<Inner>, flight: Arc<Flight>, record: &Record, lease: Duration) -> AbortHandle {
    let (id, guard) = (record.id.clone(), record.guard);
    let renewing = tokio::spawn(async move {
        // An interval has no length zero.
        let third = (lease / 3).max(Duration::from_millis(1));
        let mut thirds = tokio::time::interval_at(Instant::now() + third, third);
        thirds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let patience = inner.limits.store_timeout.min(third);
        loop {
            thirds.tick().await;
            let args = RenewArgs { id: id.clone(), guard, lease };
            match inner.call("renew", patience, move |store| store.renew(args)).await {
                Ok(Written::Done(_)) => {}
                Ok(Written::Refused(standing)) => {
                    inner.tell(Event::RenewFailed { id: &id });
                    return land(&inner, &flight, guard, standing.map(Arc::new));
                }
                Err(_) => inner.tell(Event::RenewFailed { id: &id }),
            }
        }
    });
    renewing.abort_handle()
}
