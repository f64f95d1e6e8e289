//! Several stores on one database, as several processes have them: they share no queue, and meet in the table.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use semel::clock::Timestamp;
use semel::record::{AttemptId, ClaimArgs, DoubtCause, Guard, ReleaseFrom};
use semel::store::{Claimed, DoubtArgs, ReleaseArgs, Written};
use semel::{
    Fingerprint, Key, Operation, Outcome, Policy, Record, RecordId, State, Store, Tenant, Token, fingerprint,
};
use semel_store_postgres::{PostgresConfig, PostgresStore};
use semel_testkit::fault_proxy::{FaultProxy, Wire};
use semel_testkit::server::postgres::PostgresServer;
use tokio::task::JoinSet;
use tokio::time::Instant;

const STORES: usize = 3;
const ROUNDS: u32 = 200;

fn claiming(key: &str) -> ClaimArgs {
    let id = RecordId::new(Tenant::public(), Operation::http(), Key::new(key).unwrap());
    let request = Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(b"100", &fingerprint::PayloadParts::Raw),
    };
    let mut args = ClaimArgs::new(id, request, &Policy::default());
    args.takeover = true;
    args
}

async fn stores() -> (PostgresServer, Vec<Arc<PostgresStore>>) {
    let server = PostgresServer::start();
    let config = PostgresConfig::new(server.url("postgres"))
        .durability(semel::store::Durability::Process)
        .migrate(true);
    let mut stores = Vec::new();
    for _ in 0..STORES {
        stores.push(Arc::new(PostgresStore::open(config.clone()).await.unwrap()));
    }
    (server, stores)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_stores_takes_a_doubt_over_every_round() {
    let (_server, stores) = stores().await;
    let mut last = None;
    for round in 1..=ROUNDS {
        let mut racing = JoinSet::new();
        for store in &stores {
            let store = Arc::clone(store);
            racing.spawn(async move { store.claim(claiming("k")).await.unwrap() });
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

/// Finished in another store, and kept for long.
fn finished(claim: &ClaimArgs) -> Record {
    let at = Timestamp::from_micros(1_800_000_000_000_000);
    Record {
        id: claim.id.clone(),
        fingerprint: claim.fingerprint,
        guard: Guard { token: Token(1), attempt: AttemptId::fresh() },
        generation: 1,
        claimed_at: at,
        doubt_retention: Duration::ZERO,
        state: State::Completed {
            outcome: Outcome::default(),
            completed_at: at,
            expires_at: Timestamp::from_micros(4_000_000_000_000_000),
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_claim_and_an_import_of_one_key_one_is_made() {
    let (_server, stores) = stores().await;
    for round in 0..ROUNDS {
        let claim = claiming(&format!("k {round}"));
        let (id, record) = (claim.id.clone(), finished(&claim));
        let (one, other) = (Arc::clone(&stores[0]), Arc::clone(&stores[1]));
        let claiming = tokio::spawn(async move { one.claim(claim).await.unwrap() });
        let importing = tokio::spawn(async move { other.import(record).await.unwrap() });
        let made = match (claiming.await.unwrap(), importing.await.unwrap()) {
            (Claimed::Won(record), Written::Refused(_)) => record,
            (Claimed::Standing(_), Written::Done(Some(record))) => record,
            both => panic!("round {round}: {both:?}"),
        };
        assert_eq!(stores[2].get(&id).await.unwrap(), Some(made), "round {round}");
    }
}

async fn won(store: &PostgresStore) -> Guard {
    match store.claim(claiming("k")).await.unwrap() {
        Claimed::Won(record) => record.guard,
        Claimed::Standing(record) => panic!("it stands: {record:?}"),
    }
}

fn releasing(guard: Guard) -> ReleaseArgs {
    ReleaseArgs { id: claiming("k").id, guard, from: ReleaseFrom::Claim }
}

/// A release whose first answer is lost on its way back, so that it is made again.
async fn released_twice(proxy: &FaultProxy, far: &Arc<PostgresStore>, guard: Guard) -> Written {
    let before = proxy.connections();
    proxy.set(Wire::LoseReply);
    let store = Arc::clone(far);
    let releasing = tokio::spawn(async move { store.release(releasing(guard)).await.unwrap() });
    while proxy.connections() == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    proxy.set(Wire::Open);
    releasing.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_done_when_its_answer_was_lost_and_refused_when_it_was_anothers() {
    let (server, stores) = stores().await;
    let proxy = FaultProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, server.port()))).await;
    let port = |port: u16| format!(":{port}/");
    let url = server.url("postgres").replace(&port(server.port()), &port(proxy.addr().port()));
    let far = PostgresConfig::new(url).durability(semel::store::Durability::Process);
    let far = Arc::new(PostgresStore::open(far).await.unwrap());
    let own = won(&stores[0]).await;
    // Its connection is there from now on.
    let stale = Guard { token: Token(1), ..own };
    assert!(matches!(far.release(releasing(stale)).await.unwrap(), Written::Refused(Some(_))));
    assert!(matches!(released_twice(&proxy, &far, own).await, Written::Done(None)));
    let others = won(&stores[0]).await;
    stores[0].release(releasing(others)).await.unwrap();
    assert!(matches!(released_twice(&proxy, &far, own).await, Written::Refused(None)));
}

/// For two seconds a claim that is on its way still meets the row, and takes a greater token.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_stays_for_two_seconds_after_it_is_dead() {
    let (_server, stores) = stores().await;
    let store = &stores[0];
    let mut lapsing = claiming("lapsed");
    (lapsing.lease, lapsing.doubt_retention) = (Duration::ZERO, Duration::ZERO);
    let began = Instant::now();
    assert!(matches!(store.claim(lapsing).await.unwrap(), Claimed::Won(_)));
    let guard = won(store).await;
    store.release(releasing(guard)).await.unwrap();
    let purged = store.purge(10).await.unwrap();
    assert!(purged == 0 || began.elapsed() >= Duration::from_secs(2), "{purged} are gone");
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(purged + store.purge(10).await.unwrap(), 2);
}
