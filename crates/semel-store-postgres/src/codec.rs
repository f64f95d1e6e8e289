//! Record to row and back, and the pieces of SQL that say what a row's state is at a moment.
//!
//! Next: `migrations/1.sql`, which has the columns.

use std::time::Duration;

use bytes::Bytes;
use semel::clock::Timestamp;
use semel::digest::Digest;
use semel::record::{AttemptId, DoubtCause, Ending, Guard};
use semel::store::CompleteArgs;
use semel::{Fingerprint, Key, Operation, Outcome, Record, RecordId, State, Tenant, Token};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

use crate::fault::Failure;

pub(crate) const IN_FLIGHT: i16 = 0;
pub(crate) const IN_DOUBT: i16 = 1;
pub(crate) const COMPLETED: i16 = 2;
pub(crate) const FAILED: i16 = 3;
/// Absent. The row stays until the purge, so that the next claim's token is greater than its own.
pub(crate) const RELEASED: i16 = 4;

/// The server's time once for a statement, and from where tokens are counted: a CTE called `clock`.
macro_rules! clock {
    () => {
        "clock AS MATERIALIZED (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us, \
         (SELECT token_floor FROM semel_meta) AS token_floor)"
    };
}

/// The server's time, as a table called `clock` that costs less than a CTE.
macro_rules! moment {
    () => {
        "(SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us OFFSET 0) AS clock"
    };
}

/// The same with where tokens are counted from.
macro_rules! floor {
    () => {
        "(SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us, \
         (SELECT token_floor FROM semel_meta) AS token_floor OFFSET 0) AS clock"
    };
}

/// What a guarded write returns, in the order of [`written`].
macro_rules! narrow {
    () => {
        "r.digest, r.attempt, r.target, r.payload, r.token, r.claimed_us, r.doubt_retention_us, r.lease_us, \
         r.execute_us, r.settled_us, r.expires_us, r.generation, r.code, r.state, r.cause, r.body_kept"
    };
}

/// What a reader gets, in the order of [`read`] and [`read_any`].
macro_rules! full {
    () => {
        concat!(
            $crate::codec::narrow!(),
            ", r.tenant, r.operation, r.key, r.variant, r.head, r.body, clock.now_us"
        )
    };
}

/// Whether row `r` is absent at `clock.now_us`: released, or expired.
macro_rules! dead {
    () => {
        "CASE r.state WHEN 0 THEN r.lease_us + r.doubt_retention_us <= clock.now_us WHEN 4 THEN true \
         ELSE r.expires_us <= clock.now_us END"
    };
}

/// Whether row `r`, unless dead, is in doubt at `clock.now_us`.
macro_rules! doubted {
    () => {
        "(r.state = 1 OR r.state = 0 AND r.lease_us <= clock.now_us)"
    };
}

pub(crate) use {clock, dead, doubted, floor, full, moment, narrow};

/// Longer than anybody waits, and short enough that the server can add three of it.
const LONGEST_US: i64 = i64::MAX / 8;

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(LONGEST_US).min(LONGEST_US)
}

pub(crate) fn time(timestamp: Timestamp) -> i64 {
    i64::try_from(timestamp.as_micros()).unwrap_or(LONGEST_US * 4).min(LONGEST_US * 4)
}

pub(crate) fn uuid(digest: Digest) -> Uuid {
    Uuid::from_bytes(*digest.as_bytes())
}

pub(crate) fn digest(uuid: Uuid) -> Digest {
    Digest::from_bytes(uuid.into_bytes())
}

pub(crate) fn attempt(attempt: AttemptId) -> Uuid {
    Uuid::from_bytes(attempt.to_bytes())
}

pub(crate) fn token(token: Token) -> i64 {
    i64::try_from(token.0).unwrap_or(i64::MAX)
}

/// A cause as it is stored.
pub(crate) fn cause(cause: DoubtCause) -> i16 {
    let place = DoubtCause::ALL.iter().position(|known| *known == cause).unwrap_or(0);
    i16::try_from(place).unwrap_or(0)
}

/// The record of a row of `narrow!()`, whose write named the whole identity; `outcome` when it was read.
/// `None` when the row says that the record is absent.
pub(crate) fn written(
    row: &Row,
    id: &RecordId,
    outcome: Option<&Outcome>,
) -> Result<Option<Record>, Failure> {
    let state: i16 = get(row, 13)?;
    let state = match state {
        IN_FLIGHT => State::InFlight { lease_until: at(row, 7)?, execute_until: at(row, 8)? },
        IN_DOUBT => {
            let place: i16 = get(row, 14)?;
            let cause = usize::try_from(place).ok().and_then(|place| DoubtCause::ALL.get(place));
            let cause = *cause.ok_or_else(|| damaged("a cause that does not exist"))?;
            State::InDoubt { since: at(row, 9)?, expires_at: at(row, 10)?, cause }
        }
        COMPLETED | FAILED => {
            let outcome = outcome.cloned().ok_or_else(|| damaged("an outcome that was not read"))?;
            let (completed_at, expires_at) = (at(row, 9)?, at(row, 10)?);
            match state {
                COMPLETED => State::Completed { outcome, completed_at, expires_at },
                _ => State::Failed { outcome, completed_at, expires_at },
            }
        }
        RELEASED => return Ok(None),
        _ => return Err(damaged("a state that does not exist")),
    };
    let digest = |column| Ok::<_, Failure>(Digest::from_bytes(get::<Uuid>(row, column)?.into_bytes()));
    let generation: i32 = get(row, 11)?;
    Ok(Some(Record {
        id: id.clone(),
        fingerprint: Fingerprint { target: digest(2)?, payload: digest(3)? },
        guard: Guard {
            token: Token(number(row, 4)?),
            attempt: AttemptId::from_bytes(get::<Uuid>(row, 1)?.into_bytes()),
        },
        generation: u32::try_from(generation).map_err(|_| damaged("a generation below zero"))?,
        claimed_at: at(row, 5)?,
        doubt_retention: Duration::from_micros(number(row, 6)?),
        state,
    }))
}

/// The record of a row that a completion returned: what it did not bring itself.
pub(crate) fn completed(row: &Row, args: &CompleteArgs) -> Result<Record, Failure> {
    let digest = |column| Ok::<_, Failure>(Digest::from_bytes(get::<Uuid>(row, column)?.into_bytes()));
    let (generation, completed_at): (i32, _) = (get(row, 5)?, at(row, 6)?);
    let expires_at = completed_at.plus(Duration::from_micros(micros(args.retention).unsigned_abs()));
    Ok(Record {
        id: args.id.clone(),
        fingerprint: Fingerprint { target: digest(1)?, payload: digest(2)? },
        guard: args.guard,
        generation: u32::try_from(generation).map_err(|_| damaged("a generation below zero"))?,
        claimed_at: at(row, 3)?,
        doubt_retention: Duration::from_micros(number(row, 4)?),
        state: match &args.ending {
            Ending::Completed(outcome) => {
                State::Completed { outcome: outcome.clone(), completed_at, expires_at }
            }
            Ending::Failed(outcome) => State::Failed { outcome: outcome.clone(), completed_at, expires_at },
        },
    })
}

/// The record of a row of `full!()`, which must be that of `id`.
pub(crate) fn read(row: &Row, id: &RecordId) -> Result<Option<Record>, Failure> {
    let variant = get::<Option<Uuid>>(row, 19)?;
    let same = get::<&str>(row, 16)? == id.tenant().as_str()
        && get::<&str>(row, 17)? == id.operation().as_str()
        && get::<&str>(row, 18)? == id.key().as_str()
        && variant == id.variant().map(uuid);
    if !same {
        return Err(damaged("a digest leads to the record of another key"));
    }
    written(row, id, outcome(row)?.as_ref())
}

/// The record of a row of `full!()`, whosever it is.
pub(crate) fn read_any(row: &Row) -> Result<Option<Record>, Failure> {
    let key = Key::new(get::<&str>(row, 18)?).map_err(|error| damaged(&error.to_string()))?;
    let id = RecordId::with_variant(
        Tenant::from_text(get(row, 16)?),
        Operation::new(get(row, 17)?),
        key,
        get::<Option<Uuid>>(row, 19)?.map(|variant| Digest::from_bytes(variant.into_bytes())),
    );
    if uuid(id.digest()) != get::<Uuid>(row, 0)? {
        return Err(damaged("a record lies under another's digest"));
    }
    written(row, &id, outcome(row)?.as_ref())
}

/// The server's time in a row of `full!()`.
pub(crate) fn now(row: &Row) -> Result<Timestamp, Failure> {
    at(row, 22)
}

fn outcome(row: &Row) -> Result<Option<Outcome>, Failure> {
    let Some(code) = get::<Option<i32>>(row, 12)? else { return Ok(None) };
    let bytes = |column| {
        Ok::<_, Failure>(get::<Option<&[u8]>>(row, column)?.map_or(Bytes::new(), Bytes::copy_from_slice))
    };
    Ok(Some(Outcome {
        code: u16::try_from(code).map_err(|_| damaged("a code out of range"))?,
        head: bytes(20)?,
        body: bytes(21)?,
        body_kept: get(row, 15)?,
    }))
}

pub(crate) fn at(row: &Row, column: usize) -> Result<Timestamp, Failure> {
    number(row, column).map(Timestamp::from_micros)
}

fn number(row: &Row, column: usize) -> Result<u64, Failure> {
    u64::try_from(get::<i64>(row, column)?).map_err(|_| damaged("a number below zero"))
}

pub(crate) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Failure> {
    row.try_get(column).map_err(|error| damaged(&error.to_string()))
}

fn damaged(what: &str) -> Failure {
    Failure::damaged(format!("a row of semel_records has {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_times_are_kept_as_long_as_the_server_can_add_them() {
        let largest = Duration::from_micros(LONGEST_US.unsigned_abs());
        for duration in
            [Duration::ZERO, Duration::from_micros(1), largest - Duration::from_micros(1), largest]
        {
            assert_eq!(u128::from(micros(duration).unsigned_abs()), duration.as_micros());
        }
        assert_eq!((micros(2 * largest), micros(Duration::MAX)), (LONGEST_US, LONGEST_US));

        let latest = 4 * LONGEST_US;
        for micros in [0, 1, latest - 1, latest] {
            assert_eq!(time(Timestamp::from_micros(micros.unsigned_abs())), micros);
        }
        for later in [latest.unsigned_abs() + 1, u64::MAX] {
            assert_eq!(time(Timestamp::from_micros(later)), latest);
        }
        assert!(latest.checked_add(3 * LONGEST_US).is_some());
    }
}
