//! The steps: what the script is given, and what its answer means.
//!
//! The transitions themselves are in `scripts/`, restated from [`semel::record`]. Next: `store`.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};
use semel::clock::Timestamp;
use semel::policy::OnMismatch;
use semel::record::{ClaimArgs, Ending, Guard, Outcome, ReleaseFrom};
use semel::store::{CompleteArgs, StoreError};
use semel::{Record, RecordId, State, Token};

use crate::codec::{self, Head, damaged, micros};
use crate::link::Link;
use crate::script::{Kind, Script};

/// What the script needs to know of one record.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) kind: Kind,
    pub(crate) key: Vec<u8>,
    pub(crate) who: Vec<u8>,
    pub(crate) terms: Vec<u8>,
    /// The identity, and what follows it.
    pub(crate) rest: Vec<u8>,
}

impl Step {
    pub(crate) fn bytes(&self) -> usize {
        [self.kind.name().as_bytes(), &self.key, &self.who, &self.terms, &self.rest]
            .map(<[u8]>::len)
            .iter()
            .sum()
    }
}

/// Steps that can be sent, and sent again. In a Cluster it is one.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    script: &'a Script,
    /// The time for the script, when it is not the server's.
    now: Option<Timestamp>,
    steps: Vec<&'a Step>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(script: &'a Script, now: Option<Timestamp>, steps: Vec<&'a Step>) -> Self {
        Self { script, now, steps }
    }

    /// Sends it to the server, which may not know the script yet: then it has done nothing.
    pub(crate) async fn send(&self, link: &Link) -> RedisResult<Value> {
        match link.send(&self.short()).await {
            Err(error) if is_unknown_script(&error) => link.send(&self.whole()).await,
            answer => answer,
        }
    }

    /// Sends it and waits until `replicas` have confirmed what it wrote, or `patience` is over. Returns how many have.
    pub(crate) async fn send_and_wait(
        &self,
        link: &Link,
        replicas: usize,
        patience: Duration,
    ) -> RedisResult<(Value, usize)> {
        match wait(link, self.short(), replicas, patience).await {
            Err(error) if is_unknown_script(&error) => wait(link, self.whole(), replicas, patience).await,
            answer => answer,
        }
    }

    fn short(&self) -> Cmd {
        self.fill(self.script.call(self.keys()))
    }

    fn whole(&self) -> Cmd {
        self.fill(self.script.call_whole(self.keys()))
    }

    fn keys(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.steps.iter().map(|step| step.key.as_slice())
    }

    fn fill(&self, mut cmd: Cmd) -> Cmd {
        match self.now {
            Some(now) => cmd.arg(now.as_micros()),
            None => cmd.arg(""),
        };
        for step in &self.steps {
            cmd.arg(step.kind.name()).arg(&step.who).arg(&step.terms).arg(&step.rest);
        }
        cmd
    }
}

async fn wait(link: &Link, cmd: Cmd, replicas: usize, patience: Duration) -> RedisResult<(Value, usize)> {
    let mut both = Pipeline::with_capacity(2);
    let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    both.add_command(cmd).cmd("WAIT").arg(replicas).arg(patience_ms);
    let mut answers = link.send_all(&both).await?.into_iter();
    let value = answers.next().unwrap_or_default().extract_error()?;
    let confirmed = match answers.next() {
        Some(Value::Int(replicas)) => usize::try_from(replicas).unwrap_or(0),
        _ => 0,
    };
    Ok((value, confirmed))
}

/// Whether the server has done nothing because it does not know the script.
fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ServerErrorKind::NoScript.into()
}

/// Who claims, and on what terms.
pub(crate) fn claim(args: &ClaimArgs) -> (Vec<u8>, Vec<u8>) {
    let mut who = Vec::with_capacity(48);
    who.extend_from_slice(&args.attempt.to_bytes());
    who.extend_from_slice(args.fingerprint.target.as_bytes());
    who.extend_from_slice(args.fingerprint.payload.as_bytes());
    let mut terms = Vec::with_capacity(26);
    terms.push(u8::from(args.takeover));
    terms.push(u8::from(args.on_mismatch == OnMismatch::Reject));
    for duration in [args.lease, args.max_execution, args.doubt_retention] {
        terms.extend_from_slice(&micros(duration).to_be_bytes());
    }
    (who, terms)
}

/// The record of a claim that found nothing, as `claim.lua` writes it.
pub(crate) fn begun(args: &ClaimArgs, now: Timestamp) -> Record {
    let later = |duration| now.plus(Duration::from_micros(micros(duration)));
    let execute_until = later(args.max_execution);
    Record {
        id: args.id.clone(),
        fingerprint: args.fingerprint,
        guard: Guard { token: Token(now.as_micros()), attempt: args.attempt },
        generation: 1,
        claimed_at: now,
        doubt_retention: Duration::from_micros(micros(args.doubt_retention)),
        state: State::InFlight { lease_until: later(args.lease).min(execute_until), execute_until },
    }
}

/// On what terms a claim ends.
pub(crate) fn complete(args: &CompleteArgs) -> Vec<u8> {
    let (state, outcome) = match &args.ending {
        Ending::Completed(outcome) => (codec::COMPLETED, outcome),
        Ending::Failed(outcome) => (codec::FAILED, outcome),
    };
    let mut terms = vec![state, u8::from(outcome.body_kept)];
    terms.extend_from_slice(&outcome.code.to_be_bytes());
    terms.extend_from_slice(&micros(args.retention).to_be_bytes());
    terms
}

/// Whether from in flight, from in doubt, from finished.
pub(crate) fn allowed(from: ReleaseFrom) -> [u8; 3] {
    match from {
        ReleaseFrom::Claim => [1, 1, 0],
        ReleaseFrom::Doubt => [0, 1, 0],
        ReleaseFrom::Finished => [0, 0, 1],
    }
}

/// What a script did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The step was made; the value is the head of the record.
    Done,
    /// An earlier call by the same guard has made it; the value is the record.
    Already,
    /// Nothing was changed; the value is the record, if there is one.
    Refused,
    /// The record is absent.
    Removed,
}

/// A script's answer about one record.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    pub(crate) now: Timestamp,
    value: Option<Bytes>,
}

impl Answer {
    /// The answer to a call of one step.
    pub(crate) fn read(value: Value) -> Result<Self, StoreError> {
        let mut answers = Self::read_all(value, 1)?;
        answers.pop().unwrap_or_else(|| Err(damaged("a script's answer that is not understood")))
    }

    /// The answers to a call of so many steps.
    pub(crate) fn read_all(value: Value, steps: usize) -> Result<Vec<Result<Self, StoreError>>, StoreError> {
        let wrong = || damaged("a script's answer that is not understood");
        let Value::Array(parts) = value else { return Err(wrong()) };
        let mut parts = parts.into_iter();
        let now = match parts.next() {
            Some(Value::Int(micros)) => {
                u64::try_from(micros).map(Timestamp::from_micros).map_err(|_| wrong())?
            }
            _ => return Err(wrong()),
        };
        let answers: Vec<_> = parts.map(|part| Self::read_one(part, now)).collect();
        if answers.len() == steps { Ok(answers) } else { Err(wrong()) }
    }

    fn read_one(part: Value, now: Timestamp) -> Result<Self, StoreError> {
        let wrong = || damaged("a script's answer that is not understood");
        let (verdict, value) = match part {
            Value::Array(both) => match <[Value; 2]>::try_from(both) {
                Ok([verdict, Value::BulkString(bytes)]) => (verdict, Some(Bytes::from(bytes))),
                Ok([verdict, Value::Nil]) => (verdict, None),
                _ => return Err(wrong()),
            },
            verdict => (verdict, None),
        };
        let verdict = match verdict {
            Value::Int(1) => Verdict::Done,
            Value::Int(2) => Verdict::Already,
            Value::Int(3) => Verdict::Refused,
            Value::Int(4) => Verdict::Removed,
            Value::Int(5) => return Err(damaged("the key holds something else than this record")),
            _ => return Err(wrong()),
        };
        Ok(Self { verdict, now, value })
    }

    /// Whether a claim found nothing: then the answer has no more than the time.
    pub(crate) fn is_fresh(&self) -> bool {
        self.verdict == Verdict::Done && self.value.is_none()
    }

    /// The record that was written, of which the answer has the head only.
    pub(crate) fn written(&self, id: &RecordId, outcome: Option<&Outcome>) -> Result<Record, StoreError> {
        let head = Head::read(self.value.as_deref().unwrap_or_default())?;
        let record = head.into_record(id.clone(), || {
            let outcome = outcome.ok_or_else(|| damaged("an outcome that nobody gave"))?;
            Ok((outcome.head.clone(), outcome.body.clone()))
        })?;
        record.ok_or_else(|| damaged("a written record that is absent"))
    }

    /// The whole record, as it stands at the time of the answer.
    pub(crate) fn standing(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let Some(value) = &self.value else { return Ok(None) };
        Ok(codec::read(value, Some(id))?.and_then(|record| record.at(self.now)))
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use redis::ErrorKind;

    use super::*;

    #[test]
    fn a_step_is_as_long_as_all_that_is_sent_of_it() {
        let of = |bytes| vec![0; bytes];
        assert_eq!(
            Step { kind: Kind::Get, key: of(10), who: of(200), terms: of(3_000), rest: of(40_000) }.bytes(),
            43_213
        );
    }

    #[test]
    fn a_key_that_holds_something_else_is_told_apart_from_an_answer_that_makes_no_sense() {
        let why = |verdict| {
            let answer = Answer::read(Value::Array(vec![Value::Int(1), Value::Int(verdict)]));
            answer.unwrap_err().source().unwrap().to_string()
        };
        assert!(why(5).contains("something else than this record"));
        assert!(why(6).contains("not understood"));
    }

    #[test]
    fn a_script_is_sent_again_only_when_it_was_not_known() {
        let error = |kind: ErrorKind| RedisError::from((kind, "why"));
        assert!(is_unknown_script(&error(ServerErrorKind::NoScript.into())));
        for kind in [ErrorKind::Io, ServerErrorKind::ReadOnly.into(), ServerErrorKind::ResponseError.into()] {
            assert!(!is_unknown_script(&error(kind)), "{kind:?}");
        }
    }
}
