//! Two gateways on one Redis, and on one Redis Cluster: racers with one key spread over both, and one of the two
//! killed while an effect runs. What is counted is in the upstream's ledger.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use semel_testkit::client::{Answer, Call, Load};
use semel_testkit::gateway::Gateway;
use semel_testkit::server::redis::{RedisCluster, RedisServer};
use semel_testkit::upstream::Upstream;
use tokio::sync::watch;
use tokio::time::Instant;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
const RACERS: usize = 200;
const LEASE: Duration = Duration::from_secs(2);
/// What a takeover may take beyond the lease.
const GRACE: Duration = Duration::from_secs(1);

fn charge(key: &str) -> Call {
    Call::post("/charges", r#"{"amount":500}"#).key(key)
}

fn config(on_doubt: &str) -> String {
    format!("[defaults]\nlease = \"2s\"\nwait_timeout = \"20s\"\non_doubt = \"{on_doubt}\"\n")
}

async fn two_gateways(store: &str, upstream: &Upstream, on_doubt: &str) -> (Gateway, Gateway) {
    let (config, upstream) = (config(on_doubt), upstream.url());
    tokio::join!(
        Gateway::start_on(store, SEMEL, &upstream, &config),
        Gateway::start_on(store, SEMEL, &upstream, &config)
    )
}

/// All at once under one key, half of them at each gateway.
async fn race(store: &str) {
    let upstream = Upstream::scripted(|arrived| async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        arrived.charge()
    });
    let (one, two) = two_gateways(store, &upstream, "hold").await;
    let half = |addr: SocketAddr| {
        let load = Load { addr, connections: RACERS / 2 };
        load.answers(vec![charge("one key"); RACERS / 2])
    };
    let (mut answers, more) = tokio::join!(half(one.addr()), half(two.addr()));
    answers.extend(more);
    assert_eq!(upstream.ledger().effects("one key"), 1);
    assert_eq!(answers.len(), RACERS);
    let ran: Vec<&Answer> = answers.iter().filter(|answer| answer.standing() == Some("executed")).collect();
    assert_eq!(ran.len(), 1, "exactly one caller ran the effect");
    for answer in &answers {
        assert_eq!(answer.essence(), ran[0].essence(), "{answer:?}");
    }
}

/// The gateway that runs the effect is killed; a retry waits at the other one. Returns its answer, and how long after
/// the kill it came.
async fn killed_in_the_effect(store: &str, on_doubt: &str) -> (Answer, Duration, Upstream) {
    let (gate, opens) = watch::channel(false);
    let upstream = Upstream::scripted(move |arrived| {
        let mut opens = opens.clone();
        async move {
            if arrived.nth_of_key == 1 {
                opens.wait_for(|open| *open).await.unwrap();
            }
            arrived.charge()
        }
    });
    let (mut one, two) = two_gateways(store, &upstream, on_doubt).await;
    let (first, addr) = (charge("k"), one.addr());
    let first = tokio::spawn(async move { first.send(addr).await });
    upstream.ledger().reaches(1).await;
    one.kill9();
    let killed = Instant::now();
    let answer = charge("k").answer(two.addr()).await;
    let took = killed.elapsed();
    first.await.unwrap().expect_err("its gateway was killed");
    one.wait().await;
    gate.send_replace(true);
    (answer, took, upstream)
}

async fn takeovers(store: &str) {
    let (answer, took, upstream) = killed_in_the_effect(&format!("{store}?prefix=hold"), "hold").await;
    assert_eq!((answer.status, answer.standing()), (409, Some("in-doubt")), "{answer:?}");
    assert_eq!(answer.problem().as_deref(), Some("outcome-unknown"));
    assert!(took <= LEASE + GRACE, "in doubt only {took:?} after the kill");
    assert_eq!(upstream.ledger().effects("k"), 1);

    let (answer, took, upstream) = killed_in_the_effect(&format!("{store}?prefix=retry"), "retry").await;
    assert_eq!((answer.status, answer.standing()), (201, Some("executed")), "{answer:?}");
    assert!(took <= LEASE + GRACE, "taken over only {took:?} after the kill");
    let attempts: Vec<_> = upstream.ledger().entries().iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, [Some(1), Some(2)], "the second effect is told that it is the second attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_racers_at_two_gateways_on_one_redis_make_one_charge() {
    let server = RedisServer::start();
    race(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_racers_at_two_gateways_on_a_cluster_make_one_charge() {
    let cluster = RedisCluster::start(3, 0);
    race(&cluster.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_in_an_effect_leaves_a_doubt_or_a_takeover_to_the_other_on_one_redis() {
    let server = RedisServer::start();
    takeovers(&server.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_in_an_effect_leaves_a_doubt_or_a_takeover_to_the_other_on_a_cluster() {
    let cluster = RedisCluster::start(3, 0);
    takeovers(&cluster.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_shared_store_are_shown_and_resolved_beside_its_gateways() {
    let (server, upstream) = (RedisServer::start(), Upstream::charging());
    let gateway = Gateway::start_on(&server.url(), SEMEL, &upstream.url(), "").await;
    assert_eq!(charge("k").answer(gateway.addr()).await.status, 201);
    assert_eq!(gateway.keys_in("completed").await.into_iter().collect::<Vec<_>>(), ["k"]);
    let shown = gateway.keys(&["show", "k"]).await;
    assert_eq!((shown.code, shown.documents.len()), (Some(0), 1), "{}", shown.said);
    let log = gateway.log().join("\n");
    assert!(log.contains("up to 2 s"), "the tier is said at the start: {log}");
}

#[test]
fn store_check_says_what_a_redis_loses_and_refuses_one_that_evicts() {
    let check = |url: &str| {
        let ran = std::process::Command::new(SEMEL).args(["store", "check", url, "--json"]).output().unwrap();
        (ran.status.code(), String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned())
    };
    let server = RedisServer::start();
    let (code, said) = check(&server.url());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("up to 2 s lost") && said.contains("\"Redis "), "{said}");
    let _ = server.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let (code, said) = check(&server.url());
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("allkeys-lru") && said.contains("durability=none"), "{said}");
}
