//! S5, S6 and S7: leases, expiry to the millisecond, and purging.

use std::collections::HashSet;

use semel::State;
use semel::record::StateKind;
use semel::store::ScanArgs;
use tokio::task::JoinSet;

use super::*;

const LEASE: Duration = Duration::from_secs(1);

fn short_lease(id: &RecordId) -> ClaimArgs {
    let mut args = claim_of(id);
    args.lease = LEASE;
    args
}

async fn kind(subject: &Subject, id: &RecordId) -> Option<StateKind> {
    subject.store.get(id).await.unwrap().map(|record| record.state.kind())
}

/// S5.
pub async fn s05_in_flight_never_expires_but_lapses(subject: Subject) {
    let store = subject.store();
    let record = won(&*store, short_lease(&id("k"))).await;
    if subject.clock.is_some() {
        subject.advance(LEASE - MILLI).await;
        assert_eq!(kind(&subject, &record.id).await, Some(StateKind::InFlight));
        assert_eq!(standing(&*store, takeover_of(&record.id)).await.state.kind(), StateKind::InFlight);
        subject.advance(MILLI).await;
    } else {
        subject.advance(LEASE + MILLI).await;
    }
    assert_eq!(kind(&subject, &record.id).await, Some(StateKind::InDoubt));
    assert_eq!(standing(&*store, claim_of(&record.id)).await.state.kind(), StateKind::InDoubt);
    let doubted = refused(store.renew(renewal(&record, HOUR))).await.unwrap();
    let State::InFlight { lease_until, .. } = record.state else { panic!("a won record is in flight") };
    assert!(matches!(doubted.state, State::InDoubt { since, .. } if since == lease_until));
    assert_eq!(done(store.doubt(doubting(&record))).await, Some(doubted), "said late, of what has lapsed");
    purge_all(&subject).await;
    assert_eq!(won(&*store, takeover_of(&record.id)).await.generation, 2);
}

/// S5.
pub async fn s05_renewal_ends_at_the_longest_execution(subject: Subject) {
    let store = subject.store();
    let mut args = short_lease(&id("k"));
    // Room for a busy machine, where time is the server's.
    (args.lease, args.max_execution) = (LEASE * 2, LEASE * 3);
    let record = won(&*store, args).await;
    subject.advance(LEASE / 2).await;
    let renewed = done(store.renew(renewal(&record, HOUR))).await.unwrap();
    let State::InFlight { lease_until, execute_until } = renewed.state else {
        panic!("a renewed record is in flight")
    };
    assert_eq!(lease_until, execute_until);
    assert_eq!(store.get(&record.id).await.unwrap(), Some(renewed));
    subject.advance(LEASE).await;
    assert_eq!(kind(&subject, &record.id).await, Some(StateKind::InFlight));
    subject.advance(LEASE * 2).await;
    assert_eq!(kind(&subject, &record.id).await, Some(StateKind::InDoubt));
    let late = done(store.complete(completion(&record, "late", HOUR))).await.unwrap();
    assert_eq!(late.state.kind(), StateKind::Completed);
}

/// S5: no time is no time, and not for ever.
pub async fn s05_a_lease_of_nothing_is_over_at_once(subject: Subject) {
    let store = subject.store();
    for (number, lease, longest) in [(0, Duration::ZERO, HOUR), (1, HOUR, Duration::ZERO)] {
        let mut args = claim_of(&id(&format!("k {number}")));
        (args.lease, args.max_execution) = (lease, longest);
        let record = won(&*store, args).await;
        assert_eq!(kind(&subject, &record.id).await, Some(StateKind::InDoubt));
        assert_eq!(standing(&*store, claim_of(&record.id)).await.state.kind(), StateKind::InDoubt);
        refused(store.renew(renewal(&record, HOUR))).await;
        assert_eq!(won(&*store, takeover_of(&record.id)).await.generation, 2);
    }
    let record = won(&*store, claim_of(&id("renewed"))).await;
    done(store.renew(renewal(&record, Duration::ZERO))).await;
    assert_eq!(kind(&subject, &record.id).await, Some(StateKind::InDoubt));
}

/// S6: at the expiry less 1 ms it is there, at the expiry and 1 ms later it is not.
pub async fn s06_outcomes_are_absent_from_their_expiry_on(subject: Subject) {
    let store = subject.store();
    for (number, retention) in [LEASE, LEASE * 3].into_iter().enumerate() {
        for later in [Duration::ZERO, MILLI] {
            let id = id(&format!("k {number} {later:?}"));
            let record = won(&*store, claim_of(&id)).await;
            let finished = done(store.complete(completion(&record, "x", retention))).await;
            if subject.clock.is_some() {
                subject.advance(retention - MILLI).await;
                assert_eq!(store.get(&id).await.unwrap(), finished);
                assert_eq!(Some(standing(&*store, claim_of(&id)).await), finished);
                subject.advance(MILLI + later).await;
            } else {
                subject.advance(retention + MILLI + later).await;
            }
            assert_eq!(store.get(&id).await.unwrap(), None);
            assert_eq!(refused(store.complete(completion(&record, "late", HOUR))).await, None);
            assert_eq!(won(&*store, claim_of(&id)).await.generation, 1);
        }
    }
}

/// S6: a store need not know anything at once, and what it does is what a claim would find.
pub async fn s06_what_is_near_is_finished_and_stands(subject: Subject) {
    let store = subject.store();
    let (id, other) = (id("k"), id_of("another", "http", "k"));
    assert_eq!(store.near(&id), None);
    let record = won(&*store, claim_of(&id)).await;
    assert_eq!(store.near(&id), None, "in flight");
    done(store.doubt(doubting(&record))).await;
    assert_eq!(store.near(&id), None, "in doubt");
    let record = won(&*store, takeover_of(&id)).await;
    assert_eq!(store.near(&id), None, "in flight again");
    let finished = done(store.complete(completion(&record, "x", LEASE))).await;
    for _ in 0..2 {
        assert!(store.near(&id).is_none_or(|near| Some(near) == finished));
        assert_eq!(Some(standing(&*store, claim_of(&id)).await), finished);
    }
    assert_eq!(store.near(&other), None);
    subject.advance(LEASE + MILLI).await;
    assert_eq!(store.near(&id), None, "expired");
    let record = won(&*store, claim_of(&id)).await;
    assert_eq!(store.near(&id), None, "claimed afresh");
    done(store.complete(completion(&record, "y", HOUR))).await;
    done(store.release(releasing(&record, ReleaseFrom::Finished))).await;
    assert_eq!(store.near(&id), None, "purged by name");
}

/// S6: as outcomes do.
pub async fn s06_failures_stand_until_their_expiry_and_are_listed(subject: Subject) {
    let store = subject.store();
    let record = won(&*store, claim_of(&id("k"))).await;
    let failing = |record: &Record| CompleteArgs {
        ending: Ending::Failed(outcome("declined")),
        ..completion(record, "declined", LEASE * 2)
    };
    let failed = done(store.complete(failing(&record))).await.unwrap();
    let listed = async || {
        let args = ScanArgs { state: Some(StateKind::Failed), limit: 10, ..ScanArgs::default() };
        let records = store.scan(args).await.unwrap().records;
        records.into_iter().map(|record| (record.id, record.guard)).collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [(failed.id.clone(), failed.guard)]);
    assert_eq!(standing(&*store, takeover_of(&record.id)).await, failed);
    subject.advance(LEASE).await;
    assert_eq!(standing(&*store, claim_of(&record.id)).await, failed);
    subject.advance(LEASE + MILLI).await;
    assert_eq!(store.get(&record.id).await.unwrap(), None);
    assert_eq!(listed().await, []);
    let again = won(&*store, claim_of(&record.id)).await;
    assert_eq!(again.generation, 1);
    done(store.complete(failing(&again))).await;
    done(store.release(releasing(&again, ReleaseFrom::Finished))).await;
    assert_eq!(store.get(&record.id).await.unwrap(), None);
}

/// S6.
pub async fn s06_doubts_are_absent_from_their_expiry_on(subject: Subject) {
    let store = subject.store();
    for said in [true, false] {
        let mut args = short_lease(&id(&format!("said {said}")));
        args.doubt_retention = LEASE;
        let record = won(&*store, args.clone()).await;
        if said {
            done(store.doubt(doubting(&record))).await;
        } else {
            subject.advance(LEASE).await;
        }
        if subject.clock.is_some() {
            subject.advance(LEASE - MILLI).await;
            assert_eq!(kind(&subject, &record.id).await, Some(StateKind::InDoubt));
            subject.advance(MILLI).await;
        } else {
            subject.advance(LEASE + MILLI).await;
        }
        assert_eq!(kind(&subject, &record.id).await, None);
        assert_eq!(refused(store.complete(completion(&record, "late", HOUR))).await, None);
        assert_eq!(won(&*store, claim_of(&record.id)).await.generation, 1);
    }
}

/// S7.
pub async fn s07_purge_takes_what_expired_and_nothing_else(subject: Subject) {
    let store = subject.store();
    let (mut live, mut expiring) = (HashSet::new(), HashSet::new());
    for number in 0..60 {
        let record = won(&*store, claim_of(&id(&format!("k {number}")))).await;
        match number % 3 {
            0 => done(store.complete(completion(&record, "x", LEASE))).await,
            1 => done(store.complete(completion(&record, "x", HOUR))).await,
            _ => Some(record.clone()),
        };
        let kept = if number % 3 == 0 { &mut expiring } else { &mut live };
        kept.insert(record.id);
    }
    assert_eq!(store.purge(1_000).await.unwrap(), 0);
    // A store may keep expired records for a while, as long as it does not show them.
    subject.advance(LEASE * 3).await;
    if !subject.purges_itself {
        assert_eq!(store.purge(5).await.unwrap(), 5, "purging stops at the limit");
        assert_eq!(store.purge(1_000).await.unwrap(), 15);
    }
    assert_eq!(store.purge(1_000).await.unwrap(), 0);
    for id in &expiring {
        assert_eq!(store.get(id).await.unwrap(), None);
    }
    for id in &live {
        assert!(store.get(id).await.unwrap().is_some());
    }
}

/// S7.
pub async fn s07_purge_racing_claims_takes_no_live_record(subject: Subject) {
    let mut workers = JoinSet::new();
    for worker in 0..8 {
        let store = subject.store();
        workers.spawn(async move {
            let id = id(&format!("worker {worker}"));
            for round in 0..40 {
                let record = won(&*store, claim_of(&id)).await;
                tokio::task::yield_now().await;
                assert_eq!(store.get(&id).await.unwrap(), Some(record.clone()), "round {round}");
                done(store.complete(completion(&record, "x", Duration::ZERO))).await;
            }
        });
    }
    let store = subject.store();
    let purger = tokio::spawn(async move {
        let mut purged = 0;
        loop {
            purged += store.purge(10).await.unwrap();
            tokio::task::yield_now().await;
            if purged >= 320 {
                return;
            }
        }
    });
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    if subject.purges_itself {
        return purger.abort();
    }
    subject.advance(LEASE * 3).await;
    // At most one record of each key is left when a store overwrites what expired.
    tokio::time::timeout(Duration::from_secs(5), purger).await.ok();
    subject.store.purge(1_000).await.unwrap();
    assert_eq!(subject.store.purge(1_000).await.unwrap(), 0);
}
