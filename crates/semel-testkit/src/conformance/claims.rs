//! S1, S2 and S8 of claims: one winner, growing tokens, a repeated claim recognised.

use std::sync::Arc;

use semel::policy::OnMismatch;
use semel::record::{DoubtCause, ReleaseFrom, StateKind};
use semel::store::{Claimed, DoubtArgs};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::*;

/// Lets `racers` claims go at once; returns the winners and what the losers were shown.
async fn race(subject: &Subject, racers: usize, args: impl Fn() -> ClaimArgs) -> (Vec<Record>, Vec<Record>) {
    let barrier = Arc::new(Barrier::new(racers));
    let mut tasks = JoinSet::new();
    for _ in 0..racers {
        let (store, barrier, args) = (subject.store(), Arc::clone(&barrier), args());
        tasks.spawn(async move {
            barrier.wait().await;
            store.claim(args).await.unwrap()
        });
    }
    let (mut winners, mut losers) = (Vec::new(), Vec::new());
    for claimed in tasks.join_all().await {
        match claimed {
            Claimed::Won(record) => winners.push(record),
            Claimed::Standing(record) => losers.push(record),
        }
    }
    (winners, losers)
}

/// S1.
pub async fn s01_one_of_64_racing_claims_is_won(subject: Subject) {
    for round in 0..30 {
        let id = id(&format!("race {round}"));
        let (winners, losers) = race(&subject, 64, || claim_of(&id)).await;
        assert_eq!((winners.len(), losers.len()), (1, 63), "round {round}");
        assert!(losers.iter().all(|shown| shown.guard == winners[0].guard), "round {round}");
    }
}

/// S1.
pub async fn s01_one_of_three_takers_over_wins_every_round(subject: Subject) {
    let store = subject.store();
    let id = id("doubted");
    let mut holder = won(&*store, claim_of(&id)).await;
    for round in 0..300 {
        let doubt = DoubtArgs { id: id.clone(), guard: holder.guard, cause: DoubtCause::NoAnswer };
        done(store.doubt(doubt)).await;
        let (winners, losers) = race(&subject, 3, || takeover_of(&id)).await;
        assert_eq!((winners.len(), losers.len()), (1, 2), "round {round}");
        assert_eq!(winners[0].generation, holder.generation + 1, "round {round}");
        assert!(winners[0].guard.token > holder.guard.token, "round {round}");
        holder = winners[0].clone();
    }
}

/// S1.
pub async fn s01_duplicates_are_shown_what_stands(subject: Subject) {
    let store = subject.store();
    let id = id("k");
    let first = won(&*store, claim_of(&id)).await;
    assert_eq!(first.generation, 1);
    assert_eq!(standing(&*store, claim_of(&id)).await.guard, first.guard);
    done(store.complete(completion(&first, "receipt", HOUR))).await;
    let shown = standing(&*store, claim_of(&id)).await;
    assert_eq!(shown.outcome(), Some(&outcome("receipt")));
    assert_eq!(standing(&*store, takeover_of(&id)).await, shown, "a takeover never takes a finished record");
}

/// S1, with the fingerprint compared before a takeover.
pub async fn s01_mismatch_never_takes_over(subject: Subject) {
    let store = subject.store();
    let id = id("k");
    let first = won(&*store, claim_of(&id)).await;
    done(store.doubt(doubting(&first))).await;
    assert_eq!(standing(&*store, claim_of(&id)).await.state.kind(), StateKind::InDoubt);
    let mut other = takeover_of(&id);
    other.fingerprint.payload = request("900").payload;
    assert_eq!(standing(&*store, other.clone()).await.fingerprint, first.fingerprint);
    other.on_mismatch = OnMismatch::Replay;
    let mut elsewhere = other.clone();
    elsewhere.fingerprint.target = fingerprint::target("POST", "/elsewhere", None);
    assert_eq!(standing(&*store, elsewhere).await.fingerprint, first.fingerprint);
    assert_eq!(won(&*store, other).await.generation, 2);
}

/// S2.
pub async fn s02_tokens_grow_over_release_expiry_and_takeover(subject: Subject) {
    let store = subject.store();
    let id = id("k");
    let mut last = semel::Token(0);
    for round in 0..61 {
        let record = won(&*store, takeover_of(&id)).await;
        assert!(record.guard.token > last, "round {round}: {} after {last}", record.guard.token);
        last = record.guard.token;
        match round % 3 {
            0 => {
                done(store.release(releasing(&record, ReleaseFrom::Claim))).await;
            }
            1 => {
                done(store.complete(completion(&record, "x", MILLI))).await;
                subject.advance(MILLI).await;
            }
            _ => {
                let doubt = DoubtArgs { id: id.clone(), guard: record.guard, cause: DoubtCause::Abandoned };
                done(store.doubt(doubt)).await;
            }
        }
    }
    // The last round released it.
    purge_all(&subject).await;
    let record = won(&*store, claim_of(&id)).await;
    assert!(record.guard.token > last, "purged: {} after {last}", record.guard.token);
}

/// S8.
pub async fn s08_a_repeated_claim_is_won_again(subject: Subject) {
    let store = subject.store();
    let args = claim_of(&id("k"));
    let first = won(&*store, args.clone()).await;
    assert_eq!(won(&*store, args.clone()).await, first);
    assert_eq!(standing(&*store, claim_of(&args.id)).await.guard, first.guard);
}
