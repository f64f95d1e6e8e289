//! The one thread that writes: takes every request that is waiting, makes one transaction of them, and answers after
//! the commit. While it syncs, the next requests gather.
//!
//! After an error of the disk it acknowledges nothing any more: what a failed fsync left behind is only known by
//! opening the file again. Next: [`crate::claim`], the transaction, and [`crate::upkeep`].

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, DEFAULT_NAME, OptionalExtension};
use semel::clock::{Clock, Timestamp};
use semel::store::{
    ClaimArgs, Claimed, CompleteArgs, DoubtArgs, ReleaseArgs, RenewArgs, StoreError, StoreErrorKind, Written,
};
use semel::{Record, RecordId};
use tokio::sync::{mpsc, oneshot};

use crate::checkpoint::Checkpointer;
use crate::claim::{Abort, Batch, Changes};
use crate::codec::{self, Body};
use crate::fault::Fault;
use crate::index::Index;
use crate::owner::Owner;
use crate::upkeep::{self, Done, Sealing};
use crate::watch::Watchers;

/// How many requests wait for the writer before callers wait for room.
pub(crate) const QUEUE: usize = 4_096;
/// How many requests one transaction takes.
const BATCH: usize = 256;
/// How far ahead of the time the file's ceiling is set: after a crash the clock starts there at the least, so that
/// no token and no time repeats when the wall clock was set back.
const CEILING_AHEAD_US: u64 = 1_000_000;

/// A step that somebody asked for.
#[derive(Debug)]
pub(crate) enum Request {
    /// With [`Index::seals`] at the time when nothing was found in the sealed segments.
    Claim(ClaimArgs, Option<u64>),
    Renew(RenewArgs),
    Complete(CompleteArgs, Body),
    Doubt(DoubtArgs),
    Release(ReleaseArgs),
    Import(Box<Record>, Body),
    Get(RecordId),
    /// Drop at most so many rows.
    Purge(u32),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    Claimed(Claimed),
    Written(Written),
    Record(Option<Record>),
    Purged { records: usize, more: bool },
}

pub(crate) struct Envelope {
    pub(crate) request: Request,
    pub(crate) reply: oneshot::Sender<Result<Answer, StoreError>>,
}

/// What the writer owns.
pub(crate) struct Writer {
    pub(crate) conn: Connection,
    pub(crate) index: Arc<RwLock<Index>>,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) segment_rows: u32,
    pub(crate) ceiling: Timestamp,
    pub(crate) checkpointer: Checkpointer,
    /// Segments that grow no more and are not sealed.
    pub(crate) due: VecDeque<u32>,
    pub(crate) sealing: Option<Sealing>,
    /// Sealed segments whose log is still there.
    pub(crate) logged: VecDeque<u32>,
    /// Why nothing is acknowledged any more.
    pub(crate) broken: Option<String>,
    /// Let go of last.
    pub(crate) owner: Owner,
}

type Answers = Vec<Result<Answer, StoreError>>;

/// A transaction that was made, before its commit.
struct Made {
    answers: Answers,
    changes: Changes,
    sealed: Done,
    dropped: Done,
    /// Whether the log of the first sealed segment is gone.
    trimmed: bool,
    ceiling: Timestamp,
}

/// A transaction that failed: what its callers are told, and whether the store can go on.
struct Failure {
    kind: StoreErrorKind,
    text: String,
}

impl Writer {
    /// Serves until every sender is gone, then closes the file.
    pub(crate) fn run(mut self, mut requests: mpsc::Receiver<Envelope>) {
        let mut waiting = Vec::with_capacity(BATCH);
        while requests.blocking_recv_many(&mut waiting, BATCH) > 0 {
            let (asked, replies): (Vec<_>, Vec<_>) =
                waiting.drain(..).map(|envelope| (envelope.request, envelope.reply)).unzip();
            for (reply, answer) in replies.into_iter().zip(self.serve(&asked)) {
                // A caller who hung up changes nothing.
                let _ = reply.send(answer);
            }
            self.pace();
        }
        self.close();
    }

    fn serve(&mut self, asked: &[Request]) -> Answers {
        if let Some(why) = &self.broken {
            let why = format!("{why}; reopen the store");
            return asked
                .iter()
                .map(|_| Err(StoreError::new(StoreErrorKind::Unavailable, why.clone())))
                .collect();
        }
        match self.commit(asked) {
            Ok(answers) => answers,
            // What is small may still fit, and dropping what has expired makes room.
            Err(failure) if failure.kind == StoreErrorKind::Full && asked.len() > 1 => {
                asked.chunks(1).flat_map(|one| self.serve(one)).collect()
            }
            Err(failure) => {
                if failure.kind != StoreErrorKind::Full {
                    self.broken = Some(failure.text.clone());
                }
                asked.iter().map(|_| Err(StoreError::new(failure.kind, failure.text.clone()))).collect()
            }
        }
    }

    fn commit(&mut self, asked: &[Request]) -> Result<Answers, Failure> {
        let now = self.clock.now();
        let made = match self.make(asked, now) {
            Ok(made) => made,
            Err(Abort(fault)) => {
                self.roll_back();
                return Err(Failure { kind: fault.kind(), text: fault.to_string() });
            }
        };
        if let Err(error) = self.conn.execute_batch("COMMIT") {
            self.roll_back();
            let fault = Fault::from(error);
            // A full disk is noticed before the frame that commits; after any other error it may have been written.
            let kind = match fault.kind() {
                StoreErrorKind::Full => StoreErrorKind::Full,
                _ => StoreErrorKind::Unknown,
            };
            return Err(Failure { kind, text: fault.to_string() });
        }
        self.ceiling = made.ceiling;
        Ok(self.absorb(made, now))
    }

    fn make(&mut self, asked: &[Request], now: Timestamp) -> Result<Made, Abort> {
        let abort = |error: rusqlite::Error| Abort(error.into());
        let index = read(&self.index);
        if self.sealing.is_none() {
            self.sealing = Sealing::next(&mut self.due, &index);
        }
        self.conn.execute_batch("BEGIN IMMEDIATE").map_err(abort)?;
        let mut batch = Batch::new(&self.conn, &index, now, self.segment_rows);
        let mut answers = Vec::with_capacity(asked.len());
        let mut dropped = Done::Nothing;
        for request in asked {
            if let Request::Purge(limit) = request {
                let (answer, done) =
                    purge(&mut batch, *limit, matches!(dropped, Done::Nothing)).map_err(Abort)?;
                answers.push(Ok(answer));
                dropped = done.unwrap_or(dropped);
            } else {
                answers.push(batch.step(request)?);
            }
        }
        batch.log().map_err(Abort)?;
        let sealed = match &self.sealing {
            Some(sealing) => sealing.slice(&self.conn, &index).map_err(Abort)?,
            None => Done::Nothing,
        };
        let trimmed = match self.logged.front() {
            Some(segment) => !upkeep::trim_log(&self.conn, *segment).map_err(Abort)?,
            None => false,
        };
        let changes = batch.changes;
        let reached = now.as_micros().max(changes.last.0);
        let mut ceiling = self.ceiling;
        if reached > ceiling.as_micros() && changes.written().next().is_some() {
            ceiling = Timestamp::from_micros(reached.saturating_add(CEILING_AHEAD_US));
            set_ceiling(&self.conn, ceiling).map_err(abort)?;
        }
        Ok(Made { answers, changes, sealed, dropped, trimmed, ceiling })
    }

    /// Makes a committed transaction visible.
    fn absorb(&mut self, made: Made, now: Timestamp) -> Answers {
        let written: Vec<_> = made.changes.written().copied().collect();
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        self.due.extend(index.absorb(made.changes));
        if made.trimmed {
            self.logged.pop_front();
        }
        if let Done::Sealed(segment, _) = &made.sealed {
            self.logged.push_back(*segment);
        }
        match (&made.sealed, &mut self.sealing) {
            (Done::Chunks { next_chunk, next_entry }, Some(sealing)) => {
                sealing.advance(*next_chunk, *next_entry)
            }
            (_, sealing) => *sealing = None,
        }
        index.absorb_upkeep(made.sealed);
        index.absorb_upkeep(made.dropped);
        self.due.extend(index.closed(now));
        drop(index);
        self.watchers.wake(written.iter());
        made.answers
    }

    fn roll_back(&self) {
        if !self.conn.is_autocommit() {
            // When even this fails, the connection is of no use, which the next BEGIN will say.
            let _ = self.conn.execute_batch("ROLLBACK");
        }
    }

    fn pace(&mut self) {
        if self.broken.is_none()
            && let Err(fault) = self.checkpointer.pace(&self.conn)
        {
            self.broken = Some(fault.to_string());
        }
    }

    fn close(self) {
        let Self { conn, checkpointer, clock, index, broken, owner, .. } = self;
        drop(checkpointer);
        if broken.is_none() {
            let reached = clock.now().as_micros().max(read(&index).last.0);
            // The ceiling in the file is safe too, only later than need be; and the log is read at the next opening.
            let _ = set_ceiling(&conn, Timestamp::from_micros(reached));
            let _ = conn.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::TRUNCATE);
        }
        drop(conn);
        drop(owner);
    }
}

/// One slice: lapsed claims first, then rows of expired segments. Only the first purge of a transaction does more
/// than say that there is more to do.
fn purge(batch: &mut Batch<'_>, limit: u32, first: bool) -> Result<(Answer, Option<Done>), Fault> {
    if !first {
        return Ok((Answer::Purged { records: 0, more: true }, None));
    }
    let (moved, gone) = batch.lapse_some(limit)?;
    if moved > 0 {
        return Ok((Answer::Purged { records: gone, more: true }, None));
    }
    let (records, more, done) = upkeep::drop_slice(batch.conn, batch.index, batch.now, limit)?;
    Ok((Answer::Purged { records, more }, Some(done)))
}

pub(crate) fn set_ceiling(conn: &Connection, ceiling: Timestamp) -> Result<(), rusqlite::Error> {
    let ceiling = codec::time(ceiling);
    let checksum = codec::checksum(&ceiling.to_le_bytes());
    conn.prepare_cached("INSERT OR REPLACE INTO meta VALUES (1, ?1, ?2)")?
        .execute([ceiling, checksum])
        .map(|_| ())
}

/// The time that a store begins at, at the least.
pub(crate) fn ceiling(conn: &Connection) -> Result<Timestamp, Fault> {
    let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    match conn.query_row("SELECT clock_ceiling_us, checksum FROM meta", [], read).optional()? {
        Some((ceiling, checksum)) if checksum == codec::checksum(&ceiling.to_le_bytes()) => {
            codec::to_time(ceiling)
        }
        Some(_) => Err(Fault::damaged("the checksum of the clock's ceiling does not match")),
        None => Err(Fault::damaged("the clock's ceiling is gone")),
    }
}

fn read(index: &RwLock<Index>) -> RwLockReadGuard<'_, Index> {
    index.read().unwrap_or_else(PoisonError::into_inner)
}
