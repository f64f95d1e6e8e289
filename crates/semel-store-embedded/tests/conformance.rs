//! The embedded store under the suite that every store must pass.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use semel::clock::ManualClock;
use semel_store_embedded::{EmbeddedConfig, EmbeddedStore};
use semel_testkit::conformance::Subject;

async fn make(clock: Arc<ManualClock>) -> Subject {
    let folder = tempfile::tempdir().unwrap();
    // Small segments, so that records are sealed, found in sealed ones and dropped during the suite.
    let config = EmbeddedConfig::new(folder.path().join("semel.db")).clock(clock.clone()).segment_rows(16);
    Subject::on_clock(Arc::new(EmbeddedStore::open(config).unwrap()), clock).keeping(folder)
}

semel_testkit::conformance_suite!(make);
