//! Entries and frames from bytes that no store wrote.
//!
//! The inputs of the tests in `src/log/tests.rs` are made from a seed, those of `fuzz/guided.rs` by libFuzzer.

#![allow(clippy::unwrap_used, reason = "a target fails by panicking")]

use std::time::Duration;

use semel::clock::Timestamp;
use semel::digest::Digest;
use semel::record::{AttemptId, DoubtCause, Guard};
use semel::{Fingerprint, Key, Operation, Outcome, Record, RecordId, State, Tenant, Token};

use super::*;
use crate::codec::Body;
use crate::index::{Live, Settled};

/// A corpus: an input a line.
pub const ENTRIES: &str = include_str!("entry.txt");
/// As [`ENTRIES`].
pub const LOGS: &str = include_str!("log.txt");

pub(super) fn record(state: State) -> Record {
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
pub(super) fn entries() -> Vec<Entry> {
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

pub(super) fn written(entry: &Entry) -> Vec<u8> {
    let mut bytes = Vec::new();
    entry.write(&mut bytes);
    bytes
}

/// One of each kind, as it is written.
#[must_use]
pub fn made_entries() -> Vec<Vec<u8>> {
    entries().iter().map(written).collect()
}

/// A frame of all kinds of entries, and the entries without it.
#[must_use]
pub fn made_logs() -> Vec<Vec<u8>> {
    let all = made_entries().concat();
    let mut whole = Vec::new();
    write_frame(&mut whole, (3, 0), 17, &all);
    vec![whole, all]
}

/// Any bytes are damaged, or an entry that is written as it was read.
///
/// # Panics
/// When they are not.
#[must_use]
pub fn entry(input: &[u8]) -> String {
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
}

/// A log of any bytes is read to where its frames end. The checksum is put right, so that what lies behind it is
/// reached too.
///
/// # Panics
/// When it is not.
#[must_use]
pub fn log(input: &[u8]) -> String {
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
}
