//! The memory store under the suite that every store must pass.

use std::sync::Arc;

use semel::clock::ManualClock;
use semel::store::memory::MemoryStore;
use semel_testkit::conformance::Subject;

async fn make(clock: Arc<ManualClock>) -> Subject {
    Subject::on_clock(Arc::new(MemoryStore::with_clock(clock.clone())), clock)
}

semel_testkit::conformance_suite!(make);
