//! One seed from its first request to the calm after everything: hosts are started, calls are made, events happen, all
//! comes to rest, and then every key is brought once more.
//!
//! One thread and one runtime. Next: [`crate::judge`], which says what of it may not be.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use semel::Record;
use semel::clock::{Clock, Timestamp};
use semel::fingerprint::{self, Fingerprint, PayloadParts};
use semel::record::StateKind;
use semel::store::memory::MemoryStore;
use semel::store::{CompleteArgs, Ending, ReleaseArgs, ReleaseFrom, ScanArgs, Store, Written};
use semel_testkit::check::{Operation, Recorder};
use semel_tower::{Route, replay};
use tokio::task::JoinSet;

use crate::client::{Ask, Clients, Heard};
use crate::fault::Fault;
use crate::gate::{Service, StepClock};
use crate::network::{Network, Side};
use crate::options::{Event, Options};
use crate::process::{Process, Shared};
use crate::sim::{Sim, lock};
use crate::upstream::{Books, ENTRY, Entry, Upstream};

/// How long a seed may take, in simulated time.
const LONGEST: Duration = Duration::from_secs(3_600);

/// What came of a seed.
#[derive(Debug)]
pub struct Outcome {
    /// What all hosts shared: options, log, tally.
    pub sim: Arc<Sim>,
    /// What everybody was told.
    pub heard: Vec<Heard>,
    /// What the upstream did.
    pub entries: Vec<Entry>,
    /// How often each claim was sent.
    pub sent: BTreeMap<(String, String, u64), usize>,
    /// The records when all had come to rest.
    pub rested: Vec<Record>,
    /// Effects when all had come to rest.
    pub entries_rested: usize,
    /// Claims that a gateway held then.
    pub live_claims: usize,
    /// Who wrote down what was asked of the store.
    recorder: Recorder,
    /// How long it took, in simulated time.
    pub simulated: Duration,
    /// What was asked of the store.
    pub history: Vec<Operation>,
    /// The store's clock at the end.
    pub now: Timestamp,
    /// What the gateways saw of the store.
    pub service: Arc<Service>,
    /// Keys that a person has released.
    pub released_by_hand: Vec<String>,
    /// Keys that a person has completed.
    pub completed_by_hand: Vec<String>,
    /// Not everything had ended when its time was up.
    pub stuck: bool,
}

/// Everything that runs.
#[derive(Debug)]
struct Stage {
    shared: Shared,
    clients: Arc<Clients>,
    upstream: Arc<Upstream>,
    processes: Mutex<BTreeMap<usize, Process>>,
    starts: Mutex<usize>,
    by_hand: Mutex<(Vec<String>, Vec<String>)>,
}

/// Runs the world of `options`.
///
/// # Panics
/// When the runtime cannot be made.
#[must_use]
pub fn run(options: Options) -> Outcome {
    semel::backoff::seed(Some(options.seed));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let mut outcome = match runtime {
        Ok(runtime) => runtime.block_on(simulate(options)),
        Err(error) => panic!("no runtime: {error}"),
    };
    // The runtime is gone, and with it the calls that were never answered: only now are they in the history.
    outcome.history = outcome.recorder.history();
    semel::backoff::seed(None);
    outcome
}

async fn simulate(options: Options) -> Outcome {
    let sim = Sim::new(options);
    let stage = Arc::new(Stage::set(&sim));
    for number in 0..sim.options.gateways {
        stage.start(number);
    }
    if sim.options.gateways == 2 {
        sim.struck(Fault::TwoGateways, "world");
    }
    let played = tokio::time::timeout(LONGEST, play(&stage)).await;
    let rested = stage.records().await;
    let live_claims = lock(&stage.processes).values().map(|process| process.engine.live_claims()).sum();
    let entries_rested = stage.upstream.look(|books| books.entries.len());
    sim.say("world", &format!("rests with {} records", rested.len()));
    let brought = tokio::time::timeout(LONGEST, bring_all_again(&stage)).await;
    let (entries, sent) = stage.upstream.look(|books: &Books| (books.entries.clone(), books.sent.clone()));
    let (released_by_hand, completed_by_hand) = lock(&stage.by_hand).clone();
    Outcome {
        heard: stage.clients.heard(),
        entries,
        sent,
        rested,
        entries_rested,
        live_claims,
        recorder: stage.shared.recorder.clone(),
        history: Vec::new(),
        simulated: sim.elapsed(),
        now: stage.shared.clock.now(),
        service: Arc::clone(&stage.shared.service),
        released_by_hand,
        completed_by_hand,
        stuck: played.is_err() || brought.is_err(),
        sim,
    }
}

/// The calls and the events, and then the rest.
async fn play(stage: &Arc<Stage>) {
    let sim = stage.sim();
    let mut running = JoinSet::new();
    let mut dice = sim.dice("calls");
    for number in 0..sim.options.calls {
        let spread = u64::try_from(sim.options.spread.as_millis()).unwrap_or(0);
        let (begin, clients) = (dice.millis(0, spread), Arc::clone(&stage.clients));
        let own = sim.dice(&format!("call {number}"));
        running.spawn(async move {
            tokio::time::sleep(begin).await;
            clients.make_call(number, own).await;
        });
    }
    for event in sim.options.events.clone() {
        let stage = Arc::clone(stage);
        running.spawn(async move {
            tokio::time::sleep_until(stage.sim().moment(event.at)).await;
            stage.happens(event).await;
        });
    }
    while running.join_next().await.is_some() {}
    sim.calm_down();
    sim.say("world", "is calm");
    // The longest that anything begun may go on: a hanging upstream, a late reply, then leases.
    tokio::time::sleep(Duration::from_secs(180) + sim.options.lease * 3).await;
}

/// Every key once more, as it was and with another payload, with nothing that strikes.
async fn bring_all_again(stage: &Arc<Stage>) {
    let mut asked: Vec<Ask> = Vec::new();
    for heard in stage.clients.heard() {
        if !asked.contains(&heard.asked) {
            asked.push(heard.asked);
        }
    }
    for ask in asked {
        let _ = stage.clients.ask_plainly("after all", &ask).await;
        let other = Ask { payload: format!("{}, after all", ask.payload), ..ask };
        let _ = stage.clients.ask_plainly("after all, other", &other).await;
    }
}

impl Stage {
    fn set(sim: &Arc<Sim>) -> Self {
        let network = Network::new(Arc::clone(sim));
        let clock = StepClock::new(Arc::clone(sim));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::with_clock(Arc::clone(&clock) as Arc<dyn Clock>));
        let service = Arc::new(Service::default());
        // Times are judged unless the clock goes back, which no order of calls explains.
        let recorder = match sim.options.has(Fault::ClockBack) {
            true => Recorder::new(Arc::clone(&store)),
            false => Recorder::on_clock(Arc::clone(&store), Arc::clone(&clock) as Arc<dyn Clock>),
        };
        let clients = Clients::new(Arc::clone(&network));
        let upstream = Upstream::start(Arc::clone(&network), Arc::clone(&service));
        let shared = Shared { network, store, clock, service, recorder };
        Self {
            shared,
            clients,
            upstream,
            processes: Mutex::default(),
            starts: Mutex::new(0),
            by_hand: Mutex::default(),
        }
    }

    fn sim(&self) -> &Arc<Sim> {
        self.shared.network.sim()
    }

    fn start(&self, number: usize) {
        let mut starts = lock(&self.starts);
        *starts += 1;
        match Process::start(&self.shared, number, *starts) {
            Ok(process) => {
                lock(&self.processes).insert(number, process);
            }
            Err(error) => self.sim().say("world", &format!("gateway {number} does not start: {error}")),
        }
    }

    fn take(&self, number: usize) -> Option<Process> {
        lock(&self.processes).remove(&number)
    }

    async fn happens(&self, event: Event) {
        let until = tokio::time::Instant::now() + event.lasting;
        let who = format!("gateway {}", event.gateway);
        let Shared { network, clock, service, .. } = &self.shared;
        match event.fault {
            Fault::PartitionFront => network.part(Side::Front, until),
            Fault::PartitionBack => network.part(Side::Back, until),
            Fault::StoreDown => return service.go_down(until),
            Fault::StorePause => return service.pause(until),
            Fault::ClockAhead => clock.step(event.lasting, true),
            Fault::ClockBack => clock.step(event.lasting, false),
            Fault::GatewayCrash => {
                let Some(process) = self.take(event.gateway) else { return };
                self.sim().struck(event.fault, &who);
                network.kill(&process.life);
                tokio::time::sleep(event.lasting).await;
                return self.start(event.gateway);
            }
            Fault::GatewayFreeze => {
                if let Some(process) = lock(&self.processes).get(&event.gateway) {
                    self.sim().struck(event.fault, &who);
                    process.life.freeze(until);
                }
                return;
            }
            Fault::GatewayDrain => {
                let Some(process) = self.take(event.gateway) else { return };
                self.sim().struck(event.fault, &who);
                process.drain(network).await;
                tokio::time::sleep(event.lasting).await;
                return self.start(event.gateway);
            }
            Fault::OperatorResolves => return self.resolve().await,
            _ => return,
        }
        self.sim().struck(event.fault, "world");
    }

    /// A person looks at each doubt, asks the upstream's books, and resolves it.
    async fn resolve(&self) {
        for listed in self.records().await {
            let Ok(Some(record)) = self.recorded().get(&listed.id).await else { continue };
            if record.state.kind() != StateKind::InDoubt {
                continue;
            }
            self.sim().struck(Fault::OperatorResolves, "operator");
            let Record { id, guard, fingerprint, .. } = record;
            let key = id.key().as_str().to_owned();
            let found = self.upstream.look(|books| {
                let mut entries = books.entries.iter();
                let tenant = |entry: &Entry| self.shared.service.tenant(semel::Token(entry.token));
                entries.position(|entry| {
                    entry.effect
                        && entry.key == key
                        && tenant(entry).as_ref() == Some(id.tenant())
                        && looks_like(entry) == fingerprint
                })
            });
            self.sim().say("operator", &format!("{key}: {found:?}"));
            let Some(entry) = found else {
                lock(&self.by_hand).0.push(key);
                let args = ReleaseArgs { id, guard, from: ReleaseFrom::Doubt };
                let _ = self.recorded().release(args).await;
                continue;
            };
            lock(&self.by_hand).1.push(key);
            let ending = Ending::Completed(answer_of(entry));
            let args = CompleteArgs { id, guard, ending, retention: self.sim().options.retention };
            if let Ok(Written::Done(Some(record))) = self.recorded().complete(args).await {
                let retention = self.sim().options.retention;
                self.shared.service.kept(&record, retention, retention);
            }
        }
    }

    fn recorded(&self) -> Recorder {
        self.shared.recorder.continued(Arc::clone(&self.shared.store))
    }

    async fn records(&self) -> Vec<Record> {
        let args = ScanArgs { limit: 1_000, ..ScanArgs::default() };
        self.shared.store.scan(args).await.map(|page| page.records).unwrap_or_default()
    }
}

/// The request that an entry was made for.
fn looks_like(entry: &Entry) -> Fingerprint {
    Fingerprint {
        target: fingerprint::target("POST", &entry.path, None),
        payload: fingerprint::payload(entry.payload.as_bytes(), &PayloadParts::Raw),
    }
}

/// What a person writes into a record whose effect the books show.
fn answer_of(entry: usize) -> semel::Outcome {
    let mut headers = http::HeaderMap::new();
    headers.insert(ENTRY, http::HeaderValue::from(entry));
    let body = bytes::Bytes::from(format!("entry {entry}: by hand"));
    replay::store(StatusCode::OK, &headers, Some(body), None, &Route::default())
}
