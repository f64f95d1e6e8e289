//! S12: whoever watches a record is told of its change.

use std::sync::atomic::{AtomicUsize, Ordering};

use semel::record::ReleaseFrom;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

/// S12.
pub async fn s12_a_thousand_watchers_see_the_outcome(subject: Subject) {
    let store = subject.store();
    let record = won(&*store, claim_of(&id("k"))).await;
    let mut watchers = JoinSet::new();
    let watching = Arc::new(AtomicUsize::new(0));
    for _ in 0..1_000 {
        let (store, record, watching) = (subject.store(), record.clone(), Arc::clone(&watching));
        watchers.spawn(async move {
            // A watch is a hint and may resolve early.
            loop {
                let watch = store.watch(&record.id, record.guard);
                watching.fetch_add(1, Ordering::Relaxed);
                timeout(PATIENCE, watch).await.expect("not told in time").unwrap();
                let now = store.get(&record.id).await.unwrap().unwrap();
                if let Some(outcome) = now.outcome() {
                    return outcome.clone();
                }
            }
        });
    }
    // Whoever begins to watch after the outcome is told of it at once, and would see nothing of waking.
    while watching.load(Ordering::Relaxed) < 1_000 {
        tokio::task::yield_now().await;
    }
    done(store.complete(completion(&record, "receipt", HOUR))).await;
    let seen = watchers.join_all().await;
    assert_eq!(seen.len(), 1_000);
    assert!(seen.iter().all(|seen| *seen == outcome("receipt")));
}

/// S12.
pub async fn s12_a_watch_of_what_has_changed_resolves_at_once(subject: Subject) {
    let store = subject.store();
    let record = won(&*store, claim_of(&id("k"))).await;
    done(store.complete(completion(&record, "receipt", HOUR))).await;
    timeout(PATIENCE, store.watch(&record.id, record.guard)).await.expect("not told in time").unwrap();
    timeout(PATIENCE, store.watch(&id("absent"), record.guard)).await.expect("not told in time").unwrap();
}

/// S12.
pub async fn s12_a_release_wakes(subject: Subject) {
    let store = subject.store();
    let record = won(&*store, claim_of(&id("k"))).await;
    let release = releasing(&record, ReleaseFrom::Claim);
    is_woken_by(&subject, &record, async { drop(done(store.release(release)).await) }).await;
    assert_eq!(subject.store().get(&record.id).await.unwrap(), None);
}

/// S12.
pub async fn s12_a_doubt_and_a_takeover_wake(subject: Subject) {
    let store = subject.store();
    let record = won(&*store, claim_of(&id("k"))).await;
    is_woken_by(&subject, &record, async { drop(done(store.doubt(doubting(&record))).await) }).await;
    is_woken_by(&subject, &record, async { drop(won(&*store, takeover_of(&record.id)).await) }).await;
}

async fn is_woken_by(subject: &Subject, record: &Record, change: impl Future<Output = ()>) {
    let (theirs, guard, watched) = (subject.store(), record.guard, record.id.clone());
    let watcher = tokio::spawn(async move {
        timeout(PATIENCE, theirs.watch(&watched, guard)).await.expect("not told in time").unwrap();
    });
    // Only who has subscribed at a server is told.
    tokio::time::sleep(Duration::from_millis(250)).await;
    change.await;
    watcher.await.unwrap();
}
