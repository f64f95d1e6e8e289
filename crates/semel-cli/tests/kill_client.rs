//! A client that is killed, in front of a network that fails: calls with a journal, three in ten requests lost, cut or
//! refused between client and gateway, and the client's process killed over and over. What is counted is the
//! upstream's ledger: one effect for each key.
//!
//! 20,000 calls and 10 kills, or as many as `SEMEL_CLIENT_CALLS=1000000 SEMEL_CLIENT_KILLS=200` say; with gateway and
//! upstream killed too a fifth of the calls, and 6 kills or as many.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
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
use semel_testkit::figures;
use semel_testkit::gateway::Gateway;
use semel_testkit::port::Port;
use semel_testkit::upstream::{Arrived, Reply, Reserved, Upstream};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
/// Where a child finds what it has to do.
const WORK: &str = "SEMEL_TEST_CLIENT_WORK";
/// Where an upstream that is killed writes its effects, and where it listens.
const ACTS: &str = "SEMEL_TEST_UPSTREAM_ACTS";
const PORT: &str = "SEMEL_TEST_UPSTREAM_PORT";
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

impl Said {
    fn finished(&self) -> usize {
        // A call in doubt may be done in the end, when its upstream's answer was on the way.
        self.done.len() + self.doubts.iter().filter(|n| !self.done.contains(n)).count()
    }
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
        let mut child =
            this_test("the_process_that_is_killed").env(WORK, folder).spawn().expect("it can be started");
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

/// Who acts: in this process, or in one that can be killed.
enum Acting {
    Here(Upstream),
    Process(Actor),
}

impl Acting {
    fn url(&self) -> String {
        match self {
            Self::Here(upstream) => upstream.url(),
            Self::Process(actor) => format!("http://127.0.0.1:{}", actor.port.number()),
        }
    }

    /// How often the effect of each key happened.
    fn effects(&self) -> BTreeMap<String, usize> {
        let Self::Process(actor) = self else { return self.here().ledger().per_key() };
        let mut effects = BTreeMap::new();
        for line in std::fs::read_to_string(&actor.acts).expect("it has acted").lines() {
            *effects.entry(line.to_owned()).or_default() += 1;
        }
        effects
    }

    fn here(&self) -> &Upstream {
        match self {
            Self::Here(upstream) => upstream,
            Self::Process(_) => panic!("it is a process of its own"),
        }
    }

    async fn kill9_and_start_again(&mut self) {
        let Self::Process(actor) = self else { panic!("only a process can be killed") };
        actor.child.start_kill().expect("it has not been waited for");
        actor.child.wait().await.expect("it was started");
        actor.child = Actor::start(&actor.acts, actor.port.number()).await;
    }
}

/// An upstream in a process of its own. What it did is in a file, a line for each effect, written before it answers.
struct Actor {
    child: Child,
    port: Port,
    acts: PathBuf,
}

impl Actor {
    async fn new(folder: &Path) -> Self {
        let port = Port::take();
        let acts = folder.join("acts");
        Self { child: Self::start(&acts, port.number()).await, port, acts }
    }

    async fn start(acts: &Path, port: u16) -> Child {
        let mut command = this_test("the_upstream_that_is_killed");
        command.env(ACTS, acts).env(PORT, port.to_string());
        let mut child = command.spawn().expect("this test can be started");
        let mut lines = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
        while let Some(line) = lines.next_line().await.expect("it can be read") {
            if line == "listening" {
                return child;
            }
        }
        panic!("the upstream did not start");
    }
}

fn this_test(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test has a path"));
    command.args(["--exact", name, "--nocapture", "--test-threads", "1"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

/// The upstream's side: acts on every request, and leaves three in a hundred without an answer. Nothing to do when it
/// was not started by [`Actor::start`].
#[test]
fn the_upstream_that_is_killed() {
    let (Some(acts), Ok(port)) = (std::env::var_os(ACTS), std::env::var(PORT)) else { return };
    let acts = std::fs::OpenOptions::new().create(true).append(true).open(acts).expect("its file");
    let acts = Arc::new(Mutex::new(acts));
    let act = move |arrived: Arrived| {
        let key = arrived.key().unwrap_or_default().to_owned();
        let line = format!("{key}\n");
        acts.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes()).expect("room");
        async move { if number(&key, 100) < 3 { Reply::Reset } else { arrived.charge() } }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let reserved = Reserved::at(port.parse().expect("a port")).expect("the port is free");
        let _upstream = reserved.scripted(act).expect("it can listen");
        // The test runner has begun a line of its own.
        println!("\nlistening");
        std::future::pending::<()>().await;
    });
}

struct Run {
    calls: usize,
    /// How often the client is killed.
    kills: usize,
    /// Whether with each kill the gateway or the upstream is killed as well, in turn.
    all: bool,
}

/// Everything around one run, and what was said in it.
struct Scene {
    acting: Acting,
    gateway: Gateway,
    network: Arc<Network>,
    said: Arc<Mutex<Said>>,
    /// Of gateway and of upstream.
    kills: [usize; 2],
    took: Duration,
}

impl Scene {
    fn finished(&self) -> usize {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).finished()
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

    async fn kill_gateway(&mut self) {
        self.gateway.kill9();
        self.gateway.wait().await;
        self.network.leads_to(None);
        self.gateway.start_again().await;
        self.network.leads_to(Some(self.gateway.addr()));
        self.kills[0] += 1;
    }

    async fn kill_upstream(&mut self) {
        self.acting.kill9_and_start_again().await;
        self.kills[1] += 1;
    }

    fn tell(&self, run: &Run, effects: usize) {
        let (requests, faults) = (&self.network.requests, &self.network.faults);
        let ([gateway, upstream], said) = (self.kills, self.said.lock().expect("no panic"));
        println!(
            "{} calls in {:.0?}: {} requests, {} faults; killed: client {}, gateway {gateway}, upstream {upstream}; \
             {effects} effects; {} done, {} in doubt",
            run.calls,
            self.took,
            requests.load(Ordering::Relaxed),
            faults.load(Ordering::Relaxed),
            run.kills,
            said.done.len(),
            said.doubts.len()
        );
        figures::tell(&[
            ("kills of a client", run.kills),
            ("kills of a gateway", gateway),
            ("kills of an upstream", upstream),
            ("calls of a client", run.calls),
            ("in doubt and listed", said.doubts.len()),
        ]);
    }
}

/// Makes the calls, kills as often as is asked for, evenly over the run, and goes on until all are finished.
async fn run(acting: Acting, run: &Run) -> Scene {
    let (network, began) = (Arc::new(Network::default()), Instant::now());
    let gateway = Gateway::start(SEMEL, &acting.url()).await;
    let (said, kills, took) = (Arc::default(), [0, 0], Duration::ZERO);
    let mut scene = Scene { acting, gateway, network: Arc::clone(&network), said, kills, took };
    network.leads_to(Some(scene.gateway.addr()));
    let between = Upstream::scripted(move |arrived| {
        let network = Arc::clone(&network);
        async move { network.pass(arrived).await }
    });
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    for kill in 1..=run.kills {
        let process = Process::start(&between.url(), folder.path(), &scene.left(run.calls), &scene.said);
        let reached = run.calls * kill / (run.kills + 1);
        scene.reaches(reached).await;
        if run.all {
            match kill % 2 {
                1 => scene.kill_gateway().await,
                _ => scene.kill_upstream().await,
            }
            scene.reaches((reached + run.calls / (4 * run.kills)).min(run.calls)).await;
        }
        process.end(true).await;
    }
    Process::start(&between.url(), folder.path(), &scene.left(run.calls), &scene.said).end(false).await;
    assert!(scene.left(run.calls).is_empty(), "the last process finished what was left");
    scene.took = began.elapsed();
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
    // Whoever is told of doubts has them from here on; else each process would ask about all of them.
    for one in once.unfinished().expect("the journal can be read") {
        if resumed.contains(&of_key(one.saved.key.as_str())) {
            once.forget(one.id).expect("the journal can be written");
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

fn number_in(variable: &str, by_default: usize) -> usize {
    std::env::var(variable).map_or(by_default, |number| number.parse().expect("a number"))
}

fn calls() -> usize {
    number_in("SEMEL_CLIENT_CALLS", 20_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_a_client_that_is_killed_take_effect_once_each() {
    let wanted = Run { calls: calls(), kills: number_in("SEMEL_CLIENT_KILLS", 10), all: false };
    let scene = run(Acting::Here(Upstream::charging()), &wanted).await;
    let effects = scene.acting.effects();
    scene.tell(&wanted, effects.values().sum());
    let (requests, faults) =
        (scene.network.requests.load(Ordering::Relaxed), scene.network.faults.load(Ordering::Relaxed));
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
    let wanted = Run { calls: calls() / 5, kills: number_in("SEMEL_CLIENT_KILLS", 6), all: true };
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let scene = run(Acting::Process(Actor::new(folder.path()).await), &wanted).await;
    let effects = scene.acting.effects();
    scene.tell(&wanted, effects.values().sum());
    let twice: Vec<_> = effects.iter().filter(|(_, effects)| **effects > 1).take(10).collect();
    assert!(twice.is_empty(), "effects that happened twice: {twice:?}");
    let listed = scene.gateway.keys_in("in-doubt").await;
    assert!(scene.gateway.keys_in("in-flight").await.is_empty());
    assert!(scene.kills.iter().all(|kills| *kills >= wanted.kills / 2), "all were killed: {:?}", scene.kills);
    let said = scene.said.lock().expect("no panic");
    for n in 0..wanted.calls {
        let key = format!("call-{n}");
        match said.done.contains(&n) {
            true => assert_eq!(effects.get(&key), Some(&1), "{key} was answered, so it took effect"),
            false => assert!(listed.contains(&key), "{key} has no answer and is not listed"),
        }
    }
    assert!(said.doubts.len() * 100 >= wanted.calls, "the upstream died as it should");
}
