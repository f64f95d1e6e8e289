//! Segments: which run of settled records a record belongs to, and where in the file it lies.
//!
//! A segment holds records that expire at about the same time, appended in the order in which they settled, so that
//! it is dropped whole. Next: [`crate::index`], which finds a record in them.

use semel::Record;
use semel::clock::Timestamp;

use crate::codec;

/// A width of 2^0 s for retentions below half a minute, and so on up to 2^24 s: a record is kept at most a sixteenth
/// of its retention longer than it asked for, though never shown.
const WIDTHS_PER_RETENTION: u64 = 16;
const WIDTH_MAX_EXPONENT: u32 = 24;
const SECOND_US: u64 = 1_000_000;

/// Where a settled record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) row: u32,
}

impl Place {
    pub(crate) fn new(segment: u32, row: u32) -> Self {
        Self { segment, row }
    }

    pub(crate) fn to_sql(self) -> i64 {
        i64::from(self.segment) << 32 | i64::from(self.row)
    }

    pub(crate) fn from_sql(place: i64) -> Self {
        let [.., a, b, c, d] = place.to_be_bytes();
        let segment = u32::try_from(place >> 32).expect("a place is positive");
        Self { segment, row: u32::from_be_bytes([a, b, c, d]) }
    }

    /// The first and the last place that a segment can have.
    pub(crate) fn range(segment: u32) -> (i64, i64) {
        (Self::new(segment, 0).to_sql(), Self::new(segment, u32::MAX).to_sql())
    }
}

/// What the records of one segment have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Class {
    /// Doubts lie apart, so that they are listed without reading everything else.
    pub(crate) doubt: bool,
    pub(crate) width_s: u32,
    /// From when on every record of the segment has expired.
    pub(crate) until: Timestamp,
}

impl Class {
    /// The class of a record that settles at `now`.
    pub(crate) fn of(record: &Record, now: Timestamp) -> Self {
        let expires_at = record.expires_at().expect("a settled record expires");
        let share_s = expires_at.since(now).as_secs() / WIDTHS_PER_RETENTION;
        let width_s = 1 << share_s.checked_ilog2().unwrap_or(0).min(WIDTH_MAX_EXPONENT);
        let width_us = u64::from(width_s) * SECOND_US;
        // Exclusive: whoever expires exactly at the end of a window has expired at its end.
        let until = expires_at.as_micros().div_ceil(width_us).saturating_mul(width_us);
        Self { doubt: codec::is_doubt(record), width_s, until: Timestamp::from_micros(until) }
    }

    /// Whether a record that settles at `now` can still be of this class.
    pub(crate) fn is_open(self, now: Timestamp) -> bool {
        let shortest = if self.width_s == 1 { 0 } else { u64::from(self.width_s) * WIDTHS_PER_RETENTION };
        now.as_micros().saturating_add(shortest * SECOND_US) <= self.until.as_micros()
    }
}

/// What a row of `segments` says: covered by the row's checksum.
pub(crate) fn checksum(id: u32, class: Class, rows: Option<u32>, filter: &[u8]) -> i64 {
    let mut all = Vec::with_capacity(filter.len() + 40);
    all.extend_from_slice(&id.to_le_bytes());
    all.push(u8::from(class.doubt));
    all.extend_from_slice(&class.width_s.to_le_bytes());
    all.extend_from_slice(&codec::time(class.until).to_le_bytes());
    all.extend_from_slice(&rows.map_or(-1, i64::from).to_le_bytes());
    all.extend_from_slice(filter);
    codec::checksum(&all)
}
