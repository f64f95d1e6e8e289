//! A client that is killed, in front of a network that fails: calls with a journal, three in ten requests lost, cut or
//! refused between client and gateway, and the client's process killed over and over. What is counted is the
//! upstream's ledger: one effect for each key.
//!
//! `SEMEL_CLIENT_CALLS=1000000` makes it as long as one likes; 20,000 calls otherwise.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use semel::backoff::Backoff;
use semel_client::core::call::Policy;
use semel_client::core::classify::Finding;
use semel_client::journal::sqlite::{Durability, SqliteJournal};
use semel_client::{Client, Error, Once};
use semel_testkit::client::{Call, Connection};
use semel_testkit::gateway::Gateway;
use semel_testkit::upstream::{Arrived, Reply, Upstream};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
/// Where a child finds what it has to do.
const WORK: &str = "SEMEL_TEST_CLIENT_WORK";
const AT_ONCE: usize = 24;

/// The same number for the same text, and another for others.
fn number(text: &str, below: u64) -> u64 {
    let digest = blake3::hash(text.as_bytes());
    u64::from(u32::from_le_bytes([0, 1, 2, 3].map(|at| digest.as_bytes()[at]))) % below
}

/// What is between client and gateway.
#[derive(Default)]
struct Network {
    gateway: Mutex<Option<SocketAddr>>,
    idle: Mutex<Vec<Connection>>,
    requests: AtomicUsize,
    faults: AtomicUsize,
}

impl Network {
    fn leads_to(&self, gateway: Option<SocketAddr>) {
        *self.gateway.lock().unwrap_or_else(PoisonError::into_inner) = gateway;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Three in ten requests meet one of five faults: lost on the way, lost on the way back, an answer cut in half, an
    /// answer of the network's own before or instead of the gateway's.
    async fn pass(&self, arrived: Arrived) -> Reply {
        let key = arrived.key().unwrap_or_default().to_owned();
        let nth = self.requests.fetch_add(1, Ordering::Relaxed);
        let fault = number(&format!("{key} {} {nth}", arrived.nth_of_key), 100);
        self.faults.fetch_add(usize::from(fault < 30), Ordering::Relaxed);
        match fault {
            0..6 => return Reply::Reset,
            6..12 => return unavailable(),
            _ => {}
        }
        let Some(answer) = self.forward(&arrived, &key).await else { return Reply::Reset };
        match fault {
            12..18 => Reply::Reset,
            18..24 => Reply::Half(answer),
            24..30 => unavailable(),
            _ => Reply::Answer(answer),
        }
    }

    async fn forward(&self, arrived: &Arrived, key: &str) -> Option<Response<Bytes>> {
        let gateway = (*self.gateway.lock().unwrap_or_else(PoisonError::into_inner))?;
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => Connection::open(gateway).await.ok()?,
        };
        let call = Call::post(arrived.path(), arrived.body.clone()).key(key);
        let answer = connection.send(&call.header("content-type", "application/json")).await.ok()?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        let mut passed = Response::new(answer.body);
        *passed.status_mut() = StatusCode::from_u16(answer.status).ok()?;
        *passed.headers_mut() = answer.headers;
        Some(passed)
    }
}

fn unavailable() -> Reply {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    Reply::Answer(answer)
}

/// What the client's process has said.
#[derive(Default)]
struct Said {
    done: BTreeSet<usize>,
    doubts: BTreeSet<usize>,
}

/// A client's process, working on what is left.
struct Process {
    child: Child,
    reading: tokio::task::JoinHandle<()>,
}

impl Process {
    fn start(url: &str, folder: &Path, left: &[usize], said: &Arc<Mutex<Said>>) -> Self {
        let left: Vec<String> = left.iter().map(usize::to_string).collect();
        std::fs::write(folder.join("work"), format!("{url}\n{}", left.join("\n"))).expect("there is room");
        let mut command = Command::new(std::env::current_exe().expect("this test has a path"));
        command.args(["--exact", "the_process_that_is_killed", "--nocapture", "--test-threads", "1"]);
        command.env(WORK, folder).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("this test can be started");
        let stdout = child.stdout.take().expect("it was asked for");
        let said = Arc::clone(said);
        let reading = tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                match line.split_once(' ').map(|(what, n)| (what, n.parse::<usize>())) {
                    Some(("done", Ok(n))) => {
                        said.done.insert(n);
                    }
                    Some(("doubt", Ok(n))) => {
                        said.doubts.insert(n);
                    }
                    // The test runner's own words.
                    _ => {}
                }
            }
        });
        Self { child, reading }
    }

    async fn end(mut self, kill: bool) {
        if kill {
            self.child.start_kill().expect("it has not been waited for");
        }
        let status = self.child.wait().await.expect("it was started");
        self.reading.await.expect("reading does not panic");
        assert!(kill || status.success(), "the client's process ended with {status}");
    }
}

struct Run {
    calls: usize,
    kills: usize,
    gateway_kills: usize,
}

/// Everything around one run, and what was said in it.
struct Scene {
    upstream: Upstream,
    gateway: Gateway,
    network: Arc<Network>,
    said: Arc<Mutex<Said>>,
}

impl Scene {
    fn finished(&self) -> usize {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.done.union(&said.doubts).count()
    }

    fn left(&self, calls: usize) -> Vec<usize> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        (0..calls).filter(|n| !said.done.contains(n) && !said.doubts.contains(n)).collect()
    }

    async fn reaches(&self, wanted: usize) {
        let mut last = (self.finished(), Instant::now());
        while last.0 < wanted {
            assert!(
                last.1.elapsed() < Duration::from_secs(60),
                "no call ended for a minute, {} of {wanted}",
                last.0
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
            let finished = self.finished();
            if finished > last.0 {
                last = (finished, Instant::now());
            }
        }
    }
}

/// Makes the calls, kills as often as is asked for, evenly over the run, and goes on until all are finished.
async fn run(upstream: Upstream, run: &Run) -> Scene {
    let network = Arc::new(Network::default());
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let mut scene = Scene { upstream, gateway, network: Arc::clone(&network), said: Arc::default() };
    network.leads_to(Some(scene.gateway.addr()));
    let between = Upstream::scripted(move |arrived| {
        let network = Arc::clone(&network);
        async move { network.pass(arrived).await }
    });
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let events = run.kills + run.gateway_kills;
    for event in 1..=events {
        let process = Process::start(&between.url(), folder.path(), &scene.left(run.calls), &scene.said);
        scene.reaches(run.calls * event / (events + 1)).await;
        if event <= run.gateway_kills {
            scene.gateway.kill9();
            scene.gateway.wait().await;
            scene.network.leads_to(None);
            scene.gateway.start_again().await;
            scene.network.leads_to(Some(scene.gateway.addr()));
            scene.reaches((run.calls * event / (events + 1) + run.calls / (4 * events)).min(run.calls)).await;
        }
        process.end(true).await;
    }
    Process::start(&between.url(), folder.path(), &scene.left(run.calls), &scene.said).end(false).await;
    assert!(scene.left(run.calls).is_empty(), "the last process finished what was left");
    scene
}

/// The child's side. Nothing to do when it was not started by [`Process::start`].
#[test]
fn the_process_that_is_killed() {
    let Some(folder) = std::env::var_os(WORK) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(work(Path::new(&folder)));
}

async fn work(folder: &Path) {
    // The test runner has begun a line of its own.
    println!();
    let text = std::fs::read_to_string(folder.join("work")).expect("there is work");
    let mut lines = text.lines();
    let url = lines.next().expect("the URL comes first").to_owned();
    let journal =
        SqliteJournal::open_with(folder.join("calls.sqlite"), Durability::Process).expect("the journal");
    let backoff = Backoff { base: Duration::from_millis(4), cap: Duration::from_millis(100) };
    let policy =
        Policy { backoff, retries_max: 10, attempt_timeout: Duration::from_secs(20), ..Policy::default() };
    let once = Once::for_hosts(["127.0.0.1"]).policy(policy).budget(None).journal(journal);
    let client = Client::builder(once.clone()).base_url(&url).build().expect("a client");
    let doubts = Arc::new(Mutex::new(BTreeSet::new()));
    let mut resumed = BTreeSet::new();
    for one in client.resume().await.expect("the journal can be read") {
        let n = of_key(one.key.as_str());
        if tell(n, &one.outcome.map(drop), &doubts) {
            resumed.insert(n);
        }
    }
    let work: Vec<usize> = lines.map(|line| line.parse().expect("a number")).collect();
    let work = Arc::new(Mutex::new(
        work.into_iter().filter(|n| !resumed.contains(n)).collect::<Vec<_>>().into_iter(),
    ));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let (client, work, doubts) = (client.clone(), Arc::clone(&work), Arc::clone(&doubts));
        workers.spawn(async move {
            loop {
                let next = work.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(n) = next else { return };
                loop {
                    let call = client.post("/charges").json(&n).idempotency_key(format!("call-{n}"));
                    if tell(n, &call.send().await.map(drop), &doubts) {
                        break;
                    }
                }
            }
        });
    }
    workers.join_all().await;
    // What was given up and then sent anew under its key has its answer by now.
    client.resume().await.expect("the journal can be read");
    let left = once.unfinished().expect("the journal can be read");
    let doubts = doubts.lock().unwrap_or_else(PoisonError::into_inner);
    let forgotten: Vec<_> =
        left.iter().filter(|one| !doubts.contains(&of_key(one.saved.key.as_str()))).collect();
    assert!(forgotten.is_empty(), "still in the journal, and not in doubt: {forgotten:?}");
}

fn of_key(key: &str) -> usize {
    key.trim_start_matches("call-").parse().expect("a key of this test")
}

/// Says what became of a call; false when it is to be sent again.
fn tell(n: usize, outcome: &Result<(), Error>, doubts: &Mutex<BTreeSet<usize>>) -> bool {
    match outcome {
        Ok(()) => println!("done {n}"),
        Err(error) if error.last() == Some(Finding::InDoubt) => {
            doubts.lock().unwrap_or_else(PoisonError::into_inner).insert(n);
            println!("doubt {n}");
        }
        Err(error) if error.is_retryable() => return false,
        Err(error) => panic!("call {n}: {error}: {:?}", error.problem()),
    }
    true
}

fn calls(by_default: usize) -> usize {
    std::env::var("SEMEL_CLIENT_CALLS").map_or(by_default, |calls| calls.parse().expect("a number of calls"))
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_client_that_is_killed_take_effect_once_each() {
    let wanted = Run { calls: calls(20_000), kills: 10, gateway_kills: 0 };
    let scene = run(Upstream::charging(), &wanted).await;
    let effects = scene.upstream.ledger().per_key();
    let (requests, faults) =
        (scene.network.requests.load(Ordering::Relaxed), scene.network.faults.load(Ordering::Relaxed));
    println!("{} calls, {requests} requests, {faults} faults, {} kills", wanted.calls, wanted.kills);
    assert!(
        scene.said.lock().expect("no panic").doubts.is_empty(),
        "the gateway and the upstream never failed"
    );
    let twice: Vec<_> = effects.iter().filter(|(_, effects)| **effects != 1).take(10).collect();
    assert!(twice.is_empty(), "effects that did not happen once: {twice:?}");
    assert_eq!(effects.len(), wanted.calls, "every call took effect");
    assert!(faults * 100 >= requests * 28 && requests > wanted.calls, "the network failed as it should");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_gateway_and_upstream_killed_too_no_call_takes_effect_twice_and_the_rest_is_listed() {
    let wanted = Run { calls: calls(20_000) / 5, kills: 3, gateway_kills: 3 };
    // An upstream that acts and then dies, now and then.
    let upstream = Upstream::scripted(|arrived| async move {
        match number(arrived.key().unwrap_or_default(), 100) {
            0..3 => Reply::Reset,
            _ => arrived.charge(),
        }
    });
    let scene = run(upstream, &wanted).await;
    let effects = scene.upstream.ledger().per_key();
    let twice: Vec<_> = effects.iter().filter(|(_, effects)| **effects > 1).take(10).collect();
    assert!(twice.is_empty(), "effects that happened twice: {twice:?}");
    let listed = scene.gateway.keys_in("in-doubt").await;
    assert!(scene.gateway.keys_in("in-flight").await.is_empty());
    let said = scene.said.lock().expect("no panic");
    println!("{} calls, {} done, {} in doubt", wanted.calls, said.done.len(), said.doubts.len());
    for n in 0..wanted.calls {
        let key = format!("call-{n}");
        match said.done.contains(&n) {
            true => assert_eq!(effects.get(&key), Some(&1), "{key} was answered, so it took effect"),
            false => assert!(listed.contains(&key), "{key} has no answer and is not listed"),
        }
    }
    assert!(said.doubts.len() * 100 >= wanted.calls, "the upstream died as it should");
}
