//! Frames and entries from bytes that no store wrote, and spare files that are made while one is taken.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use semel::clock::Timestamp;
use semel::digest::Digest;
use semel::record::{AttemptId, DoubtCause, Guard};
use semel::{Fingerprint, Key, Operation, Outcome, Record, RecordId, State, Tenant, Token};
use semel_testkit::fuzz;

use super::*;
use crate::codec::Body;
use crate::index::{Live, Settled};

fn record(state: State) -> Record {
    let digest = Digest::from_bytes([7; 16]);
    Record {
        id: RecordId::with_variant(
            Tenant::id(&["a"]),
            Operation::http(),
            Key::new("k").unwrap(),
            state.kind().eq(&semel::record::StateKind::InFlight).then_some(digest),
        ),
        fingerprint: Fingerprint { target: digest, payload: digest },
        guard: Guard { token: Token(9), attempt: AttemptId::from_bytes([3; 16]) },
        generation: 1,
        claimed_at: Timestamp::from_micros(5),
        doubt_retention: Duration::from_secs(60),
        state,
    }
}

fn settled(state: State) -> Entry {
    let record = record(state);
    let body = Body::pack(record.outcome().map_or(&bytes::Bytes::new(), |outcome| &outcome.body), 64);
    Entry::Settled(Arc::new(Settled { record, body }), true)
}

/// One of each kind.
fn entries() -> Vec<Entry> {
    let at = Timestamp::from_micros;
    let outcome = |body: &str| Outcome {
        code: 201,
        head: "head".into(),
        body: body.to_owned().into(),
        body_kept: true,
    };
    vec![
        Entry::Live(Live {
            record: record(State::InFlight { lease_until: at(7), execute_until: at(8) }),
            over: false,
        }),
        settled(State::InDoubt { since: at(7), expires_at: at(8), cause: DoubtCause::ALL[1] }),
        settled(State::Completed { outcome: outcome("body"), completed_at: at(7), expires_at: at(8) }),
        settled(State::Failed {
            outcome: outcome(&"body ".repeat(100)),
            completed_at: at(7),
            expires_at: at(8),
        }),
        Entry::Removed(Digest::from_bytes([1; 16]), true),
        Entry::Ceiling(at(99)),
    ]
}

fn written(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    entry.write(&mut bytes);
    bytes
}

#[test]
fn any_bytes_are_damaged_or_an_entry_that_is_written_as_it_was_read() {
    let some: Vec<Vec<u8>> = entries().iter().map(written).collect();
    fuzz::run("embedded entry", include_str!("../../fuzz/entry.txt"), &some, |input| {
        let mut rest = input;
        let entry = match Entry::read(&mut rest) {
            Ok(entry) => entry,
            Err(fault) => return fault.to_string(),
        };
        let once = written(&entry);
        let again = Entry::read(&mut once.as_slice()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{entry:?}"));
        assert_eq!(written(&again), once);
        format!("{:?}", std::mem::discriminant(&entry))
    });
}

#[test]
fn every_entry_is_read_as_it_was_written() {
    let at = Timestamp::from_micros;
    let claim = record(State::InFlight { lease_until: at(7), execute_until: at(8) });
    let doubt = record(State::InDoubt { since: at(7), expires_at: at(8), cause: DoubtCause::NoAnswer });
    let doubt = Arc::new(Settled { record: doubt, body: Body::default() });
    let over_or_not = [false, true].into_iter().flat_map(|over| {
        [
            Entry::Live(Live { record: claim.clone(), over }),
            Entry::Settled(Arc::clone(&doubt), over),
            Entry::Removed(Digest::from_bytes([1; 16]), over),
        ]
    });
    for entry in entries().into_iter().chain(over_or_not) {
        let read = Entry::read(&mut written(&entry).as_slice()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{entry:?}"));
    }
}

/// The checksum is put right, so that what lies behind it is reached too.
#[test]
fn a_log_of_any_bytes_is_read_to_where_its_frames_end() {
    let all: Vec<u8> = entries().iter().flat_map(written).collect();
    let mut whole = Vec::new();
    write_frame(&mut whole, (3, 0), 17, &all);
    fuzz::run("embedded log", include_str!("../../fuzz/log.txt"), &[whole.clone(), all], |input| {
        let mut framed = Vec::new();
        write_frame(&mut framed, (3, 0), u64::MAX - 2, input);
        let mut ends = Vec::new();
        for bytes in [input, &framed] {
            let mut found = Vec::new();
            let read = read_frames(3, bytes, &mut found);
            if let Ok(to) = &read {
                assert!(*to <= bytes.len());
                assert!(frame_at(3, bytes, *to).is_none());
            }
            assert!(found.len() <= bytes.len());
            ends.push(format!(
                "{} {}",
                found.len().min(8),
                read.map_or_else(|fault| fault.to_string(), |_| String::new())
            ));
        }
        // A frame is of use at its own place in its own file only.
        assert!(frame_at(4, &framed, 0).is_none());
        assert!(frame_at(3, &[b"x".as_slice(), &framed].concat(), 1).is_none());
        ends.join(", ")
    });
}

#[test]
fn a_spare_that_is_made_while_another_is_taken_leaves_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("store");
    let spare = Arc::new(Spare::new(&base));
    let mut log = Log::begin(&base, 1, 0, true, Arc::clone(&spare)).unwrap();
    let ended = AtomicBool::new(false);
    let mut apart = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                spare.make().unwrap();
            }
        });
        let spare_is_there = || {
            while spare.slot().is_none() {
                std::thread::yield_now();
            }
        };
        for number in 2..22 {
            spare_is_there();
            let turned = log.turn_over().is_ok_and(|closed| closed.is_some());
            spare_is_there();
            let taken = fs::metadata(path_of(&base, number)).map(|file| file.ino()).ok();
            let next = spare.slot().as_ref().and_then(|file| file.metadata().ok()).map(|file| file.ino());
            apart.push(turned && taken.is_some() && taken != next);
        }
        ended.store(true, Ordering::Relaxed);
    });
    assert_eq!(apart, [true; 20]);
}
