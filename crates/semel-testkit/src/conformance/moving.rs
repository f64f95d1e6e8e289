//! S13: a record that came from another store stands as it stood there, and replaces none.

use semel::State;
use semel::record::{AttemptId, DoubtCause, Guard, StateKind, Token};
use semel::store::{ScanArgs, StoreErrorKind};

use super::*;

/// What was claimed in another store `ahead` of this one's clock, and settled there.
async fn foreign(
    store: &dyn Store,
    key: &str,
    ahead: Duration,
    state: impl Fn(Timestamp) -> State,
) -> Record {
    let now = store.scan(ScanArgs { limit: 1, ..ScanArgs::default() }).await.unwrap().now;
    let claimed_at = now.plus(ahead);
    Record {
        id: id(key),
        fingerprint: request("100"),
        guard: Guard { token: Token(claimed_at.as_micros()), attempt: AttemptId::fresh() },
        generation: 3,
        claimed_at,
        doubt_retention: HOUR,
        state: state(now),
    }
}

fn completed(now: Timestamp) -> State {
    State::Completed { outcome: outcome("moved"), completed_at: now, expires_at: now.plus(HOUR) }
}

fn failed(now: Timestamp) -> State {
    State::Failed { outcome: outcome("declined"), completed_at: now, expires_at: now.plus(HOUR) }
}

fn in_doubt(now: Timestamp) -> State {
    State::InDoubt { since: now, expires_at: now.plus(HOUR), cause: DoubtCause::Abandoned }
}

fn in_flight(now: Timestamp) -> State {
    State::InFlight { lease_until: now.plus(HOUR), execute_until: now.plus(HOUR) }
}

/// S13.
pub async fn s13_an_imported_record_stands_as_it_was(subject: Subject) {
    let store = subject.store();
    let states = [("a", completed as fn(Timestamp) -> State), ("b", failed), ("c", in_doubt)];
    for (key, state) in states {
        stands_as_it_was(&*store, foreign(&*store, key, Duration::ZERO, state).await).await;
        let dead = won(&*store, claim_of(&id(&format!("{key} was here")))).await;
        done(store.complete(completion(&dead, "leaves nothing", HOUR))).await;
        done(store.release(releasing(&dead, ReleaseFrom::Finished))).await;
        stands_as_it_was(&*store, foreign(&*store, dead.id.key().as_str(), HOUR, state).await).await;
    }
    let doubt = store.get(&id("c")).await.unwrap().unwrap();
    let late = done(store.complete(completion(&doubt, "late", HOUR))).await.unwrap();
    assert_eq!(late.state.kind(), StateKind::Completed, "its holder can still complete it here");
    assert_eq!(done(store.import(doubt)).await, Some(late), "what stands under the same guard stays");
}

async fn stands_as_it_was(store: &dyn Store, record: Record) {
    let expected = Some(record.clone());
    assert_eq!(done(store.import(record.clone())).await, expected);
    assert_eq!(store.get(&record.id).await.unwrap(), expected);
    assert_eq!(Some(standing(store, claim_of(&record.id)).await), expected);
    assert_eq!(done(store.import(record)).await, expected, "again, after a lost reply");
}

/// S13.
pub async fn s13_import_replaces_no_record(subject: Subject) {
    let store = subject.store();
    let live = won(&*store, claim_of(&id("live"))).await;
    let settled = won(&*store, claim_of(&id("settled"))).await;
    let settled = done(store.complete(completion(&settled, "receipt", HOUR))).await.unwrap();
    for record in [live, settled] {
        let other = foreign(&*store, record.id.key().as_str(), HOUR, completed).await;
        assert_eq!(refused(store.import(other)).await, Some(record.clone()));
        assert_eq!(store.get(&record.id).await.unwrap(), Some(record));
    }
    let live = foreign(&*store, "in flight elsewhere", Duration::ZERO, in_flight).await;
    let error = store.import(live.clone()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable);
    let gone = foreign(&*store, "gone", Duration::ZERO, |now| State::Completed {
        outcome: outcome("moved"),
        completed_at: now,
        expires_at: now,
    });
    let gone = gone.await;
    assert_eq!(done(store.import(gone.clone())).await, None);
    for id in [live.id, gone.id] {
        assert_eq!(store.get(&id).await.unwrap(), None);
    }
}

/// S13, and S2 across stores.
pub async fn s13_tokens_grow_past_an_imported_one(subject: Subject) {
    let store = subject.store();
    let doubt = foreign(&*store, "taken over", HOUR, in_doubt).await;
    done(store.import(doubt.clone())).await;
    let taken = won(&*store, takeover_of(&doubt.id)).await;
    assert!(taken.guard.token > doubt.guard.token, "{} after {}", taken.guard.token, doubt.guard.token);
    assert_eq!(taken.generation, doubt.generation + 1);

    let finished = foreign(&*store, "purged", HOUR, completed).await;
    done(store.import(finished.clone())).await;
    done(store.release(releasing(&finished, ReleaseFrom::Finished))).await;
    let again = won(&*store, claim_of(&finished.id)).await;
    assert!(again.guard.token > finished.guard.token, "{} after {}", again.guard.token, finished.guard.token);
    done(store.release(releasing(&again, ReleaseFrom::Claim))).await;
    // One that is older brings no older tokens back.
    done(store.import(foreign(&*store, "older", Duration::ZERO, completed).await)).await;
    purge_all(&subject).await;
    let anew = won(&*store, claim_of(&finished.id)).await;
    assert!(anew.guard.token > again.guard.token, "{} after {}", anew.guard.token, again.guard.token);
}
