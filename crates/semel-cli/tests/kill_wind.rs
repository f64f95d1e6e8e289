//! The wind tunnel: real gateways on real stores under load, while one of them is killed or stands still beyond its
//! lease, the store's server stands still, is killed or loses its power, the disk is full, its syncs fail, the clock is
//! wrong, here or at the server.
//!
//! The upstream's ledger is compared with every answer and with what the records said right after the wind. Of a key
//! that is in doubt then nobody knows the outcome: under *hold* it has at most one effect for ever, under *retry* it
//! gets one more, so the doubled effects are those keys, and exactly those, that were in doubt with an effect in the
//! ledger. Under *probe* the upstream says from its ledger whether there was an effect, and none is doubled.
//!
//! `SEMEL_WIND_ROUNDS=200` and `SEMEL_SEED` for longer and other winds.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use semel_testkit::check::answers::{self, Request, Told};
use semel_testkit::client::{Answer, Call, Connection, Load};
use semel_testkit::figures;
use semel_testkit::gateway::{Gateway, has_read_everything};
use semel_testkit::ledger::eventually;
use semel_testkit::network::Network;
use semel_testkit::seeded::{Seeded, number};
use semel_testkit::server::postgres::PostgresServer;
use semel_testkit::server::redis::RedisServer;
use semel_testkit::shim::{Fault, Shim};
use semel_testkit::upstream::{Arrived, Reply, Upstream};
use semel_testkit::volume::Volume;
use tokio::task::JoinSet;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
const CALLERS: usize = 12;
const LEASE: Duration = Duration::from_secs(1);
const HOUR_NS: i64 = 3_600_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Hold,
    Retry,
    Probe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wind {
    /// `kill -9` of the first gateway.
    Killed,
    /// SIGSTOP of the first gateway for longer than its lease; the second one is asked meanwhile.
    Frozen,
    /// SIGSTOP of the store's server for longer than the lease.
    StoreFrozen,
    /// `kill -9` of the store's server.
    StoreKilled,
    /// The store's server cannot be reached for longer than the lease, and nobody is told.
    StoreCutOff,
    /// No room on the disk for a while.
    DiskFull,
    /// Syncs fail until the gateway is killed and started again.
    SyncsFail,
    /// The clock is hours off from now on, and the gateway is killed and started again with it.
    ClockSteps,
    /// The clock of the store's server is hours off for a moment, several times, and right again.
    StoreClockSteps,
    /// The store's server loses its power, and what was not synced.
    PowerCut,
}

enum Ground {
    File(Shim),
    Redis(RedisServer),
    Postgres(PostgresServer),
    /// With a shim between the server and its clock.
    RedisWithClock(RedisServer, Shim),
    PostgresWithClock(PostgresServer, Shim),
    /// On a disk whose power can be cut.
    PostgresOnVolume(PostgresServer, Volume),
    /// A Redis in a network of its own.
    Apart(Network, Apart),
}

/// A redis-server that is ended with its folder.
struct Apart {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Apart {
    fn start(network: &Network) -> Self {
        let folder = tempfile::tempdir().expect("there is room");
        let address = network.address();
        let mut command = network.command("redis-server");
        command.args([
            "--port",
            "6379",
            "--bind",
            &address,
            "--protected-mode",
            "no",
            "--appendonly",
            "yes",
            "--dir",
        ]);
        let child = command.arg(folder.path()).stdout(Stdio::null()).spawn().expect("redis-server starts");
        Self { child, url: format!("redis://{address}:6379"), _folder: folder }
    }
}

impl Ground {
    /// The URL of the store that its gateways share, made ready.
    fn store(&self) -> String {
        match self {
            Self::File(_) => unreachable!("a file has one gateway"),
            Self::Redis(server) | Self::RedisWithClock(server, _) => server.url(),
            Self::Postgres(server)
            | Self::PostgresWithClock(server, _)
            | Self::PostgresOnVolume(server, _) => migrated(server),
            Self::Apart(_, server) => server.url.clone(),
        }
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // `ip netns exec` becomes the server.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

type One = (String, Option<Answer>);
type Sent = Vec<One>;

/// Over all rounds.
#[derive(Debug, Default)]
struct Seen {
    answers: usize,
    unanswered: usize,
    unrecorded: usize,
    doubts: usize,
    doubled: usize,
    /// Effects of a gateway that woke up after its lease and had not sent its request yet.
    woken: usize,
    /// What callers were told under each key, for the checker.
    histories: BTreeMap<String, Vec<Request>>,
}

struct Tunnel {
    ground: Ground,
    mode: Mode,
    upstream: Upstream,
    gateways: Vec<Gateway>,
    random: Seeded,
    seed: u64,
    seen: Seen,
}

/// What an answer says about the outcome; nothing when it leaves it open.
fn told(answer: &Answer) -> Option<Told> {
    let outcome = || format!("{:?}", answer.essence());
    match (answer.status, answer.standing()) {
        (201, Some("unrecorded")) => None,
        (201, Some("replayed")) => Some(Told::Replayed(outcome())),
        (201, _) => Some(Told::Executed(outcome())),
        (409, _) if answer.problem().as_deref() == Some("outcome-unknown") => Some(Told::InDoubt),
        _ => None,
    }
}

/// Charges, a moment later; a GET asks what is known of a key.
fn upstream() -> Upstream {
    let charged = Arc::new(Mutex::new(BTreeSet::new()));
    Upstream::scripted(move |arrived: Arrived| {
        let charged = Arc::clone(&charged);
        async move {
            if arrived.head.method == Method::GET {
                let key = arrived.head.uri.path().rsplit('/').next().unwrap_or_default().replace("%2D", "-");
                let known = charged.lock().unwrap_or_else(PoisonError::into_inner).contains(&key);
                let mut answer = Response::new(Bytes::from(format!("{{\"key\":\"{key}\"}}")));
                *answer.status_mut() = if known { StatusCode::OK } else { StatusCode::NOT_FOUND };
                return Reply::Answer(answer);
            }
            let key = arrived.key().unwrap_or_default().to_owned();
            charged.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
            tokio::time::sleep(Duration::from_millis(u64::try_from(arrived.nth % 40).unwrap_or(0))).await;
            arrived.charge()
        }
    })
}

fn call(key: &str) -> Call {
    Call::post("/charges", format!("{{\"order\":\"{key}\"}}")).key(key)
}

/// The URL of a server that keeps what it acknowledges, with the tables made.
fn migrated(server: &PostgresServer) -> String {
    let url = server.url("postgres");
    let made = std::process::Command::new(SEMEL).args(["store", "migrate", &url]).status();
    assert!(made.is_ok_and(|status| status.success()), "the tables could not be made");
    url
}

/// Sends fresh keys until told to stop, over a new connection when the old one breaks.
async fn caller(addr: SocketAddr, name: String, stop: Arc<AtomicBool>) -> Sent {
    let (mut sent, mut open) = (Vec::new(), None);
    while !stop.load(Ordering::SeqCst) {
        let connection = match open.take() {
            Some(connection) => Ok(connection),
            None => Connection::open(addr).await,
        };
        let Ok(mut connection) = connection else {
            // Nobody listens while it is killed.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let key = format!("{name}-{}", sent.len());
        let answer = connection.send(&call(&key)).await.ok();
        let refused = answer.as_ref().is_some_and(|answer| answer.status == 503);
        open = answer.is_some().then_some(connection);
        sent.push((key, answer));
        if refused {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    sent
}

/// What the records and the ledger said right after the wind.
struct Log {
    states: BTreeMap<String, String>,
    effects: BTreeMap<String, usize>,
}

impl Log {
    fn state(&self, key: &str) -> Option<&str> {
        self.states.get(key).map(String::as_str)
    }

    fn effects(&self, key: &str) -> usize {
        self.effects.get(key).copied().unwrap_or(0)
    }
}

impl Tunnel {
    async fn new(ground: Ground, mode: Mode) -> Self {
        let seed = number("SEMEL_SEED", 1);
        let upstream = upstream();
        let on_doubt = match mode {
            Mode::Hold => "\"hold\"".to_owned(),
            Mode::Retry => "\"retry\"".to_owned(),
            Mode::Probe => format!("\"probe\"\nprobe_url = \"{}/charges/by-key/{{key}}\"", upstream.url()),
        };
        let config = format!(
            "[defaults]\nlease = \"1s\"\nwait_timeout = \"20s\"\ncomplete_timeout = \"500ms\"\non_doubt = {on_doubt}\n"
        );
        let mut gateways = Vec::new();
        match &ground {
            Ground::File(shim) => {
                let mut gateway = Gateway::not_started(SEMEL, &upstream.url(), &config);
                let files = gateway.folder().canonicalize().expect("the folder is there");
                gateway.set_environment(shim.environment(&files));
                gateway.start_again().await;
                gateways.push(gateway);
            }
            _ => {
                let store = ground.store();
                for _ in 0..2 {
                    gateways.push(Gateway::start_on(&store, SEMEL, &upstream.url(), &config).await);
                }
            }
        }
        Self { ground, mode, upstream, gateways, random: Seeded::new(seed), seed, seen: Seen::default() }
    }

    /// The gateway that no wind reaches, if there are two.
    fn other(&self) -> &Gateway {
        self.gateways.last().expect("there is a gateway")
    }

    async fn round(&mut self, round: usize, wind: Wind) {
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for nth in 0..CALLERS {
            let addr = self.gateways[nth % self.gateways.len()].addr();
            callers.spawn(caller(addr, format!("{wind:?}-{round}-{nth}"), Arc::clone(&stop)));
        }
        let before = self.upstream.ledger().total();
        self.upstream.ledger().reaches(before + 2 * CALLERS + self.random.below(CALLERS)).await;
        tokio::time::sleep(Duration::from_micros(u64::try_from(self.random.below(20_000)).unwrap_or(0)))
            .await;
        self.blow(wind).await;
        stop.store(true, Ordering::SeqCst);
        let mut sent = Sent::new();
        if wind == Wind::Frozen {
            // Who was answered by the gateway that stands still is not known yet; the other one is asked for all of it.
            let log = self.look(&[]).await;
            let caught: Sent = log.states.keys().map(|key| (key.clone(), None)).collect();
            let caught: Sent =
                caught.into_iter().filter(|(key, _)| key.starts_with(&format!("Frozen-{round}-"))).collect();
            let again = self.send_again(&caught).await;
            self.gateways[0].thaw();
            while let Some(ended) = callers.join_next().await {
                sent.extend(ended.expect("no panic in a caller"));
            }
            self.upstream_is_quiet().await;
            self.compare(wind, &log, &caught, &again);
            self.remember(caught.iter().zip(&again).map(|((key, _), answer)| (key, Some(answer))), (1, 2));
        } else {
            while let Some(ended) = callers.join_next().await {
                sent.extend(ended.expect("no panic in a caller"));
            }
        }
        self.seen.unanswered += sent.iter().filter(|(_, answer)| answer.is_none()).count();
        let log = self.look(&sent).await;
        let again = self.send_again(&sent).await;
        self.compare(wind, &log, &sent, &again);
        // They were on their way through all of the wind.
        self.remember(sent.iter().map(|(key, answer)| (key, answer.as_ref())), (0, 3));
        self.remember(sent.iter().zip(&again).map(|((key, _), answer)| (key, Some(answer))), (4, 5));
        self.balance(&again).await;
    }

    /// What was told between two moments of a round. Who asked again while a gateway stood still may have heard of a doubt
    /// that it ends afterwards.
    fn remember<'a>(
        &mut self,
        answers: impl Iterator<Item = (&'a String, Option<&'a Answer>)>,
        (invoked, answered): (u64, u64),
    ) {
        for (key, answer) in answers {
            let told = answer.and_then(told).filter(|told| answered != 2 || *told != Told::InDoubt);
            let request = Request { invoked, answer: told.map(|told| (answered, told)) };
            self.seen.histories.entry(key.clone()).or_default().push(request);
        }
    }

    /// Ends when the wind has passed; only a gateway that stands still does so on.
    async fn blow(&mut self, wind: Wind) {
        let beyond = LEASE + LEASE / 2;
        match (wind, &mut self.ground) {
            (Wind::Killed, _) => {
                self.gateways[0].kill9();
                self.gateways[0].wait().await;
                self.gateways[0].start_again().await;
            }
            (Wind::Frozen, _) => {
                self.gateways[0].freeze();
                tokio::time::sleep(beyond).await;
            }
            (Wind::StoreFrozen, Ground::Redis(server) | Ground::RedisWithClock(server, _)) => {
                server.stop();
                tokio::time::sleep(beyond).await;
                server.resume();
            }
            (Wind::StoreFrozen, Ground::Postgres(server)) => {
                server.freeze();
                tokio::time::sleep(beyond).await;
                server.thaw();
            }
            (Wind::StoreCutOff, Ground::Apart(network, _)) => {
                network.cut().unwrap_or_else(|why| panic!("{why}"));
                tokio::time::sleep(beyond).await;
                network.join().unwrap_or_else(|why| panic!("{why}"));
            }
            (Wind::StoreKilled, Ground::Postgres(server)) => {
                server.kill();
                server.start_again();
            }
            (Wind::DiskFull, Ground::File(shim)) => {
                shim.set(Fault::DiskFull, 1);
                tokio::time::sleep(LEASE).await;
                shim.set(Fault::DiskFull, 0);
            }
            (Wind::SyncsFail, Ground::File(shim)) => {
                shim.set(Fault::SyncsFail, 1);
                tokio::time::sleep(LEASE / 2).await;
                self.gateways[0].kill9();
                self.gateways[0].wait().await;
                shim.set(Fault::SyncsFail, 0);
                self.gateways[0].start_again().await;
            }
            (Wind::ClockSteps, Ground::File(shim)) => {
                // Not beyond the retention, after which every key is forgotten.
                let hours = i64::try_from(self.random.below(90)).unwrap_or(0) - 80;
                shim.set(Fault::ClockStepNs, hours * HOUR_NS);
                tokio::time::sleep(Duration::from_millis(100)).await;
                self.gateways[0].kill9();
                self.gateways[0].wait().await;
                self.gateways[0].start_again().await;
            }
            (Wind::StoreClockSteps, Ground::RedisWithClock(_, shim) | Ground::PostgresWithClock(_, shim)) => {
                for _ in 0..4 {
                    let hours = i64::try_from(self.random.below(18)).unwrap_or(0) - 9;
                    shim.set(Fault::ClockStepNs, hours * HOUR_NS);
                    tokio::time::sleep(LEASE / 3).await;
                }
                shim.set(Fault::ClockStepNs, 0);
                tokio::time::sleep(LEASE / 3).await;
            }
            (Wind::PowerCut, Ground::PostgresOnVolume(server, volume)) => {
                volume.cut().unwrap_or_else(|why| panic!("{why}"));
                server.kill();
                volume.restore().unwrap_or_else(|why| panic!("{why}"));
                server.start_again();
            }
            (wind, _) => panic!("{wind:?} does not blow here"),
        }
    }

    async fn upstream_is_quiet(&self) {
        let ledger = self.upstream.ledger();
        let mut last = usize::MAX;
        eventually("the upstream has nothing to read", || {
            let now = ledger.total();
            std::mem::replace(&mut last, now) == now && has_read_everything(self.upstream.addr())
        })
        .await;
    }

    /// Waits until nothing is in flight any more, then reads records and ledger.
    async fn look(&self, sent: &[One]) -> Log {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !self.other().keys_in("in-flight").await.is_empty() {
            assert!(tokio::time::Instant::now() < deadline, "waited 20 s for claims to end");
        }
        self.upstream_is_quiet().await;
        let listed = self.other().keys(&["list", "--all"]).await;
        assert_eq!(listed.code, Some(0), "{}", listed.said);
        let text =
            |record: &serde_json::Value, name: &str| record[name].as_str().unwrap_or_default().to_owned();
        let states =
            listed.documents.iter().map(|record| (text(record, "key"), text(record, "state"))).collect();
        let log = Log { states, effects: self.upstream.ledger().per_key() };
        for (key, answer) in sent {
            let Some(answer) = answer.as_ref().filter(|answer| answer.status == 201) else { continue };
            assert_eq!(
                log.effects(key).max(1),
                log.effects(key),
                "{key} was told of an effect that never was"
            );
            if answer.standing() != Some("unrecorded") {
                assert_eq!(
                    log.state(key),
                    Some("completed"),
                    "{key}: an outcome that was told is lost: {answer:?}"
                );
            }
        }
        log
    }

    async fn send_again(&self, sent: &[One]) -> Vec<Answer> {
        let calls = sent.iter().map(|(key, _)| call(key)).collect();
        Load { addr: self.other().addr(), connections: 16 }.answers(calls).await
    }

    /// What was answered the second time, and how often the effects happened, against what records and ledger had said.
    fn compare(&mut self, wind: Wind, log: &Log, sent: &[One], again: &[Answer]) {
        let now = self.upstream.ledger().per_key();
        let seed = self.seed;
        for ((key, first), again) in sent.iter().zip(again) {
            let (before, after) = (log.effects(key), now.get(key).copied().unwrap_or(0));
            let what = || {
                format!(
                    "SEMEL_SEED={seed} {key}: {:?}, {before} effects, then {after}; {first:?}, {again:?}",
                    log.state(key)
                )
            };
            let woken = wind == Wind::Frozen && before == 0 && after > 1;
            // A claim whose reply was lost on the way is given back by the gateway once the store can be reached.
            let given_back =
                before == 0 && after == 1 && first.as_ref().is_some_and(|first| first.status == 503);
            let expected = match (log.state(key), self.mode) {
                (None, _) => 1,
                (Some("in-doubt"), Mode::Retry) => before + 1 + usize::from(woken),
                (Some("in-doubt"), Mode::Probe) => before.max(1) + usize::from(woken),
                (Some("in-doubt"), Mode::Hold) => {
                    let first_run = wind == Wind::Frozen && before == 0 && after == 1;
                    before + usize::from(first_run || given_back)
                }
                (Some("completed"), _) => before,
                _ => panic!("{}", what()),
            };
            assert_eq!(after, expected, "{}", what());
            assert!(before <= 1 || self.mode != Mode::Hold, "{}", what());
            match (again.status, again.problem().as_deref()) {
                (201 | 200, None) => assert_eq!(again.json()["key"], key.as_str(), "{}", what()),
                (409, Some("outcome-unknown")) => {
                    assert_eq!((log.state(key), self.mode), (Some("in-doubt"), Mode::Hold), "{}", what());
                }
                _ => panic!("{}", what()),
            }
            self.seen.doubled += usize::from(after > before && before > 0);
            self.seen.woken += usize::from(woken);
            self.seen.doubts += usize::from(log.state(key) == Some("in-doubt"));
            let Some(first) = first else { continue };
            self.seen.answers += 1;
            match (first.status, first.standing()) {
                (201, Some("unrecorded")) => {
                    self.seen.unrecorded += 1;
                    let same = again.status != 201 || again.essence() == first.essence();
                    assert!(same || self.mode != Mode::Hold, "{}", what());
                }
                (200 | 201, _) => {
                    assert_eq!((again.is_replay(), again.essence()), (true, first.essence()), "{}", what())
                }
                (503, _) | (409, _) => {}
                _ => panic!("{}", what()),
            }
        }
    }

    /// Unknown outcomes are listed, and nothing else is.
    async fn balance(&self, again: &[Answer]) {
        let unknown: BTreeSet<String> = again
            .iter()
            .filter(|answer| answer.status == 409)
            .filter_map(|answer| answer.header("idempotency-key").map(str::to_owned))
            .collect();
        let listed = self.other().keys_in("in-doubt").await;
        assert!(unknown.is_subset(&listed), "in doubt and not listed: {:?}", unknown.difference(&listed));
        assert!(self.mode == Mode::Hold || listed.is_empty(), "{listed:?}");
    }
}

/// `rounds` of them, each wind in its turn.
async fn blow_all(ground: Ground, mode: Mode, winds: &[Wind]) {
    let rounds = usize::try_from(number("SEMEL_WIND_ROUNDS", 0)).unwrap_or(0).max(winds.len());
    let mut tunnel = Tunnel::new(ground, mode).await;
    for round in 0..rounds {
        figures::progress("rounds", round, rounds);
        tunnel.round(round, winds[round % winds.len()]).await;
    }
    let listed = tunnel.other().keys_in("in-doubt").await.len();
    let effects = tunnel.upstream.ledger().per_key();
    let doubled = effects.values().filter(|effects| **effects > 1).count();
    let seen = &tunnel.seen;
    println!("{mode:?}, {rounds} rounds of {winds:?}, seed {}", tunnel.seed);
    assert_eq!(doubled, seen.doubled + seen.woken, "effects doubled that no kill explains");
    match mode {
        Mode::Hold => assert_eq!(doubled, 0, "doubled under hold"),
        Mode::Retry => assert!(doubled > 0, "no kill met an effect that was not on record"),
        Mode::Probe => assert_eq!(seen.doubled, 0, "doubled, although the upstream was asked"),
    }
    assert!(seen.doubts > 0, "no wind met a claim");
    let mut judged = 0;
    if mode == Mode::Hold {
        for (key, requests) in &seen.histories {
            answers::check(requests).unwrap_or_else(|wrong| panic!("{key}: {wrong}: {requests:?}"));
        }
        judged = seen.histories.len();
    }
    let (unexplained, woken) = (doubled - seen.doubled - seen.woken, seen.woken);
    figures::tell(&[
        ("winds", rounds),
        ("keys", effects.len()),
        ("answers", seen.answers),
        ("without an answer", seen.unanswered),
        ("histories judged", judged),
        ("lost answers", 0),
        ("in doubt", seen.doubts),
        ("in doubt and listed at the end", listed),
        ("doubled effects under hold", if mode == Mode::Hold { doubled } else { 0 }),
        ("doubled under retry as its doubts said", seen.doubled),
        ("doubled under retry or probe by a gateway that woke up", woken),
        ("doubled effects that nothing explains", unexplained),
    ]);
}

const FILE_WINDS: [Wind; 3] = [Wind::Killed, Wind::ClockSteps, Wind::SyncsFail];
const REDIS_WINDS: [Wind; 3] = [Wind::Frozen, Wind::StoreFrozen, Wind::Killed];
const CLOCK_WINDS: [Wind; 2] = [Wind::StoreClockSteps, Wind::Killed];
const POSTGRES_WINDS: [Wind; 4] = [Wind::Frozen, Wind::StoreFrozen, Wind::StoreKilled, Wind::Killed];

#[tokio::test(flavor = "multi_thread")]
async fn on_a_file_no_effect_is_doubled_under_hold() {
    blow_all(Ground::File(Shim::build(false)), Mode::Hold, &[&FILE_WINDS[..], &[Wind::DiskFull]].concat())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_file_the_effects_doubled_under_retry_are_those_that_the_kills_explain() {
    blow_all(Ground::File(Shim::build(false)), Mode::Retry, &FILE_WINDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_no_effect_is_doubled_under_hold() {
    blow_all(Ground::Redis(RedisServer::start()), Mode::Hold, &REDIS_WINDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_the_effects_doubled_under_retry_are_those_that_the_kills_explain() {
    blow_all(Ground::Redis(RedisServer::start()), Mode::Retry, &REDIS_WINDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_no_effect_is_doubled_under_hold() {
    blow_all(Ground::Postgres(PostgresServer::start_with(&[])), Mode::Hold, &POSTGRES_WINDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgres_the_effects_doubled_under_retry_are_those_that_the_kills_explain() {
    blow_all(Ground::Postgres(PostgresServer::start_with(&[])), Mode::Retry, &POSTGRES_WINDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_file_no_effect_is_doubled_where_the_upstream_can_be_asked() {
    blow_all(Ground::File(Shim::build(false)), Mode::Probe, &FILE_WINDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_redis_only_who_wakes_up_doubles_an_effect_where_the_upstream_can_be_asked() {
    blow_all(Ground::Redis(RedisServer::start()), Mode::Probe, &REDIS_WINDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_redis_whose_clock_steps_no_effect_is_doubled_under_hold() {
    let shim = Shim::build(false);
    let server = RedisServer::start_under(&shim);
    blow_all(Ground::RedisWithClock(server, shim), Mode::Hold, &CLOCK_WINDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_postgres_whose_clock_steps_no_effect_is_doubled_under_hold() {
    let shim = Shim::build(false);
    let server = PostgresServer::start_under(Some(&shim), None, &[]);
    blow_all(Ground::PostgresWithClock(server, shim), Mode::Hold, &CLOCK_WINDS).await;
}

/// Needs root, so it is asked for: `SEMEL_VOLUMES=1`, as `cargo xtask torture` does, which fails where it is refused.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_postgres_whose_power_is_cut_no_effect_is_doubled_under_hold() {
    let volume = match (Volume::make(1 << 30), number("SEMEL_VOLUMES", 0)) {
        (Ok(volume), 1) => volume,
        (Err(why), 1) => panic!("a disk of its own is refused here, so no power was cut: {why}"),
        (made, _) => {
            println!("not run: SEMEL_VOLUMES is not 1; a disk can be made: {}", made.is_ok());
            assert!(made.map_or_else(|why| why.contains("root is needed"), |_| true));
            return;
        }
    };
    let server = PostgresServer::start_under(None, Some(&volume.path()), &[]);
    let winds = [Wind::PowerCut, Wind::Killed];
    blow_all(Ground::PostgresOnVolume(server, volume), Mode::Hold, &winds).await;
}

/// Needs root, so it is asked for: `SEMEL_WIND_NETWORK=1`, as `cargo xtask torture` does, which fails where it is
/// refused. Without it only the words of the refusal are looked at, or that a network can be made.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_cut_off_doubles_no_effect_under_hold() {
    let network = match (Network::make(), number("SEMEL_WIND_NETWORK", 0)) {
        (Ok(network), 1) => network,
        (Err(why), 1) => panic!("network namespaces are refused here, so nothing was cut off: {why}"),
        (made, _) => {
            println!("not cut off: SEMEL_WIND_NETWORK is not 1; networks can be made: {}", made.is_ok());
            assert!(
                made.map_or_else(|why| why.contains("root is needed") || why.contains("ip netns"), |_| true)
            );
            return;
        }
    };
    let server = Apart::start(&network);
    let address = format!("{}:6379", network.address());
    eventually("the server listens", || std::net::TcpStream::connect(&address).is_ok()).await;
    blow_all(Ground::Apart(network, server), Mode::Hold, &[Wind::StoreCutOff, Wind::Frozen]).await;
}
