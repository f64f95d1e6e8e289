//! The engine on a store that answers late or not at all, under tokio's paused time: nothing is run under a claim
//! that nobody is sure of, nobody waits for ever, and no claim stays behind.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use semel::clock::{Clock, Timestamp};
use semel::engine::Limits;
use semel::event::Silent;
use semel::fingerprint::{PayloadParts, payload, target};
use semel::policy::OnDoubt;
use semel::record::{DoubtCause, StateKind};
use semel::store::memory::MemoryStore;
use semel::store::{ReleaseArgs, ReleaseFrom, Store};
use semel::{
    Ask, Begun, Claim, Code, Completion, Engine, Fingerprint, Key, Operation, Outcome, Policy, Record,
    Refusal, Tenant,
};
use semel_testkit::faulty_store::{Fault, FaultyStore, Method};
use tokio::time::{Instant, sleep};

#[derive(Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000).plus(self.0.elapsed())
    }
}

struct Scene {
    /// What is stored, whatever is said of it.
    memory: Arc<MemoryStore>,
    store: Arc<FaultyStore>,
    engine: Engine,
}

impl Scene {
    fn new() -> Self {
        let memory = Arc::new(MemoryStore::with_clock(Arc::new(TokioClock(Instant::now()))));
        let store = Arc::new(FaultyStore::new(memory.clone()));
        let engine = Engine::with(store.clone(), Arc::new(Silent), Limits::default());
        Self { memory, store, engine }
    }

    async fn win(&self, ask: Ask) -> Claim {
        match self.engine.begin(ask).await.unwrap() {
            Begun::Run(claim) => {
                claim.start();
                claim
            }
            other => panic!("expected the claim, got {other:?}"),
        }
    }

    async fn unavailable(&self, ask: Ask) {
        let error = self.engine.begin(ask).await.unwrap_err();
        assert_eq!(error.code(), Code::StoreUnavailable);
    }

    async fn stored(&self) -> Option<Record> {
        self.memory.get(&ask().id).await.unwrap()
    }

    /// Waits until a claim was released, as [`Self::comes_to`].
    async fn given_back(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.store.calls(Method::Release) == 0 {
            assert!(Instant::now() < deadline, "never released");
            sleep(Duration::from_millis(1)).await;
        }
        self.comes_to(None).await;
    }

    /// Waits for what goes on in the background, for a simulated minute at the most.
    async fn comes_to(&self, state: Option<StateKind>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.stored().await.map(|record| record.state.kind()) != state {
            assert!(Instant::now() < deadline, "never {state:?}: {:?}", self.stored().await);
            sleep(Duration::from_millis(1)).await;
        }
    }
}

fn ask() -> Ask {
    ask_with(OnDoubt::Hold)
}

fn ask_with(on_doubt: OnDoubt) -> Ask {
    let fingerprint =
        Fingerprint { target: target("POST", "/pay", None), payload: payload(b"100", &PayloadParts::Raw) };
    let policy = Policy { on_doubt, ..Policy::default() };
    Ask::new(Tenant::public(), Operation::http(), Key::new("k").unwrap(), fingerprint, Arc::new(policy))
}

fn outcome() -> Outcome {
    Outcome { code: 201, body: "paid".into(), body_kept: true, ..Outcome::default() }
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_reply_is_late_is_found_by_its_attempt_and_kept() {
    let scene = Scene::new();
    scene.store.once(Method::Claim, Fault::HoldReply);
    let began = Instant::now();
    let claim = scene.win(ask()).await;
    assert_eq!(began.elapsed().as_secs(), 5);
    scene.store.let_go();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(scene.stored().await.unwrap().state.kind(), StateKind::InFlight, "the late reply undid it");
    assert!(matches!(claim.complete(outcome()).await, Completion::Stored(_)));
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_arrives_after_its_caller_was_refused_is_given_back() {
    let scene = Scene::new();
    scene.store.once(Method::Claim, Fault::HoldCall);
    scene.unavailable(ask()).await;
    assert_eq!(scene.stored().await, None);
    scene.store.let_go();
    scene.given_back().await;
    assert_eq!(scene.win(ask()).await.generation(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_a_store_that_says_nothing_at_all_is_given_back_once_it_speaks() {
    let scene = Scene::new();
    scene.store.once(Method::Claim, Fault::HoldReply);
    scene.store.once(Method::Get, Fault::HoldReply);
    let began = Instant::now();
    scene.unavailable(ask()).await;
    assert_eq!(began.elapsed().as_secs(), 10);
    assert!(scene.stored().await.is_some());
    scene.store.let_go();
    scene.comes_to(None).await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_reply_was_lost_is_looked_for_until_it_shows() {
    let scene = Scene::new();
    scene.store.once(Method::Claim, Fault::LoseReply);
    scene.store.once(Method::Get, Fault::Refuse);
    scene.unavailable(ask()).await;
    assert_eq!(scene.stored().await.unwrap().state.kind(), StateKind::InFlight);
    scene.store.once(Method::Get, Fault::Refuse);
    scene.comes_to(None).await;
}

#[tokio::test(start_paused = true)]
async fn a_doubt_that_was_taken_over_unnoticed_is_a_doubt_again() {
    let scene = Scene::new();
    scene.win(ask()).await.doubt(DoubtCause::NoAnswer).await;
    scene.store.once(Method::Claim, Fault::HoldReply);
    scene.store.once(Method::Get, Fault::Refuse);
    scene.unavailable(ask_with(OnDoubt::Retry)).await;
    assert_eq!(scene.stored().await.unwrap().state.kind(), StateKind::InFlight);
    scene.store.let_go();
    scene.comes_to(Some(StateKind::InDoubt)).await;
    assert_eq!(scene.win(ask_with(OnDoubt::Retry)).await.generation(), 3);
}

#[tokio::test(start_paused = true)]
async fn waiters_are_told_that_the_store_says_nothing() {
    let scene = Scene::new();
    scene.store.always(Method::Claim, Fault::HoldCall);
    let began = Instant::now();
    let waiters: Vec<_> = (0..20)
        .map(|_| {
            let engine = scene.engine.clone();
            tokio::spawn(async move { engine.begin(ask()).await.unwrap_err().code() })
        })
        .collect();
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap(), Code::StoreUnavailable);
    }
    assert_eq!((began.elapsed().as_secs(), scene.store.calls(Method::Claim)), (5, 1));
}

#[tokio::test(start_paused = true)]
async fn a_claim_outlives_the_caller_who_hung_up() {
    let scene = Scene::new();
    scene.store.once(Method::Claim, Fault::HoldCall);
    let _ = tokio::time::timeout(Duration::from_secs(1), scene.engine.begin(ask())).await;
    scene.store.let_go();
    scene.given_back().await;
}

#[tokio::test(start_paused = true)]
async fn a_hanging_renewal_keeps_no_effect_from_completing() {
    let scene = Scene::new();
    scene.store.always(Method::Renew, Fault::HoldCall);
    let claim = scene.win(ask()).await;
    sleep(Duration::from_secs(4)).await;
    let began = Instant::now();
    assert!(matches!(claim.complete(outcome()).await, Completion::Stored(_)));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_hangs_is_followed_by_one_that_does_not() {
    let scene = Scene::new();
    scene.store.once(Method::Renew, Fault::HoldCall);
    let claim = scene.win(ask()).await;
    sleep(Duration::from_secs(25)).await;
    assert_eq!(scene.stored().await.unwrap().state.kind(), StateKind::InFlight);
    drop(claim);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_not_renewed_once_its_claim_is_settled() {
    for (held_for, renewals) in [(1, 0), (4, 1)] {
        let scene = Scene::new();
        let claim = scene.win(ask()).await;
        sleep(Duration::from_secs(held_for)).await;
        assert!(matches!(claim.complete(outcome()).await, Completion::Stored(_)));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(scene.store.calls(Method::Renew), renewals, "held for {held_for} s");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_whose_reply_is_lost_or_late_is_stored() {
    for (fault, took_ms) in [
        (Fault::HoldReply, 1_600..1_800),
        (Fault::HoldCall, 1_600..1_800),
        (Fault::LoseReply, 0..200),
        (Fault::Delay(Duration::from_secs(2)), 2_000..2_001),
    ] {
        let scene = Scene::new();
        let claim = scene.win(ask()).await;
        match fault {
            Fault::Delay(_) => scene.store.always(Method::Complete, fault),
            _ => scene.store.once(Method::Complete, fault),
        }
        let began = Instant::now();
        assert!(matches!(claim.complete(outcome()).await, Completion::Stored(_)), "{fault:?}");
        assert!(took_ms.contains(&began.elapsed().as_millis()), "{fault:?}: {:?}", began.elapsed());
        scene.store.let_go();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(scene.stored().await.unwrap().outcome(), Some(&outcome()), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_nobody_takes_is_unrecorded_in_time() {
    let scene = Scene::new();
    let claim = scene.win(ask()).await;
    scene.store.always(Method::Complete, Fault::HoldCall);
    let began = Instant::now();
    assert!(matches!(claim.complete(outcome()).await, Completion::Unrecorded(_)));
    assert!(began.elapsed() <= Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_an_outcome_is_asked_less_and_less_often() {
    let scene = Scene::new();
    let claim = scene.win(ask()).await;
    scene.store.always(Method::Complete, Fault::Refuse);
    assert!(matches!(claim.complete(outcome()).await, Completion::Unrecorded(_)));
    // From 20 ms to half a second, times the jitter, within 5 s.
    let calls = scene.store.calls(Method::Complete);
    assert!((8..40).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_over_twice_wakes_one_waiter() {
    let scene = Scene::new();
    let short = Policy { max_execution: Duration::from_secs(2), ..Policy::default() };
    let first = scene.win(Ask { policy: Arc::new(short), ..ask() }).await;
    let waiting = |engine: Engine| tokio::spawn(async move { engine.begin(ask()).await.unwrap() });
    let waiters = [waiting(scene.engine.clone()), waiting(scene.engine.clone())];
    // The claim lapses, and somebody says that the effect did not happen, before its holder looks.
    sleep(Duration::from_millis(2_500)).await;
    let record = scene.stored().await.unwrap();
    let args = ReleaseArgs { id: record.id, guard: record.guard, from: ReleaseFrom::Doubt };
    scene.memory.release(args).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    assert_eq!(scene.store.calls(Method::Claim), 2, "the renewal was refused, and one waiter claimed");
    first.release().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.store.calls(Method::Claim), 2, "the other waiter was woken");
    let mut won = 0;
    for waiter in waiters {
        match waiter.await.unwrap() {
            Begun::Run(claim) => {
                won += 1;
                claim.start();
                assert!(matches!(claim.complete(outcome()).await, Completion::Stored(_)));
            }
            Begun::Replay(_) | Begun::Refuse(Refusal::InProgress) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_while_claiming_leaves_nothing_claimed() {
    let scene = Scene::new();
    scene.store.once(Method::Claim, Fault::HoldReply);
    let begun = tokio::time::timeout(Duration::from_millis(1), scene.engine.begin(ask())).await;
    assert!(begun.is_err(), "the claim is on its way");
    scene.store.let_go();
    sleep(Duration::from_millis(1)).await;
    drop(scene.win(ask()).await);
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

#[test]
fn leases_are_renewed_after_the_runtime_of_an_earlier_claim_has_ended() {
    let scene = Scene::new();
    runtime().block_on(async { scene.win(ask()).await.release().await });
    runtime().block_on(async {
        let claim = scene.win(ask()).await;
        sleep(Policy::default().lease).await;
        assert!(scene.store.calls(Method::Renew) > 0);
        claim.release().await;
    });
}

#[test]
fn a_claim_that_is_dropped_outside_of_a_runtime_holds_up_nobody_here_and_is_in_doubt_once_it_lapses() {
    let scene = Scene::new();
    drop(runtime().block_on(scene.win(ask())));
    assert_eq!(scene.engine.live_claims(), 0);
    runtime().block_on(async {
        scene.comes_to(Some(StateKind::InDoubt)).await;
        let begun = scene.engine.begin(ask()).await.unwrap();
        assert!(matches!(begun, Begun::Refuse(Refusal::InDoubt(Some(_)))), "{begun:?}");
    });
}
