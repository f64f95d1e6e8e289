//! A record taken apart into what rows and log entries are made of, and put together again.
//!
//! The bytes written here are what checksums cover, and what an entry of the log is. Next: [`crate::entry`].

use std::time::Duration;

use bytes::{Buf, Bytes, TryGetError};
use semel::clock::Timestamp;
use semel::digest::Digest;
use semel::record::{AttemptId, DoubtCause, Guard};
use semel::{Fingerprint, Key, Operation, Outcome, Record, RecordId, State, Tenant};

use super::{Body, checksum, time, to_time, token_from_sql, token_to_sql};
use crate::fault::Fault;

/// What every record has.
pub(crate) struct Plain<'a> {
    pub(crate) token: i64,
    pub(crate) attempt: [u8; 16],
    pub(crate) tenant: &'a str,
    pub(crate) operation: &'a str,
    pub(crate) key: &'a str,
    pub(crate) variant: Option<[u8; 16]>,
    pub(crate) target: [u8; 16],
    pub(crate) payload: [u8; 16],
    pub(crate) generation: u32,
    pub(crate) claimed: i64,
    pub(crate) doubt_retention: i64,
}

impl<'a> Plain<'a> {
    pub(crate) fn of(record: &'a Record) -> Self {
        Self {
            token: token_to_sql(record.guard.token),
            attempt: record.guard.attempt.to_bytes(),
            tenant: record.id.tenant().as_str(),
            operation: record.id.operation().as_str(),
            key: record.id.key().as_str(),
            variant: record.id.variant().map(|digest| *digest.as_bytes()),
            target: *record.fingerprint.target.as_bytes(),
            payload: *record.fingerprint.payload.as_bytes(),
            generation: record.generation,
            claimed: time(record.claimed_at),
            doubt_retention: time(Timestamp::default().plus(record.doubt_retention)),
        }
    }

    pub(crate) fn into_record(self, state: State) -> Result<Record, Fault> {
        let key = Key::new(self.key).map_err(|error| Fault::damaged(error.to_string()))?;
        let doubt_retention = to_time(self.doubt_retention)?.as_micros();
        let (tenant, operation) = (Tenant::from_text(self.tenant), Operation::new(self.operation));
        Ok(Record {
            id: RecordId::with_variant(tenant, operation, key, self.variant.map(Digest::from_bytes)),
            fingerprint: Fingerprint {
                target: Digest::from_bytes(self.target),
                payload: Digest::from_bytes(self.payload),
            },
            guard: Guard { token: token_from_sql(self.token)?, attempt: AttemptId::from_bytes(self.attempt) },
            generation: self.generation,
            claimed_at: to_time(self.claimed)?,
            doubt_retention: Duration::from_micros(doubt_retention),
            state,
        })
    }

    pub(crate) fn write(&self, into: &mut Vec<u8>) {
        for text in [self.tenant, self.operation, self.key] {
            write_bytes(into, text.as_bytes());
        }
        into.push(u8::from(self.variant.is_some()));
        into.extend_from_slice(&self.variant.unwrap_or_default());
        for bytes in [&self.attempt, &self.target, &self.payload] {
            into.extend_from_slice(bytes);
        }
        write_numbers(into, &[self.token, self.generation.into(), self.claimed, self.doubt_retention]);
    }

    pub(crate) fn read(from: &mut &'a [u8]) -> Result<Self, Fault> {
        let mut text = || {
            let bytes = read_bytes(from)?;
            std::str::from_utf8(bytes).map_err(|_| Fault::damaged("a text that is none"))
        };
        let (tenant, operation, key) = (text()?, text()?, text()?);
        let has_variant = from.try_get_u8()? != 0;
        let mut sixteen = || {
            let mut bytes = [0; 16];
            from.try_copy_to_slice(&mut bytes).map(|()| bytes)
        };
        let variant = sixteen()?;
        let (attempt, target, payload) = (sixteen()?, sixteen()?, sixteen()?);
        let [token, generation, claimed, doubt_retention] = read_numbers(from)?;
        Ok(Self {
            token,
            attempt,
            tenant,
            operation,
            key,
            variant: has_variant.then_some(variant),
            target,
            payload,
            generation: u32::try_from(generation).map_err(|_| Fault::damaged("a generation"))?,
            claimed,
            doubt_retention,
        })
    }

    pub(crate) fn checksum(&self, numbers: &[i64], head: &[u8]) -> i64 {
        let mut all = Vec::with_capacity(256 + self.key.len() + head.len());
        self.write(&mut all);
        write_numbers(&mut all, numbers);
        all.extend_from_slice(head);
        checksum(&all)
    }
}

/// What only settled records have.
pub(crate) struct Ended<'a> {
    pub(crate) state: i64,
    pub(crate) cause: i64,
    pub(crate) code: u16,
    pub(crate) settled: i64,
    pub(crate) expires: i64,
    pub(crate) body_kept: bool,
    pub(crate) head: &'a [u8],
}

impl<'a> Ended<'a> {
    pub(crate) fn of(record: &'a Record) -> Self {
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

    pub(crate) fn into_state(self, body: Bytes) -> Result<State, Fault> {
        let (settled, expires_at) = (to_time(self.settled)?, to_time(self.expires)?);
        let head = Bytes::copy_from_slice(self.head);
        let outcome = Outcome { code: self.code, head, body, body_kept: self.body_kept };
        Ok(match self.state {
            1 => {
                let cause = usize::try_from(self.cause).ok().and_then(|cause| DoubtCause::ALL.get(cause));
                let cause = *cause.ok_or_else(|| Fault::damaged("an unknown cause of a doubt"))?;
                State::InDoubt { since: settled, expires_at, cause }
            }
            2 => State::Completed { outcome, completed_at: settled, expires_at },
            3 => State::Failed { outcome, completed_at: settled, expires_at },
            _ => return Err(Fault::damaged("an unknown state")),
        })
    }

    pub(crate) fn write(&self, into: &mut Vec<u8>) {
        let (code, body_kept) = (i64::from(self.code), i64::from(self.body_kept));
        write_numbers(into, &[self.state, self.cause, code, self.settled, self.expires, body_kept]);
        write_bytes(into, self.head);
    }

    pub(crate) fn read(from: &mut &'a [u8]) -> Result<Self, Fault> {
        let [state, cause, code, settled, expires, body_kept] = read_numbers(from)?;
        let code = u16::try_from(code).map_err(|_| Fault::damaged("a code"))?;
        Ok(Self { state, cause, code, settled, expires, body_kept: body_kept != 0, head: read_bytes(from)? })
    }

    pub(crate) fn checksum(&self, plain: &Plain<'_>, place: i64, body: &Body) -> i64 {
        let numbers = [
            place,
            self.state,
            self.cause,
            i64::from(self.code),
            self.settled,
            self.expires,
            i64::from(self.body_kept),
            i64::from(body.bytes),
            body.checksum,
        ];
        plain.checksum(&numbers, self.head)
    }
}

pub(crate) fn write_numbers(into: &mut Vec<u8>, numbers: &[i64]) {
    for number in numbers {
        into.extend_from_slice(&number.to_le_bytes());
    }
}

pub(crate) fn read_numbers<const N: usize>(from: &mut &[u8]) -> Result<[i64; N], TryGetError> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = from.try_get_i64_le()?;
    }
    Ok(numbers)
}

/// Its length first.
pub(crate) fn write_bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    into.extend_from_slice(&bytes.len().to_le_bytes());
    into.extend_from_slice(bytes);
}

pub(crate) fn read_bytes<'a>(from: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    let length = usize::try_from(from.try_get_u64_le()?).unwrap_or(usize::MAX);
    let (bytes, rest) = from.split_at_checked(length).ok_or_else(|| Fault::damaged("an entry ends early"))?;
    *from = rest;
    Ok(bytes)
}
