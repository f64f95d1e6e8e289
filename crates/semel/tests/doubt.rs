//! A doubt is not forgotten by whoever takes it over, and whoever resolves it first is believed.

use std::sync::Arc;
use std::time::Duration;

use semel::fingerprint::{PayloadParts, payload, target};
use semel::policy::OnDoubt;
use semel::record::{DoubtCause, Ending};
use semel::store::CompleteArgs;
use semel::store::memory::MemoryStore;
use semel::{
    Ask, Begun, Claim, Completion, Engine, Fingerprint, Key, Operation, Outcome, Policy, Record, Tenant,
};

fn ask(on_doubt: OnDoubt) -> Ask {
    let fingerprint =
        Fingerprint { target: target("POST", "/pay", None), payload: payload(b"100", &PayloadParts::Raw) };
    let key = Key::new("k").expect("it is a key");
    let policy = Policy { on_doubt, ..Policy::default() };
    Ask::new(Tenant::public(), Operation::http(), key, fingerprint, Arc::new(policy))
}

async fn win(engine: &Engine, on_doubt: OnDoubt) -> Claim {
    match engine.begin(ask(on_doubt)).await.expect("the store answers") {
        Begun::Run(claim) => claim,
        other => panic!("expected the claim, got {other:?}"),
    }
}

/// The record once it is no longer in flight.
async fn settled(engine: &Engine) -> Option<Record> {
    let id = ask(OnDoubt::Hold).id;
    loop {
        match engine.store().get(&id).await.expect("the store answers") {
            Some(record) if record.state.kind() == semel::record::StateKind::InFlight => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            settled => return settled,
        }
    }
}

fn outcome(text: &str) -> Outcome {
    Outcome { code: 201, body: text.to_owned().into(), body_kept: true, ..Outcome::default() }
}

#[tokio::test(start_paused = true)]
async fn a_doubt_that_was_taken_over_and_given_up_is_in_doubt_again() {
    for release in [false, true] {
        let engine = Engine::new(MemoryStore::new());
        win(&engine, OnDoubt::Probe).await.doubt(DoubtCause::NoAnswer).await;
        let again = win(&engine, OnDoubt::Probe).await;
        assert_eq!(again.generation(), 2);
        if release {
            again.release().await;
        } else {
            drop(again);
        }
        assert!(settled(&engine).await.is_some(), "the doubt was forgotten");
        assert_eq!(win(&engine, OnDoubt::Probe).await.generation(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_completion_is_told_what_an_operator_decided_before_it() {
    let engine = Engine::new(MemoryStore::new());
    let policy = Policy { max_execution: Duration::from_secs(2), ..Policy::default() };
    let claim = match engine.begin(Ask { policy: Arc::new(policy), ..ask(OnDoubt::Hold) }).await.unwrap() {
        Begun::Run(claim) => claim,
        other => panic!("expected the claim, got {other:?}"),
    };
    claim.start();
    let id = claim.id().clone();
    let guard = engine.store().get(&id).await.unwrap().unwrap().guard;
    let ending = Ending::Completed(outcome("the operator's"));
    let args = CompleteArgs { id, guard, ending, retention: Duration::from_secs(60) };
    engine.store().complete(args).await.unwrap();
    match claim.complete(outcome("the late one")).await {
        Completion::Superseded(Some(record)) => {
            assert_eq!(record.outcome(), Some(&outcome("the operator's")));
        }
        other => panic!("the late completion was believed: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn duplicates_stop_waiting_for_a_claim_whose_lease_is_gone() {
    #[derive(Debug)]
    struct TokioClock(tokio::time::Instant);
    impl semel::clock::Clock for TokioClock {
        fn now(&self) -> semel::clock::Timestamp {
            semel::clock::Timestamp::from_micros(1_700_000_000_000_000).plus(self.0.elapsed())
        }
    }
    let clock = TokioClock(tokio::time::Instant::now());
    let engine = Engine::new(MemoryStore::with_clock(Arc::new(clock)));
    let policy = Policy { max_execution: Duration::from_secs(2), ..Policy::default() };
    let mine = Ask { policy: Arc::new(policy), ..ask(OnDoubt::Hold) };
    let Begun::Run(claim) = engine.begin(mine).await.unwrap() else { panic!("no claim") };
    claim.start();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let duplicate = engine.begin(ask(OnDoubt::Hold)).await.unwrap();
    assert!(matches!(duplicate, Begun::Refuse(semel::Refusal::InDoubt(_))), "{duplicate:?}");
    assert!(matches!(claim.complete(outcome("late")).await, Completion::Stored(_)));
}
