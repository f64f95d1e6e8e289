//! Renewal of leases: a claim that is held for longer than a third of its lease is renewed until it is settled.
//!
//! Most claims are settled long before, so one task waits for whichever is due next, and only a claim that is due gets
//! a task of its own. Next: [`super::claim`].

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::Inner;
use super::claim::land;
use super::wait::Flight;
use crate::event::Event;
use crate::record::Guard;
use crate::scope::RecordId;
use crate::store::{RenewArgs, Written};

/// The claims that this engine's callers hold, as far as their leases go.
#[derive(Debug, Default)]
pub(super) struct Renewals(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    newest: u64,
    /// Not renewed yet, by when they are to be.
    waiting: BTreeMap<(Instant, u64), Lease>,
    /// Renewed by tasks of their own.
    renewed: HashMap<u64, AbortHandle>,
    /// When the waiting task looks again, while there is one.
    looks_at: Option<Instant>,
    look_now: Arc<Notify>,
}

/// What is renewed.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) flight: Arc<Flight>,
    pub(super) id: RecordId,
    pub(super) guard: Guard,
    pub(super) length: Duration,
}

impl Lease {
    /// An interval has no length zero.
    fn third(&self) -> Duration {
        (self.length / 3).max(Duration::from_millis(1))
    }
}

/// Names a lease that is kept, so that it can be let go of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    due: Instant,
    number: u64,
}

impl Renewals {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews `lease` from a third of its length on, until [`Renewals::let_go`].
    pub(super) fn keep(&self, inner: &Arc<Inner>, lease: Lease) -> Kept {
        let mut held = self.held();
        held.newest += 1;
        let kept = Kept { due: Instant::now() + lease.third(), number: held.newest };
        held.waiting.insert((kept.due, kept.number), lease);
        match held.looks_at {
            Some(looks_at) if looks_at <= kept.due => {}
            Some(_) => {
                held.looks_at = Some(kept.due);
                held.look_now.notify_one();
            }
            None => {
                held.looks_at = Some(kept.due);
                let look_now = Arc::clone(&held.look_now);
                tokio::spawn(wait_for_due(Waiting(Arc::downgrade(inner)), kept.due, look_now));
            }
        }
        kept
    }

    /// The claim is settled.
    pub(super) fn let_go(&self, kept: Kept) {
        let mut held = self.held();
        if held.waiting.remove(&(kept.due, kept.number)).is_none()
            && let Some(renewing) = held.renewed.remove(&kept.number)
        {
            renewing.abort();
        }
    }

    /// Gives a task to each claim that is due; says when the next one is.
    fn start_due(&self, inner: &Arc<Inner>) -> Option<Instant> {
        let mut held = self.held();
        let now = Instant::now();
        while let Some(first) = held.waiting.first_entry()
            && first.key().0 <= now
        {
            let ((_, number), lease) = first.remove_entry();
            let renewing = tokio::spawn(renew_while_held(Arc::clone(inner), lease));
            held.renewed.insert(number, renewing.abort_handle());
        }
        held.looks_at = held.waiting.first_key_value().map(|((due, _), _)| *due);
        held.looks_at
    }
}

/// The task that waits. When it ends with its runtime, the next claim starts another.
struct Waiting(Weak<Inner>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.renewals.held().looks_at = None;
        }
    }
}

async fn wait_for_due(mut waiting: Waiting, first: Instant, look_now: Arc<Notify>) {
    let mut due = Some(first);
    while let Some(next) = due {
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = look_now.notified() => {}
        }
        due = waiting.0.upgrade().and_then(|inner| inner.renewals.start_due(&inner));
    }
    // A claim that came meanwhile has started another task, and it is that one that waits.
    waiting.0 = Weak::new();
}

/// Renews at once and then at each third of the lease, until aborted, refused, or past the longest execution. A renewal
/// that fails for a passing reason is tried again at the next third; only the store's refusal means that the lease is
/// gone, and then duplicates are told what stands instead of waiting for this claim.
async fn renew_while_held(inner: Arc<Inner>, lease: Lease) {
    let third = lease.third();
    let Lease { flight, id, guard, length } = lease;
    let mut thirds = tokio::time::interval(third);
    thirds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let patience = inner.limits.store_timeout.min(third);
    loop {
        thirds.tick().await;
        let args = RenewArgs { id: id.clone(), guard, lease: length };
        match inner.call("renew", patience, move |store| store.renew(args)).await {
            Ok(Written::Done(_)) => {}
            Ok(Written::Refused(standing)) => {
                inner.tell(Event::RenewFailed { id: &id });
                return land(&inner, &flight, guard, standing.map(Arc::new));
            }
            Err(_) => inner.tell(Event::RenewFailed { id: &id }),
        }
    }
}
