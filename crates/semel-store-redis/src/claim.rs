//! The steps: what each script is given, and what its answer means.
//!
//! The transitions themselves are in `scripts/`, restated from [`semel::record`]. Next: `store`.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};
use semel::clock::Timestamp;
use semel::policy::OnMismatch;
use semel::record::{ClaimArgs, Ending, Outcome, ReleaseFrom};
use semel::store::{CompleteArgs, StoreError};
use semel::{Record, RecordId};

use crate::codec::{self, Head, damaged, micros};
use crate::link::Link;
use crate::script::Script;

/// A step that can be sent, and sent again.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    script: &'a Script,
    key: Vec<u8>,
    /// The time for the script, when it is not the server's.
    now: Option<Timestamp>,
    what: Vec<u8>,
    rest: Vec<u8>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        script: &'a Script,
        key: Vec<u8>,
        now: Option<Timestamp>,
        what: Vec<u8>,
        rest: Vec<u8>,
    ) -> Self {
        Self { script, key, now, what, rest }
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
        self.fill(self.script.call(&self.key))
    }

    fn whole(&self) -> Cmd {
        self.fill(self.script.call_whole(&self.key))
    }

    fn fill(&self, mut cmd: Cmd) -> Cmd {
        match self.now {
            Some(now) => cmd.arg(now.as_micros()),
            None => cmd.arg(""),
        };
        cmd.arg(&self.what).arg(&self.rest);
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

pub(crate) fn claim(args: &ClaimArgs) -> Vec<u8> {
    let mut what = Vec::with_capacity(74);
    what.extend_from_slice(&args.attempt.to_bytes());
    what.extend_from_slice(args.fingerprint.target.as_bytes());
    what.extend_from_slice(args.fingerprint.payload.as_bytes());
    what.push(u8::from(args.takeover));
    what.push(u8::from(args.on_mismatch == OnMismatch::Reject));
    for duration in [args.lease, args.max_execution, args.doubt_retention] {
        what.extend_from_slice(&micros(duration).to_be_bytes());
    }
    what
}

pub(crate) fn complete(args: &CompleteArgs) -> Vec<u8> {
    let (state, outcome) = match &args.ending {
        Ending::Completed(outcome) => (codec::COMPLETED, outcome),
        Ending::Failed(outcome) => (codec::FAILED, outcome),
    };
    let mut what = codec::guard(args.guard);
    what.extend_from_slice(&[state, u8::from(outcome.body_kept)]);
    what.extend_from_slice(&outcome.code.to_be_bytes());
    what.extend_from_slice(&micros(args.retention).to_be_bytes());
    what
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

/// A script's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) verdict: Verdict,
    pub(crate) now: Timestamp,
    value: Option<Bytes>,
}

impl Answer {
    pub(crate) fn read(value: Value) -> Result<Self, StoreError> {
        let wrong = || damaged("a script's answer that is not understood");
        let Value::Array(parts) = value else { return Err(wrong()) };
        let Ok([verdict, now, value]) = <[Value; 3]>::try_from(parts) else { return Err(wrong()) };
        let verdict = match verdict {
            Value::Int(1) => Verdict::Done,
            Value::Int(2) => Verdict::Already,
            Value::Int(3) => Verdict::Refused,
            Value::Int(4) => Verdict::Removed,
            _ => return Err(wrong()),
        };
        let now = match now {
            Value::Int(micros) => u64::try_from(micros).map(Timestamp::from_micros).map_err(|_| wrong())?,
            _ => return Err(wrong()),
        };
        let value = match value {
            Value::BulkString(bytes) => Some(Bytes::from(bytes)),
            Value::Nil => None,
            _ => return Err(wrong()),
        };
        Ok(Self { verdict, now, value })
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
