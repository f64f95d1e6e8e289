//! Killed processes, a second process, a disk that fails: what was acknowledged is kept, and what was in flight is
//! in doubt.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use semel::record::{ClaimArgs, DoubtCause, Ending};
use semel::store::{Claimed, CompleteArgs, StoreErrorKind, Written};
use semel::{Fingerprint, Key, Operation, Outcome, Policy, RecordId, State, Store, Tenant, fingerprint};
use semel_store_embedded::{EmbeddedConfig, EmbeddedStore, OpenErrorKind};
use semel_testkit::check::answers::{self, Request, Told};
use semel_testkit::figures;

const FILE: &str = "SEMEL_TEST_FILE";
const FIRST: &str = "SEMEL_TEST_FIRST";

fn id(number: usize) -> RecordId {
    RecordId::new(Tenant::id(&["t"]), Operation::http(), Key::new(&format!("k {number}")).unwrap())
}

fn claim_of(number: usize) -> ClaimArgs {
    let fingerprint = Fingerprint {
        target: fingerprint::target("POST", "/", None),
        payload: fingerprint::payload(b"", &fingerprint::PayloadParts::Raw),
    };
    ClaimArgs::new(id(number), fingerprint, &Policy::default())
}

fn outcome(number: usize) -> Outcome {
    Outcome {
        code: 201,
        body: format!("{number} ").repeat(100).into(),
        body_kept: true,
        ..Outcome::default()
    }
}

/// Says what was acknowledged, after it was.
fn say(what: &str, number: usize) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {number}").unwrap();
    out.flush().unwrap();
}

/// What a child process does: 16 callers claim and complete, but leave every fourth claim in flight, until they are
/// killed or the disk fails. Does nothing when no parent asked for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_claims_and_completes_until_killed() {
    let Ok(file) = std::env::var(FILE) else { return };
    let first: usize = std::env::var(FIRST).unwrap().parse().unwrap();
    let store = Arc::new(EmbeddedStore::open(EmbeddedConfig::new(file)).unwrap());
    println!();
    say("opened", 0);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..16 {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            for number in (first + caller..).step_by(16) {
                let Ok(Claimed::Won(record)) = store.claim(claim_of(number)).await else { break };
                say("claimed", number);
                if number % 4 == 3 {
                    continue;
                }
                let args = CompleteArgs {
                    id: record.id,
                    guard: record.guard,
                    ending: Ending::Completed(outcome(number)),
                    retention: Duration::from_secs(3600),
                };
                let Ok(Written::Done(_)) = store.complete(args).await else { break };
                say("completed", number);
            }
        });
    }
    callers.join_all().await;
    // Only a failed disk leads here.
    for attempt in 0..3 {
        let refused = store.claim(claim_of(usize::MAX - attempt)).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
        let why = std::error::Error::source(&refused).unwrap().to_string();
        assert!(why.contains("reopen the store"), "{why}");
    }
    assert!(store.get(&id(first)).await.is_ok(), "reads go on");
    say("refused", 0);
}

fn child(file: &Path, first: usize, before: &str) -> Child {
    Command::new("sh")
        .arg("-c")
        .arg(format!("{before} exec \"$0\" --exact child_claims_and_completes_until_killed --nocapture"))
        .arg(std::env::current_exe().unwrap())
        .env(FILE, file)
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[derive(Default)]
struct Acknowledged {
    claimed: HashSet<usize>,
    completed: HashSet<usize>,
    refused: bool,
}

/// Reads what the child says, and kills it once it has said `kill_after` lines.
fn listen(mut child: Child, kill_after: usize) -> Acknowledged {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut heard = Acknowledged::default();
    for (count, line) in lines.map_while(Result::ok).enumerate() {
        match line.split_once(' ').and_then(|(what, number)| Some((what, number.parse().ok()?))) {
            Some(("claimed", number)) => drop(heard.claimed.insert(number)),
            Some(("completed", number)) => drop(heard.completed.insert(number)),
            Some(("refused", _)) => heard.refused = true,
            _ => {}
        }
        if count == kill_after {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    heard
}

/// What was told of each number: by the child that claimed it, and at each opening since.
#[derive(Default)]
struct Histories(BTreeMap<usize, Vec<Request>>);

impl Histories {
    fn tell(&mut self, number: usize, told: Option<Told>) {
        let requests = self.0.entry(number).or_default();
        let invoked = 2 * u64::try_from(requests.len()).unwrap();
        requests.push(Request { invoked, answer: told.map(|told| (invoked + 1, told)) });
    }
}

/// Checks every acknowledged record; returns how many are in doubt.
async fn check(store: &EmbeddedStore, heard: &Acknowledged, histories: &mut Histories) -> usize {
    let mut doubted = 0;
    for number in &heard.claimed {
        let record = store.get(&id(*number)).await.unwrap().unwrap_or_else(|| panic!("{number} is lost"));
        match record.state {
            State::Completed { outcome: kept, .. } => {
                assert_eq!(kept, outcome(*number));
                histories.tell(*number, Some(Told::Replayed(format!("{kept:?}"))));
            }
            State::InDoubt { cause, .. } => {
                assert_eq!(cause, DoubtCause::Restarted);
                assert!(!heard.completed.contains(number), "{number} was completed");
                histories.tell(*number, Some(Told::InDoubt));
                doubted += 1;
            }
            other => panic!("{number} is {other:?}"),
        }
        let Ok(Claimed::Standing(_)) = store.claim(claim_of(*number)).await else {
            panic!("{number} could be claimed again");
        };
    }
    doubted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_kills_lose_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("semel.db");
    let (mut all, mut histories) = (Acknowledged::default(), Histories::default());
    for kill in 0..20 {
        let heard = listen(child(&file, kill * 1_000_000, ""), 100 + kill * 37);
        assert!(heard.claimed.len() >= 30, "the child was heard {} times", heard.claimed.len());
        for number in &heard.claimed {
            let told = heard.completed.contains(number).then(|| format!("{:?}", outcome(*number)));
            histories.tell(*number, told.map(Told::Executed));
        }
        all.claimed.extend(heard.claimed);
        all.completed.extend(heard.completed);
        let store = EmbeddedStore::open(EmbeddedConfig::new(&file)).unwrap();
        let doubted = check(&store, &all, &mut histories).await;
        assert!(doubted > kill, "claims that were in flight are in doubt");
    }
    for (number, requests) in &histories.0 {
        answers::check(requests).unwrap_or_else(|wrong| panic!("{number}: {wrong}: {requests:?}"));
    }
    figures::tell(&[
        ("kills of a store", 20),
        ("acknowledged", all.claimed.len() + all.completed.len()),
        ("acknowledged and lost", 0),
        ("histories judged", histories.0.len()),
    ]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_owner_is_refused_until_the_first_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("semel.db");
    let mut first = child(&file, 0, "");
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "opened 0"));
    let refused = EmbeddedStore::open(EmbeddedConfig::new(&file)).unwrap_err();
    assert_eq!(refused.kind(), OpenErrorKind::Owned);
    assert!(refused.to_string().contains("open already"), "{refused}");
    first.kill().unwrap();
    first.wait().unwrap();
    let store = EmbeddedStore::open(EmbeddedConfig::new(&file)).unwrap();
    assert_eq!(EmbeddedStore::open(EmbeddedConfig::new(&file)).unwrap_err().kind(), OpenErrorKind::Owned);
    drop(store);
    EmbeddedStore::open(EmbeddedConfig::new(&file)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_disk_error_nothing_is_acknowledged_and_nothing_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("semel.db");
    // Files of at most 2 MiB: writing more is an I/O error.
    let heard = listen(child(&file, 0, "trap '' XFSZ; ulimit -f 2048;"), usize::MAX);
    assert!(heard.refused, "the child did not come to the end");
    assert!(heard.completed.len() > 100);
    let store = EmbeddedStore::open(EmbeddedConfig::new(&file)).unwrap();
    check(&store, &heard, &mut Histories::default()).await;
}
