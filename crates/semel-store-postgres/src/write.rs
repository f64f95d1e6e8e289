//! What the holder of a claim writes: completions, renewals, doubts and releases, many in one statement, each fenced by
//! token and attempt.
//!
//! Each transition is decided in the statement, on the server's clock. What it left alone is read, and the pure
//! transition says what its caller is told. Next: [`crate::writer`].

use std::collections::HashMap;

use semel::clock::Timestamp;
use semel::digest::Digest;
use semel::record::{self, Ending, Guard, Step};
use semel::store::{CompleteArgs, DoubtArgs, ReleaseArgs, ReleaseFrom, RenewArgs, Written};
use semel::{Outcome, Record, RecordId};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::codec::{self, dead, doubted, moment, narrow};
use crate::fault::Failure;
use crate::reader;
use crate::session::Session;
use crate::writer::{ROUNDS, Work};

/// The fence, and that the record stands.
macro_rules! held {
    () => {
        concat!("r.digest = c.digest AND r.token = c.token AND r.attempt = c.attempt AND NOT (", dead!(), ")")
    };
}

const COMPLETE: &str = concat!(
    "UPDATE semel_records AS r SET state = ($4::smallint[])[i], settled_us = clock.now_us, \
      expires_us = clock.now_us + ($5::bigint[])[i], code = ($6::integer[])[i], body_kept = ($7::boolean[])[i], \
      head = ($8::bytea[])[i], body = ($9::bytea[])[i], lease_us = NULL, execute_us = NULL, cause = NULL FROM ",
    moment!(),
    ", generate_series(1, $10::integer) AS i \
      WHERE r.digest = ($1::uuid[])[i] AND r.token = ($2::bigint[])[i] AND r.attempt = ($3::uuid[])[i] AND NOT (",
    dead!(),
    ") AND r.state < 2 \
      RETURNING r.digest, r.target, r.payload, r.claimed_us, r.doubt_retention_us, r.generation, r.settled_us"
);

const RENEW: &str = concat!(
    "UPDATE semel_records AS r SET lease_us = least(clock.now_us + c.lease_us, r.execute_us) FROM ",
    moment!(),
    ", unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[]) AS c (digest, token, attempt, lease_us) \
      WHERE ",
    held!(),
    " AND r.state = 0 AND clock.now_us < r.lease_us RETURNING ",
    narrow!()
);

const DOUBT: &str = concat!(
    "UPDATE semel_records AS r SET state = 1, settled_us = clock.now_us, \
      expires_us = clock.now_us + r.doubt_retention_us, cause = c.cause, lease_us = NULL, execute_us = NULL FROM ",
    moment!(),
    ", unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::smallint[]) AS c (digest, token, attempt, cause) \
      WHERE ",
    held!(),
    " AND r.state = 0 AND clock.now_us < r.lease_us RETURNING ",
    narrow!()
);

/// `from`: 0 the holder, 1 a doubt is resolved, 2 a finished record is purged by name.
const RELEASE: &str = concat!(
    "UPDATE semel_records AS r SET state = 4, settled_us = NULL, expires_us = clock.now_us, code = NULL, \
      cause = NULL, body_kept = NULL, head = NULL, body = NULL, lease_us = NULL, execute_us = NULL FROM ",
    moment!(),
    ", unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::smallint[]) AS c (digest, token, attempt, source) \
      WHERE ",
    held!(),
    " AND CASE c.source WHEN 0 THEN r.state < 2 WHEN 1 THEN ",
    doubted!(),
    " ELSE r.state IN (2, 3) END RETURNING ",
    narrow!()
);

/// One kind of guarded write.
trait Guarded: Sized + Sync {
    fn id(&self) -> &RecordId;
    fn guard(&self) -> Guard;
    /// The transition, for what the statement left alone.
    fn step(&self, current: Option<Record>, now: Timestamp) -> Step;
    /// The record after the write, from what it returned.
    fn written(&self, row: &Row) -> Result<Option<Record>, Failure> {
        codec::written(row, self.id(), None)
    }
    fn rows(
        session: &Session,
        fence: Fence,
        all: &[&Self],
    ) -> impl Future<Output = Result<Vec<Row>, Failure>> + Send;
}

/// The columns that every guarded write names.
struct Fence {
    digests: Vec<Uuid>,
    tokens: Vec<i64>,
    attempts: Vec<Uuid>,
}

/// Makes the writes in one statement. `again`: it may have been made before, and its answer was lost.
async fn run<W: Guarded>(session: &Session, all: &[&W], again: bool) -> Result<Vec<Written>, Failure> {
    let mut answers: Vec<Option<Written>> = all.iter().map(|_| None).collect();
    let mut open: Vec<usize> = (0..all.len()).collect();
    for _ in 0..ROUNDS {
        let these: Vec<&W> = open.iter().map(|at| all[*at]).collect();
        let fence = Fence {
            digests: these.iter().map(|write| codec::uuid(write.id().digest())).collect(),
            tokens: these.iter().map(|write| codec::token(write.guard().token)).collect(),
            attempts: these.iter().map(|write| codec::attempt(write.guard().attempt)).collect(),
        };
        let rows = W::rows(session, fence, &these).await?;
        let rows: HashMap<Uuid, &Row> =
            rows.iter().map(|row| Ok((codec::get(row, 0)?, row))).collect::<Result<_, Failure>>()?;
        let mut left = Vec::new();
        for at in open {
            let write = all[at];
            match rows.get(&codec::uuid(write.id().digest())) {
                Some(row) => answers[at] = Some(Written::Done(write.written(row)?)),
                None => left.push(at),
            }
        }
        if left.is_empty() {
            break;
        }
        let mut standing = reader::read(session, left.iter().map(|at| all[*at].id())).await?;
        left.retain(|at| {
            let write = all[*at];
            let found = standing.remove(&codec::uuid(write.id().digest()));
            let released = found.as_ref().is_some_and(|found| found.released && found.guard == write.guard());
            let now = found.as_ref().map_or(Timestamp::default(), |found| found.now);
            answers[*at] = match write.step(found.and_then(|found| found.record), now) {
                Step::Already(record) => Some(Written::Done(Some(record))),
                Step::Refused(None) if again && released => Some(Written::Done(None)),
                Step::Refused(standing) => Some(Written::Refused(standing)),
                Step::Write(_) | Step::Remove => None,
            };
            answers[*at].is_none()
        });
        open = left;
        if open.is_empty() {
            break;
        }
    }
    answers
        .into_iter()
        .collect::<Option<_>>()
        .ok_or_else(|| Failure::Again("the records kept changing".into()))
}

impl Guarded for CompleteArgs {
    fn id(&self) -> &RecordId {
        &self.id
    }

    fn guard(&self) -> Guard {
        self.guard
    }

    fn step(&self, current: Option<Record>, now: Timestamp) -> Step {
        record::complete(current, self.guard, self.ending.clone(), self.retention, now)
    }

    fn written(&self, row: &Row) -> Result<Option<Record>, Failure> {
        codec::completed(row, self).map(Some)
    }

    async fn rows(session: &Session, fence: Fence, all: &[&Self]) -> Result<Vec<Row>, Failure> {
        let outcomes = || all.iter().map(|write| outcome(&write.ending));
        let state = |ending: &Ending| match ending {
            Ending::Completed(_) => codec::COMPLETED,
            Ending::Failed(_) => codec::FAILED,
        };
        session
            .rows(
                COMPLETE,
                &[
                    &fence.digests,
                    &fence.tokens,
                    &fence.attempts,
                    &all.iter().map(|write| state(&write.ending)).collect::<Vec<_>>(),
                    &all.iter().map(|write| codec::micros(write.retention)).collect::<Vec<_>>(),
                    &outcomes().map(|outcome| i32::from(outcome.code)).collect::<Vec<_>>(),
                    &outcomes().map(|outcome| outcome.body_kept).collect::<Vec<_>>(),
                    &outcomes().map(|outcome| &outcome.head[..]).collect::<Vec<_>>(),
                    &outcomes().map(|outcome| &outcome.body[..]).collect::<Vec<_>>(),
                    &i32::try_from(all.len()).unwrap_or(i32::MAX),
                ],
            )
            .await
    }
}

fn outcome(ending: &Ending) -> &Outcome {
    let (Ending::Completed(outcome) | Ending::Failed(outcome)) = ending;
    outcome
}

impl Guarded for RenewArgs {
    fn id(&self) -> &RecordId {
        &self.id
    }

    fn guard(&self) -> Guard {
        self.guard
    }

    fn step(&self, current: Option<Record>, now: Timestamp) -> Step {
        record::renew(current, self.guard, self.lease, now)
    }

    async fn rows(session: &Session, fence: Fence, all: &[&Self]) -> Result<Vec<Row>, Failure> {
        let leases: Vec<i64> = all.iter().map(|write| codec::micros(write.lease)).collect();
        session.rows(RENEW, &[&fence.digests, &fence.tokens, &fence.attempts, &leases]).await
    }
}

impl Guarded for DoubtArgs {
    fn id(&self) -> &RecordId {
        &self.id
    }

    fn guard(&self) -> Guard {
        self.guard
    }

    fn step(&self, current: Option<Record>, now: Timestamp) -> Step {
        record::doubt(current, self.guard, self.cause, now)
    }

    async fn rows(session: &Session, fence: Fence, all: &[&Self]) -> Result<Vec<Row>, Failure> {
        let causes: Vec<i16> = all.iter().map(|write| codec::cause(write.cause)).collect();
        session.rows(DOUBT, &[&fence.digests, &fence.tokens, &fence.attempts, &causes]).await
    }
}

impl Guarded for ReleaseArgs {
    fn id(&self) -> &RecordId {
        &self.id
    }

    fn guard(&self) -> Guard {
        self.guard
    }

    fn step(&self, current: Option<Record>, now: Timestamp) -> Step {
        record::release(current, self.guard, self.from, now)
    }

    async fn rows(session: &Session, fence: Fence, all: &[&Self]) -> Result<Vec<Row>, Failure> {
        let source = |from| match from {
            ReleaseFrom::Claim => 0_i16,
            ReleaseFrom::Doubt => 1,
            ReleaseFrom::Finished => 2,
        };
        let sources: Vec<i16> = all.iter().map(|write| source(write.from)).collect();
        session.rows(RELEASE, &[&fence.digests, &fence.tokens, &fence.attempts, &sources]).await
    }
}

impl Work for CompleteArgs {
    type Answer = Written;

    fn digest(&self) -> Digest {
        self.id.digest()
    }

    async fn run(session: &Session, batch: &[Self], again: bool) -> Result<Vec<Written>, Failure> {
        run(session, &batch.iter().collect::<Vec<_>>(), again).await
    }
}

/// The writes that are rarer than claims and completions, which share a connection.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    Renew(RenewArgs),
    Doubt(DoubtArgs),
    Release(ReleaseArgs),
    Import(Box<Record>),
}

impl Work for Write {
    type Answer = Written;

    fn digest(&self) -> Digest {
        match self {
            Self::Renew(args) => args.id.digest(),
            Self::Doubt(args) => args.id.digest(),
            Self::Release(args) => args.id.digest(),
            Self::Import(record) => record.id.digest(),
        }
    }

    async fn run(session: &Session, batch: &[Self], again: bool) -> Result<Vec<Written>, Failure> {
        let (mut renewals, mut doubts, mut releases) = (Vec::new(), Vec::new(), Vec::new());
        for write in batch {
            match write {
                Self::Renew(args) => renewals.push(args),
                Self::Doubt(args) => doubts.push(args),
                Self::Release(args) => releases.push(args),
                Self::Import(_) => {}
            }
        }
        let mut renewals = some(session, &renewals, again).await?.into_iter();
        let mut doubts = some(session, &doubts, again).await?.into_iter();
        let mut releases = some(session, &releases, again).await?.into_iter();
        let mut answers = Vec::with_capacity(batch.len());
        for write in batch {
            let answer = match write {
                Self::Renew(_) => renewals.next(),
                Self::Doubt(_) => doubts.next(),
                Self::Release(_) => releases.next(),
                Self::Import(record) => Some(crate::claim::import(session, record).await?),
            };
            answers.push(answer.expect("every write of a statement is answered"));
        }
        Ok(answers)
    }
}

async fn some<W: Guarded>(session: &Session, all: &[&W], again: bool) -> Result<Vec<Written>, Failure> {
    if all.is_empty() { Ok(Vec::new()) } else { run(session, all, again).await }
}
