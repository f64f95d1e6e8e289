//! The sweep: removes expired records in small batches while serving. It never takes a record that is in flight.

use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use crate::event::Event;

/// How many records one batch may remove.
const BATCH_RECORDS: usize = 1_000;
/// The rest after a full batch, so that expiry never takes the store from the callers.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the answer to one batch is awaited.
const BATCH_TIMEOUT: Duration = Duration::from_secs(60);

impl Engine {
    /// Removes expired records in the background, looking every `every`, until the last clone of this engine is
    /// gone. Errors of the store are counted as events and the sweep goes on.
    pub fn sweep_in_background(&self, every: Duration) {
        let engine = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            let mut pause = every;
            loop {
                tokio::time::sleep(pause).await;
                let Some(inner) = engine.upgrade() else { return };
                let purged = inner.call("purge", BATCH_TIMEOUT, |store| store.purge(BATCH_RECORDS)).await;
                let removed = purged.unwrap_or(0);
                if removed > 0 {
                    inner.tell(Event::Purged { records: removed });
                }
                pause = if removed >= BATCH_RECORDS { PAUSE } else { every };
            }
        });
    }
}
