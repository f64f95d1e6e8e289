//! S3, S4, S8 and S10: guarded writes, what is read back, repeats, and futures that are dropped.

use std::future::poll_fn;
use std::task::Poll;

use semel::record::{AttemptId, DoubtCause, Guard, ReleaseFrom, StateKind};
use semel::store::DoubtArgs;
use semel::{State, Token};

use super::*;

/// S3.
pub async fn s03_a_stale_guard_changes_nothing(subject: Subject) {
    let store = subject.store();
    let id = id("k");
    let old = won(&*store, claim_of(&id)).await;
    done(store.doubt(doubting(&old))).await;
    let new = won(&*store, takeover_of(&id)).await;
    let token_only = Guard { token: new.guard.token, attempt: AttemptId::fresh() };
    let attempt_only = Guard { token: Token(new.guard.token.0 + 1), attempt: new.guard.attempt };
    for guard in [old.guard, token_only, attempt_only] {
        let stale = Record { guard, ..new.clone() };
        let expected = Some(new.clone());
        assert_eq!(refused(store.renew(renewal(&stale, HOUR))).await, expected);
        assert_eq!(refused(store.complete(completion(&stale, "late", HOUR))).await, expected);
        assert_eq!(refused(store.doubt(doubting(&stale))).await, expected);
        for from in [ReleaseFrom::Claim, ReleaseFrom::Doubt, ReleaseFrom::Finished] {
            assert_eq!(refused(store.release(releasing(&stale, from))).await, expected);
        }
        assert_eq!(store.get(&id).await.unwrap(), expected);
    }
    done(store.complete(completion(&new, "receipt", HOUR))).await;
    let shown = refused(store.complete(completion(&old, "late", HOUR))).await.unwrap();
    assert_eq!(shown.outcome(), Some(&outcome("receipt")), "the loser is shown what the winner stored");
    done(store.release(releasing(&new, ReleaseFrom::Finished))).await;
    assert_eq!(refused(store.complete(completion(&new, "late", HOUR))).await, None);
    assert_eq!(store.get(&id).await.unwrap(), None);
}

/// S3.
pub async fn s03_each_state_allows_only_its_own_writes(subject: Subject) {
    let store = subject.store();
    let record = won(&*store, claim_of(&id("k"))).await;
    refused(store.release(releasing(&record, ReleaseFrom::Doubt))).await;
    refused(store.release(releasing(&record, ReleaseFrom::Finished))).await;
    done(store.doubt(doubting(&record))).await;
    assert_eq!(refused(store.renew(renewal(&record, HOUR))).await.unwrap().state.kind(), StateKind::InDoubt);
    refused(store.release(releasing(&record, ReleaseFrom::Finished))).await;
    let late = done(store.complete(completion(&record, "late", HOUR))).await.unwrap();
    assert_eq!(late.state.kind(), StateKind::Completed, "the late completion of the holder ends the doubt");
    refused(store.doubt(doubting(&record))).await;
    refused(store.renew(renewal(&record, HOUR))).await;
    refused(store.release(releasing(&record, ReleaseFrom::Claim))).await;
    refused(store.release(releasing(&record, ReleaseFrom::Doubt))).await;
    done(store.release(releasing(&record, ReleaseFrom::Finished))).await;

    let again = won(&*store, claim_of(&record.id)).await;
    assert_eq!(again.generation, 1, "a record that was absent begins anew");
    done(store.doubt(doubting(&again))).await;
    done(store.release(releasing(&again, ReleaseFrom::Doubt))).await;
    assert_eq!(store.get(&record.id).await.unwrap(), None);

    let third = won(&*store, claim_of(&record.id)).await;
    done(store.doubt(doubting(&third))).await;
    done(store.release(releasing(&third, ReleaseFrom::Claim))).await;
    assert_eq!(store.get(&record.id).await.unwrap(), None, "its holder knows better");
}

/// S4, as far as it shows while the store lives.
pub async fn s04_what_was_acknowledged_is_read_back(subject: Subject) {
    let store = subject.store();
    for number in 0..50 {
        let id = id(&format!("k {number}"));
        let claimed = won(&*store, claim_of(&id)).await;
        assert_eq!(store.get(&id).await.unwrap(), Some(claimed.clone()));
        let finished = done(store.complete(completion(&claimed, "x", HOUR))).await;
        assert_eq!(store.get(&id).await.unwrap(), finished);
        done(store.release(releasing(&claimed, ReleaseFrom::Finished))).await;
        assert_eq!(store.get(&id).await.unwrap(), None);
    }
    for cause in DoubtCause::ALL {
        let claimed = won(&*store, claim_of(&id(cause.as_str()))).await;
        let doubted = done(store.doubt(DoubtArgs { cause, ..doubting(&claimed) })).await.unwrap();
        assert!(matches!(doubted.state, State::InDoubt { cause: kept, .. } if kept == cause), "{doubted:?}");
        assert_eq!(store.get(&doubted.id).await.unwrap(), Some(doubted));
    }
}

/// S4.
pub async fn s04_outcomes_come_back_byte_for_byte(subject: Subject) {
    let store = subject.store();
    let noise: Vec<u8> =
        (0..100_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let bodies = [Vec::new(), vec![0; 1], b"text".to_vec(), vec![b'a'; 300_000], noise, (0..=255).collect()];
    for (number, body) in (0_u16..).zip(bodies) {
        let claimed = won(&*store, claim_of(&id(&format!("body {number}")))).await;
        let outcome = Outcome {
            code: 200 + number,
            head: vec![number.to_le_bytes()[0]; 40].into(),
            body: body.into(),
            body_kept: number != 0,
        };
        let mut args = completion(&claimed, "", HOUR);
        args.ending = if number % 2 == 0 {
            Ending::Completed(outcome.clone())
        } else {
            Ending::Failed(outcome.clone())
        };
        done(store.complete(args)).await;
        let read = store.get(&claimed.id).await.unwrap().unwrap();
        assert_eq!(read.outcome(), Some(&outcome));
        assert_eq!(matches!(read.state, State::Failed { .. }), number % 2 == 1);
        assert_eq!(standing(&*store, claim_of(&claimed.id)).await, read);
    }
}

/// S8.
pub async fn s08_repeated_writes_are_answered_as_the_first(subject: Subject) {
    let store = subject.store();
    let record = won(&*store, claim_of(&id("k"))).await;
    let first = done(store.doubt(doubting(&record))).await;
    subject.advance(MILLI).await;
    assert_eq!(done(store.doubt(doubting(&record))).await, first);
    let first = done(store.complete(completion(&record, "one", HOUR))).await;
    subject.advance(MILLI).await;
    assert_eq!(done(store.complete(completion(&record, "two", HOUR))).await, first);
    assert_eq!(store.get(&record.id).await.unwrap(), first);
}

/// S10.
pub async fn s10_a_dropped_future_happens_wholly_or_not_at_all(subject: Subject) {
    let store = subject.store();
    for number in 0..200 {
        let args = claim_of(&id(&format!("dropped {number}")));
        let mut claim = store.claim(args.clone());
        poll_fn(|context| {
            let _ = claim.as_mut().poll(context);
            Poll::Ready(())
        })
        .await;
        drop(claim);
        // Whoever asks again under the same attempt wins, whether or not the first call was carried out.
        let record = won(&*store, args).await;
        let mut completing = store.complete(completion(&record, "x", HOUR));
        poll_fn(|context| {
            let _ = completing.as_mut().poll(context);
            Poll::Ready(())
        })
        .await;
        drop(completing);
        let finished = done(store.complete(completion(&record, "x", HOUR))).await.unwrap();
        assert_eq!(store.get(&record.id).await.unwrap(), Some(finished));
    }
}
