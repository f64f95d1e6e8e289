//! Finished records kept near, around a store that is far: a replay that is asked for again within a moment asks no
//! server. With the feature `near`.
//!
//! **A record that is purged by name elsewhere is still replayed here for as long as [`NearStore::new`] says, and one
//! that expires for as long after its expiry.** Only finished records are kept, whose outcome does not change, and only
//! claims are answered with them: whoever reads or lists a record sees what stands. Next: [`super::memory`].

use std::sync::Arc;
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use super::{
    Capabilities, ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Guard, Page, ReleaseArgs, RenewArgs, ScanArgs,
    Store, StoreFuture, Tier, Written,
};
use crate::digest::Digest;
use crate::record::Record;
use crate::scope::RecordId;

/// About how much memory is used.
const MAX_BYTES: u64 = 16 << 20;
/// About how many records fit.
const RECORDS: usize = 8_192;

/// A store whose finished records are kept near.
#[derive(Debug)]
pub struct NearStore {
    inner: Arc<dyn Store>,
    kept: Cache<Digest, Kept, Bytes>,
    keep: Duration,
}

#[derive(Clone, Debug)]
struct Kept {
    record: Record,
    until: Instant,
}

#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Digest, Kept> for Bytes {
    fn weight(&self, _: &Digest, kept: &Kept) -> u64 {
        kept.record.memory_bytes()
    }
}

impl NearStore {
    /// `inner`, with its finished records kept for `keep` after they were asked for. A second is enough for keys that
    /// are hot, and short for whoever purges.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, keep: Duration) -> Self {
        Self { inner, kept: Cache::with_weighter(RECORDS, MAX_BYTES, Bytes), keep }
    }

    /// `asked_at` is before the store was asked.
    fn keep(&self, record: &Record, asked_at: Instant) {
        if record.outcome().is_some() {
            let kept = Kept { record: record.clone(), until: asked_at + self.keep };
            self.kept.insert(record.id.digest(), kept);
        }
    }
}

impl Store for NearStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn tier(&self) -> Tier {
        self.inner.tier()
    }

    fn claim(&self, args: ClaimArgs) -> StoreFuture<'_, Claimed> {
        if let Some(record) = self.near(&args.id) {
            return Box::pin(std::future::ready(Ok(Claimed::Standing(record))));
        }
        let asked_at = Instant::now();
        let claimed = self.inner.claim(args);
        Box::pin(async move {
            let claimed = claimed.await?;
            if let Claimed::Standing(record) = &claimed {
                self.keep(record, asked_at);
            }
            Ok(claimed)
        })
    }

    fn renew(&self, args: RenewArgs) -> StoreFuture<'_, Written> {
        self.inner.renew(args)
    }

    fn complete(&self, args: CompleteArgs) -> StoreFuture<'_, Written> {
        self.inner.complete(args)
    }

    fn doubt(&self, args: DoubtArgs) -> StoreFuture<'_, Written> {
        self.inner.doubt(args)
    }

    /// A purge by name through this store is seen at once.
    fn release(&self, args: ReleaseArgs) -> StoreFuture<'_, Written> {
        let digest = args.id.digest();
        let released = self.inner.release(args);
        Box::pin(async move {
            let released = released.await;
            self.kept.remove(&digest);
            released
        })
    }

    fn import(&self, record: Record) -> StoreFuture<'_, Written> {
        self.inner.import(record)
    }

    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>> {
        self.inner.get(id)
    }

    fn near(&self, id: &RecordId) -> Option<Record> {
        let kept = self.kept.get(&id.digest())?;
        (kept.record.id == *id && Instant::now() < kept.until).then_some(kept.record)
    }

    fn scan(&self, args: ScanArgs) -> StoreFuture<'_, Page> {
        self.inner.scan(args)
    }

    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        self.inner.purge(limit)
    }

    fn watch(&self, id: &RecordId, seen: Guard) -> StoreFuture<'_, ()> {
        self.inner.watch(id, seen)
    }
}
