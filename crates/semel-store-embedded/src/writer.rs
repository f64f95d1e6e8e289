//! The one thread that writes: takes every request that is waiting, makes one frame of the log of them, and answers
//! when the frame is synced. While it syncs, the next requests gather.
//!
//! After an error of the disk it acknowledges nothing any more: what a failed sync left behind is only known by
//! opening the store again. Next: [`crate::claim`], the decisions; [`crate::log`]; and [`crate::fold`], which takes
//! what is in the log to the tables.

use std::sync::mpsc::Sender;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rusqlite::Connection;
use semel::RecordId;
use semel::clock::{Clock, Timestamp};
use semel::record::DoubtCause;
use semel::store::{
    ClaimArgs, Claimed, CompleteArgs, DoubtArgs, ReleaseArgs, RenewArgs, StoreError, StoreErrorKind, Written,
};
use semel::{Record, Token};
use tokio::sync::{mpsc, oneshot};

use crate::claim::{Batch, Changes};
use crate::codec::Body;
use crate::entry::Entry;
use crate::fold::{Health, Job};
use crate::index::{Index, Live};
use crate::log::{Closed, Log, Refusal};
use crate::watch::Watchers;

/// How many requests wait for the writer before callers wait for room.
pub(crate) const QUEUE: usize = 4_096;
/// How many requests one frame takes.
const BATCH: usize = 1_024;
/// With more than this in its bodies, a frame takes no further request.
const FRAME_BYTES: usize = 8 << 20;
/// How far ahead of the time the ceiling is set: after a crash the clock starts there at the least, so that no token
/// and no time repeats when the wall clock was set back.
const CEILING_AHEAD_US: u64 = 1_000_000;
/// With more than this in memory that is not in the tables, callers wait until it is.
const PENDING_MAX_BYTES: usize = 64 << 20;

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
    /// Turn at most so many claims whose lease has run out into doubts.
    Lapse(usize),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    Claimed(Claimed),
    Written(Written),
    Record(Option<Record>),
    Lapsed { moved: usize, gone: usize },
}

pub(crate) struct Envelope {
    pub(crate) request: Request,
    pub(crate) reply: oneshot::Sender<Result<Answer, StoreError>>,
}

/// What the writer owns.
pub(crate) struct Writer {
    pub(crate) log: Log,
    /// To read what the index does not know.
    pub(crate) conn: Connection,
    pub(crate) index: Arc<RwLock<Index>>,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ceiling: Timestamp,
    pub(crate) health: Arc<Health>,
    pub(crate) folder: Sender<Job>,
    /// Files of the log whose claims are not known to be in a newer one.
    pub(crate) closed: Vec<Closed>,
    pub(crate) entries: Vec<u8>,
    pub(crate) asked_for_spare: bool,
}

/// What there is room for in the log and in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Enough,
    /// Nothing new is begun; what was begun may end.
    ToEnd,
    None,
}

impl Room {
    fn less(self) -> Self {
        if self == Self::Enough { Self::ToEnd } else { Self::None }
    }
}

type Answers = Vec<Result<Answer, StoreError>>;

impl Writer {
    /// Serves until every sender is gone.
    pub(crate) fn run(mut self, mut requests: mpsc::Receiver<Envelope>) {
        let mut waiting = Vec::with_capacity(BATCH);
        while requests.blocking_recv_many(&mut waiting, BATCH) > 0 {
            while !waiting.is_empty() {
                let some = frame_of(&waiting);
                let answers = self.serve(&waiting[..some]);
                for (envelope, answer) in waiting.drain(..some).zip(answers) {
                    // A caller who hung up changes nothing.
                    let _ = envelope.reply.send(answer);
                }
                self.turn_over();
                self.wait_for_room();
            }
        }
        if self.health.broken().is_none() {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            // When they do not get into the log, they are in doubt from the next opening on.
            if doubt_live(&mut self.log, &mut index, self.clock.now()).is_ok() {
                self.closed.push(self.log.close());
                self.closed.into_iter().for_each(|closed| tell(&self.folder, Job::Closed(closed)));
            }
        }
    }

    fn serve(&mut self, asked: &[Envelope]) -> Answers {
        let refuse = |kind, why: &str| {
            asked.iter().map(|_| Err(StoreError::new(kind, why.to_owned()))).collect::<Answers>()
        };
        if let Some(why) = self.health.broken() {
            return refuse(StoreErrorKind::Unavailable, &format!("{why}; reopen the store"));
        }
        let now = self.clock.now();
        let mut room = if self.health.is_full() { Room::ToEnd } else { Room::Enough };
        loop {
            match self.write(asked, now, room) {
                Ok(answers) => return answers,
                Err(Refusal::Full(_)) if room != Room::None => room = room.less(),
                Err(Refusal::Full(error)) => return refuse(StoreErrorKind::Full, &error.to_string()),
                Err(Refusal::Broken(error)) => {
                    self.health.break_down(&error);
                    return refuse(StoreErrorKind::Unknown, &error.to_string());
                }
            }
        }
    }

    fn write(&mut self, asked: &[Envelope], now: Timestamp, room: Room) -> Result<Answers, Refusal> {
        let (answers, mut changes) = self.decide(asked, now, room);
        let reached = now.as_micros().max(changes.last().0);
        let mut ceiling = self.ceiling;
        if changes.count > 0 && reached > ceiling.as_micros() {
            ceiling = Timestamp::from_micros(reached.saturating_add(CEILING_AHEAD_US));
            changes.push(&Entry::Ceiling(ceiling));
        }
        if changes.count > 0 {
            self.log.append(&changes.entries, changes.count)?;
            self.ceiling = ceiling;
        }
        self.absorb(changes);
        Ok(answers)
    }

    fn decide(&mut self, asked: &[Envelope], now: Timestamp, room: Room) -> (Answers, Changes) {
        let index = read(&self.index);
        self.entries.clear();
        let entries = std::mem::take(&mut self.entries);
        let changes = Changes::new(index.last, self.log.next, entries);
        let (conn, clock) = (&self.conn, &*self.clock);
        let mut batch = Batch { conn, index: &index, clock, now, room, changes };
        let answers = asked.iter().map(|envelope| batch.step(&envelope.request)).collect();
        (answers, batch.changes)
    }

    /// Makes what is in the log visible.
    fn absorb(&mut self, mut changes: Changes) {
        self.entries = std::mem::take(&mut changes.entries);
        self.entries.shrink_to(FRAME_BYTES);
        let written = changes.written();
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let waited = index.queue.len();
        index.absorb(changes);
        let waiting = index.queue.len();
        drop(index);
        self.watchers.wake(written.iter());
        if Job::is_due(waited, waiting) {
            tell(&self.folder, Job::Look);
        }
    }

    /// Begins the next file of the log once this one is long. Without room for it the log goes on in this one, and
    /// without room for the live claims the older files are kept until the next turn.
    fn turn_over(&mut self) {
        if self.log.wants_spare() && !self.asked_for_spare {
            self.asked_for_spare = true;
            tell(&self.folder, Job::Spare);
        }
        if !self.log.is_long() || self.health.broken().is_some() {
            return;
        }
        match self.log.turn_over() {
            Ok(Some(closed)) => self.closed.push(closed),
            Ok(None) => return,
            Err(error) => return self.health.break_down(&error),
        }
        let mut changes = Changes::new(Token(0), self.log.next, Vec::new());
        changes.push(&Entry::Ceiling(self.ceiling));
        for live in read(&self.index).in_flight.values() {
            changes.push(&Entry::Live(live.clone()));
        }
        match self.log.append(&changes.entries, changes.count) {
            Ok(()) => self.closed.drain(..).for_each(|closed| tell(&self.folder, Job::Closed(closed))),
            Err(Refusal::Full(_)) => {}
            Err(Refusal::Broken(error)) => self.health.break_down(&error),
        }
    }

    fn wait_for_room(&self) {
        while read(&self.index).pending_bytes > PENDING_MAX_BYTES
            && !self.health.is_full()
            && self.health.broken().is_none()
        {
            let (done, folded) = oneshot::channel();
            tell(&self.folder, Job::FoldSome(done));
            if folded.blocking_recv().is_err() {
                // The folder has ended.
                return;
            }
        }
    }
}

/// How many of the requests that wait go in the next frame.
fn frame_of(waiting: &[Envelope]) -> usize {
    let mut bytes = 0;
    let fits = waiting.iter().take_while(|envelope| {
        let fits = bytes <= FRAME_BYTES;
        if let Request::Complete(_, body) | Request::Import(_, body) = &envelope.request {
            bytes += body.stored_bytes();
        }
        fits
    });
    fits.count()
}

/// Puts every live claim in doubt: when a process ends, nobody knows what becomes of its effects.
pub(crate) fn doubt_live(log: &mut Log, index: &mut Index, now: Timestamp) -> Result<(), Refusal> {
    let mut changes = Changes::new(index.last, log.next, Vec::new());
    for (digest, Live { record, over }) in &index.in_flight {
        let doubted =
            record.clone().at(now).and_then(|record| record.doubted(DoubtCause::Restarted, now).at(now));
        changes.end(*digest, doubted, *over);
    }
    changes.push(&Entry::Ceiling(Timestamp::from_micros(now.as_micros().max(index.last.0))));
    log.append(&changes.entries, changes.count)?;
    index.absorb(changes);
    Ok(())
}

fn tell(folder: &Sender<Job>, job: Job) {
    // The folder outlives the writer unless it panicked, which was reported when it happened.
    let _ = folder.send(job);
}

pub(crate) fn read(index: &RwLock<Index>) -> RwLockReadGuard<'_, Index> {
    index.read().unwrap_or_else(PoisonError::into_inner)
}
