//! Transactional mode through PgBouncer in transaction mode, with one connection to PostgreSQL for all clients: what it
//! keeps between two transactions of a client is gone or another client's.
//!
//! The store itself refuses such a pooler; see `settings`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use semel::{Fingerprint, Key, Operation, Outcome, RecordId, Tenant, fingerprint};
use semel_store_postgres::transaction::{self, Begun, Options};
use semel_store_postgres::{PostgresConfig, PostgresStore};
use semel_testkit::server::postgres::{Pooler, PostgresServer};

const ONE_CONNECTION: &str = "default_pool_size = 1\nignore_startup_parameters = extra_float_digits";
const CLIENTS: usize = 4;
const CHARGES: usize = 10;

async fn server() -> PostgresServer {
    let server = PostgresServer::start();
    let config = PostgresConfig::new(server.url("postgres")).durability(semel::store::Durability::Process);
    PostgresStore::migrate(&config).await.unwrap();
    server.sql("postgres", "CREATE TABLE ledger (key text)");
    server
}

fn id(key: &str) -> RecordId {
    RecordId::new(Tenant::public(), Operation::new("charge"), Key::new(key).unwrap())
}

fn request() -> Fingerprint {
    Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(b"100", &fingerprint::PayloadParts::Raw),
    }
}

fn receipt(key: &str) -> Outcome {
    Outcome { code: 201, head: "head".into(), body: key.to_owned().into(), body_kept: true }
}

/// Each key has one effect and one completed record.
fn assert_charged_once(server: &PostgresServer) {
    let twice = "SELECT count(*) FROM (SELECT key FROM ledger GROUP BY key HAVING count(*) > 1) AS twice";
    assert_eq!(server.sql("postgres", twice), "0");
    let both = "SELECT count(DISTINCT key) FROM ledger JOIN semel_records USING (key) WHERE state = 2";
    assert_eq!(server.sql("postgres", both), CHARGES.to_string());
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM semel_records"), CHARGES.to_string());
}

mod of_tokio_postgres {
    use tokio_postgres::NoTls;
    use tokio_postgres::types::Type;

    use super::*;

    /// Every charge by every client; each second transaction is rolled back at first.
    async fn charge_all(url: String, client: usize) {
        let (mut client_of, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        for number in 0..CHARGES {
            let key = format!("k {number}");
            for commits in if (number + client).is_multiple_of(2) { vec![false, true] } else { vec![true] } {
                let mut tx = client_of.transaction().await.unwrap();
                let options = Options::default().lock_timeout(Duration::from_secs(10));
                match transaction::begin(&mut tx, &id(&key), request(), options).await.unwrap() {
                    Begun::Run(claim) => {
                        tx.query_typed("INSERT INTO ledger VALUES ($1)", &[(&key, Type::TEXT)])
                            .await
                            .unwrap();
                        claim.complete(&mut tx, &receipt(&key), Duration::from_secs(3_600)).await.unwrap();
                    }
                    Begun::Replay(outcome) => assert_eq!(outcome, receipt(&key)),
                    other => panic!("{other:?}"),
                }
                if commits { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn clients_who_share_a_pooled_connection_charge_once_each_key() {
        let server = server().await;
        let pooler = Pooler::start(&server, ONE_CONNECTION);
        let mut charging = tokio::task::JoinSet::new();
        (0..CLIENTS).for_each(|client| {
            charging.spawn(charge_all(pooler.url("postgres"), client));
        });
        charging.join_all().await;
        assert_charged_once(&server);
    }
}

#[cfg(feature = "sqlx")]
mod of_sqlx {
    use sqlx_core::connection::Connection;
    use sqlx_core::query::query;
    use sqlx_postgres::PgConnection;

    use super::*;

    async fn charge_all(url: String, client: usize) {
        let mut connection = PgConnection::connect(&url).await.unwrap();
        for number in 0..CHARGES {
            let key = format!("k {number}");
            for commits in if (number + client).is_multiple_of(2) { vec![false, true] } else { vec![true] } {
                let mut tx = connection.begin().await.unwrap();
                let options = Options::default().lock_timeout(Duration::from_secs(10));
                match transaction::begin(&mut tx, &id(&key), request(), options).await.unwrap() {
                    Begun::Run(claim) => {
                        let effect = query("INSERT INTO ledger VALUES ($1)").persistent(false).bind(&key);
                        effect.execute(&mut *tx).await.unwrap();
                        claim.complete(&mut tx, &receipt(&key), Duration::from_secs(3_600)).await.unwrap();
                    }
                    Begun::Replay(outcome) => assert_eq!(outcome, receipt(&key)),
                    other => panic!("{other:?}"),
                }
                if commits { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn clients_who_share_a_pooled_connection_charge_once_each_key() {
        let server = server().await;
        let pooler = Pooler::start(&server, ONE_CONNECTION);
        let mut charging = tokio::task::JoinSet::new();
        (0..CLIENTS).for_each(|client| {
            charging.spawn(charge_all(pooler.url("postgres"), client));
        });
        charging.join_all().await;
        assert_charged_once(&server);
    }
}
