//! The claim: what its holder does with it. Complete, release or doubt settle it; dropping it unsettled puts the
//! record in doubt, or releases it when the effect was never [started](Claim::start).
//!
//! While it is held, its lease is renewed at a third of its length. Next: [`crate::record`] for what each step
//! allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Inner;
use super::call::{self, Call};
use super::renew::{Kept, Lease};
use super::wait::{Flight, Phase};
use crate::backoff::{self, Backoff};
use crate::error::error_chain;
use crate::event::Event;
use crate::policy::Policy;
use crate::record::{DoubtCause, Ending, Guard, Outcome, Record, StateKind, Token};
use crate::scope::RecordId;
use crate::store::{
    CompleteArgs, DoubtArgs, ReleaseArgs, ReleaseFrom, Store, StoreError, StoreFuture, Written,
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
    lease: Kept,
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
        let (id, guard) = (record.id.clone(), record.guard);
        let lease = Lease { flight: Arc::clone(&flight), id, guard, length: policy.lease };
        let lease = inner.renewals.keep(&inner, lease);
        Self {
            inner,
            flight,
            id: record.id.clone(),
            guard: record.guard,
            generation: record.generation,
            policy,
            // An earlier attempt may have taken effect: giving this one up does not undo that.
            started: AtomicBool::new(record.generation > 1),
            lease,
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
    pub fn complete(self, outcome: Outcome) -> impl Future<Output = Completion> + Send {
        self.end(Ending::Completed(outcome))
    }

    /// Stores the terminal error that the effect ended in, to be replayed. As [`Claim::complete`].
    pub fn fail(self, outcome: Outcome) -> impl Future<Output = Completion> + Send {
        self.end(Ending::Failed(outcome))
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

    /// Calls the store until it answers, or until `timeout` has passed.
    async fn insist<T, F>(&self, method: &'static str, timeout: Duration, call: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> Fn(&'a dyn Store) -> StoreFuture<'a, T> + Clone + Send + 'static,
    {
        let deadline = super::deadline(Instant::now(), timeout);
        let patience = self.inner.limits.store_timeout.min(timeout / 3);
        let mut first = self.inner.start(method, call.clone());
        let missed = match call::in_time(&mut first, patience).await {
            Some(Ok(done)) => return Ok(done),
            Some(Err(error)) => (error, None),
            None => (call::late(patience), Some(first)),
        };
        // Boxed, as it is rare, and every claim would have room for it.
        Box::pin(self.call_again(method, (deadline, patience), call, missed)).await
    }

    /// All calls are the same guarded write, so that any of them may be the one that is answered: a late one is joined by
    /// another and not given up.
    async fn call_again<T, F>(
        &self,
        method: &'static str,
        (deadline, patience): (Instant, Duration),
        call: F,
        (mut error, late): (StoreError, Option<Call<T>>),
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> Fn(&'a dyn Store) -> StoreFuture<'a, T> + Clone + Send + 'static,
    {
        let (answer, mut answers) = mpsc::unbounded_channel();
        let listen_to = |call: Call<T>| {
            let answer = answer.clone();
            tokio::spawn(async move {
                // Nobody listens once another of the calls was answered.
                let _ = answer.send(call::answer(call.await));
            });
        };
        late.map(listen_to);
        let mut tries = 0;
        loop {
            let pause = AGAIN.delay(tries, backoff::random());
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            tries += 1;
            listen_to(self.inner.start(method, call.clone()));
            let patient_until = deadline.min(Instant::now() + patience);
            error = match tokio::time::timeout_at(patient_until, answers.recv()).await {
                Ok(Some(Ok(done))) => return Ok(done),
                Ok(Some(Err(error))) => error,
                Ok(None) | Err(_) => call::late(patience),
            };
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
            lease: self.lease,
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
        self.inner.renewals.let_go(self.lease);
        self.inner.uncount_claim(self.id.tenant());
    }
}

/// Ends a flight that the claim under `guard` leads with what stands in the store now.
pub(super) fn land(inner: &Inner, flight: &Arc<Flight>, guard: Guard, standing: Option<Arc<Record>>) {
    match standing {
        Some(record) if record.state.kind() != StateKind::InFlight => {
            inner.flights.end_by(flight, guard, Phase::Over(record));
        }
        _ => inner.flights.vacate_by(flight, guard),
    }
}
