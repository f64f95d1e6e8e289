//! Claims, and imports, which also begin a record: many in one statement.
//!
//! A key that nobody has used is one INSERT, and the unique index decides. What stands is read; when it is dead, or a
//! doubt that may be taken over, it is written over by an UPDATE that names the guard that was read and decides anew
//! whether it still is. Next: [`crate::write`], the writes of those who hold a claim.

use std::collections::HashMap;

use semel::record::{self, Guard, Step};
use semel::store::{ClaimArgs, Claimed, Written};
use semel::{Record, State};
use uuid::Uuid;

use crate::codec::{self, dead, doubted, floor, moment};
use crate::fault::Failure;
use crate::reader::{self, Standing};
use crate::session::Session;
use crate::writer::{ROUNDS, Work};

const INSERT: &str = concat!(
    "INSERT INTO semel_records AS r (digest, tenant, operation, key, variant, target, payload, attempt, token, \
      generation, state, claimed_us, lease_us, execute_us, doubt_retention_us) \
      SELECT ($1::uuid[])[i], ($2::text[])[i], ($3::text[])[i], ($4::text[])[i], ($5::uuid[])[i], ($6::uuid[])[i], \
      ($7::uuid[])[i], ($8::uuid[])[i], clock.token_floor + nextval('semel_tokens'), 1, 0, clock.now_us, clock.now_us + ($9::bigint[])[i], \
      clock.now_us + ($10::bigint[])[i], ($11::bigint[])[i] FROM ",
    floor!(),
    ", generate_series(1, $12::integer) AS i \
      ON CONFLICT (digest) DO NOTHING RETURNING r.digest, r.token, r.claimed_us, r.generation"
);

const TAKE: &str = concat!(
    "UPDATE semel_records AS r SET target = c.target, payload = c.payload, attempt = c.attempt, \
      token = greatest(clock.token_floor + nextval('semel_tokens'), r.token + 1), \
      generation = CASE WHEN ",
    dead!(),
    " THEN 1 ELSE r.generation + 1 END, state = 0, claimed_us = clock.now_us, \
      lease_us = clock.now_us + least(c.lease_us, c.execution_us), execute_us = clock.now_us + c.execution_us, \
      doubt_retention_us = c.doubt_us, settled_us = NULL, expires_us = NULL, code = NULL, cause = NULL, \
      body_kept = NULL, head = NULL, body = NULL \
      FROM ",
    floor!(),
    ", unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[], \
      $8::bigint[], $9::uuid[], $10::boolean[]) \
      AS c (digest, target, payload, attempt, lease_us, execution_us, doubt_us, seen_token, seen_attempt, takeover) \
      WHERE r.digest = c.digest AND r.token = c.seen_token AND r.attempt = c.seen_attempt AND (",
    dead!(),
    " OR c.takeover AND ",
    doubted!(),
    ") RETURNING r.digest, r.token, r.claimed_us, r.generation"
);

impl Work for ClaimArgs {
    type Answer = Claimed;

    fn digest(&self) -> semel::digest::Digest {
        self.id.digest()
    }

    async fn run(session: &Session, batch: &[Self], _again: bool) -> Result<Vec<Claimed>, Failure> {
        let mut answers: Vec<Option<Claimed>> = batch.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..batch.len()).collect();
        for _ in 0..ROUNDS {
            let won = insert(session, batch, &open).await?;
            settle(&mut answers, &mut open, batch, &won)?;
            if open.is_empty() {
                break;
            }
            let standing = reader::read(session, open.iter().map(|at| &batch[*at].id)).await?;
            let take = judge(&mut answers, &mut open, batch, standing);
            if !take.is_empty() {
                let won = overwrite(session, batch, &take).await?;
                settle(&mut answers, &mut open, batch, &won)?;
            }
            if open.is_empty() {
                break;
            }
        }
        answers
            .into_iter()
            .collect::<Option<_>>()
            .ok_or_else(|| Failure::Again("the records kept changing".into()))
    }
}

/// What was won, by digest.
type Won = HashMap<Uuid, (u64, semel::clock::Timestamp, u32)>;

async fn insert(session: &Session, batch: &[ClaimArgs], open: &[usize]) -> Result<Won, Failure> {
    let all = || open.iter().map(|at| &batch[*at]);
    let rows = session
        .rows(
            INSERT,
            &[
                &all().map(|args| codec::uuid(args.id.digest())).collect::<Vec<_>>(),
                &all().map(|args| args.id.tenant().as_str()).collect::<Vec<_>>(),
                &all().map(|args| args.id.operation().as_str()).collect::<Vec<_>>(),
                &all().map(|args| args.id.key().as_str()).collect::<Vec<_>>(),
                &all().map(|args| args.id.variant().map(codec::uuid)).collect::<Vec<_>>(),
                &all().map(|args| codec::uuid(args.fingerprint.target)).collect::<Vec<_>>(),
                &all().map(|args| codec::uuid(args.fingerprint.payload)).collect::<Vec<_>>(),
                &all().map(|args| codec::attempt(args.attempt)).collect::<Vec<_>>(),
                &all().map(|args| codec::micros(args.lease.min(args.max_execution))).collect::<Vec<_>>(),
                &all().map(|args| codec::micros(args.max_execution)).collect::<Vec<_>>(),
                &all().map(|args| codec::micros(args.doubt_retention)).collect::<Vec<_>>(),
                &i32::try_from(open.len()).unwrap_or(i32::MAX),
            ],
        )
        .await?;
    won(&rows)
}

async fn overwrite(session: &Session, batch: &[ClaimArgs], take: &[(usize, Guard)]) -> Result<Won, Failure> {
    let all = || take.iter().map(|(at, _)| &batch[*at]);
    let rows = session
        .rows(
            TAKE,
            &[
                &all().map(|args| codec::uuid(args.id.digest())).collect::<Vec<_>>(),
                &all().map(|args| codec::uuid(args.fingerprint.target)).collect::<Vec<_>>(),
                &all().map(|args| codec::uuid(args.fingerprint.payload)).collect::<Vec<_>>(),
                &all().map(|args| codec::attempt(args.attempt)).collect::<Vec<_>>(),
                &all().map(|args| codec::micros(args.lease)).collect::<Vec<_>>(),
                &all().map(|args| codec::micros(args.max_execution)).collect::<Vec<_>>(),
                &all().map(|args| codec::micros(args.doubt_retention)).collect::<Vec<_>>(),
                &take.iter().map(|(_, seen)| codec::token(seen.token)).collect::<Vec<_>>(),
                &take.iter().map(|(_, seen)| codec::attempt(seen.attempt)).collect::<Vec<_>>(),
                &all().map(|args| args.takeover).collect::<Vec<_>>(),
            ],
        )
        .await?;
    won(&rows)
}

fn won(rows: &[tokio_postgres::Row]) -> Result<Won, Failure> {
    let one = |row: &tokio_postgres::Row| {
        let token: i64 = codec::get(row, 1)?;
        let generation: i32 = codec::get(row, 3)?;
        let positive = || Failure::damaged("a claim was given a number below zero");
        Ok((
            codec::get(row, 0)?,
            (
                u64::try_from(token).map_err(|_| positive())?,
                codec::at(row, 2)?,
                u32::try_from(generation).map_err(|_| positive())?,
            ),
        ))
    };
    rows.iter().map(one).collect()
}

/// Answers those who won, and takes them from `open`.
fn settle(
    answers: &mut [Option<Claimed>],
    open: &mut Vec<usize>,
    batch: &[ClaimArgs],
    won: &Won,
) -> Result<(), Failure> {
    open.retain(|at| {
        let args = &batch[*at];
        let Some((token, claimed_at, generation)) = won.get(&codec::uuid(args.id.digest())) else {
            return true;
        };
        let lasts = |micros: i64| claimed_at.plus(std::time::Duration::from_micros(micros.unsigned_abs()));
        let (lease, execution) = (codec::micros(args.lease), codec::micros(args.max_execution));
        answers[*at] = Some(Claimed::Won(Record {
            id: args.id.clone(),
            fingerprint: args.fingerprint,
            guard: Guard { token: semel::Token(*token), attempt: args.attempt },
            generation: *generation,
            claimed_at: *claimed_at,
            doubt_retention: std::time::Duration::from_micros(
                codec::micros(args.doubt_retention).unsigned_abs(),
            ),
            state: State::InFlight {
                lease_until: lasts(lease.min(execution)),
                execute_until: lasts(execution),
            },
        }));
        false
    });
    Ok(())
}

/// Answers those whose record stands, and returns which rows may be written over, with the guard that was read.
fn judge(
    answers: &mut [Option<Claimed>],
    open: &mut Vec<usize>,
    batch: &[ClaimArgs],
    mut standing: HashMap<Uuid, Standing>,
) -> Vec<(usize, Guard)> {
    let mut take = Vec::new();
    open.retain(|at| {
        let args = &batch[*at];
        // No row: it was purged in between, and the next round inserts.
        let Some(found) = standing.remove(&codec::uuid(args.id.digest())) else { return true };
        match record::claim(found.record, args, semel::Token(0), found.now) {
            Step::Already(record) => answers[*at] = Some(Claimed::Won(record)),
            Step::Refused(Some(record)) => answers[*at] = Some(Claimed::Standing(record)),
            Step::Write(_) | Step::Remove | Step::Refused(None) => {
                take.push((*at, found.guard));
                return true;
            }
        }
        false
    });
    take
}

const IMPORT: &str = concat!(
    "WITH raised AS (UPDATE semel_meta SET token_floor = $6 WHERE token_floor < $6) \
      INSERT INTO semel_records AS r (digest, tenant, operation, key, variant, token, attempt, target, payload, \
      generation, state, claimed_us, settled_us, expires_us, doubt_retention_us, cause, code, body_kept, head, body) \
      SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20 \
      ON CONFLICT (digest) DO UPDATE SET token = excluded.token, attempt = excluded.attempt, target = excluded.target, \
      payload = excluded.payload, generation = excluded.generation, state = excluded.state, \
      claimed_us = excluded.claimed_us, lease_us = NULL, execute_us = NULL, settled_us = excluded.settled_us, \
      expires_us = excluded.expires_us, doubt_retention_us = excluded.doubt_retention_us, cause = excluded.cause, \
      code = excluded.code, body_kept = excluded.body_kept, head = excluded.head, body = excluded.body \
      WHERE (SELECT ",
    dead!(),
    " FROM ",
    moment!(),
    ") RETURNING r.digest"
);

/// Makes one record stand as it stood in another store. Imports are rare, and not gathered.
pub(crate) async fn import(session: &Session, record: &Record) -> Result<Written, Failure> {
    let id = &record.id;
    for _ in 0..ROUNDS {
        let found = reader::read(session, [id].into_iter()).await?.remove(&codec::uuid(id.digest()));
        let (standing, now) = match found {
            Some(found) => (found.record, found.now),
            None => (None, reader::now(session).await?),
        };
        match record::import(standing, record.clone(), now) {
            Step::Already(standing) => return Ok(Written::Done(Some(standing))),
            Step::Refused(standing) => return Ok(Written::Refused(standing)),
            Step::Remove => return Ok(Written::Done(None)),
            Step::Write(record) if insert_import(session, &record).await? => {
                return Ok(Written::Done(Some(record)));
            }
            Step::Write(_) => {}
        }
    }
    Err(Failure::Again("the record kept changing".into()))
}

async fn insert_import(session: &Session, record: &Record) -> Result<bool, Failure> {
    let (id, outcome) = (&record.id, record.outcome());
    let (state, settled, cause) = match record.state {
        State::InDoubt { since, cause, .. } => (codec::IN_DOUBT, since, Some(codec::cause(cause))),
        State::Completed { completed_at, .. } => (codec::COMPLETED, completed_at, None),
        State::Failed { completed_at, .. } => (codec::FAILED, completed_at, None),
        State::InFlight { .. } => return Err(Failure::NotDone(semel::store::refuse_live_import())),
    };
    let rows = session
        .rows(
            IMPORT,
            &[
                &codec::uuid(id.digest()),
                &id.tenant().as_str(),
                &id.operation().as_str(),
                &id.key().as_str(),
                &id.variant().map(codec::uuid),
                &codec::token(record.guard.token),
                &codec::attempt(record.guard.attempt),
                &codec::uuid(record.fingerprint.target),
                &codec::uuid(record.fingerprint.payload),
                &i32::try_from(record.generation).unwrap_or(i32::MAX),
                &state,
                &codec::time(record.claimed_at),
                &codec::time(settled),
                &record.expires_at().map(codec::time),
                &codec::micros(record.doubt_retention),
                &cause,
                &outcome.map(|outcome| i32::from(outcome.code)),
                &outcome.map(|outcome| outcome.body_kept),
                &outcome.map(|outcome| &outcome.head[..]),
                &outcome.map(|outcome| &outcome.body[..]),
            ],
        )
        .await?;
    Ok(!rows.is_empty())
}
