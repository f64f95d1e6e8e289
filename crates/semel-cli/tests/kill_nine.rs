//! `kill -9` of the gateway under load, fifty times on one store, aimed at each moment at which it can hurt: before
//! the claim commits, while the upstream works, and between its answer and the commit of the outcome. Callers send
//! again with their key until they have a final answer: the outcome, or that nobody knows it.
//!
//! In which window a kill caught a key is told by evidence: whether the upstream's ledger has it, whether the
//! upstream had written its answer when the signal was sent, and what the record is after the restart.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use semel_testkit::check::answers::{self, Request, Told as Heard};
use semel_testkit::client::{Answer, Call, Connection, Load, Raw};
use semel_testkit::figures;
use semel_testkit::gateway::Gateway;
use semel_testkit::upstream::{PythonProtocol, Upstream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
const CALLERS: usize = 24;

/// At which moment a round kills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Aim {
    /// The requests are written, and nothing more is known.
    Claim,
    /// The upstream has the requests and does not answer.
    Effect,
    /// The upstream has written its first answers.
    Outcome,
    /// Somewhere in a stream of requests.
    Anywhere,
}

/// Where a kill caught a key that had no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Window {
    /// No record and no effect; in the rounds aimed at it, the request was on its way as bytes.
    BeforeClaim,
    /// A record and no effect.
    ClaimedNotSent,
    /// The upstream had the request and had not answered.
    SentNotAnswered,
    /// The upstream had answered when the signal was sent, and the outcome is not on record.
    AnsweredNotCompleted,
    /// The outcome is on record and did not reach its caller.
    CompletedNotTold,
    /// The effect happened and the outcome is not on record; whether the upstream answered before or after the signal
    /// is not known.
    SentSomewhen,
}

/// What callers were told, over all rounds.
#[derive(Default)]
struct Told {
    outcomes: BTreeMap<String, Answer>,
    doubts: BTreeSet<String>,
    /// Every request of each key, in order, for the checker.
    history: BTreeMap<String, Vec<Request>>,
    windows: BTreeMap<Window, usize>,
    rounds: BTreeMap<Window, usize>,
    /// Kills with at least ten requests in flight.
    full_rounds: usize,
}

impl Told {
    /// The requests of one key follow each other.
    fn hear(&mut self, key: &str, answer: Option<&Answer>) {
        let requests = self.history.entry(key.to_owned()).or_default();
        let invoked = 2 * u64::try_from(requests.len()).unwrap_or(u64::MAX / 2);
        let answer = answer.map(|answer| {
            let essence = format!("{:?}", answer.essence());
            let heard = match (answer.status, answer.standing()) {
                (409, _) => Heard::InDoubt,
                (_, Some("replayed")) => Heard::Replayed(essence),
                (_, _) => Heard::Executed(essence),
            };
            (invoked + 1, heard)
        });
        requests.push(Request { invoked, answer });
    }
}

struct Shop {
    upstream: Upstream,
    gateway: Gateway,
    /// Closed, the upstream takes requests and answers none.
    gate: watch::Sender<bool>,
    target: &'static str,
}

fn call(target: &str, key: &str) -> Call {
    Call::post(target, format!("{{\"order\":\"{key}\"}}")).key(key)
}

/// The same number for the same round and key, and another for others.
fn number(text: &str, below: u64) -> u64 {
    let digest = blake3::hash(text.as_bytes());
    u64::from(u32::from_le_bytes([0, 1, 2, 3].map(|at| digest.as_bytes()[at]))) % below
}

async fn shop() -> Shop {
    let (gate, opens) = watch::channel(true);
    let upstream = Upstream::scripted(move |arrived| {
        let mut opens = opens.clone();
        async move {
            let pause = Duration::from_micros(number(arrived.key().unwrap_or_default(), 4_000));
            if opens.wait_for(|open| *open).await.is_ok() {
                tokio::time::sleep(pause).await;
            }
            arrived.charge()
        }
    });
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    Shop { upstream, gateway, gate, target: "/charges" }
}

/// One caller: sends fresh keys one after the other until its connection breaks. Without `stream` only one.
async fn caller(
    addr: SocketAddr,
    target: &'static str,
    name: String,
    stream: bool,
    in_flight: Arc<AtomicUsize>,
) -> Vec<(String, Option<Answer>)> {
    let mut sent = Vec::new();
    let Ok(mut connection) = Connection::open(addr).await else { return sent };
    for n in 0.. {
        let key = format!("{name}-{n}");
        in_flight.fetch_add(1, Ordering::SeqCst);
        let answer = connection.send(&call(target, &key)).await.ok();
        let broken = answer.is_none();
        if !broken {
            in_flight.fetch_sub(1, Ordering::SeqCst);
        }
        sent.push((key, answer));
        if broken || !stream {
            break;
        }
    }
    sent
}

impl Shop {
    /// Sends, kills, restarts, sends again.
    async fn round(&mut self, round: usize, aim: Aim, told: &mut Told) {
        let before = (self.upstream.ledger().total(), self.upstream.answered_count());
        self.gate.send_replace(aim != Aim::Effect);
        let in_flight = Arc::new(AtomicUsize::new(0));
        let mut callers = JoinSet::new();
        let mut sent: Vec<(String, Option<Answer>)> = Vec::new();
        let mut raws = Vec::new();
        if aim == Aim::Claim {
            (raws, sent) = self.written(round).await;
            in_flight.store(sent.len(), Ordering::SeqCst);
        } else {
            for n in 0..CALLERS {
                let name = format!("round-{round}-{n}");
                let addr = self.gateway.addr();
                callers.spawn(caller(addr, self.target, name, aim == Aim::Anywhere, Arc::clone(&in_flight)));
            }
        }
        self.moment(round, aim, before).await;
        let answered = self.upstream.answered();
        let open = in_flight.load(Ordering::SeqCst);
        self.gateway.kill9();
        self.gateway.wait().await;
        drop(raws);
        while let Some(ended) = callers.join_next().await {
            sent.extend(ended.expect("no panic in a caller"));
        }
        self.gate.send_replace(true);
        told.full_rounds += usize::from(open >= 10);
        self.gateway.start_again().await;
        self.classify(aim, &sent, &answered, told).await;
        sent.iter().for_each(|(key, answer)| told.hear(key, answer.as_ref()));
        self.send_again(sent, told).await;
    }

    /// Requests that are on their way as bytes: killed at once, most are not even read.
    async fn written(&self, round: usize) -> (Vec<Raw>, Vec<(String, Option<Answer>)>) {
        let (mut raws, mut sent) = (Vec::new(), Vec::new());
        for _ in 0..CALLERS {
            raws.push(Raw::open(self.gateway.addr()).await);
        }
        for (n, raw) in raws.iter_mut().enumerate() {
            let key = format!("round-{round}-{n}-0");
            let body = format!("{{\"order\":\"{key}\"}}");
            let head = format!("POST {} HTTP/1.1\r\nHost: api\r\nIdempotency-Key: {key}\r\n", self.target);
            let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            assert!(raw.write(request.as_bytes()).await);
            sent.push((key, None));
        }
        (raws, sent)
    }

    async fn moment(&self, round: usize, aim: Aim, (sent_before, answered_before): (usize, usize)) {
        let pause = number(&format!("pause of {round}"), 1_000);
        let ledger = self.upstream.ledger();
        match aim {
            // Every other round a little later, to catch some between the read and the commit.
            Aim::Claim if round.is_multiple_of(8) => {}
            Aim::Claim => tokio::time::sleep(Duration::from_micros(pause)).await,
            Aim::Effect => ledger.reaches(sent_before + CALLERS / 2).await,
            Aim::Outcome => {
                let some = answered_before + 1 + usize::try_from(pause % 8).unwrap_or(0);
                while self.upstream.answered_count() < some {
                    tokio::task::yield_now().await;
                }
            }
            Aim::Anywhere => {
                ledger.reaches(sent_before + 1).await;
                tokio::time::sleep(Duration::from_micros(pause * 100)).await;
            }
        }
    }

    async fn classify(
        &self,
        aim: Aim,
        sent: &[(String, Option<Answer>)],
        answered: &HashSet<String>,
        told: &mut Told,
    ) {
        let listed = self.gateway.keys(&["list", "--all"]).await;
        let states: BTreeMap<&str, &str> = listed
            .documents
            .iter()
            .filter_map(|record| Some((record["key"].as_str()?, record["state"].as_str()?)))
            .collect();
        let effects = self.upstream.ledger().per_key();
        let mut seen = BTreeSet::new();
        for (key, answer) in sent {
            let state = states.get(key.as_str()).copied();
            if let Some(answer) = answer {
                assert_eq!(
                    (answer.status, state),
                    (201, Some("completed")),
                    "{key} was told of an outcome that is lost"
                );
                continue;
            }
            let window = match (effects.contains_key(key), state) {
                (false, None) => Window::BeforeClaim,
                (false, Some("in-doubt")) => Window::ClaimedNotSent,
                (true, Some("in-doubt")) if answered.contains(key) => Window::AnsweredNotCompleted,
                (true, Some("in-doubt")) if aim == Aim::Effect => Window::SentNotAnswered,
                (true, Some("in-doubt")) => Window::SentSomewhen,
                (true, Some("completed")) => Window::CompletedNotTold,
                unsafe_ => panic!("{key}: effect and record are {unsafe_:?}"),
            };
            *told.windows.entry(window).or_default() += 1;
            seen.insert(window);
        }
        for window in seen {
            *told.rounds.entry(window).or_default() += 1;
        }
    }

    /// Every key again, also those that were answered, until the answer is final.
    async fn send_again(&self, sent: Vec<(String, Option<Answer>)>, told: &mut Told) {
        let calls = sent.iter().map(|(key, _)| call(self.target, key)).collect();
        let answers = Load { addr: self.gateway.addr(), connections: 8 }.answers(calls).await;
        for ((key, first), answer) in sent.into_iter().zip(answers) {
            told.hear(&key, Some(&answer));
            match (answer.status, answer.problem().as_deref()) {
                (201, None) => {
                    assert_eq!(answer.json()["key"], key.as_str(), "another key's answer");
                    if let Some(first) = first {
                        assert_eq!(
                            (answer.standing(), answer.essence()),
                            (Some("replayed"), first.essence()),
                            "{key}"
                        );
                    }
                    told.outcomes.insert(key, answer);
                }
                (409, Some("outcome-unknown")) => {
                    assert!(first.is_none(), "{key} was told of its outcome, and now nobody knows it");
                    told.doubts.insert(key);
                }
                _ => panic!("{key}: {answer:?}"),
            }
        }
    }

    /// What must hold when all rounds are over, and every key was sent once more.
    async fn balance(&self, told: &mut Told) {
        let outcomes = told.outcomes.iter().map(|(key, answer)| (key.clone(), Some(answer.clone())));
        let doubts = told.doubts.iter().map(|key| (key.clone(), None));
        self.send_again(outcomes.chain(doubts).collect(), told).await;
        for (key, requests) in &told.history {
            answers::check(requests).unwrap_or_else(|wrong| panic!("{key}: {wrong}: {requests:?}"));
        }
        let effects = self.upstream.ledger().per_key();
        let twice: Vec<_> = effects.iter().filter(|(_, effects)| **effects > 1).collect();
        assert!(twice.is_empty(), "effects that happened more than once: {twice:?}");
        for (key, answer) in &told.outcomes {
            assert_eq!(
                effects.get(key),
                Some(&1),
                "{key} was told of an effect that did not happen: {answer:?}"
            );
        }
        assert_eq!(
            self.gateway.keys_in("in-doubt").await,
            told.doubts,
            "unknown outcomes are listed, and nothing else is"
        );
        assert!(self.gateway.keys_in("in-flight").await.is_empty());
        figures::tell(&[
            ("histories judged", told.history.len()),
            ("outcomes told", told.outcomes.len()),
            ("lost answers", 0),
            ("doubled effects under hold", twice.len()),
            ("in doubt and listed", told.doubts.len()),
        ]);
    }
}

fn report(told: &Told, rounds: usize) {
    figures::tell(&[("kills of a gateway", rounds)]);
    println!("{rounds} kills, {} with at least 10 requests in flight", told.full_rounds);
    println!("{} keys with an outcome, {} in doubt", told.outcomes.len(), told.doubts.len());
    for (window, keys) in &told.windows {
        println!("{window:?}: {keys} keys in {} kills", told.rounds[window]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_double_no_effect_and_every_unknown_outcome_is_listed() {
    const ROUNDS: usize = 50;
    let (mut shop, mut told) = (shop().await, Told::default());
    for round in 0..ROUNDS {
        let aim = [Aim::Claim, Aim::Effect, Aim::Outcome, Aim::Anywhere][round % 4];
        shop.round(round, aim, &mut told).await;
    }
    report(&told, ROUNDS);
    shop.balance(&mut told).await;
    assert!(told.full_rounds >= 30, "only {} kills met ten requests", told.full_rounds);
    for window in [Window::BeforeClaim, Window::SentNotAnswered, Window::AnsweredNotCompleted] {
        let kills = told.rounds.get(&window).copied().unwrap_or(0);
        assert!(kills >= 3, "{window:?} was met by {kills} kills only: {:?}", told.rounds);
    }
}

/// Servers that know nothing of this test, killed in a stream of requests.
async fn kills_in_front_of(upstream: Upstream) {
    const ROUNDS: usize = 8;
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let mut shop = Shop { upstream, gateway, gate: watch::channel(true).0, target: "/charges?delay_ms=5" };
    let mut told = Told::default();
    for round in 0..ROUNDS {
        shop.round(round, Aim::Anywhere, &mut told).await;
    }
    report(&told, ROUNDS);
    shop.balance(&mut told).await;
    assert!(told.full_rounds >= ROUNDS - 2, "only {} kills met ten requests", told.full_rounds);
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_in_front_of_python_double_no_effect() {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    kills_in_front_of(Upstream::python(folder.path(), PythonProtocol::Http11).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_in_front_of_node_double_no_effect() {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    kills_in_front_of(Upstream::node(folder.path()).await).await;
}

/// A gateway that is killed while it starts, again and again, loses nothing of what was there.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_killed_changes_nothing() {
    let mut shop = shop().await;
    let key = "before";
    let first = call(shop.target, key).answer(shop.gateway.addr()).await;
    shop.gate.send_replace(false);
    let (addr, hanging) = (shop.gateway.addr(), call(shop.target, "hanging"));
    let hanging = tokio::spawn(async move { hanging.send(addr).await });
    shop.upstream.ledger().reaches(2).await;
    for _ in 0..5 {
        shop.gateway.kill9();
        shop.gateway.wait().await;
        shop.gateway.start_again().await;
    }
    hanging.await.expect("no panic").expect_err("its gateway was killed");
    let replay = call(shop.target, key).answer(shop.gateway.addr()).await;
    assert_eq!((replay.standing(), replay.essence()), (Some("replayed"), first.essence()));
    assert_eq!(shop.gateway.keys_in("in-doubt").await.into_iter().collect::<Vec<_>>(), ["hanging"]);
    assert_eq!(shop.upstream.ledger().total(), 2);
}
