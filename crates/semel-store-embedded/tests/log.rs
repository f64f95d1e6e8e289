//! The log: what a crash leaves of it, damage to it, and records that are in it and not yet in the tables.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use semel::clock::{ManualClock, Timestamp};
use semel::record::{ClaimArgs, DoubtCause, Ending, ReleaseFrom};
use semel::store::{Claimed, CompleteArgs, DoubtArgs, Durability, ReleaseArgs, RenewArgs, ScanArgs, Written};
use semel::{
    Fingerprint, Key, Operation, Outcome, Policy, Record, RecordId, State, Store, Tenant, fingerprint,
};
use semel_store_embedded::{EmbeddedConfig, EmbeddedStore, OpenErrorKind};

const HOUR: Duration = Duration::from_secs(3600);

fn id(number: usize) -> RecordId {
    RecordId::new(Tenant::id(&["acme"]), Operation::http(), Key::new(&format!("k {number}")).unwrap())
}

fn claim_of(number: usize) -> ClaimArgs {
    let fingerprint = Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(b"100", &fingerprint::PayloadParts::Raw),
    };
    ClaimArgs::new(id(number), fingerprint, &Policy::default())
}

fn takeover_of(number: usize) -> ClaimArgs {
    let mut args = claim_of(number);
    args.takeover = true;
    args
}

async fn claim(store: &EmbeddedStore, number: usize) -> Record {
    take(store, claim_of(number)).await
}

async fn take(store: &EmbeddedStore, args: ClaimArgs) -> Record {
    match store.claim(args).await.unwrap() {
        Claimed::Won(record) => record,
        Claimed::Standing(record) => panic!("{record:?} stands"),
    }
}

fn outcome(number: usize) -> Outcome {
    Outcome {
        code: 201,
        head: "a: b".into(),
        body: vec![number.to_le_bytes()[0]; 500].into(),
        body_kept: true,
    }
}

async fn complete(store: &EmbeddedStore, record: &Record, number: usize, retention: Duration) {
    let ending = Ending::Completed(outcome(number));
    let args = CompleteArgs { id: record.id.clone(), guard: record.guard, ending, retention };
    store.complete(args).await.unwrap();
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000)))
}

fn open(path: &Path, clock: &Arc<ManualClock>) -> EmbeddedStore {
    EmbeddedStore::open(EmbeddedConfig::new(path).clock(clock.clone()).segment_rows(16)).unwrap()
}

/// The files as they are now, as a kill would leave them.
fn crash(path: &Path, folder: &Path) -> PathBuf {
    fs::create_dir(folder).unwrap();
    for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }
    folder.join(path.file_name().unwrap())
}

fn log_of(path: &Path, number: u32) -> PathBuf {
    path.with_file_name(format!("{}.log-{number}", path.file_name().unwrap().to_str().unwrap()))
}

#[tokio::test]
async fn what_was_just_finished_is_near_and_so_is_what_was_read_from_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("keys.sqlite"), &clock());
    let record = claim(&store, 1).await;
    complete(&store, &record, 1, HOUR).await;
    let finished = store.get(&id(1)).await.unwrap();
    assert_eq!(store.near(&id(1)), finished, "in the log");
    // To list them, everything is folded first.
    store.scan(ScanArgs { limit: 1, ..ScanArgs::default() }).await.unwrap();
    assert_eq!(store.near(&id(1)), None, "in a table, and not read from it");
    assert_eq!(store.get(&id(1)).await.unwrap(), finished);
    assert_eq!(store.near(&id(1)), finished);
}

async fn state_of(store: &EmbeddedStore, number: usize) -> Option<State> {
    store.get(&id(number)).await.unwrap().map(|record| record.state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_anywhere_gives_back_everything_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let clock = clock();
    let store = open(&path, &clock);
    let mut ends = Vec::new();
    for number in 0..12 {
        let record = claim(&store, number).await;
        complete(&store, &record, number, HOUR).await;
        ends.push(fs::metadata(log_of(&path, 1)).unwrap().len());
    }
    let whole = crash(&path, &folder.path().join("whole"));
    drop(store);
    let length = *ends.last().unwrap();
    for (round, end) in (0..length).step_by(97).enumerate() {
        for garbage in [0, 600] {
            let image = crash(&whole, &folder.path().join(format!("{round} {garbage}")));
            let mut log = fs::read(log_of(&image, 1)).unwrap();
            log.truncate(usize::try_from(end).unwrap());
            log.extend((0..garbage).map(|at: u32| at.to_be_bytes()[3]));
            fs::write(log_of(&image, 1), log).unwrap();
            // The tables too may be older than the log.
            let store = open(&image, &clock);
            for (number, written) in ends.iter().enumerate() {
                if *written <= end {
                    let found = store.get(&id(number)).await.unwrap().expect("an acknowledged record");
                    assert_eq!(found.outcome(), Some(&outcome(number)), "cut at {end}");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_before_the_end_of_the_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let clock = clock();
    let store = open(&path, &clock);
    for number in 0..4 {
        let record = claim(&store, number).await;
        complete(&store, &record, number, HOUR).await;
    }
    let whole = crash(&path, &folder.path().join("whole"));
    drop(store);
    let bytes = fs::read(log_of(&whole, 1)).unwrap();
    for at in (0..bytes.len() - 1_500).step_by(53) {
        let image = crash(&whole, &folder.path().join(at.to_string()));
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        fs::write(log_of(&image, 1), flipped).unwrap();
        let refused = EmbeddedStore::open(EmbeddedConfig::new(&image).clock(clock.clone())).unwrap_err();
        assert_eq!(refused.kind(), OpenErrorKind::Damaged, "byte {at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_the_log_are_turned_over_used_again_and_gone_after_closing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let store = Arc::new(EmbeddedStore::open(EmbeddedConfig::new(&path)).unwrap());
    let mut long = claim_of(usize::MAX);
    (long.lease, long.max_execution) = (HOUR, HOUR);
    let long_running = take(&store, long).await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..32 {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            for number in (caller..3_600).step_by(32) {
                let record = claim(&store, number).await;
                let body: Vec<u8> =
                    (0..10_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
                let ending =
                    Ending::Completed(Outcome { body: body.into(), body_kept: true, ..Outcome::default() });
                let args = CompleteArgs { id: record.id, guard: record.guard, ending, retention: HOUR };
                store.complete(args).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    store.scan(ScanArgs { limit: 1, ..ScanArgs::default() }).await.unwrap();
    let logs = |folder: &Path| {
        let names =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".log-")).collect::<Vec<_>>()
    };
    let names = logs(folder.path());
    assert!(names.len() <= 3, "{names:?}");
    assert!(!names.contains(&"semel.db.log-1".to_owned()), "36 MB went through files of 16 MiB: {names:?}");
    let image = crash(&path, &folder.path().join("image"));
    let crashed = EmbeddedStore::open(EmbeddedConfig::new(&image)).unwrap();
    for number in 0..3_600 {
        let record = crashed.get(&id(number)).await.unwrap();
        assert!(record.is_some_and(|record| record.outcome().is_some()), "{number} is lost");
    }
    assert!(matches!(
        state_of(&crashed, usize::MAX).await,
        Some(State::InDoubt { cause: DoubtCause::Restarted, .. })
    ));
    complete(&store, &long_running, 1, HOUR).await;
    drop(store);
    assert_eq!(logs(folder.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_doubt_never_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let clock = clock();
    // Each round the doubt is in the tables, in the log, or in both, when it is taken over.
    for round in 0..8 {
        let store = open(&path, &clock);
        let record = claim(&store, round).await;
        let guard = record.guard;
        store.doubt(DoubtArgs { id: id(round), guard, cause: DoubtCause::NoAnswer }).await.unwrap();
        if round & 1 == 1 {
            store.scan(ScanArgs { limit: 1, ..ScanArgs::default() }).await.unwrap();
        }
        let second = take(&store, takeover_of(round)).await;
        if round & 2 == 2 {
            store.scan(ScanArgs { limit: 1, ..ScanArgs::default() }).await.unwrap();
        }
        if round & 4 == 4 {
            complete(&store, &second, round, Duration::from_secs(1)).await;
        } else {
            let release = ReleaseArgs { id: id(round), guard: second.guard, from: ReleaseFrom::Doubt };
            store
                .doubt(DoubtArgs { id: id(round), guard: second.guard, cause: DoubtCause::NoAnswer })
                .await
                .unwrap();
            store.release(release).await.unwrap();
        }
        clock.advance(Duration::from_secs(2));
        let image = crash(&path, &folder.path().join(round.to_string()));
        assert_eq!(state_of(&store, round).await, None, "round {round}");
        drop(store);
        for path in [&image, &path] {
            let store = open(path, &clock);
            assert_eq!(state_of(&store, round).await, None, "round {round}, opened again");
            store.scan(ScanArgs { limit: 1, ..ScanArgs::default() }).await.unwrap();
            assert_eq!(state_of(&store, round).await, None, "round {round}, folded");
        }
    }
}

/// A segment that was never sealed expires, and the store ends between two slices of dropping it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_in_the_middle_of_a_purge_it_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let clock = clock();
    let open = || {
        EmbeddedStore::open(EmbeddedConfig::new(&path).durability(Durability::Process).clock(clock.clone()))
    };
    let store = open().unwrap();
    for number in 0..200 {
        let record = claim(&store, number).await;
        complete(&store, &record, number, HOUR).await;
        // One fold, so one row of the segment's log.
        store.scan(ScanArgs { limit: 1, ..ScanArgs::default() }).await.unwrap();
    }
    clock.advance(2 * HOUR);
    let mut store = Some(store);
    for round in 0..200 {
        let purge = store.as_ref().unwrap().purge(1_000);
        let ended = tokio::time::timeout(Duration::from_micros(300), purge).await;
        drop(store.take());
        store = Some(open().unwrap_or_else(|error| panic!("round {round}: {error}")));
        if ended.is_ok() {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lapsed_claim_that_was_taken_over_is_the_newer_one_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let clock = clock();
    let store = open(&path, &clock);
    let first = claim(&store, 1).await;
    clock.advance(HOUR);
    let second = take(&store, takeover_of(1)).await;
    assert!(second.guard.token > first.guard.token);
    let image = crash(&path, &folder.path().join("image"));
    let found = open(&image, &clock).get(&id(1)).await.unwrap().expect("a doubt about the second claim");
    assert_eq!((found.guard, found.generation), (second.guard, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubt_that_was_taken_over_is_one_record_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let clock = clock();
    let store = open(&path, &clock);
    let all = async |store: &EmbeddedStore| {
        store.scan(ScanArgs { limit: 9, ..ScanArgs::default() }).await.unwrap().records
    };
    let record = claim(&store, 1).await;
    store.doubt(DoubtArgs { id: id(1), guard: record.guard, cause: DoubtCause::NoAnswer }).await.unwrap();
    assert_eq!(all(&store).await.len(), 1, "it is in the tables");
    let second = take(&store, takeover_of(1)).await;
    let image = crash(&path, &folder.path().join("image"));
    let found = all(&open(&image, &clock)).await;
    assert_eq!(found.iter().map(|record| record.guard).collect::<Vec<_>>(), [second.guard]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_grow_through_a_kill_beyond_what_was_imported_ahead_of_the_clock() {
    let folder = tempfile::tempdir().unwrap();
    let ahead = clock();
    ahead.advance(HOUR);
    let source = open(&folder.path().join("source.db"), &ahead);
    let record = claim(&source, 1).await;
    complete(&source, &record, 1, HOUR).await;
    let imported = source.get(&id(1)).await.unwrap().unwrap();
    let path = folder.path().join("semel.db");
    let store = open(&path, &clock());
    store.import(imported.clone()).await.unwrap();
    let purge = ReleaseArgs { id: id(1), guard: imported.guard, from: ReleaseFrom::Finished };
    store.release(purge).await.unwrap();
    let image = crash(&path, &folder.path().join("image"));
    let again = claim(&open(&image, &clock()), 1).await;
    assert!(again.guard.token > imported.guard.token, "{again:?}");
}

/// The log knows the first lease only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_claim_is_in_doubt_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let clock = clock();
    let store = open(&path, &clock);
    let mut args = claim_of(1);
    args.doubt_retention = Duration::from_secs(60);
    let record = take(&store, args).await;
    for _ in 0..60 {
        clock.advance(Duration::from_secs(5));
        let args = RenewArgs { id: id(1), guard: record.guard, lease: Duration::from_secs(10) };
        assert!(matches!(store.renew(args).await.unwrap(), Written::Done(_)));
    }
    let image = crash(&path, &folder.path().join("image"));
    let state = state_of(&open(&image, &clock), 1).await;
    assert!(matches!(state, Some(State::InDoubt { cause: DoubtCause::Restarted, .. })), "{state:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process_durability_opens_after_a_power_cut_that_took_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let config = |path: &Path| EmbeddedConfig::new(path).durability(Durability::Process);
    let store = EmbeddedStore::open(config(&path)).unwrap();
    for number in 0..40 {
        let record = claim(&store, number).await;
        complete(&store, &record, number, HOUR).await;
    }
    let image = crash(&path, &folder.path().join("image"));
    let mut bytes = fs::read(log_of(&image, 1)).unwrap();
    bytes[8_192..12_288].fill(0);
    fs::write(log_of(&image, 1), bytes).unwrap();
    let store = EmbeddedStore::open(config(&image)).unwrap();
    assert!(matches!(state_of(&store, 0).await, Some(State::Completed { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubt_that_was_taken_over_is_not_listed_beside_its_claim() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("semel.db"), &clock());
    let record = claim(&store, 1).await;
    store.doubt(DoubtArgs { id: id(1), guard: record.guard, cause: DoubtCause::NoAnswer }).await.unwrap();
    let all = || async { store.scan(ScanArgs { limit: 9, ..ScanArgs::default() }).await.unwrap().records };
    assert_eq!(all().await.len(), 1);
    let second = take(&store, takeover_of(1)).await;
    assert_eq!(all().await, [second]);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_to_the_file_leads_to_the_same_owner_and_log() {
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("semel.db"), folder.path().join("link.db"));
    let clock = clock();
    let store = open(&path, &clock);
    let record = claim(&store, 1).await;
    complete(&store, &record, 1, HOUR).await;
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let refused = EmbeddedStore::open(EmbeddedConfig::new(&link).clock(clock.clone())).unwrap_err();
    assert_eq!(refused.kind(), OpenErrorKind::Owned);
    drop(store);
    assert!(matches!(state_of(&open(&link, &clock), 1).await, Some(State::Completed { .. })));
}
