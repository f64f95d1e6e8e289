//! How the engine calls its store: each call is carried out to its end, also when its request is dropped, and awaited no
//! longer than [`super::Limits::store_timeout`].
//!
//! What was not answered in time is unknown, not failed: a claim is looked for under its attempt id, and when it
//! turns out later that it was won after all, it is given back. Next: [`super::claim`], whose writes are repeated.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::wait::Flight;
use super::{Ask, Claim, Inner};
use crate::detached::{Detached, Panicked};
use crate::event::Event;
use crate::record::{AttemptId, ClaimArgs, Record, StateKind};
use crate::store::{Claimed, Store, StoreError, StoreErrorKind, StoreFuture};

pub(super) type Call<T> = Detached<Result<T, StoreError>>;

impl Inner {
    /// Calls the store and tells how long it took.
    async fn carry_out<T, F>(self: Arc<Self>, method: &'static str, call: F) -> Result<T, StoreError>
    where
        F: for<'a> FnOnce(&'a dyn Store) -> StoreFuture<'a, T>,
    {
        let started = Instant::now();
        let answer = call(&*self.store).await;
        self.tell(Event::StoreCalled { method, took: started.elapsed(), ok: answer.is_ok() });
        answer
    }

    pub(super) fn start<T, F>(self: &Arc<Self>, method: &'static str, call: F) -> Call<T>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a dyn Store) -> StoreFuture<'a, T> + Send + 'static,
    {
        Detached::new(Arc::clone(self).carry_out(method, call))
    }

    /// Calls the store and waits for its answer for `limit`.
    pub(super) async fn call<T, F>(
        self: &Arc<Self>,
        method: &'static str,
        limit: Duration,
        call: F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a dyn Store) -> StoreFuture<'a, T> + Send + 'static,
    {
        match in_time(&mut self.start(method, call), limit).await {
            Some(answer) => answer,
            None => Err(late(limit)),
        }
    }

    /// The record that `ask` is about.
    pub(super) async fn look(self: &Arc<Self>, ask: &Ask) -> Result<Option<Record>, StoreError> {
        let id = ask.id.clone();
        self.call("get", self.limits.store_timeout, move |store| store.get(&id)).await
    }

    /// Claims, and reads what became of the claim when the store does not say. An error means that nothing may be
    /// run.
    pub(super) async fn claim_at_store(self: &Arc<Self>, ask: &Ask) -> Result<Claimed, StoreError> {
        let limit = self.limits.store_timeout;
        let args = ClaimArgs::new(ask.id.clone(), ask.fingerprint, &ask.policy);
        let attempt = args.attempt;
        let mut call = self.start("claim", move |store| store.claim(args));
        let (error, call) = match in_time(&mut call, limit).await {
            Some(Err(error)) if error.kind() == StoreErrorKind::Unknown => (error, None),
            Some(answer) => return answer,
            None => (late(limit), Some(call)),
        };
        let found = self.look(ask).await;
        if let Ok(Some(record)) = &found
            && record.guard.attempt == attempt
            && record.state.kind() == StateKind::InFlight
        {
            return Ok(Claimed::Won(record.clone()));
        }
        self.disown(ask.clone(), attempt, call);
        match found? {
            Some(record) if record.guard.attempt != attempt => Ok(Claimed::Standing(record)),
            Some(_) | None => Err(error),
        }
    }

    /// Gives back the claim that nobody was given, whenever it shows that it was won: nothing was run under it, and
    /// left alone it would lapse into a doubt that holds up its key.
    fn disown(self: &Arc<Self>, ask: Ask, attempt: AttemptId, call: Option<Call<Claimed>>) {
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let won = match call {
                Some(call) => match call.await {
                    Ok(Ok(Claimed::Won(record))) => Some(record),
                    Ok(Ok(Claimed::Standing(_))) => None,
                    Ok(Err(error)) if error.kind() != StoreErrorKind::Unknown => None,
                    Ok(Err(_)) | Err(_) => inner.search(&ask, attempt).await,
                },
                None => inner.search(&ask, attempt).await,
            };
            if let Some(record) = won {
                let flight = Flight::apart(ask.id.clone());
                Claim::new(inner, flight, &record, ask.policy).release().await;
            }
        });
    }

    /// Looks for a claim whose reply was lost, for as long as it may take to show.
    async fn search(self: &Arc<Self>, ask: &Ask, attempt: AttemptId) -> Option<Record> {
        let lease = ask.policy.lease;
        for pause in [lease / 10, lease / 3, lease] {
            tokio::time::sleep(pause).await;
            if let Ok(Some(record)) = self.look(ask).await
                && record.guard.attempt == attempt
            {
                return Some(record);
            }
        }
        None
    }
}

/// What a call answered; `None` when it is not done yet.
pub(super) async fn in_time<T: Send>(call: &mut Call<T>, limit: Duration) -> Option<Result<T, StoreError>> {
    tokio::time::timeout(limit, call).await.ok().map(answer)
}

/// A call that panicked is unknown.
pub(super) fn answer<T>(ended: Result<Result<T, StoreError>, Panicked>) -> Result<T, StoreError> {
    ended.unwrap_or_else(|panicked| Err(StoreError::new(StoreErrorKind::Unknown, panicked)))
}

pub(super) fn late(limit: Duration) -> StoreError {
    StoreError::new(StoreErrorKind::Unknown, format!("no answer within {limit:?}"))
}
