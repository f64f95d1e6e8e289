//! `engine.once` on the memory store: what names the record, what the effect is told, and what each of its ends means
//! for this caller and the next.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use std::error::Error;
use std::time::Duration;

use semel::error::error_chain;
use semel::policy::{OnDoubt, OnMismatch};
use semel::store::ScanArgs;
use semel::store::memory::MemoryStore;
use semel::{Code, Done, EffectError, Engine, OnceError, Policy, Tenant};

fn engine() -> Engine {
    Engine::new(MemoryStore::new())
}

async fn charge(engine: &Engine, cents: u32) -> Done<u32> {
    engine.once("charge").key("k").run(move |_| async move { Ok(cents) }).await.unwrap()
}

async fn ended(engine: &Engine, error: EffectError) -> OnceError {
    engine.once("charge").key("k").run(move |_| async move { Err::<u32, _>(error) }).await.unwrap_err()
}

#[tokio::test]
async fn the_next_caller_gets_the_value_and_is_told_that_it_is_a_replay() {
    let engine = engine();
    let (first, next) = (charge(&engine, 5).await, charge(&engine, 900).await);
    assert_eq!((*first.value(), first.is_replay()), (5, false));
    assert_eq!((*next.value(), next.is_replay()), (5, true));
    assert_eq!(next.into_value(), 5);
}

#[tokio::test]
async fn the_record_says_that_it_holds_the_value() {
    let engine = engine();
    charge(&engine, 5).await;
    let page = engine.store().scan(ScanArgs { limit: 1, ..ScanArgs::default() }).await.unwrap();
    assert!(page.records[0].outcome().unwrap().body_kept);
}

#[tokio::test]
async fn operation_tenant_and_key_each_name_another_record() {
    let engine = engine();
    charge(&engine, 5).await;
    let fresh = [
        engine.once("refund").key("k"),
        engine.once("charge").key("l"),
        engine.once("charge").key("k").tenant(Tenant::id(&["a"])),
        engine.once("charge"),
        engine.once("charge"),
    ];
    for once in fresh {
        assert!(!once.run(|_| async { Ok(7_u32) }).await.unwrap().is_replay());
    }
}

#[tokio::test]
async fn another_payload_is_a_mismatch_unless_the_policy_lets_it_in() {
    let engine = engine();
    let brought = |body: &'static str| engine.once("charge").key("k").payload(body);
    brought("100").run(|_| async { Ok(1_u32) }).await.unwrap();
    let refused = brought("900").run(|_| async { Ok(2_u32) }).await.unwrap_err();
    assert_eq!((refused.code(), refused.to_string()), (Code::Mismatch, "refused: mismatch".into()));
    let policy = Policy { on_mismatch: OnMismatch::Replay, ..Policy::default() };
    assert_eq!(brought("900").policy(policy).run(|_| async { Ok(2_u32) }).await.unwrap().into_value(), 1);
}

#[tokio::test]
async fn the_effect_is_told_its_key_and_token_and_how_often_the_record_was_claimed() {
    let engine = engine();
    let told = |fails: bool| {
        let policy = Policy { on_doubt: OnDoubt::Retry, ..Policy::default() };
        engine.once("charge").key("k").policy(policy).run(move |held| async move {
            if fails {
                return Err(EffectError::unknown(held.token().to_string()));
            }
            Ok((held.key().to_string(), held.token().0, held.generation()))
        })
    };
    let OnceError::Unknown(first) = told(true).await.unwrap_err() else { panic!("it is known") };
    let first: u64 = first.to_string().parse().unwrap();
    let (key, token, generation) = told(false).await.unwrap().into_value();
    assert_eq!((key.as_str(), generation), ("k", 2));
    assert!(token > first && first > 0, "{token} after {first}");
    let first = engine.once("refund").run(|held| async move { Ok(held.generation()) }).await.unwrap();
    assert_eq!(first.into_value(), 1);
}

#[tokio::test]
async fn an_effect_that_did_not_happen_gives_the_key_back() {
    let engine = engine();
    let error = ended(&engine, EffectError::not_run("no route to the bank")).await;
    assert!(matches!(&error, OnceError::NotRun(why) if why.to_string() == "no route to the bank"));
    assert_eq!(error.code(), Code::UpstreamUnreachable);
    assert_eq!(error.source().unwrap().to_string(), "no route to the bank");
    assert!(error.to_string().contains("did not happen"), "{error}");
    assert!(!charge(&engine, 5).await.is_replay());
}

#[tokio::test]
async fn an_effect_that_failed_is_over_and_one_that_nobody_knows_of_is_in_doubt() {
    let failed = ended(&engine(), EffectError::failed("card declined")).await;
    assert!(matches!(&failed, OnceError::Failed(error) if error == "card declined"));
    assert_eq!((failed.code(), failed.source().is_some()), (Code::UpstreamFailed, false));
    assert!(failed.to_string().contains("card declined"), "{failed}");

    let engine = engine();
    let unknown = ended(&engine, EffectError::unknown("the line went dead")).await;
    assert_eq!(unknown.code(), Code::OutcomeUnknown);
    assert_eq!(unknown.source().unwrap().to_string(), "the line went dead");
    assert!(unknown.to_string().contains("in doubt"), "{unknown}");
    let next = engine.once("charge").key("k").run(|_| async { Ok(5_u32) }).await.unwrap_err();
    assert_eq!((next.code(), next.source().is_some()), (Code::OutcomeUnknown, false));
}

#[tokio::test]
async fn a_value_of_another_type_is_not_made_up() {
    let engine = engine();
    charge(&engine, 5).await;
    let error = engine.once("charge").key("k").run(|_| async { Ok(String::new()) }).await.unwrap_err();
    assert!(matches!(error, OnceError::Unreadable(_)));
    assert_eq!((error.code(), error.source().is_some()), (Code::Mismatch, true));
    assert!(error.to_string().contains("type"), "{error}");
}

#[tokio::test]
async fn a_text_that_is_no_key_runs_nothing() {
    let error = engine().once("charge").key("").run(|_| async { Ok(5_u32) }).await.unwrap_err();
    assert_eq!(error.code(), Code::KeyInvalid);
    assert!(error_chain(&error).ends_with("the key is empty"), "{}", error_chain(&error));
}

#[tokio::test]
async fn the_policy_says_for_how_long_the_value_is_kept() {
    let engine = engine();
    let kept = || {
        let policy = Policy { retention: Duration::ZERO, ..Policy::default() };
        engine.once("charge").key("k").policy(policy).run(|_| async { Ok(5_u32) })
    };
    assert!(!kept().await.unwrap().is_replay());
    assert!(!kept().await.unwrap().is_replay());
}
