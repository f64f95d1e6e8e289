//! Record to row and back, and the checksums that tell a damaged row from a good one.
//!
//! A row's checksum covers its place, everything about the record, and the checksum of its body, so that a list of
//! records is verified without reading bodies. Next: `parts`, a record taken apart, and [`crate::table`], which has
//! the columns.

use bytes::Bytes;
use rusqlite::{CachedStatement, Row, params};
use semel::clock::Timestamp;
use semel::record::StateKind;
use semel::{Record, State, Token};

use crate::fault::Fault;

mod parts;

pub(crate) use parts::{Ended, Plain};

/// Live claims of a file of format 1.
pub(crate) const SELECT_IN_FLIGHT: &str = "SELECT * FROM in_flight";
const REMOVED: i64 = 0;

/// A body as it is stored: an LZ4 block when shorter than `bytes`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    stored: Bytes,
    bytes: u32,
    checksum: i64,
}

impl Body {
    /// Packs `body`, compressed when it has more than `above` bytes and that makes it smaller.
    pub(crate) fn pack(body: &Bytes, above: usize) -> Self {
        let compressed = (body.len() > above).then(|| lz4_flex::block::compress(body));
        let stored = match compressed {
            Some(smaller) if smaller.len() < body.len() => Bytes::from(smaller),
            _ => body.clone(),
        };
        let bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
        Self { bytes, checksum: body_checksum(&stored), stored }
    }

    pub(crate) fn stored_bytes(&self) -> usize {
        self.stored.len()
    }

    pub(crate) fn unpack(&self) -> Result<Bytes, Fault> {
        let damaged = || Fault::damaged("a body that does not fit into memory");
        let bytes = usize::try_from(self.bytes).map_err(|_| damaged())?;
        if body_checksum(&self.stored) != self.checksum {
            return Err(Fault::damaged("a body's checksum does not match"));
        }
        if self.stored.len() == bytes {
            return Ok(self.stored.clone());
        }
        // A block of LZ4 grows to 255 times its length at most; no memory is taken for more.
        if bytes / 256 > self.stored.len() {
            return Err(Fault::damaged("the length of a body"));
        }
        lz4_flex::block::decompress(&self.stored, bytes)
            .map(Bytes::from)
            .map_err(|error| Fault::damaged(error.to_string()))
    }

    pub(crate) fn write(&self, into: &mut Vec<u8>) {
        parts::write_numbers(into, &[self.bytes.into(), self.checksum]);
        parts::write_bytes(into, &self.stored);
    }

    pub(crate) fn read(from: &mut &[u8]) -> Result<Self, Fault> {
        let [bytes, checksum] = parts::read_numbers(from)?;
        let bytes = u32::try_from(bytes).map_err(|_| Fault::damaged("the length of a body"))?;
        Ok(Self { stored: Bytes::copy_from_slice(parts::read_bytes(from)?), bytes, checksum })
    }
}

/// An empty body's is 0, so that records without one need no hash.
fn body_checksum(stored: &[u8]) -> i64 {
    if stored.is_empty() { 0 } else { checksum(stored) }
}

/// The first 8 bytes of a BLAKE3 hash, as SQLite's integer.
pub(crate) fn checksum(bytes: &[u8]) -> i64 {
    shortened(&blake3::hash(bytes))
}

pub(crate) fn shortened(hash: &blake3::Hash) -> i64 {
    let mut short = [0; 8];
    short.copy_from_slice(&hash.as_bytes()[..8]);
    i64::from_le_bytes(short)
}

pub(crate) fn read_in_flight(row: &Row<'_>) -> Result<Record, Fault> {
    let (lease, execute): (i64, i64) = (row.get(11)?, row.get(12)?);
    let plain = read_plain(row, 0)?;
    if plain.checksum(&[lease, execute], &[]) != row.get::<_, i64>(13)? {
        let token = plain.token;
        return Err(Fault::damaged(format!("the checksum of the claim with token {token} does not match")));
    }
    plain.into_record(State::InFlight { lease_until: to_time(lease)?, execute_until: to_time(execute)? })
}

pub(crate) fn insert_settled(
    into: &mut CachedStatement<'_>,
    place: i64,
    record: &Record,
    body: &Body,
) -> Result<(), Fault> {
    let plain = Plain::of(record);
    let ended = Ended::of(record);
    into.execute(params![
        place,
        plain.token,
        plain.attempt,
        plain.tenant,
        plain.operation,
        plain.key,
        plain.variant,
        plain.target,
        plain.payload,
        plain.generation,
        plain.claimed,
        plain.doubt_retention,
        ended.state,
        ended.cause,
        ended.code,
        ended.settled,
        ended.expires,
        ended.body_kept,
        body.bytes,
        body.checksum,
        ended.checksum(&plain, place, body),
        ended.head,
        &body.stored[..],
    ])?;
    Ok(())
}

/// Reads a row of [`crate::table::select`], or of [`crate::table::list`] when `with_body` is false. `None` when the record was
/// removed by name or resolved; its place is never used again.
pub(crate) fn read_settled(row: &Row<'_>, with_body: bool) -> Result<Option<Record>, Fault> {
    let place: i64 = row.get(0)?;
    let (state, expected): (i64, i64) = (row.get(12)?, row.get(20)?);
    let wrong = || Fault::damaged(format!("the row at place {place} is damaged"));
    if state == REMOVED {
        return if expected == removed_checksum(place) { Ok(None) } else { Err(wrong()) };
    }
    let blob = |column| row.get_ref(column)?.as_blob().map_err(|_| wrong());
    let plain = read_plain(row, 1)?;
    let ended = Ended {
        state,
        cause: row.get(13)?,
        code: row.get(14)?,
        settled: row.get(15)?,
        expires: row.get(16)?,
        body_kept: row.get(17)?,
        head: blob(21)?,
    };
    let mut body = Body { stored: Bytes::new(), bytes: row.get(18)?, checksum: row.get(19)? };
    if ended.checksum(&plain, place, &body) != expected {
        return Err(wrong());
    }
    let mut unpacked = Bytes::new();
    if with_body {
        body.stored = Bytes::copy_from_slice(blob(22)?);
        unpacked = body.unpack()?;
    }
    Ok(Some(plain.into_record(ended.into_state(unpacked)?)?))
}

pub(crate) fn removed_checksum(place: i64) -> i64 {
    checksum(&[b"removed ".as_slice(), &place.to_le_bytes()].concat())
}

fn read_plain<'a>(row: &'a Row<'_>, first: usize) -> Result<Plain<'a>, Fault> {
    let at = |offset| first + offset;
    let text =
        |offset| row.get_ref(at(offset))?.as_str().map_err(|_| Fault::damaged("a text column without text"));
    Ok(Plain {
        token: row.get(first)?,
        attempt: row.get(at(1))?,
        tenant: text(2)?,
        operation: text(3)?,
        key: text(4)?,
        variant: row.get(at(5))?,
        target: row.get(at(6))?,
        payload: row.get(at(7))?,
        generation: row.get(at(8))?,
        claimed: row.get(at(9))?,
        doubt_retention: row.get(at(10))?,
    })
}

/// A time as SQLite's integer; the end of time is its largest.
pub(crate) fn time(timestamp: Timestamp) -> i64 {
    i64::try_from(timestamp.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn to_time(micros: i64) -> Result<Timestamp, Fault> {
    match u64::try_from(micros) {
        Ok(_) if micros == i64::MAX => Ok(Timestamp::from_micros(u64::MAX)),
        Ok(micros) => Ok(Timestamp::from_micros(micros)),
        Err(_) => Err(Fault::damaged("a time before 1970")),
    }
}

pub(crate) fn token_to_sql(token: Token) -> i64 {
    i64::try_from(token.0).unwrap_or(i64::MAX)
}

fn token_from_sql(token: i64) -> Result<Token, Fault> {
    u64::try_from(token).map(Token).map_err(|_| Fault::damaged("a token below zero"))
}

/// Whether a settled record is a doubt, which has segments of its own.
pub(crate) fn is_doubt(record: &Record) -> bool {
    record.state.kind() == StateKind::InDoubt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(body: &[u8], above: usize) -> Body {
        let body = Bytes::copy_from_slice(body);
        let packed = Body::pack(&body, above);
        assert_eq!(packed.unpack().unwrap(), body);
        assert!(packed.stored_bytes() <= body.len());
        packed
    }

    #[test]
    fn only_a_body_of_more_bytes_than_that_is_compressed() {
        let zeros = [0; 256];
        assert_eq!(packed(&zeros[1..], 255).stored_bytes(), 255);
        assert!(packed(&zeros, 255).stored_bytes() < 50);
        assert!(packed(&zeros[1..], 0).stored_bytes() < 50);
    }

    /// As long as its block: what is stored is as long as the body, which says that it is the body.
    #[test]
    fn a_body_that_does_not_shrink_is_stored_as_it_is() {
        let (mut as_long, mut random) = (0, 1_u32);
        for letters in 2..64 {
            let mut body = Vec::new();
            for _ in 0..200 {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                body.push((random >> 16) % letters);
                let body: Vec<u8> = body.iter().map(|letter| letter.to_le_bytes()[0]).collect();
                as_long += usize::from(lz4_flex::block::compress(&body).len() == body.len());
                packed(&body, 0);
            }
        }
        assert!(as_long > 0, "no block is as long as its body");
    }

    #[test]
    fn a_body_that_is_said_to_be_longer_than_its_block_can_be_takes_no_memory() {
        let stored = Bytes::from_static(b"a block");
        let body = Body { bytes: u32::MAX, checksum: checksum(&stored), stored };
        assert!(body.unpack().unwrap_err().to_string().contains("the length of a body"));
    }

    #[test]
    fn a_body_whose_checksum_is_anothers_is_damaged() {
        for body in [Bytes::new(), Bytes::from_static(b"a body")] {
            let other = Body { checksum: 1, ..Body::pack(&body, usize::MAX) };
            assert!(other.unpack().is_err());
        }
    }

    #[test]
    fn what_is_left_of_a_removed_row_belongs_to_its_place() {
        assert_ne!(removed_checksum(1), removed_checksum(2));
    }

    #[test]
    fn times_are_kept_up_to_the_end_of_time() {
        let largest = i64::MAX.unsigned_abs();
        for micros in [0, 1, largest - 1, u64::MAX] {
            let timestamp = Timestamp::from_micros(micros);
            assert_eq!(to_time(time(timestamp)).unwrap(), timestamp);
        }
        assert!(to_time(-1).is_err());
    }
}
