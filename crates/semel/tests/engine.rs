//! The engine on the memory store, under tokio's paused time: who claims, who waits, who is refused.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use semel::clock::{Clock, Timestamp};
use semel::engine::Limits;
use semel::event::{Event, Observer, Silent};
use semel::fingerprint::{Difference, PayloadParts, payload, target};
use semel::policy::{OnDoubt, OnDuplicate, OnMismatch};
use semel::record::{DoubtCause, StateKind};
use semel::store::memory::MemoryStore;
use semel::store::{
    Capabilities, ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Guard, Page, ReleaseArgs, ReleaseFrom,
    RenewArgs, ScanArgs, Store, StoreError, StoreErrorKind, StoreFuture, Tier, Written,
};
use semel::{
    Ask, Begun, Claim, Code, Completion, EffectError, Engine, Fingerprint, Key, OnceError, Operation,
    Outcome, Policy, Record, RecordId, Refusal, Tenant,
};
use tokio::time::{Instant, advance, sleep};

/// The store's clock on tokio's time, so that pausing one pauses both.
#[derive(Debug)]
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000).plus(self.0.elapsed())
    }
}

#[derive(Debug, Default)]
struct StoreCalls(AtomicUsize);

impl Observer for StoreCalls {
    fn observe(&self, event: &Event<'_>) {
        if matches!(event, Event::StoreCalled { .. }) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// A store that can be cut off from those who hold claims in it.
#[derive(Debug)]
struct Shaky {
    inner: Arc<MemoryStore>,
    away: AtomicBool,
}

impl Shaky {
    fn new() -> Arc<Self> {
        Arc::new(Self { inner: store(), away: AtomicBool::new(false) })
    }

    fn written<'a>(&self, step: StoreFuture<'a, Written>) -> StoreFuture<'a, Written> {
        if self.away.load(Ordering::SeqCst) {
            return Box::pin(async { Err(StoreError::new(StoreErrorKind::Unavailable, "cut off")) });
        }
        step
    }
}

impl Store for Shaky {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn tier(&self) -> Tier {
        self.inner.tier()
    }
    fn import(&self, record: Record) -> StoreFuture<'_, Written> {
        self.inner.import(record)
    }
    fn claim(&self, args: ClaimArgs) -> StoreFuture<'_, Claimed> {
        self.inner.claim(args)
    }
    fn renew(&self, args: RenewArgs) -> StoreFuture<'_, Written> {
        self.written(Box::pin(async { self.inner.renew(args).await }))
    }
    fn complete(&self, args: CompleteArgs) -> StoreFuture<'_, Written> {
        self.written(Box::pin(async { self.inner.complete(args).await }))
    }
    fn doubt(&self, args: DoubtArgs) -> StoreFuture<'_, Written> {
        self.written(Box::pin(async { self.inner.doubt(args).await }))
    }
    fn release(&self, args: ReleaseArgs) -> StoreFuture<'_, Written> {
        self.written(Box::pin(async { self.inner.release(args).await }))
    }
    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>> {
        self.inner.get(id)
    }
    fn scan(&self, args: ScanArgs) -> StoreFuture<'_, Page> {
        self.inner.scan(args)
    }
    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        self.inner.purge(limit)
    }
    fn watch(&self, id: &RecordId, seen: Guard) -> StoreFuture<'_, ()> {
        self.inner.watch(id, seen)
    }
}

fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::with_clock(Arc::new(TokioClock(Instant::now()))))
}

fn engine() -> Engine {
    Engine::with(store(), Arc::new(Silent), Limits::default())
}

fn ask_with(key: &str, body: &str, policy: Policy) -> Ask {
    let fingerprint = Fingerprint {
        target: target("POST", "/pay", None),
        payload: payload(body.as_bytes(), &PayloadParts::Raw),
    };
    Ask::new(Tenant::public(), Operation::http(), Key::new(key).unwrap(), fingerprint, Arc::new(policy))
}

fn ask(key: &str) -> Ask {
    ask_with(key, "100", Policy::default())
}

fn outcome(text: &str) -> Outcome {
    Outcome { code: 201, body: text.to_owned().into(), body_kept: true, ..Outcome::default() }
}

async fn win(engine: &Engine, ask: Ask) -> Claim {
    match engine.begin(ask).await.unwrap() {
        Begun::Run(claim) => {
            claim.start();
            claim
        }
        other => panic!("expected the claim, got {other:?}"),
    }
}

async fn refused(engine: &Engine, ask: Ask) -> Refusal {
    match engine.begin(ask).await.unwrap() {
        Begun::Refuse(refusal) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

async fn replayed(engine: &Engine, ask: Ask) -> Outcome {
    match engine.begin(ask).await.unwrap() {
        Begun::Replay(record) => record.outcome().unwrap().clone(),
        other => panic!("expected a replay, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn second_claim_waits_for_first_and_gets_its_outcome() {
    let engine = engine();
    let claim = win(&engine, ask("k")).await;
    let second = tokio::spawn({
        let engine = engine.clone();
        async move { replayed(&engine, ask("k")).await }
    });
    sleep(Duration::from_secs(5)).await;
    assert!(!second.is_finished());
    assert!(matches!(claim.complete(outcome("a")).await, Completion::Stored(_)));
    assert_eq!(second.await.unwrap(), outcome("a"));
    assert_eq!(replayed(&engine, ask("k")).await, outcome("a"));
}

#[tokio::test(start_paused = true)]
async fn what_is_near_is_replayed_without_a_call_of_the_store_and_only_to_the_same_request() {
    let calls = Arc::new(StoreCalls::default());
    let observer: Arc<dyn Observer> = calls.clone();
    let engine = Engine::with(store(), observer, Limits::default());
    win(&engine, ask("k")).await.complete(outcome("a")).await;
    let before = calls.0.load(Ordering::SeqCst);
    assert_eq!(replayed(&engine, ask("k")).await, outcome("a"));
    let other = ask_with("k", "200", Policy::default());
    assert!(matches!(refused(&engine, other).await, Refusal::Mismatch(Difference::Payload)));
    assert_eq!(calls.0.load(Ordering::SeqCst), before);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_duplicates_cost_the_store_one_claim_and_one_completion() {
    let calls = Arc::new(StoreCalls::default());
    let observer: Arc<dyn Observer> = calls.clone();
    let limits = Limits { waiters_per_record: 20_000, ..Limits::default() };
    let engine = Engine::with(store(), observer, limits);
    let effects = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..10_000)
        .map(|_| {
            let (engine, effects) = (engine.clone(), Arc::clone(&effects));
            tokio::spawn(async move {
                engine
                    .once("charge")
                    .key("k")
                    .run(move |_| async move {
                        sleep(Duration::from_secs(1)).await;
                        Ok(effects.fetch_add(1, Ordering::SeqCst))
                    })
                    .await
            })
        })
        .collect();
    for caller in callers {
        assert_eq!(*caller.await.unwrap().unwrap().value(), 0);
    }
    assert_eq!(effects.load(Ordering::SeqCst), 1);
    assert_eq!(calls.0.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn duplicates_at_another_engine_cost_one_watcher() {
    let (store, calls) = (store(), Arc::new(StoreCalls::default()));
    let first = Engine::with(store.clone(), Arc::new(Silent), Limits::default());
    let second = Engine::with(store, calls.clone(), Limits::default());
    let claim = win(&first, ask("k")).await;
    let waiters: Vec<_> = (0..500)
        .map(|_| {
            let second = second.clone();
            tokio::spawn(async move { replayed(&second, ask("k")).await })
        })
        .collect();
    sleep(Duration::from_millis(2_100)).await;
    let _ = claim.complete(outcome("a")).await;
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap(), outcome("a"));
    }
    // One claim, a poll each half second, one read when told of the completion.
    assert!(calls.0.load(Ordering::SeqCst) <= 7, "{}", calls.0.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_gives_up_after_its_timeout_and_changes_nothing() {
    let engine = engine();
    let claim = win(&engine, ask("k")).await;
    let began = Instant::now();
    assert!(matches!(refused(&engine, ask("k")).await, Refusal::InProgress));
    assert_eq!(began.elapsed().as_secs(), 10);
    let record = engine.store().get(claim.id()).await.unwrap().unwrap();
    assert_eq!(record.state.kind(), StateKind::InFlight);
    assert!(matches!(claim.complete(outcome("a")).await, Completion::Stored(_)));
}

#[tokio::test(start_paused = true)]
async fn conflict_refuses_a_duplicate_at_once() {
    let engine = engine();
    let _claim = win(&engine, ask("k")).await;
    let policy = Policy { on_duplicate: OnDuplicate::Conflict, ..Policy::default() };
    let began = Instant::now();
    assert!(matches!(refused(&engine, ask_with("k", "100", policy)).await, Refusal::InProgress));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn release_wakes_one_waiter_which_claims_while_the_others_wait() {
    let engine = engine();
    let effects = Arc::new(AtomicUsize::new(0));
    let run = |n: usize| {
        let (engine, effects) = (engine.clone(), Arc::clone(&effects));
        tokio::spawn(async move {
            engine
                .once("charge")
                .key("k")
                .run(move |_| async move {
                    sleep(Duration::from_millis(100)).await;
                    let nth = effects.fetch_add(1, Ordering::SeqCst);
                    if nth < 3 { Err(EffectError::not_run("busy")) } else { Ok(n) }
                })
                .await
        })
    };
    let callers: Vec<_> = (0..20).map(run).collect();
    let (mut released, mut values) = (0, Vec::new());
    for caller in callers {
        match caller.await.unwrap() {
            Ok(done) => values.push(done.into_value()),
            Err(OnceError::NotRun(_)) => released += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!((effects.load(Ordering::SeqCst), released, values.len()), (4, 3, 17));
    assert!(values.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test(start_paused = true)]
async fn a_release_costs_the_store_one_claim_however_many_wait() {
    let calls = Arc::new(StoreCalls::default());
    let engine = Engine::with(store(), calls.clone(), Limits::default());
    let claim = win(&engine, ask("k")).await;
    let waiters: Vec<_> = (0..50)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move { engine.begin(ask("k")).await })
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    claim.release().await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(waiters.iter().filter(|waiter| waiter.is_finished()).count(), 1);
    // The first claim, its release, the second claim.
    assert_eq!((calls.0.load(Ordering::SeqCst), engine.live_claims()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn mismatch_is_told_before_in_flight_and_before_replay() {
    let engine = engine();
    let claim = win(&engine, ask("k")).await;
    let other = ask_with("k", "900", Policy::default());
    assert!(matches!(refused(&engine, other.clone()).await, Refusal::Mismatch(_)));
    let _ = claim.complete(outcome("a")).await;
    assert!(matches!(refused(&engine, other).await, Refusal::Mismatch(_)));
}

#[tokio::test(start_paused = true)]
async fn replay_and_distinct_treat_another_payload_as_they_say() {
    let engine = engine();
    let _ = win(&engine, ask("k")).await.complete(outcome("a")).await;
    let replay = Policy { on_mismatch: OnMismatch::Replay, ..Policy::default() };
    assert_eq!(replayed(&engine, ask_with("k", "900", replay)).await, outcome("a"));
    let distinct = Policy { on_mismatch: OnMismatch::Distinct, ..Policy::default() };
    let _ = win(&engine, ask_with("k", "900", distinct.clone())).await.complete(outcome("b")).await;
    assert_eq!(replayed(&engine, ask_with("k", "900", distinct)).await, outcome("b"));
}

#[tokio::test(start_paused = true)]
async fn a_claim_dropped_after_the_effect_began_is_in_doubt_and_held() {
    let engine = engine();
    drop(win(&engine, ask("k")).await);
    tokio::task::yield_now().await;
    assert!(matches!(refused(&engine, ask("k")).await, Refusal::InDoubt(_)));
    assert_eq!(engine.live_claims(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_claim_dropped_before_the_effect_began_is_released() {
    let engine = engine();
    let Begun::Run(claim) = engine.begin(ask("k")).await.unwrap() else { panic!("no claim") };
    drop(claim);
    drop(win(&engine, ask("k")).await);
}

#[tokio::test(start_paused = true)]
async fn retry_takes_a_doubt_over_with_a_higher_token_and_fences_the_old_claim() {
    let store = store();
    let engine = Engine::with(store.clone(), Arc::new(Silent), Limits::default());
    let frozen = Engine::with(store, Arc::new(Silent), Limits::default());
    // A claim whose renewals are gone, as if its process were frozen.
    let retry =
        Policy { on_doubt: OnDoubt::Retry, max_execution: Duration::from_secs(5), ..Policy::default() };
    let stale = win(&frozen, ask_with("k", "100", retry.clone())).await;
    advance(Duration::from_secs(11)).await;
    let fresh = win(&engine, ask_with("k", "100", retry.clone())).await;
    assert!(fresh.token() > stale.token());
    assert_eq!(fresh.generation(), 2);
    assert!(matches!(stale.complete(outcome("stale")).await, Completion::Superseded(_)));
    let _ = fresh.complete(outcome("fresh")).await;
    assert_eq!(replayed(&engine, ask_with("k", "100", retry)).await, outcome("fresh"));
}

#[tokio::test(start_paused = true)]
async fn late_completion_by_the_holder_turns_doubt_into_completed() {
    let engine = engine();
    let policy = Policy { max_execution: Duration::from_secs(5), ..Policy::default() };
    let claim = win(&engine, ask_with("k", "100", policy)).await;
    advance(Duration::from_secs(60)).await;
    let page = engine
        .store()
        .scan(ScanArgs { state: Some(StateKind::InDoubt), limit: 10, ..ScanArgs::default() })
        .await
        .unwrap();
    assert_eq!(page.records.len(), 1);
    assert!(matches!(claim.complete(outcome("late")).await, Completion::Stored(_)));
    assert_eq!(replayed(&engine, ask("k")).await, outcome("late"));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_for_as_long_as_the_effect_runs() {
    let engine = engine();
    let claim = win(&engine, ask("k")).await;
    for _ in 0..100 {
        sleep(Duration::from_secs(1)).await;
    }
    let record = engine.store().get(claim.id()).await.unwrap().unwrap();
    assert_eq!(record.state.kind(), StateKind::InFlight);
}

#[tokio::test(start_paused = true)]
async fn every_lease_is_renewed_whichever_of_them_is_due_first() {
    let engine = engine();
    let mut claims = Vec::new();
    // Two are due at one time, and the last before all others.
    for (key, seconds) in [("a", 100), ("b", 10), ("c", 10), ("d", 1)] {
        let policy = Policy { lease: Duration::from_secs(seconds), ..Policy::default() };
        claims.push(win(&engine, ask_with(key, "100", policy)).await);
    }
    sleep(Duration::from_secs(120)).await;
    for claim in &claims {
        let record = engine.store().get(claim.id()).await.unwrap().unwrap();
        assert_eq!(record.state.kind(), StateKind::InFlight, "{}", record.id.key().as_str());
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_failed_in_passing_is_tried_again() {
    let shaky = Shaky::new();
    let engine = Engine::with(shaky.clone(), Arc::new(Silent), Limits::default());
    let claim = win(&engine, ask("k")).await;
    shaky.away.store(true, Ordering::SeqCst);
    // One renewal, at a third of the lease.
    sleep(Duration::from_secs(5)).await;
    shaky.away.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(60)).await;
    let record = engine.store().get(claim.id()).await.unwrap().unwrap();
    assert_eq!(record.state.kind(), StateKind::InFlight);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_is_offered_again_until_the_store_is_back() {
    let shaky = Shaky::new();
    let engine = Engine::with(shaky.clone(), Arc::new(Silent), Limits::default());
    let claim = win(&engine, ask("k")).await;
    shaky.away.store(true, Ordering::SeqCst);
    let completing = tokio::spawn(claim.complete(outcome("a")));
    sleep(Duration::from_secs(4)).await;
    shaky.away.store(false, Ordering::SeqCst);
    assert!(matches!(completing.await.unwrap(), Completion::Stored(_)));
    assert_eq!(replayed(&engine, ask("k")).await, outcome("a"));
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_an_outcome_that_could_not_be_stored_are_told_that_it_is_unknown() {
    let shaky = Shaky::new();
    let engine = Engine::with(shaky.clone(), Arc::new(Silent), Limits::default());
    let claim = win(&engine, ask("k")).await;
    let waiter = tokio::spawn({
        let engine = engine.clone();
        async move { refused(&engine, ask("k")).await }
    });
    sleep(Duration::from_secs(1)).await;
    shaky.away.store(true, Ordering::SeqCst);
    assert!(matches!(claim.complete(outcome("a")).await, Completion::Unrecorded(_)));
    assert!(matches!(waiter.await.unwrap(), Refusal::InDoubt(None)));
    // The lease runs out, and the key is held.
    sleep(Duration::from_secs(11)).await;
    assert!(matches!(refused(&engine, ask("k")).await, Refusal::InDoubt(Some(_))));
}

#[tokio::test(start_paused = true)]
async fn expired_outcomes_are_absent_at_the_instant_and_not_before() {
    let engine = engine();
    let policy = Policy { retention: Duration::from_secs(60), ..Policy::default() };
    let _ = win(&engine, ask_with("k", "100", policy.clone())).await.complete(outcome("a")).await;
    advance(Duration::from_millis(59_999)).await;
    assert_eq!(replayed(&engine, ask("k")).await, outcome("a"));
    advance(Duration::from_millis(1)).await;
    let claim = win(&engine, ask_with("k", "100", policy)).await;
    assert_eq!(claim.generation(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_over_its_quota_is_refused_and_still_gets_replays() {
    let limits = Limits { in_flight_per_tenant: 1, ..Limits::default() };
    let engine = Engine::with(store(), Arc::new(Silent), limits);
    let _ = win(&engine, ask("done")).await.complete(outcome("a")).await;
    let claim = win(&engine, ask("k1")).await;
    assert!(matches!(refused(&engine, ask("k2")).await, Refusal::Quota));
    assert_eq!(replayed(&engine, ask("done")).await, outcome("a"));
    let _ = claim.complete(outcome("b")).await;
    drop(win(&engine, ask("k2")).await);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_effect_leaves_the_record_in_doubt() {
    let engine = engine();
    let run = |panics: bool| {
        engine.once("charge").key("k").run(move |_| async move {
            assert!(!panics, "the effect panics");
            Ok(1)
        })
    };
    assert_eq!(run(true).await.unwrap_err().code(), Code::OutcomeUnknown);
    sleep(Duration::from_millis(1)).await;
    assert!(matches!(run(false).await, Err(OnceError::Refused(Refusal::InDoubt(_)))));
}

#[tokio::test(start_paused = true)]
async fn a_stored_failure_is_replayed() {
    let engine = engine();
    let effects = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        let effects = Arc::clone(&effects);
        let answer: Result<semel::Done<()>, _> = engine
            .once("charge")
            .key("k")
            .run(move |_| async move {
                effects.fetch_add(1, Ordering::SeqCst);
                Err(EffectError::failed("card declined"))
            })
            .await;
        assert!(matches!(answer, Err(OnceError::Failed(message)) if message == "card declined"));
    }
    assert_eq!(effects.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stored_failure_is_absent_once_its_retention_is_over() {
    let engine = engine();
    let policy = Policy { retention: Duration::from_secs(60), ..Policy::default() };
    let _ = win(&engine, ask_with("k", "100", policy)).await.fail(outcome("declined")).await;
    advance(Duration::from_millis(59_999)).await;
    assert_eq!(replayed(&engine, ask("k")).await, outcome("declined"));
    advance(Duration::from_millis(1)).await;
    assert_eq!(win(&engine, ask("k")).await.generation(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_nothing_is_a_doubt_and_no_licence_to_run_again() {
    let engine = engine();
    let policy = Policy { lease: Duration::ZERO, ..Policy::default() };
    let claim = win(&engine, ask_with("k", "100", policy)).await;
    sleep(Duration::from_secs(1)).await;
    assert!(matches!(refused(&engine, ask("k")).await, Refusal::InDoubt(_)));
    assert!(matches!(claim.complete(outcome("a")).await, Completion::Stored(_)));
    assert_eq!(replayed(&engine, ask("k")).await, outcome("a"));
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_lease_ran_out_before_the_effect_began_is_given_back() {
    let engine = engine();
    let policy = Policy { max_execution: Duration::from_secs(5), ..Policy::default() };
    let Begun::Run(claim) = engine.begin(ask_with("k", "100", policy)).await.unwrap() else {
        panic!("no claim")
    };
    sleep(Duration::from_secs(60)).await;
    drop(claim);
    sleep(Duration::from_millis(1)).await;
    drop(win(&engine, ask("k")).await);
}

#[tokio::test(start_paused = true)]
async fn waiters_beyond_the_quota_are_refused() {
    let limits = Limits { waiters_per_record: 2, ..Limits::default() };
    let engine = Engine::with(store(), Arc::new(Silent), limits);
    let claim = win(&engine, ask("k")).await;
    let waiters: Vec<_> = (0..2)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move { replayed(&engine, ask("k")).await })
        })
        .collect();
    sleep(Duration::from_secs(1)).await;
    assert!(matches!(refused(&engine, ask("k")).await, Refusal::Quota));
    let _ = claim.complete(outcome("a")).await;
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap(), outcome("a"));
    }
}

/// Waits for `duration` and goes away.
async fn wait_in_vain(engine: &Engine, duration: Duration) {
    let waiting = tokio::time::timeout(duration, engine.begin(ask("k"))).await;
    assert!(waiting.is_err(), "not waiting: {waiting:?}");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_who_goes_away_gives_its_place_back() {
    let calls = Arc::new(StoreCalls::default());
    let limits = Limits { waiters_per_record: 1, ..Limits::default() };
    let engine = Engine::with(store(), calls.clone(), limits);
    let _claim = win(&engine, ask("k")).await;
    for _ in 0..3 {
        wait_in_vain(&engine, Duration::from_secs(1)).await;
    }
    assert_eq!(calls.0.load(Ordering::SeqCst), 1, "the claim that they wait for is known here");
}

#[tokio::test(start_paused = true)]
async fn those_who_come_after_a_takeover_wait_for_the_waiter_that_claimed() {
    let calls = Arc::new(StoreCalls::default());
    let engine = Engine::with(store(), calls.clone(), Limits::default());
    let first = win(&engine, ask("k")).await;
    let waiter = tokio::spawn({
        let engine = engine.clone();
        async move { win(&engine, ask("k")).await }
    });
    sleep(Duration::from_secs(1)).await;
    first.release().await;
    let _second = waiter.await.unwrap();
    wait_in_vain(&engine, Duration::from_secs(1)).await;
    // The first claim, its release, the second claim.
    assert_eq!(calls.0.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_runs_elsewhere_is_read_only_while_somebody_waits_for_it() {
    let (store, calls) = (store(), Arc::new(StoreCalls::default()));
    let first = Engine::with(store.clone(), Arc::new(Silent), Limits::default());
    let second = Engine::with(store, calls.clone(), Limits::default());
    let claim = win(&first, ask("k")).await;
    wait_in_vain(&second, Duration::from_secs(2)).await;
    let while_waiting = calls.0.load(Ordering::SeqCst);
    assert!(while_waiting > 2, "{while_waiting}");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(calls.0.load(Ordering::SeqCst), while_waiting);
    drop(claim);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_claim_that_was_taken_over_elsewhere_gets_the_outcome_of_the_newer_one() {
    let store = store();
    let engine_on_it = || Engine::with(store.clone(), Arc::new(Silent), Limits::default());
    let (here, elsewhere) = (engine_on_it(), engine_on_it());
    let short = Policy { max_execution: Duration::from_secs(2), ..Policy::default() };
    let lapsing = win(&here, ask_with("k", "100", short)).await;
    let waiter = tokio::spawn({
        let here = here.clone();
        async move { replayed(&here, ask("k")).await }
    });
    sleep(Duration::from_secs(3)).await;
    let retry = Policy { on_doubt: OnDoubt::Retry, ..Policy::default() };
    let newer = win(&elsewhere, ask_with("k", "100", retry)).await;
    match lapsing.complete(outcome("late")).await {
        Completion::Superseded(Some(standing)) => assert_eq!(standing.state.kind(), StateKind::InFlight),
        other => panic!("{other:?}"),
    }
    sleep(Duration::from_secs(1)).await;
    assert!(matches!(newer.complete(outcome("newer")).await, Completion::Stored(_)));
    assert_eq!(waiter.await.unwrap(), outcome("newer"));
}

#[derive(Debug, Default)]
struct Settled(Mutex<Vec<&'static str>>);

impl Observer for Settled {
    fn observe(&self, event: &Event<'_>) {
        let name = match event {
            Event::Completed { .. } => "completed",
            Event::Released { .. } => "released",
            Event::Doubted { .. } => "doubted",
            Event::Superseded { .. } => "superseded",
            Event::Unrecorded { .. } => "unrecorded",
            _ => return,
        };
        self.0.lock().unwrap().push(name);
    }
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_a_claim_is_told() {
    let (shaky, settled) = (Shaky::new(), Arc::new(Settled::default()));
    let engine = Engine::with(shaky.clone(), settled.clone(), Limits::default());
    let _ = win(&engine, ask("a")).await.complete(outcome("a")).await;
    win(&engine, ask("b")).await.release().await;
    let lost = win(&engine, ask("c")).await;
    let record = shaky.get(lost.id()).await.unwrap().unwrap();
    let args = ReleaseArgs { id: record.id, guard: record.guard, from: ReleaseFrom::Claim };
    shaky.release(args).await.unwrap();
    let _ = lost.complete(outcome("c")).await;
    win(&engine, ask("d")).await.doubt(DoubtCause::NoAnswer).await;
    let unheard = win(&engine, ask("e")).await;
    shaky.away.store(true, Ordering::SeqCst);
    let _ = unheard.complete(outcome("e")).await;
    let told = settled.0.lock().unwrap().clone();
    assert_eq!(told, ["completed", "released", "superseded", "doubted", "unrecorded"]);
}

#[tokio::test(start_paused = true)]
async fn an_operator_resolves_a_doubt_by_its_guard() {
    let engine = engine();
    let claim = win(&engine, ask("k")).await;
    let id = claim.id().clone();
    claim.doubt(DoubtCause::NoAnswer).await;
    let record = engine.store().get(&id).await.unwrap().unwrap();
    let args = ReleaseArgs { id, guard: record.guard, from: ReleaseFrom::Doubt };
    assert_eq!(engine.store().release(args).await.unwrap(), Written::Done(None));
    drop(win(&engine, ask("k")).await);
}
