//! Several stores on one database, as several processes have them: they share no queue, and meet in the table.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use semel::record::{ClaimArgs, DoubtCause};
use semel::store::{Claimed, DoubtArgs, Written};
use semel::{Fingerprint, Key, Operation, Policy, RecordId, Store, Tenant, fingerprint};
use semel_store_postgres::{PostgresConfig, PostgresStore};
use semel_testkit::server::postgres::PostgresServer;
use tokio::task::JoinSet;

const STORES: usize = 3;
const ROUNDS: u32 = 200;

fn claiming() -> ClaimArgs {
    let id = RecordId::new(Tenant::public(), Operation::http(), Key::new("k").unwrap());
    let request = Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(b"100", &fingerprint::PayloadParts::Raw),
    };
    let mut args = ClaimArgs::new(id, request, &Policy::default());
    args.takeover = true;
    args
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_stores_takes_a_doubt_over_every_round() {
    let server = PostgresServer::start();
    let config = PostgresConfig::new(server.url("postgres"))
        .durability(semel::store::Durability::Process)
        .migrate(true);
    let mut stores = Vec::new();
    for _ in 0..STORES {
        stores.push(Arc::new(PostgresStore::open(config.clone()).await.unwrap()));
    }
    let mut last = None;
    for round in 1..=ROUNDS {
        let mut racing = JoinSet::new();
        for store in &stores {
            let store = Arc::clone(store);
            racing.spawn(async move { store.claim(claiming()).await.unwrap() });
        }
        let won = racing.join_all().await.into_iter().filter_map(|claimed| match claimed {
            Claimed::Won(record) => Some(record),
            Claimed::Standing(_) => None,
        });
        let won: Vec<_> = won.collect();
        assert_eq!(won.len(), 1, "round {round}: {won:?}");
        assert_eq!(won[0].generation, round);
        assert!(Some(won[0].guard.token) > last, "round {round}");
        last = Some(won[0].guard.token);
        let doubt = DoubtArgs { id: won[0].id.clone(), guard: won[0].guard, cause: DoubtCause::NoAnswer };
        assert!(matches!(stores[0].doubt(doubt).await.unwrap(), Written::Done(_)), "round {round}");
    }
}
