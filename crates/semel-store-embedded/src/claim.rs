//! A batch of many callers' steps: each record is looked up, the pure transitions decide, and what they write becomes
//! entries of the log.
//!
//! What a batch changed is kept beside the index until the log has it, and forgotten when the log refuses it. Next:
//! [`crate::writer`], which drives it.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::Connection;
use semel::clock::{Clock, Timestamp};
use semel::digest::Digest;
use semel::record::{self, Step};
use semel::store::{Claimed, StoreError, StoreErrorKind, Written};
use semel::{Record, RecordId, State, Token};

use crate::codec::Body;
use crate::entry::Entry;
use crate::fault::Fault;
use crate::index::{self, Index, Known, Live, Pending, Resolved, Settled};
use crate::writer::{Answer, Request, Room};

/// A batch that is being made.
pub(crate) struct Batch<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) index: &'a Index,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) now: Timestamp,
    pub(crate) room: Room,
    pub(crate) changes: Changes,
}

/// What a batch writes, and changes in the index once it is written.
#[derive(Default)]
pub(crate) struct Changes {
    last: Token,
    records: HashMap<Digest, Slot>,
    /// The number of the first entry.
    first: u64,
    pub(crate) count: u64,
    pub(crate) entries: Vec<u8>,
}

/// Where a record is after the batch.
enum Slot {
    Live(Live),
    Pending(Pending),
    /// Nothing of it was ever in a segment.
    Absent,
}

/// What of a record was there before a step.
#[derive(Default)]
struct Found {
    record: Option<Record>,
    /// Whether it is a live claim.
    live: bool,
    /// As [`Live::over`].
    over: bool,
}

impl Found {
    fn live(live: &Live) -> Self {
        Self { record: Some(live.record.clone()), live: true, over: live.over }
    }

    /// What is pending may be in a segment by the time the record settles again.
    fn pending(pending: &Pending) -> Self {
        let record = pending.settled.as_ref().map(|settled| settled.record.clone());
        Self { record, live: false, over: true }
    }
}

impl Changes {
    /// `first` is the number of the first entry.
    pub(crate) fn new(last: Token, first: u64, entries: Vec<u8>) -> Self {
        Self { last, first, entries, ..Self::default() }
    }

    pub(crate) fn push(&mut self, entry: &Entry) -> u64 {
        entry.write(&mut self.entries);
        self.count += 1;
        self.first + self.count - 1
    }

    fn put_pending(&mut self, digest: Digest, settled: Option<Settled>, over: bool) {
        let settled = settled.map(Arc::new);
        let entry = self.push(&match &settled {
            Some(settled) => Entry::Settled(Arc::clone(settled), over),
            None => Entry::Removed(digest, over),
        });
        let kept = settled.is_some() || over;
        let slot = if kept { Slot::Pending(Pending { entry, settled, over }) } else { Slot::Absent };
        self.records.insert(digest, slot);
    }

    /// A live claim ends as the doubt that it is, or expired with it.
    pub(crate) fn end(&mut self, digest: Digest, doubted: Option<Record>, over: bool) {
        let settled = doubted.map(|record| Settled { record, body: Body::default() });
        self.put_pending(digest, settled, over);
    }

    /// Which records changed.
    pub(crate) fn written(&self) -> Vec<Digest> {
        self.records.keys().copied().collect()
    }

    /// The newest token given.
    pub(crate) fn last(&self) -> Token {
        self.last
    }
}

impl Batch<'_> {
    /// Makes the step of one request.
    pub(crate) fn step(&mut self, request: &Request) -> Result<Answer, StoreError> {
        let (id, looked) = match request {
            Request::Claim(args, looked) => (&args.id, *looked),
            Request::Renew(args) => (&args.id, None),
            Request::Complete(args, _) => (&args.id, None),
            Request::Doubt(args) => (&args.id, None),
            Request::Release(args) => (&args.id, None),
            Request::Import(record, _) => (&record.id, None),
            Request::Get(id) => (id, None),
            Request::Lapse(limit) => return Ok(self.lapse_some(*limit)),
        };
        let mut found = self.find(id, looked).map_err(Fault::into_error)?;
        let current = found.record.take();
        let now = self.now;
        let mut packed = Body::default();
        let step = match request {
            Request::Claim(args, _) => record::claim(current, args, self.changes.last, now),
            Request::Renew(args) => record::renew(current, args.guard, args.lease, now),
            Request::Complete(args, body) => {
                packed = body.clone();
                record::complete(current, args.guard, args.ending.clone(), args.retention, now)
            }
            Request::Doubt(args) => record::doubt(current, args.guard, args.cause, now),
            Request::Release(args) => record::release(current, args.guard, args.from, now),
            Request::Import(record, body) => {
                packed = body.clone();
                record::import(current, (**record).clone(), now)
            }
            Request::Get(_) => return Ok(Answer::Record(current.and_then(|record| record.at(now)))),
            Request::Lapse(_) => unreachable!("answered above"),
        };
        let is_claim = matches!(request, Request::Claim(..));
        let begins = is_claim || matches!(request, Request::Import(..));
        let writes = matches!(step, Step::Write(_) | Step::Remove) && !matches!(request, Request::Renew(_));
        if writes && (self.room == Room::None || (self.room == Room::ToEnd && begins)) {
            return Err(StoreError::new(
                StoreErrorKind::Full,
                "the file is at its largest, or the disk is full",
            ));
        }
        Ok(match (is_claim, self.apply(id, &found, step, packed)) {
            (true, Written::Done(Some(record))) => Answer::Claimed(Claimed::Won(record)),
            (true, Written::Refused(Some(record))) => Answer::Claimed(Claimed::Standing(record)),
            (true, _) => unreachable!("a claim of an absent record is won"),
            (false, written) => Answer::Written(written),
        })
    }

    fn find(&self, id: &RecordId, looked: Option<u64>) -> Result<Found, Fault> {
        match self.changes.records.get(&id.digest()) {
            Some(Slot::Absent) => return Ok(Found::default()),
            Some(Slot::Live(live)) => return index::same(&live.record, id).map(|()| Found::live(live)),
            Some(Slot::Pending(pending)) => return Ok(Found::pending(pending)),
            None => {}
        }
        let mut now = self.now;
        loop {
            let candidates = match self.index.find(id, now, looked)? {
                Known::Live(live) => return Ok(Found::live(live)),
                Known::Pending(pending) => return Ok(Found::pending(pending)),
                Known::Folded(candidates) => candidates,
            };
            match index::resolve(self.conn, &candidates, id, now) {
                Ok(Resolved::Live(record)) => {
                    return Ok(Found { record: Some(*record), live: false, over: true });
                }
                Ok(Resolved::Absent | Resolved::Removed) => return Ok(Found::default()),
                // The folder drops segments meanwhile; the record may live in another one.
                Err(Fault::Missing(place)) => {
                    now = self.clock.now();
                    if !self.index.may_be_dropped(place, now) {
                        return Err(Fault::Missing(place));
                    }
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    fn apply(&mut self, id: &RecordId, found: &Found, step: Step, body: Body) -> Written {
        let record = match step {
            Step::Already(record) => return Written::Done(Some(record)),
            Step::Refused(standing) => return Written::Refused(standing),
            Step::Remove => {
                self.changes.put_pending(id.digest(), None, found.over);
                return Written::Done(None);
            }
            Step::Write(record) => record,
        };
        let digest = id.digest();
        match &record.state {
            State::InFlight { .. } => {
                let renewed = found.live && self.changes.last >= record.guard.token;
                let live = Live { record: record.clone(), over: found.over };
                // A lease ends with the process, so it is kept in memory only.
                if !renewed {
                    self.changes.last = self.changes.last.max(record.guard.token);
                    self.changes.push(&Entry::Live(live.clone()));
                }
                self.changes.records.insert(digest, Slot::Live(live));
            }
            State::InDoubt { .. } | State::Completed { .. } | State::Failed { .. } => {
                // An imported one may be ahead of this store's clock.
                self.changes.last = self.changes.last.max(record.guard.token);
                self.changes.put_pending(digest, Some(Settled { record: record.clone(), body }), found.over);
            }
        }
        Written::Done(Some(record))
    }

    /// Turns up to `limit` claims whose lease has run out into doubts that are kept like any settled record.
    fn lapse_some(&mut self, limit: usize) -> Answer {
        let (index, now) = (self.index, self.now);
        let lapsed = index.in_flight.iter().filter(|(digest, live)| {
            let ended = match live.record.state {
                State::InFlight { lease_until, execute_until } => now >= lease_until.min(execute_until),
                State::InDoubt { .. } | State::Completed { .. } | State::Failed { .. } => false,
            };
            ended && !self.changes.records.contains_key(*digest)
        });
        let lapsed: Vec<_> = lapsed.take(limit).collect();
        let (moved, mut gone) = (lapsed.len(), 0);
        for (digest, Live { record, over }) in lapsed {
            let doubted = record.clone().at(now);
            gone += usize::from(doubted.is_none());
            self.changes.end(*digest, doubted, *over);
        }
        Answer::Lapsed { moved, gone }
    }
}

impl Index {
    /// Takes over what a batch wrote. Entries are queued in their order: the folder vouches for all before the last
    /// one that it took, and what is not queued by then would be lost with the log.
    pub(crate) fn absorb(&mut self, changes: Changes) {
        self.last = self.last.max(changes.last);
        let mut waiting = Vec::new();
        for (digest, slot) in changes.records {
            match slot {
                Slot::Live(live) => drop(self.in_flight.insert(digest, live)),
                Slot::Pending(pending) => waiting.push((digest, pending)),
                Slot::Absent => drop(self.in_flight.remove(&digest)),
            }
        }
        waiting.sort_unstable_by_key(|(_, pending)| pending.entry);
        waiting.into_iter().for_each(|(digest, pending)| self.put_pending(digest, pending));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use semel::clock::ManualClock;
    use semel::record::{Ending, Outcome};
    use semel::store::{ClaimArgs, CompleteArgs, RenewArgs};
    use semel::{Fingerprint, Key, Operation, Policy, Tenant};

    use super::*;
    use crate::index::{Lookup, Segment};
    use crate::schema;
    use crate::segment::Class;

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn claim_of(key: &str) -> ClaimArgs {
        let digest = Digest::from_bytes([7; 16]);
        let id = RecordId::new(Tenant::public(), Operation::http(), Key::new(key).unwrap());
        ClaimArgs::new(id, Fingerprint { target: digest, payload: digest }, &Policy::default())
    }

    fn claim(key: &str) -> Record {
        match record::claim(None, &claim_of(key), Token(0), NOW) {
            Step::Write(record) => record,
            other => panic!("{other:?}"),
        }
    }

    /// The answer to `request` of a store whose tables are empty.
    fn step(index: &Index, clock: &ManualClock, room: Room, request: &Request) -> Result<Answer, StoreError> {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::migrate(&mut conn).unwrap();
        let changes = Changes::new(index.last, 0, Vec::new());
        Batch { conn: &conn, index, clock, now: NOW, room, changes }.step(request)
    }

    #[test]
    fn a_row_that_is_gone_is_absent_once_its_segment_may_be_dropped_and_damage_before() {
        let record = claim("k");
        let class = Class { doubt: false, width_s: 1, until: NOW.plus(SECOND) };
        let rows = HashMap::from([(record.id.digest(), 0)]);
        let mut index = Index::default();
        index.segments.insert(1, Segment { class, rows: 1, bytes: 0, lookup: Lookup::Exact(rows) });
        let get = Request::Get(record.id);
        let step_at = |time| step(&index, &ManualClock::at(time), Room::Enough, &get);
        assert!(matches!(step_at(class.until), Ok(Answer::Record(None))));
        assert_eq!(step_at(NOW).unwrap_err().kind(), StoreErrorKind::Corrupt);
    }

    #[test]
    fn without_room_only_what_is_to_be_written_is_refused() {
        let record = claim("k");
        let (id, guard) = (record.id.clone(), record.guard);
        let mut index = Index::default();
        index.in_flight.insert(id.digest(), Live { record, over: false });
        let step = |room, request: &Request| match step(&index, &ManualClock::at(NOW), room, request) {
            Ok(Answer::Written(Written::Done(_)) | Answer::Claimed(Claimed::Won(_))) => "done",
            Ok(Answer::Written(Written::Refused(_)) | Answer::Claimed(Claimed::Standing(_))) => "stands",
            Err(error) if error.kind() == StoreErrorKind::Full => "full",
            other => panic!("{other:?}"),
        };
        let renew = Request::Renew(RenewArgs { id: id.clone(), guard, lease: SECOND });
        let complete = |guard| {
            let (id, ending) = (id.clone(), Ending::Completed(Outcome::default()));
            Request::Complete(CompleteArgs { id, guard, ending, retention: SECOND }, Body::default())
        };
        let (mine, others) = (complete(guard), complete(claim("k").guard));
        let [begin, again] = ["other", "k"].map(|key| Request::Claim(claim_of(key), None));
        let all = [&renew, &others, &again, &mine, &begin];
        let answers = |room| all.map(|request| step(room, request));
        assert_eq!(answers(Room::Enough), ["done", "stands", "stands", "done", "done"]);
        assert_eq!(answers(Room::ToEnd), ["done", "stands", "stands", "done", "full"]);
        assert_eq!(answers(Room::None), ["done", "stands", "stands", "full", "full"]);
    }

    #[test]
    fn what_a_batch_settled_waits_for_the_folder_in_the_order_of_the_log() {
        let mut changes = Changes::new(Token(0), 5, Vec::new());
        for number in 0..64 {
            changes.end(Digest::from_bytes([number; 16]), None, true);
        }
        let mut index = Index::default();
        index.absorb(changes);
        let queued: Vec<u64> = index.queue.iter().map(|(entry, _)| *entry).collect();
        assert_eq!(queued, (5..69).collect::<Vec<u64>>());
    }
}
