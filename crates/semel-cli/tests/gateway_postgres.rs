//! Two gateways on one PostgreSQL: racers with one key spread over both, and one of the two killed while an effect runs.
//! What is counted is in the upstream's ledger.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use semel_testkit::client::{Answer, Call, Load};
use semel_testkit::gateway::Gateway;
use semel_testkit::server::postgres::PostgresServer;
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

fn semel(args: &[&str]) -> (bool, String) {
    let output = Command::new(SEMEL).args(args).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// A server that keeps what it acknowledges, with the tables made by the program.
fn migrated(server: &PostgresServer) -> String {
    let url = server.url("postgres");
    let (made, said) = semel(&["store", "migrate", &url]);
    assert!(made, "{said}");
    url
}

async fn two_gateways(store: &str, upstream: &Upstream, on_doubt: &str) -> (Gateway, Gateway) {
    let config = format!("[defaults]\nlease = \"2s\"\nwait_timeout = \"20s\"\non_doubt = \"{on_doubt}\"\n");
    let url = upstream.url();
    tokio::join!(
        Gateway::start_on(store, SEMEL, &url, &config),
        Gateway::start_on(store, SEMEL, &url, &config)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_racers_at_two_gateways_on_one_postgres_make_one_charge() {
    let server = PostgresServer::start_with(&[]);
    let store = migrated(&server);
    let upstream = Upstream::scripted(|arrived| async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        arrived.charge()
    });
    let (one, two) = two_gateways(&store, &upstream, "hold").await;
    for round in 0..5 {
        let key = format!("key {round}");
        let half = |addr: SocketAddr| {
            let load = Load { addr, connections: RACERS / 2 };
            load.answers(vec![charge(&key); RACERS / 2])
        };
        let (mut answers, more) = tokio::join!(half(one.addr()), half(two.addr()));
        answers.extend(more);
        assert_eq!(upstream.ledger().effects(&key), 1);
        assert_eq!(answers.len(), RACERS);
        let ran: Vec<&Answer> =
            answers.iter().filter(|answer| answer.standing() == Some("executed")).collect();
        assert_eq!(ran.len(), 1, "exactly one caller ran the effect");
        for answer in &answers {
            assert_eq!(answer.essence(), ran[0].essence(), "{answer:?}");
        }
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
    let (first, addr) = (charge(on_doubt), one.addr());
    let first = tokio::spawn(async move { first.send(addr).await });
    upstream.ledger().reaches(1).await;
    one.kill9();
    let killed = Instant::now();
    let answer = charge(on_doubt).answer(two.addr()).await;
    let took = killed.elapsed();
    first.await.unwrap().expect_err("its gateway was killed");
    one.wait().await;
    gate.send_replace(true);
    (answer, took, upstream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_killed_in_an_effect_leaves_a_doubt_or_a_takeover_to_the_other() {
    let server = PostgresServer::start_with(&[]);
    let store = migrated(&server);
    let (answer, took, upstream) = killed_in_the_effect(&store, "hold").await;
    assert_eq!((answer.status, answer.standing()), (409, Some("in-doubt")), "{answer:?}");
    assert_eq!(answer.problem().as_deref(), Some("outcome-unknown"));
    assert!(took <= LEASE + GRACE, "in doubt only {took:?} after the kill");
    assert_eq!(upstream.ledger().effects("hold"), 1);

    let (answer, took, upstream) = killed_in_the_effect(&store, "retry").await;
    assert_eq!((answer.status, answer.standing()), (201, Some("executed")), "{answer:?}");
    assert!(took <= LEASE + GRACE, "taken over only {took:?} after the kill");
    let attempts: Vec<_> = upstream.ledger().entries().iter().map(|entry| entry.attempt).collect();
    assert_eq!(attempts, [Some(1), Some(2)], "the second effect is told that it is the second attempt");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_away_is_503_without_an_effect_and_service_resumes() {
    let mut server = PostgresServer::start_with(&[]);
    let store = migrated(&server);
    let upstream = Upstream::charging();
    let gateway = Gateway::start_on(&store, SEMEL, &upstream.url(), "").await;
    assert_eq!(charge("before").answer(gateway.addr()).await.status, 201);
    server.kill();
    let refused = charge("while away").answer(gateway.addr()).await;
    assert_eq!((refused.status, upstream.ledger().total()), (503, 1), "{refused:?}");
    server.start_again();
    let deadline = Instant::now() + Duration::from_secs(10);
    while charge("while away").answer(gateway.addr()).await.status != 201 {
        assert!(Instant::now() < deadline, "the service did not resume");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(upstream.ledger().effects("while away"), 1);
    let replayed = charge("before").answer(gateway.addr()).await;
    assert_eq!(replayed.standing(), Some("replayed"), "{replayed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn store_commands_make_check_and_copy_a_postgres() {
    let server = PostgresServer::start_with(&[]);
    let (opened, said) = semel(&["store", "check", &server.url("postgres")]);
    assert!(!opened && said.contains("semel store migrate"), "{said}");
    let store = migrated(&server);
    let (opened, said) = semel(&["store", "check", &store]);
    assert!(opened && said.contains("synchronous_standby_names is empty"), "{said}");

    let upstream = Upstream::charging();
    let folder = tempfile::tempdir().unwrap();
    let file = format!("embedded:{}", folder.path().join("old.sqlite").display());
    let mut gateway = Gateway::start_on(&file, SEMEL, &upstream.url(), "").await;
    let first = charge("k").answer(gateway.addr()).await;
    gateway.terminate();
    gateway.wait().await;
    let (copied, said) = semel(&["store", "copy", &file, &store]);
    assert!(copied, "{said}");
    let gateway = Gateway::start_on(&store, SEMEL, &upstream.url(), "").await;
    let replayed = charge("k").answer(gateway.addr()).await;
    assert_eq!((replayed.standing(), upstream.ledger().effects("k")), (Some("replayed"), 1), "{replayed:?}");
    assert_eq!(replayed.essence(), first.essence());
}
