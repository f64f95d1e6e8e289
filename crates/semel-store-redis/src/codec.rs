//! Record to value and back. The script reads and writes the same layout, in big-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 to 4 | version (1), state, cause of the doubt, whether the body is kept |
//! | 5 to 10 | code (2), generation (4) |
//! | 11 to 34 | token (8), attempt (16): the guard |
//! | 35 to 66 | digests of target and payload (16 each) |
//! | 67 to 82 | claimed at, doubt retention (8 each, microseconds) |
//! | 83 to 98 | lease and longest execution, or since and expiry (8 each, microseconds) |
//! | from 99 | the identity: its length (4); tenant, operation, key with a length (4) before each; variant (0 or 16) |
//! | then | of a finished record: length of the outcome's head (4), head, body |
//!
//! State 0 is a record that is absent and whose token must not come again. Next: `claim`, which sends the steps.

use std::time::Duration;

use bytes::Bytes;
use semel::clock::Timestamp;
use semel::digest::Digest;
use semel::record::{AttemptId, DoubtCause, Guard};
use semel::store::{StoreError, StoreErrorKind};
use semel::{Fingerprint, Key, Operation, Outcome, Record, RecordId, State, Tenant, Token};

/// How long what precedes the identity is.
pub(crate) const HEAD_BYTES: usize = 98;
/// Longer than any value.
pub(crate) const LARGEST_BYTES: usize = 1 << 30;
const VERSION: u8 = 1;

pub(crate) const ABSENT: u8 = 0;
const IN_FLIGHT: u8 = 1;
const IN_DOUBT: u8 = 2;
pub(crate) const COMPLETED: u8 = 3;
pub(crate) const FAILED: u8 = 4;

/// Longer durations are taken for this one, 71 years: the script counts microseconds in doubles.
const LONGEST_US: u64 = 1 << 51;

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(LONGEST_US).min(LONGEST_US)
}

pub(crate) fn damaged(why: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, why.into())
}

/// The identity as it is stored, with room for `more` bytes after it.
pub(crate) fn identity(id: &RecordId, more: usize) -> Vec<u8> {
    let variant = id.variant().map(|digest| *digest.as_bytes());
    let texts = [id.tenant().as_str(), id.operation().as_str(), id.key().as_str()];
    let bytes = 4 + texts.iter().map(|text| 4 + text.len()).sum::<usize>() + variant.map_or(0, |_| 16);
    let mut all = Vec::with_capacity(bytes + more);
    all.extend_from_slice(&length(bytes));
    for text in texts {
        all.extend_from_slice(&length(text.len()));
        all.extend_from_slice(text.as_bytes());
    }
    all.extend_from_slice(variant.as_ref().map_or(&[], <[u8; 16]>::as_slice));
    all
}

/// The identity, then the outcome.
pub(crate) fn finished(id: &RecordId, outcome: &Outcome) -> Vec<u8> {
    let mut all = identity(id, 4 + outcome.head.len() + outcome.body.len());
    all.extend_from_slice(&length(outcome.head.len()));
    all.extend_from_slice(&outcome.head);
    all.extend_from_slice(&outcome.body);
    all
}

/// What precedes the identity, of a record that is finished or in doubt.
pub(crate) fn head(record: &Record) -> Vec<u8> {
    let mut all = Vec::with_capacity(HEAD_BYTES);
    let (state, cause, first, second) = match record.state {
        State::InFlight { lease_until, execute_until } => (IN_FLIGHT, 0, lease_until, execute_until),
        State::InDoubt { since, expires_at, cause } => (IN_DOUBT, self::cause(cause), since, expires_at),
        State::Completed { completed_at, expires_at, .. } => (COMPLETED, 0, completed_at, expires_at),
        State::Failed { completed_at, expires_at, .. } => (FAILED, 0, completed_at, expires_at),
    };
    let (kept, code) = record.outcome().map_or((false, 0), |outcome| (outcome.body_kept, outcome.code));
    all.extend_from_slice(&[VERSION, state, cause, u8::from(kept)]);
    all.extend_from_slice(&code.to_be_bytes());
    all.extend_from_slice(&record.generation.to_be_bytes());
    all.extend_from_slice(&guard(record.guard));
    all.extend_from_slice(record.fingerprint.target.as_bytes());
    all.extend_from_slice(record.fingerprint.payload.as_bytes());
    let times = [
        record.claimed_at.as_micros(),
        micros(record.doubt_retention),
        first.as_micros(),
        second.as_micros(),
    ];
    times.iter().for_each(|time| all.extend_from_slice(&time.to_be_bytes()));
    all
}

/// Token and attempt, as they are stored and as every write but the claim begins with.
pub(crate) fn guard(guard: Guard) -> Vec<u8> {
    let mut all = Vec::with_capacity(36);
    all.extend_from_slice(&guard.token.0.to_be_bytes());
    all.extend_from_slice(&guard.attempt.to_bytes());
    all
}

/// The cause's place among all, as it is stored.
pub(crate) fn cause(cause: DoubtCause) -> u8 {
    let place = DoubtCause::ALL.iter().position(|known| *known == cause);
    place.and_then(|place| u8::try_from(place).ok()).expect("every cause is among all causes")
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("records are smaller than 4 GiB").to_be_bytes()
}

/// Takes bytes from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], StoreError> {
        let (front, rest) =
            self.0.split_at_checked(bytes).ok_or_else(|| damaged("a value that is too short"))?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn number(&mut self) -> Result<u64, StoreError> {
        self.array().map(u64::from_be_bytes)
    }

    fn time(&mut self) -> Result<Timestamp, StoreError> {
        self.number().map(Timestamp::from_micros)
    }

    fn length(&mut self) -> Result<usize, StoreError> {
        let bytes = self.array().map(u32::from_be_bytes)?;
        usize::try_from(bytes).map_err(|_| damaged("a length that does not fit into memory"))
    }

    fn text(&mut self) -> Result<&'a str, StoreError> {
        let bytes = self.length()?;
        std::str::from_utf8(self.take(bytes)?).map_err(|_| damaged("a text that is not UTF-8"))
    }
}

/// The part before the identity. `None` when the record is absent and only its token is kept.
pub(crate) struct Head {
    state: u8,
    cause: u8,
    body_kept: bool,
    code: u16,
    generation: u32,
    guard: Guard,
    fingerprint: Fingerprint,
    claimed_at: Timestamp,
    doubt_retention: Duration,
    first: Timestamp,
    second: Timestamp,
}

impl Head {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, StoreError> {
        let mut reader = Reader(bytes);
        let [version, state, cause, kept] = reader.array()?;
        if version != VERSION {
            return Err(damaged(format!(
                "a record of format {version}; this version of semel knows {VERSION}"
            )));
        }
        Ok(Self {
            state,
            cause,
            body_kept: kept == 1,
            code: reader.array().map(u16::from_be_bytes)?,
            generation: reader.array().map(u32::from_be_bytes)?,
            guard: Guard { token: Token(reader.number()?), attempt: AttemptId::from_bytes(reader.array()?) },
            fingerprint: Fingerprint {
                target: Digest::from_bytes(reader.array()?),
                payload: Digest::from_bytes(reader.array()?),
            },
            claimed_at: reader.time()?,
            doubt_retention: Duration::from_micros(reader.number()?),
            first: reader.time()?,
            second: reader.time()?,
        })
    }

    /// The record of `id`. A finished one has what `outcome` says as head and body. `None` when it is absent.
    pub(crate) fn into_record(
        self,
        id: RecordId,
        outcome: impl FnOnce() -> Result<(Bytes, Bytes), StoreError>,
    ) -> Result<Option<Record>, StoreError> {
        let (code, body_kept) = (self.code, self.body_kept);
        let outcome = || outcome().map(|(head, body)| Outcome { code, head, body, body_kept });
        let (completed_at, expires_at) = (self.first, self.second);
        let state = match self.state {
            ABSENT => return Ok(None),
            IN_FLIGHT => State::InFlight { lease_until: self.first, execute_until: self.second },
            IN_DOUBT => {
                let cause = DoubtCause::ALL.get(usize::from(self.cause));
                let cause = *cause.ok_or_else(|| damaged("a doubt without a known cause"))?;
                State::InDoubt { since: self.first, expires_at, cause }
            }
            COMPLETED => State::Completed { outcome: outcome()?, completed_at, expires_at },
            FAILED => State::Failed { outcome: outcome()?, completed_at, expires_at },
            _ => return Err(damaged("a state that is not known")),
        };
        Ok(Some(Record {
            id,
            fingerprint: self.fingerprint,
            guard: self.guard,
            generation: self.generation,
            claimed_at: self.claimed_at,
            doubt_retention: self.doubt_retention,
            state,
        }))
    }
}

/// A record from its value. `None` when it is absent.
///
/// # Errors
/// When it is damaged, or `expected` is another one.
pub(crate) fn read(value: &Bytes, expected: Option<&RecordId>) -> Result<Option<Record>, StoreError> {
    let head = Head::read(value)?;
    let mut reader = Reader(&value[HEAD_BYTES..]);
    let id = read_identity(&mut reader)?;
    if expected.is_some_and(|expected| *expected != id) {
        return Err(damaged("the key holds another record"));
    }
    head.into_record(id, || {
        let head_bytes = reader.length()?;
        let at = value.len() - reader.0.len();
        reader.take(head_bytes)?;
        Ok((value.slice(at..at + head_bytes), value.slice(at + head_bytes..)))
    })
}

/// How much of a value must be read for everything but the body, as far as `beginning` says.
pub(crate) fn listed_bytes(beginning: &[u8]) -> Result<usize, StoreError> {
    let mut reader = Reader(beginning);
    reader.take(HEAD_BYTES)?;
    let identity = reader.length()?;
    reader.take(identity.saturating_sub(4))?;
    Ok(HEAD_BYTES + identity + reader.length().map_or(0, |head_bytes| 4 + head_bytes))
}

fn read_identity(reader: &mut Reader<'_>) -> Result<RecordId, StoreError> {
    let bytes = reader.length()?;
    let mut own = Reader(reader.take(bytes.saturating_sub(4))?);
    let (tenant, operation, key) = (own.text()?, own.text()?, own.text()?);
    let variant = if own.0.is_empty() { None } else { Some(Digest::from_bytes(own.array()?)) };
    let key = Key::new(key).map_err(|error| damaged(error.to_string()))?;
    Ok(RecordId::with_variant(Tenant::from_text(tenant), Operation::new(operation), key, variant))
}

#[cfg(any(test, fuzzing))]
#[path = "../fuzz/targets.rs"]
pub mod fuzz;

#[cfg(test)]
mod tests {
    use super::fuzz::{id, value};
    use super::*;

    #[test]
    fn a_value_gives_back_identity_and_outcome_and_no_other_record() {
        let outcome = Outcome { code: 201, head: "h".into(), body: "body".into(), body_kept: true };
        for (own, other) in [(id(true), id(false)), (id(false), id(true))] {
            let value = value(&own, COMPLETED, &outcome);
            let record = read(&value, Some(&own)).unwrap().unwrap();
            assert_eq!((&record.id, record.outcome()), (&own, Some(&outcome)));
            assert_eq!(read(&value, Some(&other)).unwrap_err().kind(), StoreErrorKind::Corrupt);
            assert_eq!(listed_bytes(&value).unwrap(), value.len() - outcome.body.len());
        }
    }

    #[test]
    fn a_value_cut_anywhere_before_the_body_is_damaged_and_never_a_panic() {
        let whole = value(&id(true), COMPLETED, &Outcome { head: "head".into(), ..Outcome::default() });
        for end in 0..whole.len() {
            assert_eq!(read(&whole.slice(..end), None).unwrap_err().kind(), StoreErrorKind::Corrupt, "{end}");
        }
        assert!(read(&whole, None).unwrap().is_some());
    }

    #[test]
    fn what_is_left_of_an_absent_record_is_no_record() {
        assert_eq!(read(&value(&id(false), ABSENT, &Outcome::default()), None).unwrap(), None);
    }

    #[test]
    fn an_unknown_format_is_refused() {
        let mut bytes = value(&id(false), COMPLETED, &Outcome::default()).to_vec();
        bytes[0] = 2;
        assert_eq!(read(&bytes.into(), None).unwrap_err().kind(), StoreErrorKind::Corrupt);
    }

    #[test]
    fn any_bytes_are_damaged_or_a_record_that_is_written_as_it_was_read() {
        semel_testkit::fuzz::run("redis record", fuzz::RECORDS, &fuzz::records(), fuzz::record);
    }
}
