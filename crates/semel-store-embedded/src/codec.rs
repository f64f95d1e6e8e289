//! Record to row and back, and the checksums that tell a damaged row from a good one.
//!
//! A row's checksum covers its place, everything about the record, and the checksum of its body, so that a list of
//! records is verified without reading bodies. Next: [`crate::schema`], which has the columns.

use std::time::Duration;

use bytes::Bytes;
use rusqlite::{CachedStatement, Row, params};
use semel::clock::Timestamp;
use semel::digest::Digest;
use semel::record::{AttemptId, DoubtCause, Guard, StateKind};
use semel::{Fingerprint, Key, Operation, Outcome, Record, RecordId, State, Tenant, Token};

use crate::fault::Fault;

pub(crate) const INSERT_IN_FLIGHT: &str =
    "INSERT INTO in_flight VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";
pub(crate) const SELECT_IN_FLIGHT: &str = "SELECT * FROM in_flight";
pub(crate) const INSERT_SETTLED: &str = "INSERT INTO settled VALUES \
    (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)";
pub(crate) const SELECT_SETTLED: &str = "SELECT * FROM settled WHERE place = ?1";
/// Without the body, which comes last.
pub(crate) const LIST_SETTLED: &str = "SELECT place, token, attempt, tenant, operation, key, variant, target, \
    payload, generation, claimed_us, doubt_retention_us, state, cause, code, settled_us, expires_us, body_kept, \
    body_bytes, body_checksum, checksum, head FROM settled WHERE place BETWEEN ?1 AND ?2";
pub(crate) const REMOVE_SETTLED: &str = "UPDATE settled SET state = 0, attempt = x'', tenant = '', operation = '', \
    key = '', variant = NULL, target = x'', payload = x'', head = x'', body = x'', body_bytes = 0, checksum = ?2 \
    WHERE place = ?1";

const REMOVED: i64 = 0;

/// A body as it is stored: an LZ4 block when shorter than `bytes`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    stored: Bytes,
    bytes: u32,
    checksum: i64,
}

impl Body {
    /// Packs `body`, compressed when it has more than `above` bytes and that makes it smaller.
    pub(crate) fn pack(body: &Bytes, above: usize) -> Self {
        let compressed = (body.len() > above).then(|| lz4_flex::block::compress(body));
        let stored = match compressed {
            Some(smaller) if smaller.len() < body.len() => Bytes::from(smaller),
            _ => body.clone(),
        };
        let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
        Self { bytes, checksum: body_checksum(&stored), stored }
    }
}

/// An empty body's is 0, so that records without one need no hash.
fn body_checksum(stored: &[u8]) -> i64 {
    if stored.is_empty() { 0 } else { checksum(stored) }
}

fn unpack(stored: &[u8], bytes: u32, expected: i64) -> Result<Bytes, Fault> {
    let bytes = usize::try_from(bytes).map_err(|_| Fault::damaged("a body that does not fit into memory"))?;
    if body_checksum(stored) != expected {
        return Err(Fault::damaged("a body's checksum does not match"));
    }
    if stored.len() == bytes {
        return Ok(Bytes::copy_from_slice(stored));
    }
    lz4_flex::block::decompress(stored, bytes)
        .map(Bytes::from)
        .map_err(|error| Fault::damaged(error.to_string()))
}

/// The first 8 bytes of a BLAKE3 hash, as SQLite's integer.
pub(crate) fn checksum(bytes: &[u8]) -> i64 {
    let mut short = [0; 8];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..8]);
    i64::from_le_bytes(short)
}

pub(crate) fn insert_in_flight(into: &mut CachedStatement<'_>, record: &Record) -> Result<(), Fault> {
    let State::InFlight { lease_until, execute_until } = record.state else {
        unreachable!("only live claims are kept there");
    };
    let plain = Plain::of(record);
    let (lease, execute) = (time(lease_until), time(execute_until));
    into.execute(params![
        plain.token,
        plain.attempt,
        plain.tenant,
        plain.operation,
        plain.key,
        plain.variant,
        plain.target,
        plain.payload,
        plain.generation,
        plain.claimed,
        plain.doubt_retention,
        lease,
        execute,
        plain.checksum(&[lease, execute], &[]),
    ])?;
    Ok(())
}

pub(crate) fn read_in_flight(row: &Row<'_>) -> Result<Record, Fault> {
    let (lease, execute): (i64, i64) = (row.get(11)?, row.get(12)?);
    let state = State::InFlight { lease_until: to_time(lease)?, execute_until: to_time(execute)? };
    let record = read_plain(row, 0, state)?;
    if Plain::of(&record).checksum(&[lease, execute], &[]) != row.get::<_, i64>(13)? {
        return Err(Fault::damaged(format!(
            "the checksum of the claim with token {} does not match",
            record.guard.token
        )));
    }
    Ok(record)
}

pub(crate) fn insert_settled(
    into: &mut CachedStatement<'_>,
    place: i64,
    record: &Record,
    body: &Body,
) -> Result<(), Fault> {
    let plain = Plain::of(record);
    let ended = Ended::of(record);
    into.execute(params![
        place,
        plain.token,
        plain.attempt,
        plain.tenant,
        plain.operation,
        plain.key,
        plain.variant,
        plain.target,
        plain.payload,
        plain.generation,
        plain.claimed,
        plain.doubt_retention,
        ended.state,
        ended.cause,
        ended.code,
        ended.settled,
        ended.expires,
        ended.body_kept,
        body.bytes,
        body.checksum,
        ended.checksum(&plain, place, body.bytes, body.checksum),
        ended.head,
        &body.stored[..],
    ])?;
    Ok(())
}

/// Reads a row of [`SELECT_SETTLED`], or of [`LIST_SETTLED`] when `with_body` is false. `None` when the record was
/// removed by name or resolved; its place is never used again.
pub(crate) fn read_settled(row: &Row<'_>, with_body: bool) -> Result<Option<Record>, Fault> {
    let place: i64 = row.get(0)?;
    let (state, expected): (i64, i64) = (row.get(12)?, row.get(20)?);
    let wrong = || Fault::damaged(format!("the row at place {place} is damaged"));
    if state == REMOVED {
        return if expected == removed_checksum(place) { Ok(None) } else { Err(wrong()) };
    }
    let (bytes, body_checksum): (u32, i64) = (row.get(18)?, row.get(19)?);
    let body = match with_body {
        true => unpack(row.get_ref(22)?.as_blob().map_err(|_| wrong())?, bytes, body_checksum)?,
        false => Bytes::new(),
    };
    let (settled, expires_at) = (to_time(row.get(15)?)?, to_time(row.get(16)?)?);
    let head = Bytes::copy_from_slice(row.get_ref(21)?.as_blob().map_err(|_| wrong())?);
    let outcome = Outcome { code: row.get(14)?, head, body, body_kept: row.get(17)? };
    let state = match state {
        1 => {
            let cause = usize::from(row.get::<_, u8>(13)?);
            let cause = *DoubtCause::ALL.get(cause).ok_or_else(wrong)?;
            State::InDoubt { since: settled, expires_at, cause }
        }
        2 => State::Completed { outcome, completed_at: settled, expires_at },
        3 => State::Failed { outcome, completed_at: settled, expires_at },
        _ => return Err(wrong()),
    };
    let record = read_plain(row, 1, state)?;
    if Ended::of(&record).checksum(&Plain::of(&record), place, bytes, body_checksum) != expected {
        return Err(wrong());
    }
    Ok(Some(record))
}

pub(crate) fn removed_checksum(place: i64) -> i64 {
    checksum(&[b"removed ".as_slice(), &place.to_le_bytes()].concat())
}

/// The columns that both tables begin with.
struct Plain<'a> {
    token: i64,
    attempt: [u8; 16],
    tenant: &'a str,
    operation: &'a str,
    key: &'a str,
    variant: Option<[u8; 16]>,
    target: &'a [u8; 16],
    payload: &'a [u8; 16],
    generation: u32,
    claimed: i64,
    doubt_retention: i64,
}

impl<'a> Plain<'a> {
    fn of(record: &'a Record) -> Self {
        Self {
            token: token_to_sql(record.guard.token),
            attempt: record.guard.attempt.to_bytes(),
            tenant: record.id.tenant().as_str(),
            operation: record.id.operation().as_str(),
            key: record.id.key().as_str(),
            variant: record.id.variant().map(|digest| *digest.as_bytes()),
            target: record.fingerprint.target.as_bytes(),
            payload: record.fingerprint.payload.as_bytes(),
            generation: record.generation,
            claimed: time(record.claimed_at),
            doubt_retention: time(Timestamp::default().plus(record.doubt_retention)),
        }
    }

    fn checksum(&self, numbers: &[i64], head: &[u8]) -> i64 {
        let mut all = Vec::with_capacity(256 + self.key.len() + head.len());
        for text in [self.tenant, self.operation, self.key] {
            all.extend_from_slice(&text.len().to_le_bytes());
            all.extend_from_slice(text.as_bytes());
        }
        all.push(u8::from(self.variant.is_some()));
        all.extend_from_slice(&self.variant.unwrap_or_default());
        for bytes in [&self.attempt, self.target, self.payload] {
            all.extend_from_slice(bytes);
        }
        for number in
            [self.token, i64::from(self.generation), self.claimed, self.doubt_retention].iter().chain(numbers)
        {
            all.extend_from_slice(&number.to_le_bytes());
        }
        all.extend_from_slice(head);
        checksum(&all)
    }
}

/// The columns that only settled records have.
struct Ended<'a> {
    state: i64,
    cause: i64,
    code: u16,
    settled: i64,
    expires: i64,
    body_kept: bool,
    head: &'a [u8],
}

impl<'a> Ended<'a> {
    fn of(record: &'a Record) -> Self {
        let (state, settled, expires) = match record.state {
            State::InDoubt { since, expires_at, .. } => (1, since, expires_at),
            State::Completed { completed_at, expires_at, .. } => (2, completed_at, expires_at),
            State::Failed { completed_at, expires_at, .. } => (3, completed_at, expires_at),
            State::InFlight { .. } => unreachable!("a live claim is kept elsewhere"),
        };
        let cause = match record.state {
            State::InDoubt { cause, .. } => {
                DoubtCause::ALL.iter().position(|known| *known == cause).unwrap_or(0)
            }
            _ => 0,
        };
        let outcome = record.outcome();
        Self {
            state,
            cause: i64::try_from(cause).expect("there are few causes"),
            code: outcome.map_or(0, |outcome| outcome.code),
            settled: time(settled),
            expires: time(expires),
            body_kept: outcome.is_some_and(|outcome| outcome.body_kept),
            head: outcome.map_or(&[], |outcome| &outcome.head),
        }
    }

    fn checksum(&self, plain: &Plain<'_>, place: i64, body_bytes: u32, body_checksum: i64) -> i64 {
        let numbers = [
            place,
            self.state,
            self.cause,
            i64::from(self.code),
            self.settled,
            self.expires,
            i64::from(self.body_kept),
            i64::from(body_bytes),
            body_checksum,
        ];
        plain.checksum(&numbers, self.head)
    }
}

fn read_plain(row: &Row<'_>, first: usize, state: State) -> Result<Record, Fault> {
    let at = |offset| first + offset;
    let text =
        |offset| row.get_ref(at(offset))?.as_str().map_err(|_| Fault::damaged("a text column without text"));
    let digest = |offset| Ok::<_, Fault>(Digest::from_bytes(row.get(at(offset))?));
    let key = Key::new(text(4)?).map_err(|error| Fault::damaged(error.to_string()))?;
    let variant: Option<[u8; 16]> = row.get(at(5))?;
    let doubt_retention = to_time(row.get(at(10))?)?.since(Timestamp::default());
    Ok(Record {
        id: RecordId::with_variant(
            Tenant::from_text(text(2)?),
            Operation::new(text(3)?),
            key,
            variant.map(Digest::from_bytes),
        ),
        fingerprint: Fingerprint { target: digest(6)?, payload: digest(7)? },
        guard: Guard {
            token: token_from_sql(row.get(first)?)?,
            attempt: AttemptId::from_bytes(row.get(at(1))?),
        },
        generation: row.get(at(8))?,
        claimed_at: to_time(row.get(at(9))?)?,
        doubt_retention: Duration::from_micros(
            u64::try_from(doubt_retention.as_micros()).unwrap_or(u64::MAX),
        ),
        state,
    })
}

/// A time as SQLite's integer; the end of time is its largest.
pub(crate) fn time(timestamp: Timestamp) -> i64 {
    i64::try_from(timestamp.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn to_time(micros: i64) -> Result<Timestamp, Fault> {
    match u64::try_from(micros) {
        Ok(_) if micros == i64::MAX => Ok(Timestamp::from_micros(u64::MAX)),
        Ok(micros) => Ok(Timestamp::from_micros(micros)),
        Err(_) => Err(Fault::damaged("a time before 1970")),
    }
}

pub(crate) fn token_to_sql(token: Token) -> i64 {
    i64::try_from(token.0).unwrap_or(i64::MAX)
}

fn token_from_sql(token: i64) -> Result<Token, Fault> {
    u64::try_from(token).map(Token).map_err(|_| Fault::damaged("a token below zero"))
}

/// Whether a settled record is a doubt, which has segments of its own.
pub(crate) fn is_doubt(record: &Record) -> bool {
    record.state.kind() == StateKind::InDoubt
}
