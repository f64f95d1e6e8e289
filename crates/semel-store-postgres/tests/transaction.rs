//! Transactional mode: the ledger and the records agree, wherever the transaction ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use semel::fingerprint::{self, Difference};
use semel::policy::OnMismatch;
use semel::record::{ClaimArgs, Ending, ReleaseFrom, StateKind};
use semel::store::{Claimed, CompleteArgs, ReleaseArgs, StoreErrorKind};
use semel::{Fingerprint, Key, Operation, Outcome, Policy, RecordId, Store, Tenant};
use semel_store_postgres::transaction::{self, Begun, Options};
use semel_store_postgres::{PostgresConfig, PostgresStore};
use semel_testkit::server::postgres::PostgresServer;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, IsolationLevel, NoTls};

const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(20);

fn config(server: &PostgresServer) -> PostgresConfig {
    PostgresConfig::new(server.url("postgres")).durability(semel::store::Durability::Process)
}

async fn server() -> PostgresServer {
    let server = PostgresServer::start();
    PostgresStore::migrate(&config(&server)).await.unwrap();
    server.sql("postgres", "CREATE TABLE ledger (key text)");
    server
}

async fn connect(server: &PostgresServer) -> (Client, AbortHandle) {
    let (client, connection) = tokio_postgres::connect(&server.url("postgres"), NoTls).await.unwrap();
    (client, tokio::spawn(connection).abort_handle())
}

fn id(key: &str) -> RecordId {
    RecordId::new(Tenant::public(), Operation::new("charge"), Key::new(key).unwrap())
}

fn request(payload: &str) -> Fingerprint {
    Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(payload.as_bytes(), &fingerprint::PayloadParts::Raw),
    }
}

fn receipt() -> Outcome {
    Outcome { code: 201, head: "head".into(), body: "receipt".into(), body_kept: true }
}

/// Where an attempt ends without committing.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Ends {
    AfterBegin,
    AfterEffect,
    AfterComplete,
    Never,
}

/// Charges once; returns whether the effect ran in this attempt. `end` is called where it ends early.
async fn charge(client: &mut Client, key: &str, ends: Ends, end: impl AsyncFnOnce()) -> bool {
    let mut tx = client.transaction().await.unwrap();
    let ran = match transaction::begin(&mut tx, &id(key), request("100"), Options::default()).await.unwrap() {
        Begun::Run(claim) => {
            if ends == Ends::AfterBegin {
                end().await;
                return true;
            }
            tx.execute("INSERT INTO ledger VALUES ($1)", &[&key]).await.unwrap();
            if ends == Ends::AfterEffect {
                end().await;
                return true;
            }
            claim.complete(&mut tx, &receipt(), HOUR).await.unwrap();
            true
        }
        Begun::Replay(outcome) => {
            assert_eq!(outcome, receipt());
            false
        }
        other => panic!("{other:?}"),
    };
    if ends == Ends::AfterComplete {
        end().await;
        return ran;
    }
    tx.commit().await.unwrap();
    ran
}

fn count(server: &PostgresServer, query: &str) -> u32 {
    server.sql("postgres", &format!("SELECT count(*) FROM {query}")).parse().unwrap()
}

fn effects_and_records(server: &PostgresServer) -> (u32, u32) {
    (count(server, "ledger"), count(server, "semel_records WHERE state = 2"))
}

#[tokio::test]
async fn ledger_and_records_agree_wherever_the_transaction_rolls_back() {
    let server = server().await;
    let (mut client, _) = connect(&server).await;
    for ends in [Ends::AfterBegin, Ends::AfterEffect, Ends::AfterComplete] {
        assert!(charge(&mut client, "k", ends, async || {}).await, "{ends:?}");
        assert_eq!((effects_and_records(&server), count(&server, "semel_records")), ((0, 0), 0), "{ends:?}");
    }
    assert!(charge(&mut client, "k", Ends::Never, async || {}).await);
    for _ in 0..3 {
        assert!(!charge(&mut client, "k", Ends::Never, async || {}).await);
    }
    assert_eq!(effects_and_records(&server), (1, 1));
}

#[tokio::test]
async fn ledger_and_records_agree_wherever_backend_or_client_is_killed() {
    let server = server().await;
    for ends in [Ends::AfterBegin, Ends::AfterEffect, Ends::AfterComplete] {
        let (mut client, _) = connect(&server).await;
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let kill = async || {
            server.sql("postgres", &format!("SELECT pg_terminate_backend({pid}, 5000)"));
        };
        assert!(charge(&mut client, "k", ends, kill).await, "{ends:?}");
        assert_eq!((effects_and_records(&server), count(&server, "semel_records")), ((0, 0), 0), "{ends:?}");

        // The client's process is gone: its socket closes without a word.
        let (mut client, connection) = connect(&server).await;
        assert!(charge(&mut client, "k", ends, async || connection.abort()).await, "{ends:?}");
        assert_eq!((effects_and_records(&server), count(&server, "semel_records")), ((0, 0), 0), "{ends:?}");
    }
    let (mut client, _) = connect(&server).await;
    assert!(charge(&mut client, "k", Ends::Never, async || {}).await);
    assert_eq!(effects_and_records(&server), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn ledger_and_records_agree_after_the_server_is_killed_under_load() {
    let mut server = PostgresServer::start_with(&[]);
    PostgresStore::migrate(&config(&server)).await.unwrap();
    server.sql("postgres", "CREATE TABLE ledger (key text)");
    let url = server.url("postgres");
    let mut workers = JoinSet::new();
    for worker in 0..8 {
        let url = url.clone();
        workers.spawn(async move {
            let (mut client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            tokio::spawn(connection);
            let mut acknowledged = 0_u32;
            for number in 0.. {
                let key = format!("{worker} {number}");
                let done: Result<(), Box<dyn std::error::Error + Send + Sync>> = async {
                    let mut tx = client.transaction().await?;
                    let begun =
                        transaction::begin(&mut tx, &id(&key), request("100"), Options::default()).await?;
                    let Begun::Run(claim) = begun else { panic!("a fresh key runs") };
                    tx.execute("INSERT INTO ledger VALUES ($1)", &[&key]).await?;
                    claim.complete(&mut tx, &receipt(), HOUR).await?;
                    Ok(tx.commit().await?)
                }
                .await;
                match done {
                    Ok(()) => acknowledged += 1,
                    Err(_) => return acknowledged,
                }
            }
            acknowledged
        });
    }
    let deadline = Instant::now() + PATIENCE;
    while count(&server, "ledger") < 200 {
        assert!(Instant::now() < deadline, "nothing is charged");
        sleep(Duration::from_millis(5)).await;
    }
    server.kill();
    let acknowledged: u32 = workers.join_all().await.into_iter().sum();
    server.start_again();
    let (effects, records) = effects_and_records(&server);
    assert_eq!(effects, records);
    assert_eq!(effects, count(&server, "(SELECT DISTINCT key FROM ledger) AS k"));
    assert!(effects >= acknowledged, "{effects} of {acknowledged} acknowledged");
}

#[tokio::test]
async fn duplicates_on_other_connections_wait_and_replay() {
    let server = server().await;
    let mut workers = JoinSet::new();
    for _ in 0..8 {
        let (mut client, _) = connect(&server).await;
        workers.spawn(async move {
            let mut ran = 0;
            for number in 0..25 {
                ran += u32::from(charge(&mut client, &format!("k {number}"), Ends::Never, async || {}).await);
            }
            ran
        });
    }
    let ran: u32 = workers.join_all().await.into_iter().sum();
    assert_eq!((ran, effects_and_records(&server)), (25, (25, 25)));
    assert_eq!(count(&server, "(SELECT DISTINCT key FROM ledger) AS k"), 25);
}

#[tokio::test]
async fn a_duplicate_that_waited_too_long_can_go_on_with_its_transaction() {
    let server = server().await;
    let (mut first, _) = connect(&server).await;
    let (mut second, _) = connect(&server).await;
    let mut holder = first.transaction().await.unwrap();
    let begun = transaction::begin(&mut holder, &id("k"), request("100"), Options::default()).await.unwrap();
    let Begun::Run(claim) = begun else { panic!("a fresh key runs") };
    let mut waiter = second.transaction().await.unwrap();
    waiter.execute("SET LOCAL lock_timeout = '7s'", &[]).await.unwrap();
    waiter.execute("INSERT INTO ledger VALUES ('before')", &[]).await.unwrap();
    let soon = Options::default().lock_timeout(Duration::from_millis(50));
    let begun = transaction::begin(&mut waiter, &id("k"), request("100"), soon.clone()).await.unwrap();
    assert!(matches!(begun, Begun::InProgress), "{begun:?}");
    let other = transaction::begin(&mut waiter, &id("other"), request("100"), soon).await.unwrap();
    assert!(matches!(other, Begun::Run(_)));
    let timeout = waiter.query_one("SHOW lock_timeout", &[]).await.unwrap().get::<_, String>(0);
    assert_eq!(timeout, "7s", "the caller's own setting holds again");
    if let Begun::Run(other) = other {
        other.complete(&mut waiter, &receipt(), HOUR).await.unwrap();
    }
    waiter.commit().await.unwrap();
    claim.complete(&mut holder, &receipt(), HOUR).await.unwrap();
    holder.commit().await.unwrap();
    assert_eq!(effects_and_records(&server), (1, 2));
}

#[tokio::test]
async fn another_request_under_the_same_key_is_not_shown_the_outcome() {
    let server = server().await;
    let (mut client, _) = connect(&server).await;
    charge(&mut client, "k", Ends::Never, async || {}).await;
    let mut tx = client.transaction().await.unwrap();
    let begun = transaction::begin(&mut tx, &id("k"), request("900"), Options::default()).await.unwrap();
    assert!(matches!(begun, Begun::Mismatch(Difference::Payload)), "{begun:?}");
    let replay = Options::default().on_mismatch(OnMismatch::Replay);
    let begun = transaction::begin(&mut tx, &id("k"), request("900"), replay).await.unwrap();
    assert!(matches!(begun, Begun::Replay(_)), "{begun:?}");
}

#[tokio::test]
async fn an_expired_record_runs_again() {
    let server = server().await;
    let (mut client, _) = connect(&server).await;
    let mut last = 0;
    for _ in 0..2 {
        let mut tx = client.transaction().await.unwrap();
        let begun = transaction::begin(&mut tx, &id("k"), request("100"), Options::default()).await.unwrap();
        let Begun::Run(claim) = begun else { panic!("{begun:?}") };
        claim.complete(&mut tx, &receipt(), Duration::from_millis(1)).await.unwrap();
        tx.commit().await.unwrap();
        let token: i64 = server.sql("postgres", "SELECT token FROM semel_records").parse().unwrap();
        assert!(token > last, "{token} after {last}");
        last = token;
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_transaction_that_commits_without_completing_leaves_a_doubt() {
    let server = server().await;
    let (mut client, _) = connect(&server).await;
    // What stood there before leaves nothing behind.
    let store = PostgresStore::open(config(&server)).await.unwrap();
    let mut before = claiming("k");
    before.doubt_retention = HOUR;
    let Claimed::Won(before) = store.claim(before).await.unwrap() else { panic!("fresh") };
    store.release(ReleaseArgs { id: id("k"), guard: before.guard, from: ReleaseFrom::Claim }).await.unwrap();
    let mut tx = client.transaction().await.unwrap();
    let begun = transaction::begin(&mut tx, &id("k"), request("100"), Options::default()).await.unwrap();
    assert!(matches!(begun, Begun::Run(_)));
    tx.execute("INSERT INTO ledger VALUES ('k')", &[]).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = client.transaction().await.unwrap();
    let begun = transaction::begin(&mut tx, &id("k"), request("100"), Options::default()).await.unwrap();
    assert!(matches!(begun, Begun::InDoubt), "{begun:?}");
    let doubt = store.get(&id("k")).await.unwrap().expect("it is in doubt");
    assert_eq!((doubt.generation, doubt.doubt_retention), (1, Policy::default().doubt_retention));
}

#[tokio::test]
async fn serialization_failures_are_said_and_leave_the_transaction_usable() {
    let server = server().await;
    let (mut first, _) = connect(&server).await;
    let (mut second, _) = connect(&server).await;
    let strict = second.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    let mut tx = strict.start().await.unwrap();
    tx.query_one("SELECT count(*) FROM ledger", &[]).await.unwrap();
    charge(&mut first, "k", Ends::Never, async || {}).await;
    let refused =
        transaction::begin(&mut tx, &id("k"), request("100"), Options::default()).await.unwrap_err();
    assert!(refused.is_retryable(), "{refused:?}");
    tx.query_one("SELECT 1", &[]).await.expect("no 25P02 for the caller");
    drop(tx);
    let retry = second.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
    let mut tx = retry.start().await.unwrap();
    let begun = transaction::begin(&mut tx, &id("k"), request("100"), Options::default()).await.unwrap();
    assert!(matches!(begun, Begun::Replay(_)), "{begun:?}");
}

#[tokio::test]
async fn a_row_of_another_record_is_damage_and_not_an_answer() {
    let server = server().await;
    let (mut client, _) = connect(&server).await;
    for part in ["tenant", "operation", "key"] {
        charge(&mut client, part, Ends::Never, async || {}).await;
        server.sql("postgres", &format!("UPDATE semel_records SET {part} = 'x' WHERE key = '{part}'"));
        let mut tx = client.transaction().await.unwrap();
        let damaged = transaction::begin(&mut tx, &id(part), request("100"), Options::default()).await;
        assert!(!damaged.expect_err(part).is_retryable(), "{part}");
    }
}

fn claiming(key: &str) -> ClaimArgs {
    ClaimArgs::new(id(key), request("100"), &Policy::default())
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_and_the_store_share_their_records() {
    let server = server().await;
    let store = PostgresStore::open(config(&server)).await.unwrap();
    let (mut client, _) = connect(&server).await;
    charge(&mut client, "of a transaction", Ends::Never, async || {}).await;
    let Claimed::Standing(record) = store.claim(claiming("of a transaction")).await.unwrap() else {
        panic!("the effect would run twice")
    };
    assert_eq!((record.outcome(), record.generation), (Some(&receipt()), 1));
    let of_a_transaction = record.guard.token;

    let Claimed::Won(record) = store.claim(claiming("of the store")).await.unwrap() else { panic!("fresh") };
    charge(&mut client, "later", Ends::Never, async || {}).await;
    let later = store.get(&id("later")).await.unwrap().expect("it is completed").guard.token;
    assert!(of_a_transaction < record.guard.token && record.guard.token < later, "all from one count");
    let mut tx = client.transaction().await.unwrap();
    let theirs = id("of the store");
    let begun = transaction::begin(&mut tx, &theirs, request("100"), Options::default()).await.unwrap();
    assert!(matches!(begun, Begun::InProgress), "{begun:?}");
    let (id, guard, retention) = (record.id, record.guard, HOUR);
    for (ending, failed) in [(Ending::Failed(receipt()), true), (Ending::Completed(receipt()), false)] {
        let args = CompleteArgs { id: id.clone(), guard, ending, retention };
        store.complete(args).await.unwrap();
        let begun = transaction::begin(&mut tx, &theirs, request("100"), Options::default()).await.unwrap();
        assert!(matches!(begun, Begun::Failed(_)), "{begun:?}, {failed}: what was stored first stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_what_a_transaction_holds_is_refused_and_holds_up_nobody() {
    let server = server().await;
    let store = std::sync::Arc::new(PostgresStore::open(config(&server)).await.unwrap());
    let (mut client, _) = connect(&server).await;
    let mut tx = client.transaction().await.unwrap();
    let begun = transaction::begin(&mut tx, &id("held"), request("100"), Options::default()).await.unwrap();
    let Begun::Run(claim) = begun else { panic!("a fresh key runs") };
    let mut others = JoinSet::new();
    for number in 0..100 {
        let store = std::sync::Arc::clone(&store);
        let key = if number == 50 { "held".to_owned() } else { format!("free {number}") };
        others.spawn(async move { (number == 50, store.claim(claiming(&key)).await) });
    }
    for (held, claimed) in timeout(PATIENCE, others.join_all()).await.expect("somebody is held up") {
        match claimed {
            Ok(Claimed::Won(_)) if !held => {}
            Err(error) if held => assert_eq!(error.kind(), StoreErrorKind::Unavailable),
            other => panic!("{held} {other:?}"),
        }
    }
    claim.complete(&mut tx, &receipt(), HOUR).await.unwrap();
    tx.commit().await.unwrap();
    let Claimed::Standing(record) = store.claim(claiming("held")).await.unwrap() else {
        panic!("it ran twice")
    };
    assert_eq!(record.state.kind(), StateKind::Completed);
}

#[cfg(feature = "sqlx")]
mod of_sqlx {
    use super::*;
    use sqlx_core::connection::Connection;
    use sqlx_core::query::query;
    use sqlx_postgres::PgConnection;

    async fn charge(server: &PostgresServer, key: &str, commits: bool) -> bool {
        let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
        let mut tx = connection.begin().await.unwrap();
        let ran =
            match transaction::begin(&mut tx, &id(key), request("100"), Options::default()).await.unwrap() {
                Begun::Run(claim) => {
                    query("INSERT INTO ledger VALUES ($1)").bind(key).execute(&mut *tx).await.unwrap();
                    claim.complete(&mut tx, &receipt(), HOUR).await.unwrap();
                    true
                }
                Begun::Replay(outcome) => {
                    assert_eq!(outcome, receipt());
                    false
                }
                other => panic!("{other:?}"),
            };
        if commits {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        ran
    }

    #[tokio::test]
    async fn a_charge_happens_once_and_a_rolled_back_one_not_at_all() {
        let server = server().await;
        assert!(charge(&server, "k", false).await);
        assert_eq!((effects_and_records(&server), count(&server, "semel_records")), ((0, 0), 0));
        assert!(charge(&server, "k", true).await);
        assert!(!charge(&server, "k", true).await);
        assert_eq!(effects_and_records(&server), (1, 1));
    }

    #[tokio::test]
    async fn a_duplicate_gives_up_and_its_transaction_goes_on() {
        let server = server().await;
        let mut first = PgConnection::connect(&server.url("postgres")).await.unwrap();
        let mut second = PgConnection::connect(&server.url("postgres")).await.unwrap();
        let mut holder = first.begin().await.unwrap();
        let begun =
            transaction::begin(&mut holder, &id("k"), request("100"), Options::default()).await.unwrap();
        let Begun::Run(claim) = begun else { panic!("a fresh key runs") };
        let mut waiter = second.begin().await.unwrap();
        let soon = Options::default().lock_timeout(Duration::from_millis(50));
        let begun = transaction::begin(&mut waiter, &id("k"), request("100"), soon).await.unwrap();
        assert!(matches!(begun, Begun::InProgress), "{begun:?}");
        query("INSERT INTO ledger VALUES ('other')")
            .execute(&mut *waiter)
            .await
            .expect("no 25P02 for the caller");
        waiter.commit().await.unwrap();
        claim.complete(&mut holder, &receipt(), HOUR).await.unwrap();
        holder.commit().await.unwrap();
        assert_eq!(effects_and_records(&server), (1, 1));
    }
}
