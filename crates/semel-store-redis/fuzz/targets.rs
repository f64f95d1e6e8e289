//! Values that no store wrote.
//!
//! The inputs of the test in `src/codec.rs` are made from a seed, those of `fuzz/guided.rs` by libFuzzer.

#![allow(clippy::unwrap_used, reason = "a target fails by panicking")]

use super::*;

/// A corpus: an input a line.
pub const RECORDS: &str = include_str!("record.txt");

pub(super) fn id(variant: bool) -> RecordId {
    let variant = variant.then(|| Digest::from_bytes([7; 16]));
    RecordId::with_variant(Tenant::id(&["a", "b"]), Operation::http(), Key::new("k").unwrap(), variant)
}

pub(super) fn value(id: &RecordId, state: u8, outcome: &Outcome) -> Bytes {
    let mut bytes = vec![VERSION, state, 0, 1, 0, 201];
    bytes.resize(HEAD_BYTES, 0);
    bytes.extend(finished(id, outcome));
    bytes.into()
}

fn written(record: &Record) -> Bytes {
    let end = match record.outcome() {
        Some(outcome) => finished(&record.id, outcome),
        None => identity(&record.id, 0),
    };
    [head(record), end].concat().into()
}

/// One of each state.
#[must_use]
pub fn records() -> Vec<Vec<u8>> {
    let outcome = Outcome { code: 201, head: "head".into(), body: "body".into(), body_kept: true };
    let states = [ABSENT, IN_FLIGHT, IN_DOUBT, COMPLETED, FAILED];
    states.iter().map(|state| value(&id(*state > IN_DOUBT), *state, &outcome).to_vec()).collect()
}

/// Any bytes are damaged, or a record that is written as it was read.
///
/// # Panics
/// When they are not.
#[must_use]
pub fn record(input: &[u8]) -> String {
    let input = Bytes::copy_from_slice(input);
    for end in [0, input.len() / 2, input.len()] {
        assert!(listed_bytes(&input[..end]).is_ok() || listed_bytes(&input[..end]).is_err());
    }
    let record = match read(&input, None) {
        Ok(Some(record)) => record,
        Ok(None) => return "absent".to_owned(),
        Err(error) => return error.to_string(),
    };
    if record.outcome().is_some() {
        assert!(listed_bytes(&input).unwrap() <= input.len());
    }
    assert_eq!(read(&input, Some(&record.id)).unwrap().as_ref(), Some(&record));
    let tenant = Tenant::from_text(&format!("{}+", record.id.tenant().as_str()));
    let other = RecordId::new(tenant, record.id.operation().clone(), record.id.key().clone());
    assert_eq!(read(&input, Some(&other)).unwrap_err().kind(), StoreErrorKind::Corrupt);
    let bounded = Record { doubt_retention: Duration::from_micros(micros(record.doubt_retention)), ..record };
    assert_eq!(read(&written(&bounded), None).unwrap(), Some(bounded.clone()));
    format!("{:?}", bounded.state.kind())
}
