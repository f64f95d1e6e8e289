//! Where every record is, in memory: live claims and what is only in the log wholly, folded records by digest.
//!
//! The writer changes it after its frame is in the log, and the folder after its commit; so what is read here has been
//! acknowledged or is about to be. A record is looked for among live claims, then among pending ones, then in the
//! segments. For segments that still grow, each digest's row is known; for sealed ones a filter says that a digest is
//! not there, or that its chunk in `segment_index` must be read.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use semel::clock::Timestamp;
use semel::digest::Digest;
use semel::{Record, RecordId, Token};

use crate::codec::{self, Body};
use crate::fault::Fault;
use crate::filter::Filter;
use crate::near::Near;
use crate::segment::{Class, Place};
use crate::table;

/// About how many digests lie in one chunk of a sealed segment's index.
const CHUNK_DIGESTS: u32 = 128;
/// A digest and a row number.
const ENTRY_BYTES: usize = 20;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) in_flight: HashMap<Digest, Live>,
    /// What the log says of records that are not in flight, until it is folded into the segments.
    pub(crate) pending: HashMap<Digest, Pending>,
    /// Which entries of the log are to be folded, oldest first. Some have been overtaken by a newer one.
    pub(crate) queue: VecDeque<(u64, Digest)>,
    /// About how much memory the pending ones take.
    pub(crate) pending_bytes: usize,
    pub(crate) segments: BTreeMap<u32, Segment>,
    /// The segment that grows, by class.
    pub(crate) growing: HashMap<Class, u32>,
    /// The newest token given.
    pub(crate) last: Token,
    /// How many segments were sealed so far. Sealed ones gain no record, so whoever found nothing in them need not
    /// look again before this has changed.
    pub(crate) seals: u64,
    pub(crate) near: Near,
}

/// A live claim.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) record: Record,
    /// Whether an older row of the record may lie in a segment, to be removed when the record settles.
    pub(crate) over: bool,
}

/// A record that is finished or in doubt, and its body as it is stored.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) record: Record,
    pub(crate) body: Body,
}

/// What an entry of the log made of a record.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    /// The entry.
    pub(crate) entry: u64,
    /// `None` when the record is absent.
    pub(crate) settled: Option<Arc<Settled>>,
    /// As [`Live::over`].
    pub(crate) over: bool,
}

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) class: Class,
    pub(crate) rows: u32,
    /// About how much was appended since the store was opened.
    pub(crate) bytes: usize,
    pub(crate) lookup: Lookup,
}

#[derive(Debug)]
pub(crate) enum Lookup {
    Exact(HashMap<Digest, u32>),
    Sealed(Filter),
}

/// Where a digest may be found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Candidate {
    Row(Place),
    Chunk(Place),
}

/// What the index alone can say about a record.
pub(crate) enum Known<'a> {
    Live(&'a Live),
    Pending(&'a Pending),
    /// In one of these, or absent.
    Folded(Vec<Candidate>),
}

impl Index {
    /// `looked` is [`Index::seals`] at the time when the caller found nothing in the sealed segments.
    pub(crate) fn find(
        &self,
        id: &RecordId,
        now: Timestamp,
        looked: Option<u64>,
    ) -> Result<Known<'_>, Fault> {
        let digest = id.digest();
        if let Some(live) = self.in_flight.get(&digest) {
            return same(&live.record, id).map(|()| Known::Live(live));
        }
        if let Some(pending) = self.pending.get(&digest) {
            pending.settled.as_ref().map_or(Ok(()), |settled| same(&settled.record, id))?;
            return Ok(Known::Pending(pending));
        }
        Ok(Known::Folded(self.candidates(&digest, now, looked == Some(self.seals))))
    }

    /// The finished record, when it is in memory. It costs a fresh key little, which [`Index::find`] would not.
    pub(crate) fn near(&self, id: &RecordId, now: Timestamp) -> Option<Record> {
        let digest = id.digest();
        if self.in_flight.contains_key(&digest) {
            return None;
        }
        let record = match self.pending.get(&digest) {
            Some(pending) => pending.settled.as_ref()?.record.clone(),
            None => self.near.get(&digest)?,
        };
        let finished = record.id == *id && record.outcome().is_some();
        record.at(now).filter(|_| finished)
    }

    pub(crate) fn candidates(&self, digest: &Digest, now: Timestamp, growing_only: bool) -> Vec<Candidate> {
        let live = self.segments.iter().rev().filter(|(_, segment)| now < segment.class.until);
        live.filter_map(|(id, segment)| match &segment.lookup {
            Lookup::Exact(rows) => rows.get(digest).map(|row| Candidate::Row(Place::new(*id, *row))),
            Lookup::Sealed(_) if growing_only => None,
            Lookup::Sealed(filter) => filter
                .may_hold(digest)
                .then(|| Candidate::Chunk(Place::new(*id, chunk_of(digest, chunks(segment.rows))))),
        })
        .collect()
    }

    /// Whether the row that is missing at `place` may have been dropped with its segment by `now`.
    pub(crate) fn may_be_dropped(&self, place: i64, now: Timestamp) -> bool {
        self.segments.get(&Place::from_sql(place).segment).is_none_or(|segment| now >= segment.class.until)
    }

    /// Takes over what entry `pending.entry` says.
    pub(crate) fn put_pending(&mut self, digest: Digest, pending: Pending) {
        self.in_flight.remove(&digest);
        self.pending_bytes += pending.bytes();
        self.queue.push_back((pending.entry, digest));
        if let Some(overtaken) = self.pending.insert(digest, pending) {
            self.pending_bytes -= overtaken.bytes();
        }
    }

    /// Forgets what entry `entry` says, unless a newer one has been put in its place.
    pub(crate) fn take_pending(&mut self, entry: u64, digest: &Digest) {
        if let Some(pending) = self.pending.get(digest)
            && pending.entry == entry
        {
            self.pending_bytes -= pending.bytes();
            self.pending.remove(digest);
        }
    }
}

impl Pending {
    pub(crate) fn bytes(&self) -> usize {
        const OVERHEAD: usize = 512;
        OVERHEAD + self.settled.as_ref().map_or(0, |settled| settled.bytes())
    }
}

impl Settled {
    /// The body is held twice when it is compressed.
    pub(crate) fn bytes(&self) -> usize {
        let plain = self.record.outcome().map_or(0, |outcome| outcome.body.len() + outcome.head.len());
        plain + self.body.stored_bytes()
    }
}

pub(crate) fn same(record: &Record, id: &RecordId) -> Result<(), Fault> {
    if record.id == *id { Ok(()) } else { Err(Fault::damaged("two record ids share a digest")) }
}

/// The record as it lies in one of `candidates`, and where.
///
/// # Errors
/// [`Fault::Missing`] when a row that must be there is not: damage, or a race of a reader with the writer.
pub(crate) fn resolve(
    conn: &Connection,
    candidates: &[Candidate],
    id: &RecordId,
    now: Timestamp,
) -> Result<Resolved, Fault> {
    let mut removed = false;
    for candidate in candidates {
        let rows = match candidate {
            Candidate::Row(place) => vec![place.row],
            Candidate::Chunk(chunk) => rows_in_chunk(conn, *chunk, &id.digest())?,
        };
        let (Candidate::Row(Place { segment, .. }) | Candidate::Chunk(Place { segment, .. })) = *candidate;
        for row in rows {
            let place = Place::new(segment, row);
            match read(conn, place)? {
                None => removed = true,
                Some(record) if record.id != *id => {
                    return Err(Fault::damaged("a digest leads to the record of another key"));
                }
                Some(record) => {
                    if let Some(record) = record.at(now) {
                        return Ok(Resolved::Live(Box::new(record)));
                    }
                }
            }
        }
    }
    Ok(if removed { Resolved::Removed } else { Resolved::Absent })
}

/// What [`resolve`] found.
pub(crate) enum Resolved {
    Live(Box<Record>),
    Absent,
    /// Absent as far as these candidates go; a reader asks the writer, which may have just moved the record.
    Removed,
}

fn read(conn: &Connection, place: Place) -> Result<Option<Record>, Fault> {
    table::read(conn, place, || {
        let mut select = conn.prepare_cached(&table::select(place.segment))?;
        let mut rows = select.query([place.to_sql()])?;
        let row = rows.next()?.ok_or(Fault::Missing(place.to_sql()))?;
        codec::read_settled(row, true)
    })
}

/// How many chunks the index of a sealed segment has.
pub(crate) fn chunks(rows: u32) -> u32 {
    rows.div_ceil(CHUNK_DIGESTS).max(1)
}

/// Digests are uniform, so equal shares of their range make chunks of about one size.
pub(crate) fn chunk_of(digest: &Digest, chunks: u32) -> u32 {
    let (words, _) = digest.as_bytes().as_chunks::<4>();
    let share = (u64::from(u32::from_be_bytes(words[0])) * u64::from(chunks)) >> 32;
    u32::try_from(share).expect("below the number of chunks")
}

/// The entries of a chunk as bytes: digest, then row, as often as there are entries.
pub(crate) fn encode_chunk<'a>(entries: impl Iterator<Item = &'a (Digest, u32)>) -> Vec<u8> {
    entries.flat_map(|(digest, row)| digest.as_bytes().iter().copied().chain(row.to_be_bytes())).collect()
}

pub(crate) fn chunk_checksum(place: i64, bytes: &[u8]) -> i64 {
    codec::checksum(&[&place.to_le_bytes(), bytes].concat())
}

/// The newest row first.
pub(crate) fn rows_in_chunk(conn: &Connection, chunk: Place, digest: &Digest) -> Result<Vec<u32>, Fault> {
    let place = chunk.to_sql();
    let mut select = conn.prepare_cached("SELECT entries, checksum FROM segment_index WHERE place = ?1")?;
    let found = select
        .query_row([place], |row| {
            let (entries, expected) = (row.get_ref(0)?.as_blob()?, row.get::<_, i64>(1)?);
            if chunk_checksum(place, entries) != expected {
                return Ok(None);
            }
            let (entries, _) = entries.as_chunks::<ENTRY_BYTES>();
            let mut rows: Vec<u32> = entries
                .iter()
                .filter(|entry| entry[..16] == digest.as_bytes()[..])
                .map(|[.., a, b, c, d]| u32::from_be_bytes([*a, *b, *c, *d]))
                .collect();
            rows.sort_unstable_by_key(|row| std::cmp::Reverse(*row));
            Ok(Some(rows))
        })
        .optional()?;
    match found {
        Some(Some(rows)) => Ok(rows),
        Some(None) => Err(Fault::damaged("the checksum of a chunk of the index does not match")),
        None => Err(Fault::Missing(place)),
    }
}
