//! The gateway in front of other people's servers: racers with one key, and many keys at once. What is counted is in
//! the upstream's own ledger.

use std::path::Path;

use semel_testkit::client::{Answer, Call, Load};
use semel_testkit::gateway::Gateway;
use semel_testkit::upstream::{PythonProtocol, Upstream};

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
const RACERS: usize = 200;
const FRESH_KEYS: usize = 10_000;

/// All of them at once under one key, against a handler that answers at once and one that takes 300 ms.
async fn race(upstream: &Upstream) {
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    for (key, target) in [("immediate", "/charges?delay_ms=0"), ("slow", "/charges?delay_ms=300")] {
        let call =
            Call::post(target, r#"{"amount":500}"#).key(key).header("content-type", "application/json");
        let racers = Load { addr: gateway.addr(), connections: RACERS };
        let answers = racers.answers(vec![call; RACERS]).await;
        assert_eq!(upstream.ledger().effects(key), 1, "{key}");
        assert_one_outcome(&answers);
    }
    assert_eq!(upstream.ledger().total(), 2, "an effect without a key");
}

fn assert_one_outcome(answers: &[Answer]) {
    let first: Vec<_> = answers.iter().filter(|answer| answer.standing() == Some("executed")).collect();
    assert_eq!(first.len(), 1, "exactly one caller ran the effect");
    assert!(!first[0].is_replay());
    assert_eq!(first[0].status, 201);
    for answer in answers {
        assert_eq!(answer.essence(), first[0].essence());
        assert_eq!(answer.is_replay(), answer.standing() == Some("replayed"), "{answer:?}");
    }
}

/// Each key is charged for once, and its caller gets the answer to its own charge.
async fn fresh_keys(upstream: &Upstream) {
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let calls = (0..FRESH_KEYS).map(|n| Call::post("/charges", format!("{n}")).key(&format!("key-{n}")));
    let began = tokio::time::Instant::now();
    let answers = Load { addr: gateway.addr(), connections: 64 }.answers(calls.collect()).await;
    println!("{FRESH_KEYS} fresh keys in {:?}", began.elapsed());
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!((answer.status, answer.standing()), (201, Some("executed")), "{answer:?}");
        assert_eq!(answer.json()["key"], format!("key-{n}"));
    }
    let charged = upstream.ledger().per_key();
    assert_eq!(charged.len(), FRESH_KEYS);
    assert!(charged.values().all(|effects| *effects == 1));
    assert_eq!(upstream.ledger().total(), FRESH_KEYS);
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for temporary files")
}

async fn python(folder: &Path) -> Upstream {
    Upstream::python(folder, PythonProtocol::Http10).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_racers_make_one_charge_at_a_python_upstream() {
    let folder = folder();
    race(&python(folder.path()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_racers_make_one_charge_at_a_python_upstream_with_kept_connections() {
    let folder = folder();
    race(&Upstream::python(folder.path(), PythonProtocol::Http11).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_racers_make_one_charge_at_a_node_upstream() {
    let folder = folder();
    race(&Upstream::node(folder.path()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_racers_make_one_charge_at_an_axum_upstream() {
    race(&Upstream::axum()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_keys_make_ten_thousand_charges_at_a_python_upstream() {
    let folder = folder();
    fresh_keys(&python(folder.path()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_keys_make_ten_thousand_charges_at_a_node_upstream() {
    let folder = folder();
    fresh_keys(&Upstream::node(folder.path()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_keys_make_ten_thousand_charges_at_an_axum_upstream() {
    fresh_keys(&Upstream::axum()).await;
}
