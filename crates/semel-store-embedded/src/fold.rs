//! The thread that takes settled records from the log to the tables, in large transactions, and keeps the tables in
//! shape: sealing and dropping segments, and removing log files that are folded.
//!
//! Nobody waits for it: what is not folded yet is in the log and in memory. Next: [`crate::upkeep`] and
//! [`crate::table`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, DEFAULT_NAME};
use semel::clock::{Clock, Timestamp};
use semel::digest::Digest;
use semel::store::{StoreError, StoreErrorKind};
use tokio::sync::oneshot;

use crate::fault::Fault;
use crate::index::{Candidate, Index, Pending, Settled};
use crate::log::{Closed, Spare};
use crate::owner::Owner;
use crate::schema;
use crate::segment::Class;
use crate::upkeep::{self, Done, Dropping, Sealing};
use crate::writer::read;

mod append;

use append::{Appended, Appending, Layout};

/// From how many waiting entries on they are folded at once.
const FOLD_ENTRIES: usize = 1_024;
/// At most so many entries, and about so many bytes, go in one transaction.
const TRANSACTION_ENTRIES: usize = 2_048;
pub(crate) const TRANSACTION_BYTES: usize = 512 << 10;
const TRANSACTION_MIN_BYTES: usize = 64 << 10;
/// From how many on the frames of SQLite's log are moved to the file. A sync of more would hold up those of our log, on
/// the same disk, for longer than a caller is meant to wait.
const MOVE_FRAMES: i32 = 64;
/// Fewer entries wait this long for more.
const FOLD_AFTER: Duration = Duration::from_millis(200);

/// What the folder is told.
pub(crate) enum Job {
    /// There is something to fold.
    Look,
    /// The log would go on in a file that was filled before.
    Spare,
    /// A log file grows no more.
    Closed(Closed),
    /// Fold everything that waits now, and say so.
    Fold(oneshot::Sender<Result<(), StoreError>>),
    /// Fold what fits in one transaction, and say when that was tried.
    FoldSome(oneshot::Sender<()>),
    /// Drop at most so many expired records, and say how many went and whether there may be more.
    Drop(u32, oneshot::Sender<Result<(usize, bool), StoreError>>),
}

impl Job {
    /// Whether the folder must look because the queue grew from `waited` to `waiting`.
    pub(crate) fn is_due(waited: usize, waiting: usize) -> bool {
        (waited == 0 && waiting > 0) || (waited < FOLD_ENTRIES && waiting >= FOLD_ENTRIES)
    }
}

/// How writer and folder tell each other and the callers that something is wrong.
#[derive(Debug, Default)]
pub(crate) struct Health {
    broken: OnceLock<String>,
    full: AtomicBool,
}

impl Health {
    /// Why nothing is acknowledged any more.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    pub(crate) fn break_down(&self, why: &dyn std::fmt::Display) {
        // The first reason is the one that counts.
        let _ = self.broken.set(why.to_string());
    }

    /// Whether the tables had no room for what was to be folded.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }
}

/// What the folder owns.
pub(crate) struct Folder {
    pub(crate) conn: Connection,
    pub(crate) index: Arc<RwLock<Index>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) health: Arc<Health>,
    pub(crate) segment_rows: u32,
    /// Segments that grow no more and are not sealed.
    pub(crate) due: VecDeque<u32>,
    pub(crate) sealing: Option<Sealing>,
    /// The expired segment that was looked at last.
    pub(crate) dropping: Option<Dropping>,
    /// Sealed segments whose digests are still in `segment_log`.
    pub(crate) logged: VecDeque<u32>,
    /// Log files that may hold entries to fold.
    pub(crate) closed: VecDeque<Closed>,
    pub(crate) spare: Arc<Spare>,
    /// Every entry before this one is folded.
    pub(crate) folded: u64,
    /// Never given to another segment, which a slow reader could take for it.
    pub(crate) newest_segment: u32,
    /// About how much goes in one transaction.
    pub(crate) transaction_bytes: usize,
    /// Let go of last.
    pub(crate) owner: Owner,
}

/// An entry that is to be folded.
struct Waiting {
    entry: u64,
    digest: Digest,
    /// Where rows of the record may lie that are to be removed.
    older: Vec<Candidate>,
    /// `None` when the record is absent, or a newer entry has overtaken this one.
    settled: Option<Arc<Settled>>,
}

/// What a transaction took to the tables.
struct Folded {
    entries: Vec<(u64, Digest)>,
    appended: BTreeMap<u32, Appended>,
    growing: HashMap<Class, u32>,
    sealed: Done,
    /// Whether nothing is left in `segment_log` of the first sealed segment.
    trimmed: bool,
}

impl Folder {
    /// Works until every sender of jobs is gone, then folds what is left and closes the file.
    pub(crate) fn run(mut self, jobs: Receiver<Job>) {
        loop {
            let job = match self.patience() {
                Some(patience) => jobs.recv_timeout(patience),
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match job {
                Ok(Job::Look) => {}
                // Without it the log goes on as it is.
                Ok(Job::Spare) => drop(self.spare.make()),
                Ok(Job::Closed(closed)) => self.closed.push_back(closed),
                Ok(Job::Fold(done)) => {
                    let _ = done.send(self.fold_all().map_err(Fault::into_error));
                }
                Ok(Job::FoldSome(done)) => {
                    let _ = self.fold();
                    let _ = done.send(());
                }
                Ok(Job::Drop(limit, done)) => {
                    let _ = done.send(self.drop_expired(limit).map_err(Fault::into_error));
                }
                Err(RecvTimeoutError::Timeout) => drop(self.fold()),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.close();
    }

    /// How long to wait for a job before working without one; `None` when there is nothing to do.
    fn patience(&self) -> Option<Duration> {
        let waiting = read(&self.index).queue.len();
        let upkeep = self.sealing.is_some() || !self.due.is_empty() || !self.logged.is_empty();
        if self.health.broken().is_some() || (waiting == 0 && !upkeep) {
            return None;
        }
        let now = (waiting >= FOLD_ENTRIES || (waiting == 0 && upkeep)) && !self.health.is_full();
        Some(if now { Duration::ZERO } else { FOLD_AFTER })
    }

    /// Folds everything that waits now.
    fn fold_all(&mut self) -> Result<(), Fault> {
        let newest = read(&self.index).queue.back().map(|(entry, _)| *entry);
        while newest.is_some_and(|newest| self.folded <= newest) {
            self.fold()?;
        }
        Ok(())
    }

    /// One transaction.
    fn fold(&mut self) -> Result<(), Fault> {
        if let Some(why) = self.health.broken() {
            return Err(Fault::Io(format!("{why}; reopen the store")));
        }
        let made = self.make();
        self.settle(made.as_ref().err());
        let (folded, next) = made?;
        self.absorb(folded, next);
        self.remove_files();
        self.pace();
        Ok(())
    }

    /// No time before `now` is ever shown again, and no token before the newest is given.
    fn note_time(&self, now: Timestamp) -> Result<(), Fault> {
        let reached = now.as_micros().max(read(&self.index).last.0);
        Ok(schema::set_ceiling(&self.conn, Timestamp::from_micros(reached))?)
    }

    /// Leaves no transaction open, and notes what an error means for the store.
    fn settle(&mut self, fault: Option<&Fault>) {
        let full = fault.is_some_and(|fault| fault.kind() == StoreErrorKind::Full);
        self.health.full.store(full, Ordering::Relaxed);
        // Less may still fit.
        let next = if full { self.transaction_bytes / 2 } else { self.transaction_bytes * 2 };
        self.transaction_bytes = next.clamp(TRANSACTION_MIN_BYTES, TRANSACTION_BYTES);
        let Some(fault) = fault else { return };
        if !self.conn.is_autocommit() {
            // When even this fails, the connection is of no use, which the next BEGIN will say.
            let _ = self.conn.execute_batch("ROLLBACK");
        }
        if fault.kind() != StoreErrorKind::Full {
            self.health.break_down(fault);
        }
    }

    /// What was written, and the number of the first entry that is not folded. The index is not held meanwhile: the
    /// writer needs it, and what is looked at here is changed by the folder alone.
    fn make(&mut self) -> Result<(Folded, u64), Fault> {
        let now = self.clock.now();
        let (waiting, layout) = self.look(now);
        let next = waiting.last().map_or(self.folded, |waiting| waiting.entry + 1);
        self.conn.execute_batch("BEGIN IMMEDIATE")?;
        let mut appending = Appending { conn: &self.conn, now, layout, appended: BTreeMap::new() };
        for Waiting { digest, older, settled, .. } in &waiting {
            appending.remove(digest, older)?;
            if let Some(settled) = settled {
                appending.append(settled)?;
            }
        }
        appending.log()?;
        let Appending { appended, layout, .. } = appending;
        let sealed = match &self.sealing {
            Some(sealing) => sealing.slice(&self.conn)?,
            None => Done::Nothing,
        };
        let trimmed = match self.logged.front() {
            Some(segment) => !upkeep::trim_log(&self.conn, *segment)?,
            None => false,
        };
        self.note_time(now)?;
        schema::set_folded(&self.conn, next)?;
        self.conn.execute_batch("COMMIT")?;
        let entries = waiting.into_iter().map(|waiting| (waiting.entry, waiting.digest)).collect();
        self.newest_segment = layout.newest;
        Ok((Folded { entries, appended, growing: layout.growing, sealed, trimmed }, next))
    }

    /// The oldest entries that wait, and where they go.
    fn look(&mut self, now: Timestamp) -> (Vec<Waiting>, Layout) {
        let index = read(&self.index);
        let mut bytes = 0;
        let mut waiting = Vec::new();
        for (entry, digest) in index.queue.iter().take(TRANSACTION_ENTRIES) {
            // A newer entry may have overtaken it.
            let pending = index.pending.get(digest).filter(|pending| pending.entry == *entry);
            bytes += pending.map_or(0, Pending::bytes);
            let over = pending.is_some_and(|pending| pending.over);
            waiting.push(Waiting {
                entry: *entry,
                digest: *digest,
                older: if over { index.candidates(digest, now, false) } else { Vec::new() },
                settled: pending.and_then(|pending| pending.settled.clone()),
            });
            if bytes > self.transaction_bytes {
                break;
            }
        }
        let layout = Layout::of(&index, self.segment_rows, self.newest_segment);
        if self.sealing.is_none() {
            self.sealing = Sealing::next(&mut self.due, &index);
            drop(index);
            self.sealing.iter_mut().for_each(Sealing::sort);
        }
        (waiting, layout)
    }

    fn absorb(&mut self, folded: Folded, next: u64) {
        self.folded = next;
        if folded.trimmed {
            self.logged.pop_front();
        }
        match (&folded.sealed, &mut self.sealing) {
            (Done::Chunks { next_chunk, next_entry }, Some(sealing)) => {
                sealing.advance(*next_chunk, *next_entry);
            }
            (_, sealing) => *sealing = None,
        }
        if let Done::Sealed(segment, _) = &folded.sealed {
            self.logged.push_back(*segment);
        }
        let now = self.clock.now();
        let mut index = write(&self.index);
        self.due.extend(index.absorb_appended(folded.appended, folded.growing));
        for (entry, digest) in &folded.entries {
            index.queue.pop_front();
            index.take_pending(*entry, digest);
        }
        index.near.folded(folded.entries.iter().map(|(_, digest)| digest));
        index.absorb_upkeep(folded.sealed);
        self.due.extend(index.closed(now));
    }

    fn remove_files(&mut self) {
        // Never a newer one before an older one: claims that are live in the one may have ended in the other.
        while let Some(closed) = self.closed.front().filter(|closed| closed.end <= self.folded) {
            match self.spare.recycle(&closed.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return,
                _ => drop(self.closed.pop_front()),
            }
        }
    }

    /// Expired records go in slices; those that were never folded cost nothing.
    fn drop_expired(&mut self, limit: u32) -> Result<(usize, bool), Fault> {
        let now = self.clock.now();
        let unfolded = write(&self.index).forget_expired(now, limit);
        if unfolded > 0 {
            self.health.full.store(false, Ordering::Relaxed);
            return Ok((unfolded, true));
        }
        if let Some(why) = self.health.broken() {
            return Err(Fault::Io(format!("{why}; reopen the store")));
        }
        let Some(expired) = read(&self.index).first_expired(now) else { return Ok((0, false)) };
        let mut dropping = self.dropping.filter(|known| known.segment == expired.segment).unwrap_or(expired);
        let dropped = self.drop_slice(&mut dropping, now, limit);
        if let Err(fault) = &dropped {
            self.settle(Some(fault));
        }
        let (records, done) = dropped?;
        self.dropping = Some(dropping);
        if dropping.is_counted() {
            // Whether there is room again, the next fold finds out.
            self.health.full.store(false, Ordering::Relaxed);
        }
        if let Done::Dropped(segment) = &done {
            self.sealing.take_if(|sealing| sealing.is_of(*segment));
        }
        write(&self.index).absorb_upkeep(done);
        self.pace();
        Ok((records, true))
    }

    fn drop_slice(
        &self,
        dropping: &mut Dropping,
        now: Timestamp,
        limit: u32,
    ) -> Result<(usize, Done), Fault> {
        let records = dropping.count(&self.conn, limit)?;
        if !dropping.is_counted() {
            return Ok((records, Done::Nothing));
        }
        self.conn.execute_batch("BEGIN IMMEDIATE")?;
        let done = dropping.slice(&self.conn)?;
        // Else the records would be missed by a clock that was set back.
        self.note_time(now)?;
        self.conn.execute_batch("COMMIT")?;
        Ok((records, done))
    }

    /// What cannot be moved now stays in SQLite's log: without room the next fold finds out, and when somebody else
    /// moves it, it is moved.
    fn pace(&self) {
        if let Err(fault) = self.checkpoint()
            && fault.kind() != StoreErrorKind::Full
            && !fault.is_busy()
        {
            self.health.break_down(&fault);
        }
    }

    fn checkpoint(&self) -> Result<(), Fault> {
        let (frames, moved) = self.conn.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::NOOP)?;
        if frames - moved >= MOVE_FRAMES {
            self.conn.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::PASSIVE)?;
        }
        Ok(())
    }

    fn close(mut self) {
        let whole = self.fold_all().is_ok();
        let Self { conn, clock, index, health, closed, spare, owner, .. } = self;
        spare.remove();
        if health.broken().is_none() {
            let reached = clock.now().as_micros().max(read(&index).last.0);
            let noted = schema::set_ceiling(&conn, Timestamp::from_micros(reached));
            let moved = conn.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::TRUNCATE);
            // Otherwise the log is read at the next opening.
            if whole && noted.is_ok() && moved.is_ok() && read(&index).in_flight.is_empty() {
                let _ = closed.iter().try_for_each(|closed| std::fs::remove_file(&closed.path));
            }
        }
        drop(conn);
        drop(owner);
    }
}

impl Index {
    /// Makes up to `limit` expired records absent that are not folded; returns how many.
    fn forget_expired(&mut self, now: Timestamp, limit: u32) -> usize {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let expired = self.pending.values_mut().filter(|pending| {
            let settled = pending.settled.as_ref();
            settled.is_some_and(|settled| settled.record.expires_at().is_some_and(|end| now >= end))
        });
        let mut freed = 0;
        let count = expired
            .take(limit)
            .map(|pending| freed += pending.settled.take().map_or(0, |settled| settled.bytes()))
            .count();
        self.pending_bytes -= freed;
        count
    }
}

fn write(index: &RwLock<Index>) -> RwLockWriteGuard<'_, Index> {
    index.write().unwrap_or_else(PoisonError::into_inner)
}
