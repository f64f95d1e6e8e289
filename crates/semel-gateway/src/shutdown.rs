//! Draining: no new connections, answers to what is in flight, then the rest is counted. What still holds a claim
//! when time is up becomes in doubt: its lease is not renewed any more, and the embedded store says so at its next
//! start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use semel::Engine;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Claims that were still held when time was up; their records become in doubt.
    pub claims_left: usize,
    /// Connections that were still open when time was up.
    pub connections_left: usize,
}

/// Tells connections to finish, and waits for them.
#[derive(Debug)]
pub(crate) struct Drain {
    ending: Arc<Ending>,
    connections: Arc<Semaphore>,
    connections_max: usize,
}

/// Whether the drain has begun. Those who wait for it hear of it in the order in which they came, so that a simulation
/// can be repeated.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    begun: AtomicBool,
    told: Notify,
}

impl Ending {
    fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
        self.told.notify_waiters();
    }

    /// Resolves once it has.
    pub(crate) async fn begun(&self) {
        // Made before the look: from here on it is not missed.
        let told = self.told.notified();
        if !self.begun.load(Ordering::SeqCst) {
            told.await;
        }
    }
}

impl Drain {
    pub(crate) fn new(connections_max: usize) -> Self {
        let connections_max = connections_max.min(Semaphore::MAX_PERMITS);
        Self {
            ending: Arc::default(),
            connections: Arc::new(Semaphore::new(connections_max)),
            connections_max,
        }
    }

    /// A place for one connection, held until it is closed.
    pub(crate) fn connections(&self) -> Arc<Semaphore> {
        Arc::clone(&self.connections)
    }

    pub(crate) fn signal(&self) -> Arc<Ending> {
        Arc::clone(&self.ending)
    }

    /// Lets connections finish what they have begun, and callers that hung up be run to their end.
    pub(crate) async fn finish(self, engine: &Engine, timeout: Duration) -> Drained {
        self.ending.begin();
        let deadline = Instant::now() + timeout;
        let all = u32::try_from(self.connections_max).unwrap_or(u32::MAX);
        let closed = tokio::time::timeout_at(deadline, self.connections.acquire_many(all)).await;
        while engine.live_claims() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let connections_left =
            if closed.is_ok() { 0 } else { self.connections_max - self.connections.available_permits() };
        Drained { claims_left: engine.live_claims(), connections_left }
    }
}
