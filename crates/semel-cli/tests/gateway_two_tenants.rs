//! Two tenants who use the same keys at the same time over the same connections, hang up at random and leave half
//! requests behind. Every body bears its tenant's mark; nobody is ever shown a byte of the other's, and neither is the
//! upstream with the wrong credential.
//!
//! 20,000 operations, or as many as `SEMEL_TENANT_OPERATIONS=1000000` says; `SEMEL_SEED` says which.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use semel_testkit::client::{Answer, Call, Connection, Raw};
use semel_testkit::figures;
use semel_testkit::gateway::Gateway;
use semel_testkit::seeded::{Seeded, number};
use semel_testkit::server::postgres::PostgresServer;
use semel_testkit::server::redis::RedisServer;
use semel_testkit::upstream::{Arrived, Reply, Upstream};
use tokio::task::JoinSet;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
const WORKERS: usize = 16;
const MARKS: [&str; 2] = ["mark-of-alice.", "mark-of-bob."];
const CREDENTIALS: [&str; 2] = ["Bearer alice", "Bearer bob"];

/// What a tenant sends with a key: its mark, over and over.
fn body(tenant: usize, key: &str, variant: usize) -> String {
    let digest = blake3::hash(format!("{tenant} {key}").as_bytes());
    let times = usize::from(digest.as_bytes()[0]) + variant;
    format!("{} {key} {}", MARKS[tenant], MARKS[tenant].repeat(times))
}

fn call(tenant: usize, key: &str, variant: usize) -> Call {
    Call::post("/charges", body(tenant, key, variant)).key(key).header("authorization", CREDENTIALS[tenant])
}

fn holds(bytes: &[u8], mark: &str) -> bool {
    bytes.windows(mark.len()).any(|part| part == mark.as_bytes())
}

/// Sends the body back, with the tenant's mark in a header too. Counts what came under another's credential.
fn upstream(foreign: Arc<AtomicUsize>) -> Upstream {
    Upstream::scripted(move |arrived: Arrived| {
        let foreign = Arc::clone(&foreign);
        async move {
            let credential =
                arrived.head.headers.get("authorization").map_or(&b""[..], |value| value.as_bytes());
            let tenant = CREDENTIALS.iter().position(|own| own.as_bytes() == credential);
            let own = tenant.is_some_and(|tenant| arrived.body.starts_with(MARKS[tenant].as_bytes()));
            if !own || tenant.is_some_and(|tenant| holds(&arrived.body, MARKS[1 - tenant])) {
                foreign.fetch_add(1, Ordering::SeqCst);
            }
            if arrived.nth.is_multiple_of(3) {
                tokio::time::sleep(Duration::from_micros(u64::try_from(arrived.body.len()).unwrap_or(0)))
                    .await;
            }
            let mut answer = Response::new(arrived.body);
            *answer.status_mut() = StatusCode::CREATED;
            if let Some(value) = tenant.and_then(|tenant| MARKS[tenant].parse().ok()) {
                answer.headers_mut().insert("x-mark", value);
            }
            Reply::Answer(answer)
        }
    })
}

#[derive(Default)]
struct Seen {
    /// What each tenant was shown for each key.
    outcomes: Mutex<HashMap<(usize, String), Bytes>>,
    answers: AtomicUsize,
    replays: AtomicUsize,
    mismatches: AtomicUsize,
    hung_up: AtomicUsize,
}

impl Seen {
    fn hear(&self, tenant: usize, key: &str, answer: &Answer) {
        let headers = format!("{:?}", answer.headers);
        let other = MARKS[1 - tenant];
        let foreign = holds(&answer.body, other) || holds(headers.as_bytes(), other);
        assert!(!foreign, "{} was shown {other} under {key}: {answer:?}", MARKS[tenant]);
        self.answers.fetch_add(1, Ordering::SeqCst);
        match answer.status {
            201 => {
                let begin = format!("{} {key} ", MARKS[tenant]);
                assert!(answer.body.starts_with(begin.as_bytes()), "{key} of {}: {answer:?}", MARKS[tenant]);
                assert_eq!(answer.header("x-mark"), Some(MARKS[tenant]), "{answer:?}");
                let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                let first = outcomes.entry((tenant, key.to_owned())).or_insert_with(|| answer.body.clone());
                assert_eq!(*first, answer.body, "{key} of {} has two outcomes", MARKS[tenant]);
                self.replays.fetch_add(usize::from(answer.is_replay()), Ordering::SeqCst);
            }
            422 => {
                assert!(!holds(&answer.body, MARKS[tenant]), "a mismatch shows a payload: {answer:?}");
                self.mismatches.fetch_add(1, Ordering::SeqCst);
            }
            _ => panic!("{key} of {}: {answer:?}", MARKS[tenant]),
        }
    }
}

/// Connections that go from hand to hand, whoever used them before.
#[derive(Default)]
struct Pool(Mutex<Vec<Connection>>);

impl Pool {
    fn slot(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take(&self, addr: SocketAddr, http2: bool) -> Connection {
        let kept = {
            let mut slot = self.slot();
            let at = slot.iter().position(|connection| connection.is_http2() == http2);
            at.map(|at| slot.swap_remove(at))
        };
        match kept {
            Some(connection) => connection,
            None if http2 => Connection::open_http2(addr).await.expect("the gateway listens"),
            None => Connection::open(addr).await.expect("the gateway listens"),
        }
    }
}

async fn operation(addr: SocketAddr, random: &mut Seeded, keys: usize, pool: &Pool, seen: &Seen) {
    let (tenant, key) = (random.below(2), format!("key-{}", random.below(keys)));
    let variant = usize::from(random.below(10) == 0);
    let call = call(tenant, &key, variant);
    match random.below(20) {
        // Half a request, whose tenant hangs up.
        0 => {
            let mut raw = Raw::open(addr).await;
            let body = body(tenant, &key, variant);
            let head = format!(
                "POST /charges HTTP/1.1\r\nHost: api\r\nAuthorization: {}\r\nIdempotency-Key: {key}\r\nContent-Length: {}\r\n\r\n",
                CREDENTIALS[tenant],
                body.len() + 1
            );
            raw.write(head.as_bytes()).await;
            raw.write(&body.as_bytes()[..random.below(body.len())]).await;
            if random.below(2) == 0 {
                raw.reset();
            }
            seen.hung_up.fetch_add(1, Ordering::SeqCst);
        }
        // A whole request, whose tenant does not wait for the answer. Over HTTP/2 the connection is used again.
        1..=3 => {
            let http2 = random.below(2) == 0;
            let mut connection = pool.take(addr, http2).await;
            let patience = Duration::from_micros(u64::try_from(random.below(3_000)).unwrap_or(0));
            match tokio::time::timeout(patience, connection.send(&call)).await {
                Ok(answer) => seen.hear(tenant, &key, &answer.expect("the gateway answers")),
                Err(_) => {
                    seen.hung_up.fetch_add(1, Ordering::SeqCst);
                    if http2 {
                        pool.slot().push(connection);
                    }
                }
            }
        }
        kind => {
            let mut connection = pool.take(addr, kind < 10).await;
            let answer = connection.send(&call).await.expect("the gateway answers");
            seen.hear(tenant, &key, &answer);
            pool.slot().push(connection);
        }
    }
}

/// `share` of all operations, on one store.
async fn tenants_share(store: Option<&str>, share: u64) {
    let operations = usize::try_from(number("SEMEL_TENANT_OPERATIONS", 20_000) * share / 100).unwrap_or(0);
    let seed = number("SEMEL_SEED", 1);
    let foreign = Arc::new(AtomicUsize::new(0));
    let upstream = upstream(Arc::clone(&foreign));
    let gateway = match store {
        Some(store) => Gateway::start_on(store, SEMEL, &upstream.url(), "").await,
        None => Gateway::start(SEMEL, &upstream.url()).await,
    };
    let (seen, pool) = (Arc::new(Seen::default()), Arc::new(Pool::default()));
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let (addr, seen, pool) = (gateway.addr(), Arc::clone(&seen), Arc::clone(&pool));
        workers.spawn(async move {
            let mut random = Seeded::new(seed * 1_000 + u64::try_from(worker).unwrap_or(0));
            for nth in 0..operations / WORKERS {
                if worker == 0 {
                    figures::progress("two tenants", nth * WORKERS, operations);
                }
                operation(addr, &mut random, operations / 8, &pool, &seen).await;
            }
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.unwrap_or_else(|panic| panic!("SEMEL_SEED={seed}: {panic}"));
    }
    let count = |number: &AtomicUsize| number.load(Ordering::SeqCst);
    println!("seed {seed}");
    figures::tell(&[
        ("operations", operations),
        ("answers", count(&seen.answers)),
        ("replays", count(&seen.replays)),
        ("mismatches", count(&seen.mismatches)),
        ("hung up", count(&seen.hung_up)),
        ("foreign bytes", count(&foreign)),
    ]);
    assert_eq!(count(&foreign), 0, "bodies that reached the upstream under the wrong credential");
    // Both tenants use the same keys: an effect for each of them, and no more.
    let twice =
        upstream.ledger().per_key().into_iter().filter(|(_, effects)| *effects > 2).collect::<Vec<_>>();
    assert!(twice.is_empty(), "{twice:?}");
    let outcomes = seen.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
    let both =
        outcomes.keys().filter(|(tenant, key)| *tenant == 0 && outcomes.contains_key(&(1, key.clone())));
    assert!(both.count() * 20 > operations, "the tenants hardly met");
    assert!(count(&seen.replays) * 4 > operations && count(&seen.hung_up) * 20 > operations);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_of_one_memory_never_see_each_other() {
    tenants_share(Some("memory:"), 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_of_one_file_never_see_each_other() {
    tenants_share(None, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_of_one_redis_never_see_each_other() {
    let server = RedisServer::start();
    tenants_share(Some(&server.url()), 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_of_one_postgres_never_see_each_other() {
    let server = PostgresServer::start_with(&[]);
    let url = server.url("postgres");
    let made = std::process::Command::new(SEMEL).args(["store", "migrate", &url]).status();
    assert!(made.is_ok_and(|status| status.success()));
    tenants_share(Some(&url), 10).await;
}
