//! What keeps the tables in shape, in slices: sealing segments that grow no more, and dropping those whose records
//! have all expired.
//!
//! Next: [`crate::fold`], which drives it.

use std::collections::VecDeque;

use rusqlite::{Connection, params};
use semel::clock::Timestamp;
use semel::digest::Digest;

use crate::fault::Fault;
use crate::filter::Filter;
use crate::index::{self, Index, Lookup};
use crate::segment::{self, Class, Place};
use crate::table;

/// How much of a segment's index is written per transaction.
const SEAL_CHUNKS: u32 = 24;
/// How many small rows of the index or the log are dropped per transaction.
const DROP_ROWS: u32 = 64;

const DROP_INDEX: &str = "DELETE FROM segment_index WHERE place IN \
    (SELECT place FROM segment_index WHERE place BETWEEN ?1 AND ?2 LIMIT ?3)";
/// From its end: what is left after a crash must begin with the first row.
const DROP_LOG: &str = "DELETE FROM segment_log WHERE place IN \
    (SELECT place FROM segment_log WHERE place BETWEEN ?1 AND ?2 ORDER BY place DESC LIMIT ?3)";

/// A segment that is being sealed.
pub(crate) struct Sealing {
    segment: u32,
    class: Class,
    rows: u32,
    entries: Vec<(Digest, u32)>,
    chunks: u32,
    next_chunk: u32,
    next_entry: usize,
}

/// What a committed slice changes in the index.
pub(crate) enum Done {
    Nothing,
    Chunks { next_chunk: u32, next_entry: usize },
    Sealed(u32, Filter),
    Dropped(u32),
}

impl Sealing {
    /// Starts on the next segment that is due; those dropped meanwhile are passed over.
    pub(crate) fn next(due: &mut VecDeque<u32>, index: &Index) -> Option<Self> {
        while let Some(segment) = due.pop_front() {
            let Some(known) = index.segments.get(&segment) else { continue };
            let Lookup::Exact(rows) = &known.lookup else { continue };
            return Some(Self {
                segment,
                class: known.class,
                rows: known.rows,
                entries: rows.iter().map(|(digest, row)| (*digest, *row)).collect(),
                chunks: index::chunks(known.rows),
                next_chunk: 0,
                next_entry: 0,
            });
        }
        None
    }

    /// Puts the entries in order; apart from [`Sealing::next`], because it takes a while.
    pub(crate) fn sort(&mut self) {
        self.entries.sort_unstable();
    }

    /// Writes a few chunks; after the last one, the filter that makes them count.
    pub(crate) fn slice(&self, conn: &Connection) -> Result<Done, Fault> {
        if self.next_chunk == self.chunks {
            return self.finish(conn);
        }
        let mut next_entry = self.next_entry;
        let end = (self.next_chunk + SEAL_CHUNKS).min(self.chunks);
        let mut insert = conn.prepare_cached("INSERT OR REPLACE INTO segment_index VALUES (?1, ?2, ?3)")?;
        for chunk in self.next_chunk..end {
            let rest = &self.entries[next_entry..];
            let length = rest.partition_point(|(digest, _)| index::chunk_of(digest, self.chunks) <= chunk);
            let place = Place::new(self.segment, chunk).to_sql();
            let bytes = index::encode_chunk(rest[..length].iter());
            insert.execute(params![place, bytes, index::chunk_checksum(place, &bytes)])?;
            next_entry += length;
        }
        Ok(Done::Chunks { next_chunk: end, next_entry })
    }

    fn finish(&self, conn: &Connection) -> Result<Done, Fault> {
        let filter = Filter::new(self.entries.iter().map(|(digest, _)| digest));
        let bytes = filter.to_bytes();
        let checksum = segment::checksum(self.segment, self.class, Some(self.rows), &bytes);
        conn.prepare_cached("INSERT INTO segment_filters VALUES (?1, ?2)")?
            .execute(params![self.segment, bytes])?;
        conn.prepare_cached("UPDATE segments SET rows = ?2, checksum = ?3 WHERE id = ?1")?
            .execute(params![self.segment, self.rows, checksum])?;
        Ok(Done::Sealed(self.segment, filter))
    }

    pub(crate) fn is_of(&self, segment: u32) -> bool {
        self.segment == segment
    }

    pub(crate) fn advance(&mut self, to_chunk: u32, to_entry: usize) {
        (self.next_chunk, self.next_entry) = (to_chunk, to_entry);
    }
}

/// Drops some of the log of a sealed segment, whose index has taken its place. False when nothing was left of it.
pub(crate) fn trim_log(conn: &Connection, segment: u32) -> Result<bool, Fault> {
    let (first, last) = Place::range(segment);
    Ok(conn.prepare_cached(DROP_LOG)?.execute(params![first, last, DROP_ROWS])? > 0)
}

/// An expired segment on its way out.
#[derive(Clone, Copy)]
pub(crate) struct Dropping {
    pub(crate) segment: u32,
    rows: u32,
    /// How many of the rows were counted.
    counted: u32,
}

impl Dropping {
    /// Counts up to `limit` of its records; nothing goes before the last was counted.
    pub(crate) fn count(&mut self, conn: &Connection, limit: u32) -> Result<usize, Fault> {
        let end = self.counted.saturating_add(limit).min(self.rows);
        if self.counted == end || !table::exists(conn, self.segment)? {
            self.counted = self.rows;
            return Ok(0);
        }
        let at = |row| Place::new(self.segment, row);
        let records = table::count(conn, at(self.counted), at(end - 1))?;
        self.counted = end;
        Ok(records)
    }

    pub(crate) fn is_counted(&self) -> bool {
        self.counted == self.rows
    }

    /// Drops its table, or else some of what belongs to it.
    pub(crate) fn slice(&self, conn: &Connection) -> Result<Done, Fault> {
        if table::exists(conn, self.segment)? {
            table::drop(conn, self.segment)?;
            return Ok(Done::Nothing);
        }
        let (first, last) = Place::range(self.segment);
        for delete in [DROP_INDEX, DROP_LOG] {
            if conn.prepare_cached(delete)?.execute(params![first, last, DROP_ROWS])? > 0 {
                return Ok(Done::Nothing);
            }
        }
        conn.prepare_cached("DELETE FROM segment_filters WHERE id = ?1")?.execute([self.segment])?;
        conn.prepare_cached("DELETE FROM segments WHERE id = ?1")?.execute([self.segment])?;
        Ok(Done::Dropped(self.segment))
    }
}

impl Index {
    /// Takes over what a committed slice of upkeep changed.
    pub(crate) fn absorb_upkeep(&mut self, done: Done) {
        match done {
            Done::Nothing | Done::Chunks { .. } => {}
            Done::Sealed(id, filter) => {
                if let Some(segment) = self.segments.get_mut(&id) {
                    segment.lookup = Lookup::Sealed(filter);
                }
                self.seals += 1;
            }
            Done::Dropped(id) => {
                self.segments.remove(&id);
                self.growing.retain(|_, growing| *growing != id);
            }
        }
    }

    /// The oldest segment of which every record has expired.
    pub(crate) fn first_expired(&self, now: Timestamp) -> Option<Dropping> {
        let expired = self.segments.iter().find(|(_, segment)| now >= segment.class.until);
        expired.map(|(id, segment)| Dropping { segment: *id, rows: segment.rows, counted: 0 })
    }

    /// Segments that no record can join any more; they are taken off the growing ones.
    pub(crate) fn closed(&mut self, now: Timestamp) -> Vec<u32> {
        self.growing.extract_if(|class, _| !class.is_open(now)).map(|(_, id)| id).collect()
    }
}
