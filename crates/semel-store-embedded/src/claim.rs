//! One transaction of many callers' steps: each is looked up, decided by the pure transitions, and written.
//!
//! What a batch changed is kept beside the index until the commit, and forgotten when the commit fails. Next:
//! [`crate::writer`], which drives it.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, params};
use semel::clock::Timestamp;
use semel::digest::Digest;
use semel::record::{self, Ending, Step};
use semel::store::{Claimed, StoreError, Written};
use semel::{Record, RecordId, State, Token};

use crate::codec::{self, Body};
use crate::fault::Fault;
use crate::index::{self, Index, Known, Lookup, Resolved, Segment};
use crate::segment::{self, Class, Place};
use crate::writer::{Answer, Request};

/// A transaction that is being made.
pub(crate) struct Batch<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) index: &'a Index,
    pub(crate) now: Timestamp,
    pub(crate) segment_rows: u32,
    pub(crate) changes: Changes,
}

/// What a batch changes in the index once it is committed.
#[derive(Default)]
pub(crate) struct Changes {
    pub(crate) last: Token,
    records: HashMap<Digest, Slot>,
    appended: BTreeMap<u32, Appended>,
    growing: HashMap<Class, u32>,
    newest_segment: u32,
}

/// Where a record is after the batch.
#[derive(Clone)]
enum Slot {
    InFlight(Record),
    Settled(Place),
    Absent,
}

struct Appended {
    class: Class,
    /// The row that the batch's first record of this segment has.
    first: u32,
    digests: Vec<Digest>,
}

/// Where a record that stands was found.
#[derive(Clone, Copy)]
enum Found {
    InFlight(Token),
    Settled(Place),
    Nowhere,
}

/// Ends the whole batch, as opposed to one request of it.
pub(crate) struct Abort(pub(crate) Fault);

impl<'a> Batch<'a> {
    pub(crate) fn new(conn: &'a Connection, index: &'a Index, now: Timestamp, segment_rows: u32) -> Self {
        let newest_segment = index.segments.last_key_value().map_or(0, |(id, _)| *id);
        let changes = Changes { last: index.last, newest_segment, ..Changes::default() };
        Self { conn, index, now, segment_rows, changes }
    }

    /// Makes the step of one request. The outer error ends the batch; the inner one is this caller's alone.
    pub(crate) fn step(&mut self, request: &Request) -> Result<Result<Answer, StoreError>, Abort> {
        let id = match request {
            Request::Claim(args, _) => &args.id,
            Request::Renew(args) => &args.id,
            Request::Complete(args, _) => &args.id,
            Request::Doubt(args) => &args.id,
            Request::Release(args) => &args.id,
            Request::Import(record, _) => &record.id,
            Request::Get(id) => id,
            Request::Purge(_) => unreachable!("purging is upkeep"),
        };
        let looked = if let Request::Claim(_, looked) = request { *looked } else { None };
        let (found, current) = match self.find(id, looked) {
            Ok(found) => found,
            Err(fault) => return Ok(Err(fault.into_error())),
        };
        let (now, last) = (self.now, self.changes.last);
        let nothing = Body::default();
        let (step, body) = match request {
            Request::Claim(args, _) => (record::claim(current, args, last, now), &nothing),
            Request::Renew(args) => (record::renew(current, args.guard, args.lease, now), &nothing),
            Request::Complete(args, body) => {
                let ending: Ending = args.ending.clone();
                (record::complete(current, args.guard, ending, args.retention, now), body)
            }
            Request::Doubt(args) => (record::doubt(current, args.guard, args.cause, now), &nothing),
            Request::Release(args) => (record::release(current, args.guard, args.from, now), &nothing),
            Request::Import(record, body) => (record::import(current, (**record).clone(), now), body),
            Request::Get(_) => {
                return Ok(Ok(Answer::Record(current.and_then(|record| record.at(now)))));
            }
            Request::Purge(_) => unreachable!("purging is upkeep"),
        };
        let written = self.apply(id, found, step, body).map_err(Abort)?;
        Ok(Ok(match (request, written) {
            (Request::Claim(..), Written::Done(Some(record))) => Answer::Claimed(Claimed::Won(record)),
            (Request::Claim(..), Written::Refused(Some(record))) => {
                Answer::Claimed(Claimed::Standing(record))
            }
            (Request::Claim(..), _) => unreachable!("a claim of an absent record is won"),
            (_, written) => Answer::Written(written),
        }))
    }

    fn find(&self, id: &RecordId, looked: Option<u64>) -> Result<(Found, Option<Record>), Fault> {
        let known = match self.changes.records.get(&id.digest()) {
            Some(Slot::Absent) => return Ok((Found::Nowhere, None)),
            Some(Slot::InFlight(record)) if record.id != *id => {
                return Err(Fault::damaged("two record ids share a digest"));
            }
            Some(Slot::InFlight(record)) => Known::InFlight(record.clone()),
            Some(Slot::Settled(place)) => Known::Settled(vec![index::Candidate::Row(*place)]),
            None => self.index.find(id, self.now, looked)?,
        };
        match known {
            Known::InFlight(record) => Ok((Found::InFlight(record.guard.token), Some(record))),
            Known::Settled(candidates) => match index::resolve(self.conn, &candidates, id, self.now)? {
                Resolved::Live(place, record) => Ok((Found::Settled(place), Some(*record))),
                Resolved::Absent | Resolved::Removed => Ok((Found::Nowhere, None)),
            },
        }
    }

    fn apply(&mut self, id: &RecordId, found: Found, step: Step, body: &Body) -> Result<Written, Fault> {
        let record = match step {
            Step::Already(record) => return Ok(Written::Done(Some(record))),
            Step::Refused(standing) => return Ok(Written::Refused(standing)),
            Step::Remove => {
                self.take(found)?;
                self.changes.records.insert(id.digest(), Slot::Absent);
                return Ok(Written::Done(None));
            }
            Step::Write(record) => record,
        };
        let renewed = matches!(found, Found::InFlight(token) if token == record.guard.token);
        match &record.state {
            // A lease ends with the process, so it is kept in memory only.
            State::InFlight { .. } if renewed => {}
            State::InFlight { .. } => {
                self.take(found)?;
                codec::insert_in_flight(&mut self.conn.prepare_cached(codec::INSERT_IN_FLIGHT)?, &record)?;
            }
            State::InDoubt { .. } | State::Completed { .. } | State::Failed { .. } => {
                self.take(found)?;
                self.settle(&record, body)?;
                // An imported one may be ahead of this store's clock.
                self.changes.last = self.changes.last.max(record.guard.token);
                return Ok(Written::Done(Some(record)));
            }
        }
        self.changes.last = self.changes.last.max(record.guard.token);
        self.changes.records.insert(id.digest(), Slot::InFlight(record.clone()));
        Ok(Written::Done(Some(record)))
    }

    fn take(&mut self, found: Found) -> Result<(), Fault> {
        match found {
            Found::Nowhere => {}
            Found::InFlight(token) => self.remove_in_flight(token)?,
            Found::Settled(place) => {
                let place = place.to_sql();
                let mut remove = self.conn.prepare_cached(codec::REMOVE_SETTLED)?;
                remove.execute(params![place, codec::removed_checksum(place)])?;
            }
        }
        Ok(())
    }

    fn remove_in_flight(&self, token: Token) -> Result<(), Fault> {
        let mut delete = self.conn.prepare_cached("DELETE FROM in_flight WHERE token = ?1")?;
        match delete.execute([codec::token_to_sql(token)])? {
            1 => Ok(()),
            _ => Err(Fault::damaged(format!("the claim with token {token} is gone from the file"))),
        }
    }

    /// A live claim becomes a doubt, or vanishes when the doubt has expired too. For the sweep and for opening.
    pub(crate) fn lapse(&mut self, record: Record) -> Result<(), Fault> {
        let digest = record.id.digest();
        self.remove_in_flight(record.guard.token)?;
        match record.at(self.now) {
            Some(doubted) => self.settle(&doubted, &Body::default()),
            None => {
                self.changes.records.insert(digest, Slot::Absent);
                Ok(())
            }
        }
    }

    /// Appends `record` to the segment of its class.
    pub(crate) fn settle(&mut self, record: &Record, body: &Body) -> Result<(), Fault> {
        let class = Class::of(record, self.now);
        let segment = match self.growing(class) {
            Some(segment) => segment,
            None => self.begin_segment(class)?,
        };
        let index = self.index;
        let appended = self.changes.appended.entry(segment).or_insert_with(|| Appended {
            class,
            first: index.segments.get(&segment).map_or(0, |segment| segment.rows),
            digests: Vec::new(),
        });
        let place = Place::new(segment, appended.next_row());
        appended.digests.push(record.id.digest());
        let mut insert = self.conn.prepare_cached(codec::INSERT_SETTLED)?;
        codec::insert_settled(&mut insert, place.to_sql(), record, body)?;
        self.changes.records.insert(record.id.digest(), Slot::Settled(place));
        Ok(())
    }

    fn growing(&self, class: Class) -> Option<u32> {
        let segment = *self.changes.growing.get(&class).or_else(|| self.index.growing.get(&class))?;
        let rows = match self.changes.appended.get(&segment) {
            Some(appended) => appended.next_row(),
            None => self.index.segments.get(&segment).map_or(0, |segment| segment.rows),
        };
        (rows < self.segment_rows).then_some(segment)
    }

    fn begin_segment(&mut self, class: Class) -> Result<u32, Fault> {
        let id = self.changes.newest_segment + 1;
        self.conn.prepare_cached("INSERT INTO segments VALUES (?1, ?2, ?3, ?4, NULL, ?5)")?.execute(
            params![
                id,
                class.doubt,
                class.width_s,
                codec::time(class.until),
                segment::checksum(id, class, None, &[]),
            ],
        )?;
        self.changes.newest_segment = id;
        self.changes.growing.insert(class, id);
        Ok(id)
    }

    /// Whether this batch has changed the record already.
    pub(crate) fn touched(&self, id: &RecordId) -> bool {
        self.changes.records.contains_key(&id.digest())
    }

    /// Notes which digests were appended, so that they are found after a restart. The last write of a batch.
    pub(crate) fn log(&mut self) -> Result<(), Fault> {
        for (segment, appended) in &self.changes.appended {
            let place = Place::new(*segment, appended.first).to_sql();
            let digests = appended.digests.iter().flat_map(|digest| *digest.as_bytes()).collect::<Vec<u8>>();
            let mut insert = self.conn.prepare_cached("INSERT INTO segment_log VALUES (?1, ?2, ?3)")?;
            insert.execute(params![place, digests, index::chunk_checksum(place, &digests)])?;
        }
        Ok(())
    }
}

impl Appended {
    fn next_row(&self) -> u32 {
        self.first + u32::try_from(self.digests.len()).expect("a batch is shorter than a segment")
    }
}

impl Changes {
    /// Which records changed.
    pub(crate) fn written(&self) -> impl Iterator<Item = &Digest> {
        self.records.keys()
    }
}

impl Index {
    /// Takes over what a committed batch changed. Segments that grow no more are returned, to be sealed.
    pub(crate) fn absorb(&mut self, changes: Changes) -> Vec<u32> {
        self.last = self.last.max(changes.last);
        let mut full = Vec::new();
        for (id, appended) in changes.appended {
            let next = appended.next_row();
            let segment = self.segments.entry(id).or_insert_with(|| Segment {
                class: appended.class,
                rows: 0,
                lookup: Lookup::Exact(HashMap::new()),
            });
            segment.rows = next;
            let Lookup::Exact(rows) = &mut segment.lookup else {
                unreachable!("a sealed segment does not grow");
            };
            rows.extend((appended.first..).zip(appended.digests).map(|(row, digest)| (digest, row)));
        }
        for (class, id) in changes.growing {
            full.extend(self.growing.insert(class, id));
        }
        for (digest, slot) in changes.records {
            match slot {
                Slot::InFlight(record) => {
                    self.in_flight.insert(digest, record);
                }
                Slot::Settled(_) | Slot::Absent => {
                    self.in_flight.remove(&digest);
                }
            }
        }
        full
    }
}
