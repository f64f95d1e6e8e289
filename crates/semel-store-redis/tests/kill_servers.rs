//! Servers that die, freeze, lose their data or hand it to others while claims are made: what was acknowledged and is
//! gone is counted, and held against what the store's tier says.
//!
//! `SEMEL_FAILOVERS=20` and `SEMEL_KILLS=20` make the long versions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use semel::clock::{Clock, Timestamp};
use semel::engine::Limits;
use semel::event::Silent;
use semel::record::{AttemptId, ClaimArgs, DoubtCause, Ending, Guard, ReleaseFrom, StateKind};
use semel::store::{
    Claimed, CompleteArgs, DoubtArgs, ReleaseArgs, RenewArgs, StoreErrorKind, StoreFuture, Survives, Written,
};
use semel::{
    Ask, Begun, Engine, Fingerprint, Key, Operation, Outcome, Policy, Record, RecordId, State, Store, Tenant,
    fingerprint,
};
use semel_store_redis::{RedisConfig, RedisStore};
use semel_testkit::check::Recorder;
use semel_testkit::fault_proxy::{FaultProxy, Wire};
use semel_testkit::figures;
use semel_testkit::server::redis::{RedisCluster, RedisServer};
use tokio::task::JoinSet;
use tokio::time::Instant;

const WORKERS: usize = 32;
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

fn times(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).ok().and_then(|times| times.parse().ok()).unwrap_or(otherwise)
}

async fn open(url: &str) -> Arc<RedisStore> {
    Arc::new(RedisStore::open(RedisConfig::from_url(url).unwrap()).await.unwrap())
}

/// As soon as the server can be used again.
async fn open_soon(url: &str) -> Arc<RedisStore> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match RedisStore::open(RedisConfig::from_url(url).unwrap()).await {
            Ok(store) => return Arc::new(store),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn id(key: &str) -> RecordId {
    RecordId::new(Tenant::id(&["tenant"]), Operation::http(), Key::new(key).unwrap())
}

fn request() -> Fingerprint {
    Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(b"100", &fingerprint::PayloadParts::Raw),
    }
}

fn args(key: &str) -> ClaimArgs {
    ClaimArgs::new(id(key), request(), &Policy { lease: DAY, max_execution: DAY, ..Policy::default() })
}

fn completion(record: &Record) -> CompleteArgs {
    let outcome = Outcome { code: 201, head: "".into(), body: "receipt".into(), body_kept: true };
    CompleteArgs {
        id: record.id.clone(),
        guard: record.guard,
        ending: Ending::Completed(outcome),
        retention: DAY,
    }
}

fn release(record: &Record) -> ReleaseArgs {
    ReleaseArgs { id: record.id.clone(), guard: record.guard, from: ReleaseFrom::Claim }
}

async fn won(store: &RedisStore, key: &str) -> Record {
    match store.claim(args(key)).await.unwrap() {
        Claimed::Won(record) => record,
        Claimed::Standing(record) => panic!("{record:?} stands"),
    }
}

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    claims: Vec<(RecordId, Guard)>,
    outcomes: Vec<(RecordId, Guard)>,
    /// Claims that were sent away.
    refused: usize,
}

/// Claims and completes fresh keys until it is ended.
struct Load {
    stop: Arc<AtomicBool>,
    pairs: Arc<AtomicUsize>,
    workers: JoinSet<Acknowledged>,
}

impl Load {
    fn start<S: Store + 'static>(store: &Arc<S>, name: &str) -> Self {
        let (stop, pairs, mut workers) = (Arc::new(AtomicBool::new(false)), Arc::default(), JoinSet::new());
        for worker in 0..WORKERS {
            let (store, stop, pairs) = (Arc::clone(store), Arc::clone(&stop), Arc::clone(&pairs));
            let name = format!("{name} {worker}");
            workers.spawn(async move { work(&*store, &name, &stop, &pairs).await });
        }
        Self { stop, pairs, workers }
    }

    /// Until so many pairs more were acknowledged.
    async fn acknowledges(&self, more: usize) {
        let wanted = self.pairs.load(Ordering::SeqCst) + more;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.pairs.load(Ordering::SeqCst) < wanted {
            assert!(Instant::now() < deadline, "waited 30 s for {more} acknowledged pairs");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn end(self) -> Acknowledged {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Acknowledged::default();
        for own in self.workers.join_all().await {
            all.claims.extend(own.claims);
            all.outcomes.extend(own.outcomes);
            all.refused += own.refused;
        }
        all
    }
}

async fn work(store: &dyn Store, name: &str, stop: &AtomicBool, pairs: &AtomicUsize) -> Acknowledged {
    let mut all = Acknowledged::default();
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let Ok(Claimed::Won(record)) = store.claim(args(&format!("{name} {n}"))).await else {
            all.refused += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        // Every fourth stays claimed.
        if n % 4 != 0 && matches!(store.complete(completion(&record)).await, Ok(Written::Done(_))) {
            all.outcomes.push((record.id, record.guard));
            pairs.fetch_add(1, Ordering::SeqCst);
        } else {
            all.claims.push((record.id, record.guard));
        }
    }
    all
}

impl Acknowledged {
    /// How many claims and outcomes were acknowledged and do not stand.
    async fn lost(&self, store: &Arc<RedisStore>) -> usize {
        let mut lost = 0;
        for (acknowledged, outcome) in [(&self.claims, false), (&self.outcomes, true)] {
            for (id, guard) in acknowledged {
                let record = store.get(id).await.unwrap();
                let stands = record.is_some_and(|record| {
                    record.guard == *guard && (!outcome || record.state.kind() == StateKind::Completed)
                });
                lost += usize::from(!stands);
            }
        }
        lost
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_appendfsync_always_a_server_loses_nothing_acknowledged() {
    let mut server = RedisServer::start_with(&[("appendfsync", "always")]);
    let (mut total, mut judged) = (0, 0);
    for kill in 0..times("SEMEL_KILLS", 5) {
        let store = open_soon(&server.url()).await;
        assert_eq!(store.tier().power_cut, Survives::Yes);
        let recorder = Recorder::new(store.clone());
        let load = Load::start(&Arc::new(recorder.clone()), &format!("kill {kill}"));
        load.acknowledges(200).await;
        server.kill9();
        let acknowledged = load.end().await;
        server.start_again();
        let store = open_soon(&server.url()).await;
        assert_eq!(acknowledged.lost(&store).await, 0, "kill {kill}");
        // Also those of which nobody knows whether they were carried out.
        let after = recorder.continued(store);
        for operation in recorder.history() {
            after.get(operation.asked.call.id()).await.unwrap();
        }
        judged += after.verify().keys;
        total += acknowledged.claims.len() + acknowledged.outcomes.len();
    }
    figures::tell(&[
        ("kills of a server", times("SEMEL_KILLS", 5)),
        ("acknowledged", total),
        ("acknowledged and lost", 0),
        ("histories judged", judged),
    ]);
}

/// Kills a master under load, waits for its replica, and counts.
async fn failovers(rounds: usize, wait: &str) -> (usize, usize) {
    let mut cluster = RedisCluster::start(3, 1);
    let url = format!("{}?timeout_ms=1500{wait}", cluster.url());
    let (mut lost, mut total) = (0, 0);
    for round in 0..rounds {
        cluster.settle();
        let before = lost;
        let began = Instant::now();
        let store = open_soon(&url).await;
        let load = Load::start(&store, &format!("failover {round}"));
        load.acknowledges(200).await;
        let victim = cluster.masters()[round % 3];
        cluster.nodes_mut()[victim].kill9();
        let deadline = Instant::now() + Duration::from_secs(20);
        while cluster.masters().len() < 3 {
            assert!(Instant::now() < deadline, "no replica took over");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Where replicas must confirm, the new master takes no writes before it has one.
        load.acknowledges(50).await;
        let acknowledged = load.end().await;
        lost += acknowledged.lost(&store).await;
        total += acknowledged.claims.len() + acknowledged.outcomes.len();
        cluster.nodes_mut()[victim].start_again();
        let acknowledged = acknowledged.claims.len() + acknowledged.outcomes.len();
        println!("failover {round}: {} of {acknowledged} lost, {:?}", lost - before, began.elapsed());
    }
    figures::tell(&[("failovers", rounds)]);
    (lost, total)
}

/// The replica that confirmed a write is the only one that can be promoted, so nothing may be lost here. With several
/// replicas another one could be: the tier gives no guarantee.
#[tokio::test(flavor = "multi_thread")]
async fn failovers_of_a_cluster_with_a_confirming_replica_lose_nothing() {
    let (lost, total) = failovers(times("SEMEL_FAILOVERS", 3), "&wait_replicas=1").await;
    figures::tell(&[("acknowledged", total), ("acknowledged and lost", lost)]);
    assert_eq!(lost, 0, "of {total}");
}

/// The tier says that what the replicas had not received is lost; how much that is depends on the moment.
#[tokio::test(flavor = "multi_thread")]
async fn failovers_without_confirmation_lose_at_most_what_was_on_its_way() {
    let (lost, total) = failovers(times("SEMEL_FAILOVERS", 1), "").await;
    figures::tell(&[
        ("acknowledged by a master alone", total),
        ("of those lost with it (as its tier says)", lost),
    ]);
    assert!(lost <= total / 4, "{lost} of {total}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_no_replica_confirms_is_withdrawn_and_an_outcome_is_unknown() {
    let cluster = RedisCluster::start(3, 1);
    what_no_replica_confirms_is_not_acknowledged(&cluster.url(), &cluster.nodes()[3..]).await;
}

/// Callers of one server share calls, unless replicas are waited for.
#[tokio::test(flavor = "multi_thread")]
async fn one_server_acknowledges_nothing_that_its_replica_has_not_confirmed() {
    let server = RedisServer::start();
    let replica = RedisServer::start_with(&[("replicaof", &format!("127.0.0.1 {}", server.port()))]);
    let store = open_soon(&format!("{}?wait_replicas=1", server.url())).await;
    // A replica that is still being filled is connected and confirms nothing.
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.claim(args("first")).await.is_err() {
        assert!(Instant::now() < deadline, "the replica does not follow: {}", replica.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    what_no_replica_confirms_is_not_acknowledged(&server.url(), &[replica]).await;
}

async fn what_no_replica_confirms_is_not_acknowledged(url: &str, replicas: &[RedisServer]) {
    let url = format!("{url}?timeout_ms=600&wait_replicas=1");
    let (store, other) = (open(&url).await, open(&url).await);
    let held = won(&store, "held").await;
    replicas.iter().for_each(RedisServer::stop);
    let error = store.claim(args("k")).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unavailable, "{error:?}");
    assert_eq!(store.get(&id("k")).await.unwrap(), None, "the claim was withdrawn");
    let error = store.complete(completion(&held)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown, "{error:?}");
    for again in [&store, &other] {
        let error = again.complete(completion(&held)).await.unwrap_err();
        assert_eq!(
            error.kind(),
            StoreErrorKind::Unknown,
            "it stands, and still nobody has confirmed it: {error:?}"
        );
    }
    replicas.iter().for_each(RedisServer::resume);
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.complete(completion(&held)).await.is_err() {
        assert!(Instant::now() < deadline, "the outcome is never confirmed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let stands = store.get(&held.id).await.unwrap().expect("it is kept as long as before");
    assert_eq!(stands.state.kind(), StateKind::Completed);
    let record = won(&store, "k").await;
    assert_eq!(record.generation, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_data_is_noticed_at_the_start_and_while_it_is_used() {
    let said = |store: &RedisStore, what: &str| store.tier().warnings.iter().any(|text| text.contains(what));
    let mut server = RedisServer::start();
    let store = open(&server.url()).await;
    assert!(said(&store, "this is its first start, or its data is gone"));
    let first = won(&store, "k").await;
    store.complete(completion(&first)).await.unwrap();
    assert!(!said(&*open(&server.url()).await, "its data is gone"), "the second start finds the markers");
    server.kill9();
    server.forget();
    server.start_again();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !said(&store, "lost their records while this process used them") {
        assert!(Instant::now() < deadline, "not noticed: {:?}", store.tier());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(store.get(&first.id).await.unwrap(), None);
    server.kill9();
    server.forget();
    server.start_again();
    assert!(said(&*open_soon(&server.url()).await, "its data is gone"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_lost_its_data_is_noticed_at_the_start() {
    let cluster = RedisCluster::start(3, 0);
    drop(open(&cluster.url()).await);
    let _ = cluster.nodes()[1].ask(&["FLUSHALL"]);
    let warnings = open(&cluster.url()).await.tier().warnings;
    assert!(warnings.iter().any(|text| text.contains("a shard has lost its data")), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_leaves_claims_unknown_and_they_are_recognised_afterwards() {
    let server = RedisServer::start();
    let store = open(&format!("{}?timeout_ms=300", server.url())).await;
    server.stop();
    let args = args("k");
    let began = Instant::now();
    let error = store.claim(args.clone()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Unknown);
    assert!(began.elapsed() < Duration::from_secs(3));
    server.resume();
    let deadline = Instant::now() + Duration::from_secs(20);
    let record = loop {
        match store.claim(args.clone()).await {
            Ok(Claimed::Won(record)) => break record,
            Ok(Claimed::Standing(record)) => panic!("its own claim is a stranger's: {record:?}"),
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
    };
    assert_eq!(record.guard.attempt, args.attempt);
    assert_eq!(record.generation, 1);
    store.complete(completion(&record)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_lost_on_the_wire_cost_neither_an_effect_nor_a_second_claim() {
    let server = RedisServer::start();
    let proxy = FaultProxy::start(server.addr().parse().unwrap()).await;
    let store = open(&format!("redis://{}?timeout_ms=500", proxy.addr())).await;
    let engine = Engine::with(store.clone(), Arc::new(Silent), Limits::default());
    // So that the server has the script, and the first reply is that of a claim.
    won(&store, "first").await;
    let mut recognised = 0;
    for n in 0..10 {
        let key = format!("k {n}");
        let ask = Ask { id: id(&key), fingerprint: request(), policy: Arc::new(Policy::default()) };
        proxy.set(Wire::LoseReply);
        let begun = tokio::spawn({
            let engine = engine.clone();
            async move { engine.begin(ask).await }
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut arrived = false;
        while !arrived && !begun.is_finished() {
            arrived = server.ask(&["EXISTS", &key_of(&key)]) == "1";
            assert!(Instant::now() < deadline, "the claim neither arrives nor fails");
        }
        proxy.set(Wire::Open);
        match begun.await.unwrap() {
            Ok(Begun::Run(claim)) => {
                recognised += 1;
                assert_eq!(claim.generation(), 1);
                claim.start();
                claim.complete(Outcome { code: 201, ..Outcome::default() }).await;
                let record = store.get(&id(&key)).await.unwrap().unwrap();
                assert_eq!(record.state.kind(), StateKind::Completed);
            }
            Ok(other) => panic!("the caller's own claim was taken for another's: {other:?}"),
            // The connection was still being made anew, and its replies were lost.
            Err(_) if !arrived => {}
            // The read was lost as well: nothing is run, and the claim lapses into doubt.
            Err(_) => assert!(store.get(&id(&key)).await.unwrap().is_some()),
        }
    }
    assert!(recognised > 0, "no claim was recognised by its attempt");
}

fn key_of(key: &str) -> String {
    format!("semel:{}", id(key).digest())
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = RedisServer::start();
    let store = open(&server.url()).await;
    for n in 0..20 {
        let _ = server.ask(&["SCRIPT", "FLUSH"]);
        let record = won(&store, &format!("k {n}")).await;
        let _ = server.ask(&["SCRIPT", "FLUSH"]);
        assert!(matches!(store.complete(completion(&record)).await.unwrap(), Written::Done(Some(_))));
    }
}

/// However many there are, each call touches one slot.
#[tokio::test(flavor = "multi_thread")]
async fn callers_at_once_on_a_cluster_are_all_served() {
    let cluster = RedisCluster::start(3, 0);
    let store = open(&cluster.url()).await;
    let mut callers = JoinSet::new();
    for n in 0..256 {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            let record = won(&store, &format!("k {n}")).await;
            assert!(matches!(store.complete(completion(&record)).await.unwrap(), Written::Done(Some(_))));
        });
    }
    assert_eq!(callers.join_all().await.len(), 256);
}

/// What the servers say of scripts that were sent to them whole.
fn sent_whole(servers: &[RedisServer]) -> Vec<String> {
    let stats = |server: &RedisServer| server.ask(&["INFO", "commandstats"]);
    servers
        .iter()
        .map(|server| stats(server).lines().filter(|line| line.contains("_eval:")).collect())
        .collect()
}

/// The driver's last error says nothing of what it sent before: what may have been made is not sent again by itself.
async fn a_renewal_is_sent_again_only_to_a_server_that_forgot_it(url: &str, servers: &[RedisServer]) {
    let all = |command: &[&str]| servers.iter().for_each(|server| drop(server.ask(command)));
    let store = open(url).await;
    let record = won(&store, "k").await;
    let renewal = RenewArgs { id: record.id.clone(), guard: record.guard, lease: DAY };
    all(&["SCRIPT", "FLUSH"]);
    assert!(matches!(store.renew(renewal.clone()).await.unwrap(), Written::Done(Some(_))));
    let before = sent_whole(servers);
    all(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = store.renew(renewal).await.unwrap_err().kind();
    assert!(matches!(refused, StoreErrorKind::Full | StoreErrorKind::Unknown), "{refused:?}");
    assert_eq!(sent_whole(servers), before, "it was refused, and sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_the_server_refused_is_not_sent_again() {
    let server = RedisServer::start();
    let url = server.url();
    a_renewal_is_sent_again_only_to_a_server_that_forgot_it(&url, &[server]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_replicas_must_confirm_is_not_sent_again_once_it_was_refused() {
    let cluster = RedisCluster::start(3, 1);
    let url = format!("{}?wait_replicas=1", cluster.url());
    a_renewal_is_sent_again_only_to_a_server_that_forgot_it(&url, cluster.nodes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_move_under_load_lose_no_record_and_double_no_claim() {
    let cluster = RedisCluster::start(3, 0);
    let store = open(&cluster.url()).await;
    let load = Load::start(&store, "moving");
    load.acknowledges(200).await;
    let [from, to] = [0, 1].map(|n| cluster.nodes()[n].ask(&["CLUSTER", "MYID"]));
    let addr = cluster.nodes()[0].addr();
    let moved = tokio::task::spawn_blocking(move || {
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "reshard", &addr, "--cluster-from", &from, "--cluster-to", &to]);
        command.args(["--cluster-slots", "600", "--cluster-yes"]).output().unwrap()
    });
    let moved = moved.await.unwrap();
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stdout));
    load.acknowledges(200).await;
    let acknowledged = load.end().await;
    assert_eq!(acknowledged.lost(&store).await, 0);
    assert_eq!(acknowledged.refused, 0, "callers were sent away while slots moved");
    for (id, guard) in &acknowledged.outcomes {
        let again = ClaimArgs::new(id.clone(), request(), &Policy::default());
        let claimed = store.claim(again).await.unwrap();
        assert!(matches!(claimed, Claimed::Standing(record) if record.guard == *guard), "{id:?} ran twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_holds_another_record_is_damage_and_not_an_answer() {
    let server = RedisServer::start();
    let store = open(&server.url()).await;
    let record = won(&store, "a").await;
    let _ = server.ask(&["COPY", &key_of("a"), &key_of("b")]);
    assert_eq!(store.get(&id("b")).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    assert_eq!(store.claim(args("b")).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    let _ = server.ask(&["SET", &key_of("c"), "somebody else's"]);
    assert_eq!(store.claim(args("c")).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    // Nor is it written over by who has the guard of what is there.
    let at_b = CompleteArgs { id: id("b"), ..completion(&record) };
    assert_eq!(store.complete(at_b).await.unwrap_err().kind(), StoreErrorKind::Corrupt);
    let of_another_format = won(&store, "d").await;
    let _ = server.ask(&["SETRANGE", &key_of("d"), "0", "\u{2}"]);
    let refused = store.complete(completion(&of_another_format)).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Corrupt);
}

/// Wakes come from the server, not from polling: a watch has no poll of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_in_another_process_is_woken_on_one_server_and_on_a_cluster() {
    let (server, cluster) = (RedisServer::start(), RedisCluster::start(3, 0));
    for url in [server.url(), cluster.url()] {
        let (ours, theirs) = (open(&url).await, open(&url).await);
        for n in 0..3 {
            let record = won(&ours, &format!("k {n}")).await;
            is_woken_by(&theirs, &record, ours.complete(completion(&record))).await;
        }
        let record = won(&ours, "released").await;
        is_woken_by(&theirs, &record, ours.release(release(&record))).await;
        let record = won(&ours, "in doubt").await;
        let doubt = DoubtArgs { id: record.id.clone(), guard: record.guard, cause: DoubtCause::NoAnswer };
        is_woken_by(&theirs, &record, ours.doubt(doubt)).await;
        let mut takeover = args("in doubt");
        takeover.takeover = true;
        is_woken_by(&theirs, &record, ours.claim(takeover)).await;
        all_are_woken_by_completions_that_share_a_call(&ours, &theirs).await;
    }
}

async fn is_woken_by<T>(theirs: &RedisStore, record: &Record, change: StoreFuture<'_, T>) {
    let watch = tokio::time::timeout(Duration::from_secs(10), theirs.watch(&record.id, record.guard));
    let change = async {
        // Only who has subscribed is told.
        tokio::time::sleep(Duration::from_millis(250)).await;
        change.await.unwrap();
    };
    let (woken, ()) = tokio::join!(watch, change);
    woken.expect("not told in time").unwrap();
}

async fn all_are_woken_by_completions_that_share_a_call(ours: &Arc<RedisStore>, theirs: &Arc<RedisStore>) {
    let (mut watches, mut completions) = (JoinSet::new(), JoinSet::new());
    for n in 0..50 {
        let (record, ours, theirs) = (won(ours, &format!("shared {n}")).await, ours.clone(), theirs.clone());
        let completion = completion(&record);
        watches.spawn(async move {
            let watch = theirs.watch(&record.id, record.guard);
            tokio::time::timeout(Duration::from_secs(10), watch).await.expect("not told in time").unwrap();
        });
        completions.spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            ours.complete(completion).await.unwrap();
        });
    }
    completions.join_all().await;
    assert_eq!(watches.join_all().await.len(), 50);
}

/// Redis's own expiry must never turn a lapsed claim into an absent record.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_keeps_a_claim_until_its_doubt_is_over_and_an_outcome_until_its_retention_is() {
    let server = RedisServer::start();
    let store = open(&server.url()).await;
    let kept = |key: &str| Duration::from_millis(server.ask(&["PTTL", &key_of(key)]).parse().unwrap());
    let record = won(&store, "k").await;
    let slack = Duration::from_secs(30);
    assert!(kept("k") + slack >= DAY + Policy::default().doubt_retention, "{:?}", kept("k"));
    store.renew(RenewArgs { id: record.id.clone(), guard: record.guard, lease: DAY }).await.unwrap();
    assert!(kept("k") + slack >= DAY + Policy::default().doubt_retention, "renewed: {:?}", kept("k"));
    store.complete(completion(&record)).await.unwrap();
    assert!(kept("k") + slack >= DAY && kept("k") <= DAY + slack, "{:?}", kept("k"));
}

/// Where another store's clock was ahead, its tokens must not come again here; a clock that was days ahead is not
/// believed, so that no record stays for ever.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_keeps_a_token_from_elsewhere_until_its_own_clock_is_past_it() {
    let server = RedisServer::start();
    let store = open(&server.url()).await;
    let kept = |key: &str| Duration::from_millis(server.ask(&["PTTL", &key_of(key)]).parse().unwrap());
    for (key, ahead, stays) in [("hour", HOUR, HOUR), ("week", 7 * DAY, DAY)] {
        let mut record = won(&store, key).await;
        store.release(release(&record)).await.unwrap();
        record.guard.token.0 += u64::try_from(ahead.as_micros()).unwrap();
        let outcome = Outcome { code: 201, head: "".into(), body: "receipt".into(), body_kept: true };
        let soon = record.claimed_at.plus(Duration::from_secs(60));
        record.state = State::Completed { outcome, completed_at: record.claimed_at, expires_at: soon };
        assert!(matches!(store.import(record).await.unwrap(), Written::Done(Some(_))));
        let slack = Duration::from_secs(1_200);
        assert!(kept(key) > stays && kept(key) < stays + slack, "{ahead:?} ahead: {:?}", kept(key));
    }
}

/// However old the claim was.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_keeps_the_token_of_what_was_released_for_ten_minutes() {
    let (server, clock) = (RedisServer::start(), Arc::new(Wandering(1_800_000_000_000_000.into())));
    let config = RedisConfig::from_url(&server.url()).unwrap().clock(clock.clone());
    let store = RedisStore::open(config).await.unwrap();
    let record = won(&store, "k").await;
    clock.0.fetch_add(3_600_000_000, Ordering::SeqCst);
    store.release(release(&record)).await.unwrap();
    let kept: u64 = server.ask(&["PTTL", &key_of("k")]).parse().unwrap();
    assert!((590_000..=600_000).contains(&kept), "{kept} ms");
}

/// A clock that can go back.
#[derive(Debug)]
struct Wandering(std::sync::atomic::AtomicU64);

impl Clock for Wandering {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.load(Ordering::SeqCst))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_grow_when_the_servers_clock_goes_back_an_hour() {
    const NOW: u64 = 1_800_000_000_000_000;
    let (server, clock) = (RedisServer::start(), Arc::new(Wandering(NOW.into())));
    let config = RedisConfig::from_url(&server.url()).unwrap().clock(clock.clone());
    let store = RedisStore::open(config).await.unwrap();
    let mut last = 0;
    for hours_back in 0..5 {
        clock.0.store(NOW - hours_back * 3_600_000_000, Ordering::SeqCst);
        let record = won(&store, "k").await;
        assert!(record.guard.token.0 > last, "{hours_back} hours back: {} after {last}", record.guard.token);
        last = record.guard.token.0;
        store.release(release(&record)).await.unwrap();
        let stale = Guard { token: record.guard.token, attempt: AttemptId::fresh() };
        let refused = store.release(ReleaseArgs { guard: stale, ..release(&record) }).await.unwrap();
        assert_eq!(refused, Written::Refused(None));
    }
}
