//! The file: formats, damage, a full disk, the clock over restarts, the log's length, and what people see in it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;
use semel::clock::{ManualClock, Timestamp};
use semel::record::{ClaimArgs, DoubtCause, Ending, ReleaseFrom, StateKind};
use semel::store::{Claimed, CompleteArgs, DoubtArgs, ReleaseArgs, ScanArgs, StoreErrorKind};
use semel::{
    Fingerprint, Key, Operation, Outcome, Policy, Record, RecordId, State, Store, Tenant, fingerprint,
};
use semel_store_embedded::{EmbeddedConfig, EmbeddedStore, OpenErrorKind};

const HOUR: Duration = Duration::from_secs(3600);

fn id(key: &str) -> RecordId {
    RecordId::new(Tenant::id(&["acme"]), Operation::http(), Key::new(key).unwrap())
}

fn claim_of(key: &str) -> ClaimArgs {
    let fingerprint = Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(b"100", &fingerprint::PayloadParts::Raw),
    };
    ClaimArgs::new(id(key), fingerprint, &Policy::default())
}

async fn claim(store: &EmbeddedStore, key: &str) -> Record {
    match store.claim(claim_of(key)).await.unwrap() {
        Claimed::Won(record) => record,
        Claimed::Standing(record) => panic!("{record:?} stands"),
    }
}

fn completion(record: &Record, body: Vec<u8>, retention: Duration) -> CompleteArgs {
    let outcome = Outcome { code: 201, head: "a: b".into(), body: body.into(), body_kept: true };
    CompleteArgs { id: record.id.clone(), guard: record.guard, ending: Ending::Completed(outcome), retention }
}

fn noise(bytes: u32, seed: u32) -> Vec<u8> {
    (0..bytes).map(|at| (at ^ seed).wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000)))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A store with records in every place that a record can be in, closed; and the records.
async fn example(path: &Path) -> Vec<Record> {
    let config = EmbeddedConfig::new(path).clock(clock()).segment_rows(16);
    let store = EmbeddedStore::open(config).unwrap();
    let mut keys = Vec::new();
    for number in 0..80 {
        let key = format!("k {number}");
        let record = claim(&store, &key).await;
        if number % 10 == 7 {
            let cause = DoubtCause::NoAnswer;
            store.doubt(DoubtArgs { id: record.id.clone(), guard: record.guard, cause }).await.unwrap();
        } else if number != 79 {
            let body = if number % 20 == 3 { vec![b'z'; 9_000] } else { noise(300, number) };
            store.complete(completion(&record, body, HOUR)).await.unwrap();
        }
        keys.push(record.id);
    }
    drop(store);
    let store = EmbeddedStore::open(EmbeddedConfig::new(path).clock(clock()).segment_rows(16)).unwrap();
    let mut records = Vec::new();
    for id in keys {
        records.push(store.get(&id).await.unwrap().unwrap());
    }
    records
}

/// Whether every answer of the file at `path` is the right one or an error.
async fn answers_rightly_or_not_at_all(path: &Path, records: &[Record], what: &str) -> bool {
    let Ok(store) = EmbeddedStore::open(EmbeddedConfig::new(path).clock(clock()).segment_rows(16)) else {
        return false;
    };
    let mut whole = true;
    for record in records {
        match store.get(&record.id).await {
            Ok(found) => assert_eq!(found.as_ref(), Some(record), "{what}"),
            Err(_) => whole = false,
        }
        if let Ok(Claimed::Won(won)) = store.claim(claim_of(record.id.key().as_str())).await {
            panic!("{what}: {won:?} was won beside {record:?}");
        }
    }
    whole
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bits_never_make_a_wrong_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let records = example(&path).await;
    let bytes = std::fs::read(&path).unwrap();
    let mut noticed = 0;
    for round in 0..250_usize {
        let bit = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (bytes.len() * 8);
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let copy = folder.path().join("flipped.db");
        std::fs::write(&copy, flipped).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(with_suffix(&copy, suffix));
        }
        let what = format!("bit {} of byte {}", bit % 8, bit / 8);
        noticed += usize::from(!answers_rightly_or_not_at_all(&copy, &records, &what).await);
    }
    assert!(noticed > 25, "only {noticed} of 250 flips were noticed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_file_never_makes_a_wrong_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let records = example(&path).await;
    let bytes = std::fs::read(&path).unwrap();
    for round in 1..40 {
        let copy = folder.path().join(format!("truncated-{round}.db"));
        let end = bytes.len() * round / 40;
        std::fs::write(&copy, &bytes[..end]).unwrap();
        assert!(
            !answers_rightly_or_not_at_all(&copy, &records, &format!("{end} bytes")).await,
            "{end} bytes"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_from_the_tables_is_forgotten_when_they_change() {
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(EmbeddedConfig::new(folder.path().join("store"))).unwrap();
    let first = claim(&store, "k").await;
    store.complete(completion(&first, b"first".to_vec(), HOUR)).await.unwrap();
    // A scan takes to the tables what is not there yet.
    let fold = || store.scan(ScanArgs::default());
    fold().await.unwrap();
    assert!(store.get(&first.id).await.unwrap().is_some());
    let purge = ReleaseArgs { id: first.id.clone(), guard: first.guard, from: ReleaseFrom::Finished };
    store.release(purge).await.unwrap();
    fold().await.unwrap();
    assert_eq!(store.get(&first.id).await.unwrap(), None);
    let second = claim(&store, "k").await;
    store.complete(completion(&second, b"second".to_vec(), HOUR)).await.unwrap();
    fold().await.unwrap();
    assert_eq!(store.get(&first.id).await.unwrap().unwrap().guard, second.guard);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_refuses_claims_answers_reads_and_recovers_by_purging() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let config = EmbeddedConfig::new(folder.path().join("semel.db"))
        .clock(clock.clone())
        .segment_rows(16)
        .file_max_bytes(2 << 20);
    let store = EmbeddedStore::open(config).unwrap();
    let mut finished = Vec::new();
    let refused = loop {
        let key = format!("k {}", finished.len());
        let record = match store.claim(claim_of(&key)).await {
            Ok(Claimed::Won(record)) => record,
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        };
        match store.complete(completion(&record, noise(20_000, 1), HOUR)).await {
            Ok(_) => finished.push(record.id),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), StoreErrorKind::Full);
    assert!(finished.len() > 50, "{}", finished.len());
    for id in &finished {
        assert!(store.get(id).await.unwrap().unwrap().outcome().is_some());
    }
    clock.advance(HOUR * 2);
    assert_eq!(store.purge(10_000).await.unwrap(), finished.len());
    let record = claim(&store, "after").await;
    store.complete(completion(&record, noise(20_000, 1), HOUR)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_set_back_repeats_no_token_and_revives_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let late = clock();
    let store = EmbeddedStore::open(EmbeddedConfig::new(&path).clock(late.clone())).unwrap();
    let short = claim(&store, "short").await;
    store.complete(completion(&short, Vec::new(), Duration::from_secs(1))).await.unwrap();
    late.advance(HOUR);
    let newest = claim(&store, "k").await;
    store
        .release(ReleaseArgs { id: newest.id.clone(), guard: newest.guard, from: ReleaseFrom::Claim })
        .await
        .unwrap();
    // As a kill leaves it: the files as they are now.
    let crashed = folder.path().join("crashed.db");
    for suffix in ["", "-wal", ".log-1"] {
        std::fs::copy(with_suffix(&path, suffix), with_suffix(&crashed, suffix)).unwrap();
    }
    drop(store);
    for path in [&crashed, &path] {
        let mut newest = newest.clone();
        for _ in 0..2 {
            let store = EmbeddedStore::open(EmbeddedConfig::new(path).clock(clock())).unwrap();
            let again = claim(&store, "k").await;
            assert!(again.guard.token > newest.guard.token);
            assert!(again.claimed_at >= newest.claimed_at);
            assert_eq!(store.get(&short.id).await.unwrap(), None, "what had expired is back");
            let release = ReleaseArgs { id: again.id.clone(), guard: again.guard, from: ReleaseFrom::Claim };
            store.release(release).await.unwrap();
            newest = again;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_stays_short_under_load_and_is_gone_after_closing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let store = Arc::new(EmbeddedStore::open(EmbeddedConfig::new(&path)).unwrap());
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..32 {
        let store = Arc::clone(&store);
        callers.spawn(async move {
            for number in 0..200 {
                let record = claim(&store, &format!("{caller} {number}")).await;
                store.complete(completion(&record, noise(8_000, number), HOUR)).await.unwrap();
            }
        });
    }
    callers.join_all().await;
    let (log, all) = (with_suffix(&path, "-wal"), 32 * 200 * 8_000);
    let log_bytes = std::fs::metadata(&log).unwrap().len();
    assert!(log_bytes < 40 << 20, "{log_bytes} bytes of log");
    drop(store);
    assert!(!log.exists());
    assert!(std::fs::metadata(&path).unwrap().len() > all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_format_1_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let fixture = Connection::open(&path).unwrap();
    fixture.execute_batch(include_str!("fixtures/format-1.sql")).unwrap();
    drop(fixture);
    let store = EmbeddedStore::open(EmbeddedConfig::new(&path).clock(clock()).segment_rows(16)).unwrap();
    for number in 0..80 {
        let record = store.get(&id(&format!("k {number}"))).await.unwrap().expect("a record of the fixture");
        let expected = if number % 20 == 3 { vec![b'z'; 9_000] } else { noise(300, number) };
        match record.outcome() {
            Some(outcome) => assert_eq!(outcome.body, expected),
            None => assert!(number % 10 == 7 || number == 79),
        }
    }
}

const CLAIM_OF_FORMAT_1: &str = "INSERT INTO in_flight VALUES (1800000000000080, X'ac149956dab80a9e0000000000000050', \
    'id:acme', 'http', 'live', NULL, X'267007a9c23f45831ab78e7048d35021', X'a80fa77080c3aa087df7c75859f5a350', \
    1, 1800000000000000, 2592000000000, 1800000010000000, 1800000600000000, 4826584229695881209)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_a_file_of_format_1_is_in_doubt_and_damage_to_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, alter: &str| {
        let path = folder.path().join(name);
        let fixture = Connection::open(&path).unwrap();
        fixture.execute_batch(include_str!("fixtures/format-1.sql")).unwrap();
        fixture.execute_batch(CLAIM_OF_FORMAT_1).unwrap();
        fixture.execute_batch(alter).unwrap();
        drop(fixture);
        EmbeddedStore::open(EmbeddedConfig::new(&path).clock(clock()))
    };
    let store = open("whole.db", "").unwrap();
    let found = store.get(&id("live")).await.unwrap().expect("the claim");
    assert!(matches!(found.state, State::InDoubt { cause: DoubtCause::Restarted, .. }), "{found:?}");
    for column in ["generation", "claimed_us", "lease_until_us", "execute_until_us", "checksum"] {
        let alter = format!("UPDATE in_flight SET {column} = {column} + 1");
        assert_eq!(open(column, &alter).unwrap_err().kind(), OpenErrorKind::Damaged, "{column}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doubts_in_the_tables_are_listed_as_doubts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let records = example(&path).await;
    let store = EmbeddedStore::open(EmbeddedConfig::new(&path).clock(clock())).unwrap();
    let args = ScanArgs { state: Some(StateKind::InDoubt), limit: 100, ..ScanArgs::default() };
    let mut listed: Vec<_> =
        store.scan(args).await.unwrap().records.into_iter().map(|record| record.guard.token).collect();
    listed.sort_unstable();
    let doubts = records.iter().filter(|record| record.state.kind() == StateKind::InDoubt);
    assert_eq!(listed, doubts.map(|record| record.guard.token).collect::<Vec<_>>());
    assert_eq!(listed.len(), 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_doubt_has_expired_too_is_purged_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let config = EmbeddedConfig::new(folder.path().join("semel.db")).clock(clock.clone());
    let store = EmbeddedStore::open(config).unwrap();
    for (key, doubt_retention) in [("a", HOUR / 2), ("b", HOUR / 2), ("c", HOUR * 2)] {
        let mut args = claim_of(key);
        args.doubt_retention = doubt_retention;
        store.claim(args).await.unwrap();
    }
    clock.advance(HOUR);
    assert_eq!(store.purge(10).await.unwrap(), 2);
    assert_eq!(store.purge(10).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_files_and_newer_formats_are_refused_and_left_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |path: &Path| EmbeddedStore::open(EmbeddedConfig::new(path)).unwrap_err().kind();

    let text = folder.path().join("text");
    std::fs::write(&text, "not a database, and longer than the header of one would be".repeat(40)).unwrap();
    assert_eq!(refusal(&text), OpenErrorKind::Foreign);

    let other = folder.path().join("other.db");
    Connection::open(&other)
        .unwrap()
        .execute_batch("CREATE TABLE precious (x); INSERT INTO precious VALUES (1)")
        .unwrap();
    assert_eq!(refusal(&other), OpenErrorKind::Foreign);
    let rows: u32 = Connection::open(&other)
        .unwrap()
        .query_row("SELECT count(*) FROM precious", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 1);

    let newer = folder.path().join("newer.db");
    example(&newer).await;
    Connection::open(&newer).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert_eq!(refusal(&newer), OpenErrorKind::Newer);

    assert_eq!(refusal(&folder.path().join("no/such/folder/semel.db")), OpenErrorKind::Io);
}

/// Tables of segments, and rows of those that find something in them.
fn left_in(path: &Path) -> (u32, u32) {
    let conn = Connection::open(path).unwrap();
    let count = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap();
    let tables = count("SELECT count(*) FROM sqlite_schema WHERE name GLOB 'settled_[1-9]*'");
    let others = ["segments", "segment_filters", "segment_log", "segment_index"];
    (tables, others.iter().map(|table| count(&format!("SELECT count(*) FROM {table}"))).sum())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_segment_goes_whole_also_when_its_process_ended_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    let records = example(&path).await;
    let (tables, others) = left_in(&path);
    assert!(tables > 2 && others > 2 * tables, "{tables} tables, {others} rows");
    // As a crash leaves it after the first step.
    Connection::open(&path).unwrap().execute_batch("DROP VIEW records; DROP TABLE settled_1").unwrap();
    let clock = clock();
    let open = || EmbeddedStore::open(EmbeddedConfig::new(&path).clock(clock.clone())).unwrap();
    let mut refused = 0;
    let store = open();
    for record in &records {
        match store.get(&record.id).await {
            Ok(found) => assert!(found.is_some()),
            Err(error) => {
                assert_eq!(error.kind(), StoreErrorKind::Corrupt);
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && refused < records.len());
    drop(store);
    clock.advance(HOUR * 24 * 90);
    let store = open();
    let mut purged = 0;
    while let some @ 1.. = store.purge(10).await.unwrap() {
        assert!(some <= 10);
        purged += some;
    }
    assert_eq!(purged, records.len() - refused);
    drop(store);
    assert_eq!(left_in(&path), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_can_read_the_file_with_the_sqlite3_shell() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("semel.db");
    example(&path).await;
    let output = Command::new("sqlite3")
        .arg(&path)
        .arg("SELECT state, tenant, operation, key, code, cause, claimed_at, expires_at FROM records WHERE key IN ('k 1', 'k 7', 'k 79') ORDER BY key")
        .output()
        .expect("the sqlite3 shell is installed");
    let expected = "completed|id:acme|http|k 1|201||2027-01-15T08:00:00.000Z|2027-01-15T09:00:00.000Z\n\
                    in-doubt|id:acme|http|k 7||no-answer|2027-01-15T08:00:00.000Z|2027-02-14T08:00:00.000Z\n\
                    in-doubt|id:acme|http|k 79||restarted|2027-01-15T08:00:00.000Z|2027-02-14T08:00:00.000Z\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_the_owner_may_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(EmbeddedConfig::new(folder.path().join("semel.db"))).unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{:?}", entry.path());
        files += 1;
    }
    assert!(files >= 3, "{files}");
    drop(store);
}
