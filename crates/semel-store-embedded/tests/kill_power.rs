//! Power cuts at any moment, and disks that fail a sync: a child's changes of its files are noted in order, and played
//! up to a moment with what was not synced lost, torn and in any order. What the child had said by then must be in the
//! store that opens afterwards, and nothing else may be taken for an outcome.
//!
//! 140 cuts, or as many as `SEMEL_POWER_CUTS=1400` says; `SEMEL_SEED` says which.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use semel::record::{ClaimArgs, Ending};
use semel::store::{Claimed, CompleteArgs, StoreErrorKind, Written};
use semel::{Fingerprint, Key, Operation, Outcome, Policy, RecordId, State, Store, Tenant, fingerprint};
use semel_store_embedded::{EmbeddedConfig, EmbeddedStore};
use semel_testkit::figures;
use semel_testkit::seeded::{Seeded, number};
use semel_testkit::shim::disk::{Disk, Step, steps};
use semel_testkit::shim::{Fault, Shim};

const FILE: &str = "SEMEL_TEST_POWER_FILE";
/// How long the child's outcomes are.
const BYTES: &str = "SEMEL_TEST_POWER_BYTES";
const CALLERS: usize = 8;

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

/// Hardly compressible, and another for every number.
fn outcome(number: usize, bytes: usize) -> Outcome {
    let mut random = Seeded::new(u64::try_from(number).unwrap());
    let body: Vec<u8> = (0..bytes).map(|_| random.byte()).collect();
    Outcome { code: 201, body: body.into(), body_kept: true, ..Outcome::default() }
}

/// Says what was acknowledged, after it was, in one write.
fn say(what: &str, number: usize, token: u64) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{what} {number} {token}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// What a child process does until it is killed, or its disk fails: claims and completes, but leaves every fourth claim
/// in flight. Does nothing when no parent asked for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_claims_and_completes_until_power_is_cut() {
    let Ok(file) = std::env::var(FILE) else { return };
    let bytes: usize = std::env::var(BYTES).unwrap().parse().unwrap();
    let store = Arc::new(EmbeddedStore::open(EmbeddedConfig::new(file)).unwrap());
    println!();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            for number in (caller..).step_by(CALLERS) {
                let Ok(Claimed::Won(record)) = store.claim(claim_of(number)).await else { break };
                say("claimed", number, record.guard.token.0);
                if is_left(number) {
                    continue;
                }
                let args = CompleteArgs {
                    id: record.id,
                    guard: record.guard,
                    ending: Ending::Completed(outcome(number, bytes)),
                    retention: Duration::from_secs(3600),
                };
                let Ok(Written::Done(_)) = store.complete(args).await else { break };
                say("completed", number, record.guard.token.0);
            }
        });
    }
    callers.join_all().await;
    // Only a failed disk leads here.
    let refused = store.claim(claim_of(usize::MAX)).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    say("refused", 0, 0);
}

fn is_left(number: usize) -> bool {
    number % 4 == 3
}

/// A child under a shim, in a folder of its own.
struct Powered {
    shim: Shim,
    folder: tempfile::TempDir,
    bytes: usize,
}

impl Powered {
    fn new(bytes: usize) -> Self {
        Self { shim: Shim::build(true), folder: tempfile::tempdir().unwrap(), bytes }
    }

    fn files(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap()
    }

    fn spawn(&self) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_claims_and_completes_until_power_is_cut", "--nocapture"])
            .env(FILE, self.files().join("store.sqlite"))
            .env(BYTES, self.bytes.to_string())
            .envs(self.shim.environment(&self.files()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Runs a child until it has said so many things, then calls `then`, and reads on until it ends.
    fn run(&self, words: usize, then: impl FnOnce(&Shim, &mut Child)) {
        let mut child = self.spawn();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let heard = lines.by_ref().take(words).count();
        assert_eq!(heard, words, "the child ended by itself");
        then(&self.shim, &mut child);
        lines.for_each(drop);
        child.wait().unwrap();
    }
}

#[derive(Clone, Debug, Default)]
struct Said {
    claimed: BTreeMap<usize, u64>,
    completed: BTreeMap<usize, u64>,
    refused: bool,
}

impl Said {
    fn hear(&mut self, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [what, number, token] = words.as_slice() else { continue };
            let (Ok(number), Ok(token)) = (number.parse(), token.parse()) else { continue };
            match *what {
                "claimed" => drop(self.claimed.insert(number, token)),
                "completed" => drop(self.completed.insert(number, token)),
                "refused" => self.refused = true,
                _ => {}
            }
        }
    }
}

/// Memory that is a disk, where there is one: images are many and short-lived.
fn image_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// Opens what a power cut left, and compares it with what was said.
async fn check(files: &BTreeMap<String, Vec<u8>>, said: &Said, bytes: usize) -> Result<(), String> {
    let folder = image_folder();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let config = EmbeddedConfig::new(folder.path().join("store.sqlite"));
    let store = EmbeddedStore::open(config).map_err(|error| format!("it does not open: {error:?}"))?;
    let most = said.claimed.keys().copied().max().unwrap_or(0);
    for number in 0..=most + CALLERS {
        let record = store.get(&id(number)).await.map_err(|error| format!("{number}: {error:?}"))?;
        let (claimed, completed) = (said.claimed.get(&number), said.completed.contains_key(&number));
        match record.map(|record| (record.guard.token.0, record.state)) {
            None if claimed.is_none() => {}
            Some((token, _)) if claimed.is_some_and(|said| *said != token) => {
                return Err(format!("{number} has token {token}, {claimed:?} was said"));
            }
            Some((_, State::InDoubt { .. })) if !completed => {}
            Some((_, State::Completed { outcome: kept, .. }))
                if !is_left(number) && kept == outcome(number, bytes) => {}
            found => {
                return Err(format!("{number}: claimed {claimed:?}, completed {completed}, found {found:?}"));
            }
        }
    }
    let fresh = store.claim(claim_of(usize::MAX)).await.map_err(|error| format!("a new claim: {error:?}"))?;
    let Claimed::Won(record) = fresh else { return Err(format!("a new key is taken: {fresh:?}")) };
    let last = said.claimed.values().copied().max().unwrap_or(0);
    if record.guard.token.0 <= last {
        return Err(format!("token {} was given after {last}", record.guard.token.0));
    }
    Ok(())
}

/// Keeps what shows a fault.
fn keep(trace: &Path, files: &BTreeMap<String, Vec<u8>>) -> PathBuf {
    let folder = tempfile::Builder::new().prefix("semel-power-cut-").tempdir().unwrap().keep();
    fs::copy(trace, folder.join("trace")).unwrap();
    for (name, bytes) in files {
        fs::write(folder.join(name), bytes).unwrap();
    }
    folder
}

/// Cuts the power at `cuts` moments of a trace.
async fn cut(powered: &Powered, cuts: usize, what: &str) {
    let steps = steps(&powered.shim.trace());
    let seed = number("SEMEL_SEED", 1);
    let mut random = Seeded::new(seed);
    let mut moments: Vec<usize> = (0..cuts).map(|_| random.below(steps.len() + 1)).collect();
    moments.sort_unstable();
    let (mut disk, mut said, mut taken) = (Disk::new(&powered.files()), Said::default(), 0);
    for (nth, moment) in moments.iter().enumerate() {
        figures::progress(what, nth, cuts);
        for step in &steps[taken..*moment] {
            disk.take(step);
            if let Step::Said(text) = step {
                said.hear(text);
            }
        }
        taken = *moment;
        let files = disk.after_a_cut(&mut random);
        // Before the first word nothing was promised, also not that the file is one.
        if said.claimed.is_empty() {
            continue;
        }
        if let Err(wrong) = check(&files, &said, powered.bytes).await {
            let kept = keep(&powered.shim.trace(), &files);
            let wrong = format!("{wrong}; trace and image are in {}", kept.display());
            panic!("{what}, SEMEL_SEED={seed}, cut after step {moment} of {}: {wrong}", steps.len());
        }
    }
    println!(
        "{what}: {cuts} cuts of seed {seed} in {} steps; at the last {} claims and {} outcomes had been told",
        steps.len(),
        said.claimed.len(),
        said.completed.len()
    );
    let told = said.claimed.len() + said.completed.len();
    figures::tell(&[("power cuts", cuts), ("acknowledged", told), ("acknowledged and lost", 0)]);
    assert!(said.completed.len() > 20, "{said:?}");
}

fn cuts(share: u64) -> usize {
    usize::try_from(number("SEMEL_POWER_CUTS", 140) * share / 14).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_moment_loses_nothing_that_was_told() {
    let powered = Powered::new(300);
    powered.run(400, |_, child| child.kill().unwrap());
    cut(&powered, cuts(8), "small outcomes").await;
}

/// Enough to fill log files, have one filled before, and use it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_while_log_files_change_loses_nothing_that_was_told() {
    let powered = Powered::new(64 << 10);
    powered.run(1_500, |_, child| child.kill().unwrap());
    let renamed =
        steps(&powered.shim.trace()).iter().filter(|step| matches!(step, Step::Renamed(..))).count();
    assert!(renamed > 0, "no log file was used again");
    cut(&powered, cuts(2), "large outcomes").await;
}

/// After a sync that failed nothing is acknowledged, the sync is not tried again, and what was told before is kept even
/// when the disk has dropped what it could not write.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_the_store_and_loses_nothing_that_was_told() {
    let powered = Powered::new(300);
    powered.run(300, |shim, _| shim.set(Fault::SyncsFail, 1));
    let steps = steps(&powered.shim.trace());
    let failed = steps.iter().position(|step| matches!(step, Step::SyncFailed(_))).expect("a sync failed");
    let mut after = Said::default();
    let (mut before, mut disk) = (Said::default(), Disk::new(&powered.files()));
    for (at, step) in steps.iter().enumerate() {
        disk.take(step);
        if let Step::Said(text) = step {
            if at > failed { &mut after } else { &mut before }.hear(text);
        }
    }
    assert!(after.refused, "the store goes on after a failed sync");
    // Words about what was synced before may come a moment later; no more than one for each caller.
    let late = after.claimed.len() + after.completed.len();
    assert!(late <= 2 * CALLERS, "{late} acknowledgements after a failed sync: {after:?}");
    before.claimed.extend(&after.claimed);
    before.completed.extend(&after.completed);
    let mut random = Seeded::new(number("SEMEL_SEED", 1));
    for nth in 0..cuts(4) {
        let files = disk.after_a_cut(&mut random);
        check(&files, &before, powered.bytes).await.unwrap_or_else(|wrong| panic!("image {nth}: {wrong}"));
    }
    figures::tell(&[("power cuts after a failed sync", cuts(4))]);
}
