//! Appending settled records to the segments of their classes, within one transaction.
//!
//! Next: [`crate::segment`], and [`crate::index`], which finds what was appended.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, params};
use semel::clock::Timestamp;
use semel::digest::Digest;

use crate::codec;
use crate::fault::Fault;
use crate::index::{self, Candidate, Index, Lookup, Segment, Settled};
use crate::segment::{self, Class, Place};
use crate::table;

/// How large a segment becomes, about: it is dropped in one go, while nothing is folded.
const SEGMENT_BYTES: usize = 256 << 20;

/// Which segments grow, and where.
pub(super) struct Layout {
    segment_rows: u32,
    segment_bytes: usize,
    pub(super) newest: u32,
    pub(super) growing: HashMap<Class, u32>,
    /// By segment.
    fill: HashMap<u32, Fill>,
}

/// How much is in a segment.
#[derive(Clone, Copy, Default)]
struct Fill {
    rows: u32,
    bytes: usize,
}

/// Appends settled records to their segments, within one transaction.
pub(super) struct Appending<'a> {
    pub(super) conn: &'a Connection,
    pub(super) now: Timestamp,
    pub(super) layout: Layout,
    pub(super) appended: BTreeMap<u32, Appended>,
}

pub(super) struct Appended {
    class: Class,
    /// The row that the first record has.
    first: u32,
    digests: Vec<Digest>,
    bytes: usize,
}

impl Layout {
    pub(super) fn of(index: &Index, segment_rows: u32, newest: u32) -> Self {
        let fill = |id: &u32| {
            let segment = index.segments.get(id);
            segment.map_or(Fill::default(), |Segment { rows, bytes, .. }| Fill { rows: *rows, bytes: *bytes })
        };
        Self {
            segment_rows,
            segment_bytes: SEGMENT_BYTES,
            newest: index.segments.last_key_value().map_or(0, |(id, _)| *id).max(newest),
            fill: index.growing.values().map(|id| (*id, fill(id))).collect(),
            growing: index.growing.clone(),
        }
    }
}

impl Layout {
    fn has_room(&self, segment: u32) -> bool {
        let Fill { rows, bytes } = self.fill[&segment];
        rows < self.segment_rows && bytes < self.segment_bytes
    }
}

impl Appending<'_> {
    /// Appends a record to the segment of its class.
    pub(super) fn append(&mut self, settled: &Settled) -> Result<(), Fault> {
        let class = Class::of(&settled.record, self.now);
        let growing = self.layout.growing.get(&class).copied();
        let segment = match growing.filter(|segment| self.layout.has_room(*segment)) {
            Some(segment) => segment,
            None => self.begin_segment(class)?,
        };
        let fill = self.layout.fill.entry(segment).or_default();
        let place = Place::new(segment, fill.rows);
        let appended = self.appended.entry(segment);
        let appended =
            appended.or_insert_with(|| Appended { class, first: fill.rows, digests: Vec::new(), bytes: 0 });
        appended.digests.push(settled.record.id.digest());
        appended.bytes += settled.body.stored_bytes();
        fill.rows += 1;
        fill.bytes += settled.body.stored_bytes();
        let mut insert = self.conn.prepare_cached(&table::insert(segment))?;
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
        table::create(self.conn, id)?;
        self.layout.growing.insert(class, id);
        self.layout.fill.insert(id, Fill::default());
        Ok(id)
    }

    /// Overwrites the rows that a record has in `older`.
    pub(super) fn remove(&self, digest: &Digest, older: &[Candidate]) -> Result<(), Fault> {
        for candidate in older {
            let (segment, rows) = match candidate {
                Candidate::Row(place) => (place.segment, vec![place.row]),
                Candidate::Chunk(chunk) => (chunk.segment, index::rows_in_chunk(self.conn, *chunk, digest)?),
            };
            for row in rows {
                let place = Place::new(segment, row).to_sql();
                let mut remove = self.conn.prepare_cached(&table::remove(segment))?;
                remove.execute(params![place, codec::removed_checksum(place)])?;
            }
        }
        Ok(())
    }

    /// Notes which digests were appended, so that they are found after a restart.
    pub(super) fn log(&self) -> Result<(), Fault> {
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
    pub(super) fn absorb_appended(
        &mut self,
        appended: BTreeMap<u32, Appended>,
        growing: HashMap<Class, u32>,
    ) -> Vec<u32> {
        for (id, appended) in appended {
            let segment = self.segments.entry(id).or_insert_with(|| Segment {
                class: appended.class,
                rows: 0,
                bytes: 0,
                lookup: Lookup::Exact(HashMap::new()),
            });
            segment.bytes += appended.bytes;
            let Lookup::Exact(rows) = &mut segment.lookup else {
                unreachable!("a sealed segment does not grow");
            };
            for (row, digest) in (appended.first..).zip(appended.digests) {
                rows.insert(digest, row);
                segment.rows = row + 1;
            }
        }
        let overtaken = growing
            .into_iter()
            .filter_map(|(class, id)| self.growing.insert(class, id).filter(|before| *before != id));
        overtaken.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use semel::record::{AttemptId, Guard};
    use semel::{Fingerprint, Key, Operation, Outcome, Record, RecordId, State, Tenant, Token};

    use super::*;
    use crate::codec::Body;
    use crate::schema;

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn settled(body: &'static [u8]) -> Settled {
        let digest = Digest::from_bytes([1; 16]);
        let expires_at = NOW.plus(Duration::from_secs(3_600));
        let record = Record {
            id: RecordId::new(Tenant::id(&["acme"]), Operation::http(), Key::new("k").unwrap()),
            fingerprint: Fingerprint { target: digest, payload: digest },
            guard: Guard { token: Token(1), attempt: AttemptId::from_bytes([0; 16]) },
            generation: 1,
            claimed_at: NOW,
            doubt_retention: Duration::from_secs(3_600),
            state: State::Completed { outcome: Outcome::default(), completed_at: NOW, expires_at },
        };
        Settled { record, body: Body::pack(&body.into(), usize::MAX) }
    }

    #[test]
    fn a_segment_is_full_with_so_many_rows_or_so_many_bytes() {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::migrate(&mut conn).unwrap();
        let layout = Layout { segment_rows: 3, segment_bytes: 1_000, ..Layout::of(&Index::default(), 0, 0) };
        let mut appending = Appending { conn: &conn, now: NOW, layout, appended: BTreeMap::new() };
        for body in [&[b'x'; 600][..], &[b'x'; 600], b"", b"", b"", b""] {
            appending.append(&settled(body)).unwrap();
        }
        let rows: Vec<usize> = appending.appended.values().map(|appended| appended.digests.len()).collect();
        assert_eq!(rows, [2, 3, 1]);
    }
}
