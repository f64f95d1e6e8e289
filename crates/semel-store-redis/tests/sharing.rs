//! Callers whose steps go to one server in one call: each is answered for itself, also when another one's step cannot
//! be made.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use semel::record::{ClaimArgs, Ending};
use semel::store::{Claimed, CompleteArgs, StoreError, StoreErrorKind, Written};
use semel::{Fingerprint, Key, Operation, Outcome, Policy, Record, RecordId, Store, Tenant, fingerprint};
use semel_store_redis::{RedisConfig, RedisStore};
use semel_testkit::server::redis::RedisServer;
use tokio::task::JoinSet;

async fn open(server: &RedisServer) -> Arc<RedisStore> {
    Arc::new(RedisStore::open(RedisConfig::from_url(&server.url()).unwrap()).await.unwrap())
}

fn args(number: usize) -> ClaimArgs {
    let key = Key::new(&format!("k {number}")).unwrap();
    let request = Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(b"100", &fingerprint::PayloadParts::Raw),
    };
    ClaimArgs::new(RecordId::new(Tenant::public(), Operation::http(), key), request, &Policy::default())
}

fn completion(record: &Record) -> CompleteArgs {
    let body = record.id.key().as_str().to_owned().into();
    CompleteArgs {
        id: record.id.clone(),
        guard: record.guard,
        ending: Ending::Completed(Outcome { code: 201, head: "".into(), body, body_kept: true }),
        retention: Duration::from_secs(3_600),
    }
}

/// Claims all numbers at once.
async fn claim_all(
    store: &Arc<RedisStore>,
    numbers: impl Iterator<Item = usize>,
) -> Vec<(usize, Result<Claimed, StoreError>)> {
    let mut claiming = JoinSet::new();
    for number in numbers {
        let store = Arc::clone(store);
        claiming.spawn(async move { (number, store.claim(args(number)).await) });
    }
    claiming.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_share_a_call_are_each_given_their_own_answer() {
    const CALLERS: usize = 200;
    let server = RedisServer::start();
    let store = open(&server).await;
    for (_, claimed) in claim_all(&store, (0..CALLERS).step_by(2)).await {
        let Ok(Claimed::Won(record)) = claimed else { panic!("{claimed:?}") };
        let Written::Done(Some(_)) = store.complete(completion(&record)).await.unwrap() else {
            panic!("{record:?} is not completed")
        };
    }
    let mut won = JoinSet::new();
    for (number, claimed) in claim_all(&store, 0..CALLERS).await {
        match claimed.unwrap() {
            Claimed::Standing(record) => {
                let outcome = record.outcome().expect("it was completed");
                assert_eq!((number % 2, &outcome.body[..]), (0, format!("k {number}").as_bytes()));
            }
            Claimed::Won(record) => {
                assert_eq!((number % 2, &record.id), (1, &args(number).id));
                let store = Arc::clone(&store);
                won.spawn(async move {
                    let written = store.complete(completion(&record)).await.unwrap();
                    let standing = store.get(&record.id).await.unwrap();
                    assert_eq!(written, Written::Done(standing));
                });
            }
        }
    }
    assert_eq!(won.join_all().await.len(), CALLERS / 2);
}

/// On one thread both wait before a call is made.
#[tokio::test]
async fn a_claim_and_a_completion_that_share_a_call_are_each_made() {
    let server = RedisServer::start();
    let store = open(&server).await;
    let Claimed::Won(mut held) = store.claim(args(0)).await.unwrap() else { panic!("it stands") };
    for number in 1..10 {
        let (written, claimed) = tokio::join!(store.complete(completion(&held)), store.claim(args(number)));
        let Written::Done(Some(finished)) = written.unwrap() else { panic!("{held:?} is not completed") };
        assert!(finished.outcome().is_some(), "{finished:?}");
        let Claimed::Won(record) = claimed.unwrap() else { panic!("{number} stands") };
        held = record;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_refuses_new_claims_and_goes_on_answering_old_ones() {
    let server = RedisServer::start();
    let store = open(&server).await;
    for (_, claimed) in claim_all(&store, 0..20).await {
        let Ok(Claimed::Won(record)) = claimed else { panic!("{claimed:?}") };
        store.complete(completion(&record)).await.unwrap();
    }
    let _ = server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    for (number, claimed) in claim_all(&store, 0..40).await {
        match claimed {
            Ok(Claimed::Standing(record)) => assert!(number < 20 && record.outcome().is_some(), "{number}"),
            Err(error) => {
                assert!(number >= 20 && error.kind() == StoreErrorKind::Full, "{number}: {error:?}")
            }
            Ok(Claimed::Won(record)) => panic!("there was no room for {record:?}"),
        }
    }
    let _ = server.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    for (number, claimed) in claim_all(&store, 0..40).await {
        assert_eq!(matches!(claimed, Ok(Claimed::Won(_))), number >= 20, "{number}: {claimed:?}");
    }
}
