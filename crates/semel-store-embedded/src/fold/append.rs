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

/// Which segments grow, and where.
pub(super) struct Layout {
    segment_rows: u32,
    pub(super) newest: u32,
    pub(super) growing: HashMap<Class, u32>,
    /// By segment.
    rows: HashMap<u32, u32>,
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
}

impl Layout {
    pub(super) fn of(index: &Index, segment_rows: u32, newest: u32) -> Self {
        let rows = |id: &u32| index.segments.get(id).map_or(0, |segment| segment.rows);
        Self {
            segment_rows,
            newest: index.segments.last_key_value().map_or(0, |(id, _)| *id).max(newest),
            rows: index.growing.values().map(|id| (*id, rows(id))).collect(),
            growing: index.growing.clone(),
        }
    }
}

impl Appending<'_> {
    /// Appends a record to the segment of its class.
    pub(super) fn append(&mut self, settled: &Settled) -> Result<(), Fault> {
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
    pub(super) fn remove(&self, digest: &Digest, older: &[Candidate]) -> Result<(), Fault> {
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
        let overtaken = growing
            .into_iter()
            .filter_map(|(class, id)| self.growing.insert(class, id).filter(|before| *before != id));
        overtaken.collect()
    }
}
