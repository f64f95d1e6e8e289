//! Transactional mode: the ledger and the records agree, wherever the transaction ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use semel::clock::{Clock, ManualClock, Timestamp};
use semel::fingerprint::{self, Difference};
use semel::{Fingerprint, Key, Operation, Outcome, RecordId, Tenant};
use semel_store_embedded::transaction::{self, Begun, Options};

const HOUR: Duration = Duration::from_secs(3600);

fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.pragma_update(None, "journal_mode", "wal").unwrap();
    conn.busy_timeout(Duration::from_secs(10)).unwrap();
    conn.execute_batch("CREATE TABLE IF NOT EXISTS ledger (key TEXT)").unwrap();
    transaction::migrate(&conn).unwrap();
    conn
}

fn begin(conn: &mut Connection) -> Transaction<'_> {
    conn.transaction_with_behavior(TransactionBehavior::Immediate).unwrap()
}

fn id(key: &str) -> RecordId {
    RecordId::new(Tenant::public(), Operation::new("charge"), Key::new(key).unwrap())
}

fn request(payload: &str) -> Fingerprint {
    Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(payload.as_bytes(), &fingerprint::PayloadParts::Raw),
    }
}

fn receipt() -> Outcome {
    Outcome { code: 201, body: "receipt".into(), body_kept: true, ..Outcome::default() }
}

/// Where an attempt ends without committing.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Ends {
    AfterBegin,
    AfterEffect,
    AfterComplete,
    Never,
}

/// Charges once; returns whether the effect ran in this attempt.
fn charge(conn: &mut Connection, key: &str, options: Options, ends: Ends) -> bool {
    let tx = begin(conn);
    let ran = match transaction::begin(&tx, &id(key), request("100"), options).unwrap() {
        Begun::Run(claim) => {
            if ends == Ends::AfterBegin {
                return true;
            }
            tx.execute("INSERT INTO ledger VALUES (?1)", [key]).unwrap();
            if ends == Ends::AfterEffect {
                return true;
            }
            claim.complete(&tx, &receipt(), HOUR).unwrap();
            true
        }
        Begun::Replay(outcome) => {
            assert_eq!(outcome, receipt());
            false
        }
        Begun::Mismatch(difference) => panic!("{difference:?}"),
    };
    if ends == Ends::Never {
        tx.commit().unwrap();
    }
    ran
}

fn effects(conn: &Connection, key: &str) -> u32 {
    conn.query_row("SELECT count(*) FROM ledger WHERE key = ?1", [key], |row| row.get(0)).unwrap()
}

fn records(conn: &Connection) -> u32 {
    conn.query_row("SELECT count(*) FROM semel_records", [], |row| row.get(0)).unwrap()
}

#[test]
fn ledger_and_records_agree_wherever_the_transaction_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let mut conn = open(&path);
    for ends in [Ends::AfterBegin, Ends::AfterEffect, Ends::AfterComplete] {
        assert!(charge(&mut conn, "k", Options::default(), ends), "{ends:?}");
        assert_eq!((effects(&conn, "k"), records(&conn)), (0, 0), "{ends:?}");
    }
    assert!(charge(&mut conn, "k", Options::default(), Ends::Never));
    for _ in 0..3 {
        assert!(!charge(&mut conn, "k", Options::default(), Ends::Never));
    }
    assert_eq!((effects(&conn, "k"), records(&conn)), (1, 1));
}

#[test]
fn a_file_copied_at_any_moment_has_both_or_neither() {
    // What a kill leaves is what is in the files at that moment.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let mut conn = open(&path);
    for number in 0..20 {
        for ends in [Ends::AfterBegin, Ends::AfterEffect, Ends::AfterComplete, Ends::Never] {
            let key = format!("k {number}");
            charge(&mut conn, &key, Options::default(), ends);
            let copy = folder.path().join(format!("copy-{number}-{ends:?}.db"));
            for suffix in ["", "-wal"] {
                let mut from = path.clone().into_os_string();
                from.push(suffix);
                let mut to = copy.clone().into_os_string();
                to.push(suffix);
                std::fs::copy(from, to).unwrap();
            }
            let copied = open(&copy);
            let ledger: u32 = copied.query_row("SELECT count(*) FROM ledger", [], |row| row.get(0)).unwrap();
            assert_eq!(ledger, records(&copied));
        }
    }
}

#[test]
fn duplicates_on_other_connections_wait_and_replay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    open(&path);
    let ran: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut conn = open(&path);
                    (0..25)
                        .filter(|number| {
                            charge(&mut conn, &format!("k {number}"), Options::default(), Ends::Never)
                        })
                        .count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let conn = open(&path);
    assert_eq!((ran, records(&conn)), (25, 25));
    assert!((0..25).all(|number| effects(&conn, &format!("k {number}")) == 1));
}

#[test]
fn a_duplicate_gives_up_when_its_busy_timeout_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    let mut first = open(&path);
    let mut second = open(&path);
    second.busy_timeout(Duration::from_millis(10)).unwrap();
    let tx = begin(&mut first);
    let Begun::Run(_claim) = transaction::begin(&tx, &id("k"), request("100"), Options::default()).unwrap()
    else {
        panic!("a fresh key runs");
    };
    let deferred = second.transaction().unwrap();
    let refused = transaction::begin(&deferred, &id("k"), request("100"), Options::default()).unwrap_err();
    assert!(refused.is_busy());
}

#[test]
fn another_request_under_the_same_key_is_not_shown_the_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let mut conn = open(&folder.path().join("app.db"));
    charge(&mut conn, "k", Options::default(), Ends::Never);
    let tx = begin(&mut conn);
    let begun = transaction::begin(&tx, &id("k"), request("900"), Options::default()).unwrap();
    assert!(matches!(begun, Begun::Mismatch(Difference::Payload)));
}

#[test]
fn expired_records_are_absent_and_purged() {
    let folder = tempfile::tempdir().unwrap();
    let mut conn = open(&folder.path().join("app.db"));
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_000_000)));
    let options = Options::default().clock(clock.clone());
    assert!(charge(&mut conn, "k", options.clone(), Ends::Never));
    charge(&mut conn, "other", options.clone(), Ends::Never);
    clock.advance(HOUR - Duration::from_millis(1));
    assert!(!charge(&mut conn, "k", options.clone(), Ends::Never));
    assert_eq!(transaction::purge(&conn, clock.now(), 10).unwrap(), 0);
    clock.advance(Duration::from_millis(1));
    assert!(charge(&mut conn, "k", options, Ends::Never));
    assert_eq!(effects(&conn, "k"), 2);
    assert_eq!(transaction::purge(&conn, clock.now(), 10).unwrap(), 1);
    assert_eq!(records(&conn), 1);
}
