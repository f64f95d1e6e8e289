//! The thread that takes settled records from the log to the tables, in large transactions, and keeps the tables in
//! shape: sealing and dropping segments, and removing log files that are folded.
//!
//! Nobody waits for it: what is not folded yet is in the log and in memory. Next: [`crate::upkeep`], and
//! [`crate::checkpoint`].

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, DEFAULT_NAME, params};
use semel::clock::{Clock, Timestamp};
use semel::Token;
use semel::digest::Digest;
use semel::store::{StoreError, StoreErrorKind};
use tokio::sync::oneshot;

use crate::checkpoint::Checkpointer;
use crate::codec;
use crate::fault::Fault;
use crate::index::{self, Candidate, Index, Lookup, Pending, Segment, Settled};
use crate::log::{Closed, Spare};
use crate::owner::Owner;
use crate::schema;
use crate::segment::{self, Class, Place};
use crate::upkeep::{self, Done, Sealing};
use crate::writer::read;

/// From how many waiting entries on they are folded at once.
const FOLD_ENTRIES: usize = 1_024;
/// At most so many entries, and about so many bytes, go in one transaction.
const TRANSACTION_ENTRIES: usize = 2_048;
const TRANSACTION_BYTES: usize = 4 << 20;
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
    pub(crate) checkpointer: Checkpointer,
    /// Segments that grow no more and are not sealed.
    pub(crate) due: VecDeque<u32>,
    pub(crate) sealing: Option<Sealing>,
    /// Sealed segments whose digests are still in `segment_log`.
    pub(crate) logged: VecDeque<u32>,
    /// Log files that may hold entries to fold.
    pub(crate) closed: VecDeque<Closed>,
    pub(crate) spare: Arc<Spare>,
    /// Every entry before this one is folded.
    pub(crate) folded: u64,
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

/// Which segments grow, and where.
struct Layout {
    segment_rows: u32,
    newest: u32,
    growing: HashMap<Class, u32>,
    /// By segment.
    rows: HashMap<u32, u32>,
}

/// Appends settled records to their segments, within one transaction.
struct Appending<'a> {
    conn: &'a Connection,
    now: Timestamp,
    layout: Layout,
    appended: BTreeMap<u32, Appended>,
}

struct Appended {
    class: Class,
    /// The row that the first record has.
    first: u32,
    digests: Vec<Digest>,
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

    /// Leaves no transaction open, and notes what an error means for the store.
    fn settle(&self, fault: Option<&Fault>) {
        self.health.full.store(fault.is_some_and(|fault| fault.kind() == StoreErrorKind::Full), Ordering::Relaxed);
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
        let (waiting, layout, last) = self.look(now);
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
        schema::set_ceiling(&self.conn, Timestamp::from_micros(now.as_micros().max(last.0)))?;
        schema::set_folded(&self.conn, next)?;
        self.conn.execute_batch("COMMIT")?;
        let entries = waiting.into_iter().map(|waiting| (waiting.entry, waiting.digest)).collect();
        Ok((Folded { entries, appended, growing: layout.growing, sealed, trimmed }, next))
    }

    /// The oldest entries that wait, and where they go.
    fn look(&mut self, now: Timestamp) -> (Vec<Waiting>, Layout, Token) {
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
            if bytes > TRANSACTION_BYTES {
                break;
            }
        }
        let layout = Layout::of(&index, self.segment_rows);
        let last = index.last;
        if self.sealing.is_none() {
            self.sealing = Sealing::next(&mut self.due, &index);
            drop(index);
            self.sealing.iter_mut().for_each(Sealing::sort);
        }
        (waiting, layout, last)
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
        index.absorb_upkeep(folded.sealed);
        self.due.extend(index.closed(now));
    }

    fn remove_files(&mut self) {
        while let Some(closed) = self.closed.pop_front_if(|closed| closed.end <= self.folded) {
            // One that stays is read at the next opening, and its entries are known to be folded.
            let _ = self.spare.recycle(&closed.path);
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
        let dropped = self.drop_slice(now, limit);
        if let Err(fault) = &dropped {
            self.settle(Some(fault));
        }
        let (records, more, done) = dropped?;
        if records > 0 {
            // Whether there is room again, the next fold finds out.
            self.health.full.store(false, Ordering::Relaxed);
        }
        if let Done::Dropped(segment) = &done {
            self.sealing.take_if(|sealing| sealing.is_of(*segment));
        }
        write(&self.index).absorb_upkeep(done);
        self.pace();
        Ok((records, more))
    }

    fn drop_slice(&self, now: Timestamp, limit: u32) -> Result<(usize, bool, Done), Fault> {
        let Some(expired) = read(&self.index).first_expired(now) else { return Ok((0, false, Done::Nothing)) };
        self.conn.execute_batch("BEGIN IMMEDIATE")?;
        let dropped = upkeep::drop_slice(&self.conn, expired, limit)?;
        self.conn.execute_batch("COMMIT")?;
        Ok(dropped)
    }

    fn pace(&self) {
        if let Err(fault) = self.checkpointer.pace(&self.conn) {
            self.health.break_down(&fault);
        }
    }

    fn close(mut self) {
        let whole = self.fold_all().is_ok();
        let Self { conn, checkpointer, clock, index, health, closed, spare, owner, .. } = self;
        drop(checkpointer);
        spare.remove();
        if health.broken().is_none() {
            let reached = clock.now().as_micros().max(read(&index).last.0);
            // The ceiling in the file is safe too, only later than need be; and the log is read at the next opening.
            let _ = schema::set_ceiling(&conn, Timestamp::from_micros(reached));
            let moved = conn.wal_checkpoint_v2(DEFAULT_NAME, CheckpointMode::TRUNCATE);
            if whole && moved.is_ok() && read(&index).in_flight.is_empty() {
                closed.iter().for_each(|closed| drop(std::fs::remove_file(&closed.path)));
            }
        }
        drop(conn);
        drop(owner);
    }
}

impl Layout {
    fn of(index: &Index, segment_rows: u32) -> Self {
        let rows = |id: &u32| index.segments.get(id).map_or(0, |segment| segment.rows);
        Self {
            segment_rows,
            newest: index.segments.last_key_value().map_or(0, |(id, _)| *id),
            rows: index.growing.values().map(|id| (*id, rows(id))).collect(),
            growing: index.growing.clone(),
        }
    }
}

impl Appending<'_> {
    /// Appends a record to the segment of its class.
    fn append(&mut self, settled: &Settled) -> Result<(), Fault> {
        let class = Class::of(&settled.record, self.now);
        let growing = self.layout.growing.get(&class).copied();
        let segment = match growing.filter(|segment| self.layout.rows[segment] < self.layout.segment_rows) {
            Some(segment) => segment,
            None => self.begin_segment(class)?,
        };
        let rows = self.layout.rows.entry(segment).or_default();
        let place = Place::new(segment, *rows);
        let appended = self.appended.entry(segment);
        let appended = appended.or_insert_with(|| Appended { class, first: *rows, digests: Vec::new() });
        appended.digests.push(settled.record.id.digest());
        *rows += 1;
        let mut insert = self.conn.prepare_cached(codec::INSERT_SETTLED)?;
        codec::insert_settled(&mut insert, place.to_sql(), &settled.record, &settled.body)
    }

    fn begin_segment(&mut self, class: Class) -> Result<u32, Fault> {
        self.layout.newest += 1;
        let id = self.layout.newest;
        self.conn.prepare_cached("INSERT INTO segments VALUES (?1, ?2, ?3, ?4, NULL, ?5)")?.execute(
            params![
                id,
                class.doubt,
                class.width_s,
                codec::time(class.until),
                segment::checksum(id, class, None, &[]),
            ],
        )?;
        self.layout.growing.insert(class, id);
        self.layout.rows.insert(id, 0);
        Ok(id)
    }

    /// Overwrites the rows that a record has in `older`.
    fn remove(&self, digest: &Digest, older: &[Candidate]) -> Result<(), Fault> {
        for candidate in older {
            let (segment, rows) = match candidate {
                Candidate::Row(place) => (place.segment, vec![place.row]),
                Candidate::Chunk(chunk) => (chunk.segment, index::rows_in_chunk(self.conn, *chunk, digest)?),
            };
            for row in rows {
                let place = Place::new(segment, row).to_sql();
                let mut remove = self.conn.prepare_cached(codec::REMOVE_SETTLED)?;
                remove.execute(params![place, codec::removed_checksum(place)])?;
            }
        }
        Ok(())
    }

    /// Notes which digests were appended, so that they are found after a restart.
    fn log(&self) -> Result<(), Fault> {
        for (segment, appended) in &self.appended {
            let place = Place::new(*segment, appended.first).to_sql();
            let digests = appended.digests.iter().flat_map(|digest| *digest.as_bytes()).collect::<Vec<u8>>();
            let mut insert = self.conn.prepare_cached("INSERT INTO segment_log VALUES (?1, ?2, ?3)")?;
            insert.execute(params![place, digests, index::chunk_checksum(place, &digests)])?;
        }
        Ok(())
    }
}

impl Index {
    /// Takes over what was appended to segments. Those that grow no more are returned, to be sealed.
    fn absorb_appended(
        &mut self,
        appended: BTreeMap<u32, Appended>,
        growing: HashMap<Class, u32>,
    ) -> Vec<u32> {
        for (id, appended) in appended {
            let segment = self.segments.entry(id).or_insert_with(|| Segment {
                class: appended.class,
                rows: 0,
                lookup: Lookup::Exact(HashMap::new()),
            });
            let Lookup::Exact(rows) = &mut segment.lookup else {
                unreachable!("a sealed segment does not grow");
            };
            for (row, digest) in (appended.first..).zip(appended.digests) {
                rows.insert(digest, row);
                segment.rows = row + 1;
            }
        }
        let overtaken = growing.into_iter().filter_map(|(class, id)| {
            self.growing.insert(class, id).filter(|before| *before != id)
        });
        overtaken.collect()
    }

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
            .map(|pending| freed += pending.settled.take().map_or(0, |settled| settled.body.stored_bytes()))
            .count();
        self.pending_bytes -= freed;
        count
    }
}

fn write(index: &RwLock<Index>) -> RwLockWriteGuard<'_, Index> {
    index.write().unwrap_or_else(PoisonError::into_inner)
}
