//! Folded records that were read lately, so that a replay that is asked for again and again needs no table.
//!
//! What is here equals what is in the tables: the folder takes out what it folds anew, under the index's write lock, and
//! a reader puts in only what it read since the last fold. A newer state that is not folded lies in the index, which is
//! asked first. Next: [`crate::index`].

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use semel::Record;
use semel::digest::Digest;

/// About how much memory is used.
const MAX_BYTES: u64 = 16 << 20;
/// About how many records fit.
const RECORDS: usize = 8_192;

/// See the module.
#[derive(Debug)]
pub(crate) struct Near {
    records: Cache<Digest, Record, Bytes>,
    /// How many folds there were so far.
    folds: u64,
}

impl Default for Near {
    fn default() -> Self {
        Self { records: Cache::with_weighter(RECORDS, MAX_BYTES, Bytes), folds: 0 }
    }
}

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Digest, Record> for Bytes {
    fn weight(&self, _: &Digest, record: &Record) -> u64 {
        record.memory_bytes()
    }
}

/// When something was read from the tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadAt(u64);

impl Near {
    pub(crate) fn get(&self, digest: &Digest) -> Option<Record> {
        self.records.get(digest)
    }

    /// Taken before the tables are read.
    pub(crate) fn now(&self) -> ReadAt {
        ReadAt(self.folds)
    }

    /// Keeps what was read, unless the tables have changed since.
    pub(crate) fn put(&self, record: &Record, at: ReadAt) {
        if at.0 == self.folds {
            self.records.insert(record.id.digest(), record.clone());
        }
    }

    /// The tables have changed, in these records.
    pub(crate) fn folded<'a>(&mut self, digests: impl Iterator<Item = &'a Digest>) {
        self.folds += 1;
        digests.for_each(|digest| drop(self.records.remove(digest)));
    }
}
