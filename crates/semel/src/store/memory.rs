//! The memory store: the reference for all others, and the store for tests. **It forgets every record when the
//! process ends**, so a key retried after a restart runs again.
//!
//! One mutex is the atomic step. Next: [`crate::record`], whose functions it applies.

use std::collections::HashMap;
use std::collections::btree_map::{BTreeMap, Entry};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use crate::clock::{Clock, SystemClock, Timestamp};
use crate::digest::Digest;
use crate::record::{self, Guard, Record, StateKind, Step, Token};
use crate::scope::RecordId;
use crate::store::{
    Capabilities, ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Durability, Page, ReleaseArgs, RenewArgs,
    ScanArgs, Store, StoreError, StoreErrorKind, StoreFuture, Tier, Written, refuse_live_import,
};

/// Records in this process's memory.
#[derive(Debug)]
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    /// Boxed, so that the tree's nodes are small enough to stay in the processor's cache.
    records: BTreeMap<Digest, Box<Record>>,
    /// Those whose watchers have all gone are taken out by a purge.
    watchers: HashMap<Digest, Weak<Notify>>,
    last: Token,
    /// No record is absent before, so a purge need not look.
    due: Timestamp,
}

impl MemoryStore {
    /// An empty store on the system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock::new()))
    }

    /// An empty store on `clock`.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock, shelf: Mutex::default() }
    }

    /// The clock is read under the lock: a step that read it before would come after later ones with an earlier time.
    fn open(&self) -> (MutexGuard<'_, Shelf>, Timestamp) {
        let shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        (shelf, now)
    }

    fn write(
        &self,
        id: &RecordId,
        transition: impl FnOnce(Option<Record>, Timestamp) -> Step,
    ) -> Result<Written, StoreError> {
        let (mut shelf, now) = self.open();
        Ok(match shelf.step(id, |standing, _| transition(standing, now))? {
            Step::Write(record) | Step::Already(record) => Written::Done(Some(record)),
            Step::Remove => Written::Done(None),
            Step::Refused(standing) => Written::Refused(standing),
        })
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Shelf {
    fn find(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.records.get(&id.digest()).map(|record| verified(record, id).cloned()).transpose()
    }

    /// Makes the step that `transition` decides on, from the record that stands and the newest token.
    fn step(
        &mut self,
        id: &RecordId,
        transition: impl FnOnce(Option<Record>, Token) -> Step,
    ) -> Result<Step, StoreError> {
        let slot = self.records.entry(id.digest());
        let standing = match &slot {
            Entry::Occupied(slot) => Some(verified(slot.get(), id)?.clone()),
            Entry::Vacant(_) => None,
        };
        let step = transition(standing, self.last);
        match (&step, slot) {
            (Step::Write(record), slot) => {
                self.last = self.last.max(record.guard.token);
                self.due = self.due.min(record.absent_from());
                slot.insert_entry(Box::new(record.clone()));
            }
            (Step::Remove, Entry::Occupied(slot)) => drop(slot.remove()),
            (Step::Remove, Entry::Vacant(_)) | (Step::Already(_) | Step::Refused(_), _) => return Ok(step),
        }
        self.wake_at(&id.digest());
        Ok(step)
    }

    /// Takes out up to `limit` records that are absent.
    fn purge(&mut self, limit: usize, now: Timestamp) -> usize {
        if now < self.due {
            return 0;
        }
        let expired: Vec<Digest> = self
            .records
            .iter()
            .filter(|(_, record)| record.is_absent_at(now))
            .map(|(digest, _)| *digest)
            .take(limit)
            .collect();
        for digest in &expired {
            self.records.remove(digest);
            self.wake_at(digest);
        }
        if expired.len() < limit {
            let next = self.records.values().map(|record| record.absent_from()).min();
            self.due = next.unwrap_or(Timestamp::from_micros(u64::MAX));
        }
        expired.len()
    }

    fn wake_at(&mut self, digest: &Digest) {
        // Most often nobody watches anything, and `remove` would digest the digest first.
        if self.watchers.is_empty() {
            return;
        }
        if let Some(notify) = self.watchers.remove(digest).and_then(|notify| notify.upgrade()) {
            notify.notify_waiters();
        }
    }

    fn watcher(&mut self, digest: Digest) -> Arc<Notify> {
        let standing = self.watchers.get(&digest).and_then(Weak::upgrade);
        standing.unwrap_or_else(|| {
            let notify = Arc::default();
            self.watchers.insert(digest, Arc::downgrade(&notify));
            notify
        })
    }
}

/// A record that was found under the digest of `id`.
fn verified<'a>(record: &'a Record, id: &RecordId) -> Result<&'a Record, StoreError> {
    if record.id == *id {
        return Ok(record);
    }
    Err(StoreError::new(StoreErrorKind::Corrupt, "two record ids share a digest"))
}

impl Store for MemoryStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities { name: "memory", durability: Durability::None, shared: false, watches_elsewhere: false }
    }

    fn tier(&self) -> Tier {
        Tier::of_process(Durability::None)
    }

    fn claim(&self, args: ClaimArgs) -> StoreFuture<'_, Claimed> {
        let (mut shelf, now) = self.open();
        let step = shelf.step(&args.id, |standing, last| record::claim(standing, &args, last, now));
        let claimed = step.map(|step| match step {
            Step::Write(record) | Step::Already(record) => Claimed::Won(record),
            Step::Refused(Some(record)) => Claimed::Standing(record),
            Step::Refused(None) | Step::Remove => unreachable!("a claim of an absent record is won"),
        });
        ready(claimed)
    }

    fn renew(&self, args: RenewArgs) -> StoreFuture<'_, Written> {
        ready(self.write(&args.id, |current, now| record::renew(current, args.guard, args.lease, now)))
    }

    fn complete(&self, args: CompleteArgs) -> StoreFuture<'_, Written> {
        ready(self.write(&args.id, |current, now| {
            record::complete(current, args.guard, args.ending, args.retention, now)
        }))
    }

    fn doubt(&self, args: DoubtArgs) -> StoreFuture<'_, Written> {
        ready(self.write(&args.id, |current, now| record::doubt(current, args.guard, args.cause, now)))
    }

    fn release(&self, args: ReleaseArgs) -> StoreFuture<'_, Written> {
        ready(self.write(&args.id, |current, now| record::release(current, args.guard, args.from, now)))
    }

    fn import(&self, record: Record) -> StoreFuture<'_, Written> {
        if record.state.kind() == StateKind::InFlight {
            return ready(Err(refuse_live_import()));
        }
        let id = record.id.clone();
        ready(self.write(&id, |current, now| record::import(current, record, now)))
    }

    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>> {
        let (shelf, now) = self.open();
        ready(shelf.find(id).map(|found| found.and_then(|record| record.at(now))))
    }

    fn near(&self, id: &RecordId) -> Option<Record> {
        let (shelf, now) = self.open();
        let record = shelf.records.get(&id.digest())?;
        let finished = record.id == *id && record.outcome().is_some();
        if finished { Record::clone(record).at(now) } else { None }
    }

    fn scan(&self, args: ScanArgs) -> StoreFuture<'_, Page> {
        let (shelf, now) = self.open();
        let after = args.cursor.clone().unwrap_or_default();
        let mut matching = shelf
            .records
            .iter()
            .map(|(digest, record)| (digest.to_string(), record))
            .filter(|(place, _)| *place > after)
            .filter_map(|(place, record)| Some((place, (**record).clone().at(now)?)))
            .filter(|(_, record)| args.admits(record));
        let mut page = Page { now, ..Page::default() };
        for (place, record) in matching.by_ref().take(args.limit) {
            page.records.push(record);
            page.next = Some(place);
        }
        if matching.next().is_none() {
            page.next = None;
        }
        ready(Ok(page))
    }

    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        let (mut shelf, now) = self.open();
        let purged = shelf.purge(limit, now);
        shelf.watchers.retain(|_, notify| notify.strong_count() > 0);
        ready(Ok(purged))
    }

    fn watch(&self, id: &RecordId, seen: Guard) -> StoreFuture<'_, ()> {
        let (mut shelf, now) = self.open();
        let unchanged = match shelf.find(id) {
            Ok(found) => found
                .and_then(|record| record.at(now))
                .is_some_and(|record| record.guard == seen && record.outcome().is_none()),
            Err(error) => return ready(Err(error)),
        };
        if !unchanged {
            return ready(Ok(()));
        }
        let notify = shelf.watcher(id.digest());
        let mut notified = Box::pin(notify.notified_owned());
        notified.as_mut().enable();
        Box::pin(async move {
            notified.await;
            Ok(())
        })
    }
}

impl ScanArgs {
    /// Whether `record` passes every filter. For stores that filter in Rust.
    #[must_use]
    pub fn admits(&self, record: &Record) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| tenant == record.id.tenant())
            && self.operation.as_ref().is_none_or(|operation| operation == record.id.operation())
            && self.key.as_ref().is_none_or(|key| key == record.id.key().as_str())
            && self.state.is_none_or(|state| state == record.state.kind())
    }
}

fn ready<'a, T: Send + 'a>(answer: Result<T, StoreError>) -> StoreFuture<'a, T> {
    Box::pin(std::future::ready(answer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::fingerprint::{Fingerprint, PayloadParts, payload, target};
    use crate::{Key, Operation, Policy, Tenant};

    #[test]
    fn a_record_under_another_ids_digest_is_damage() {
        let [own, other] =
            ["k", "l"].map(|key| RecordId::new(Tenant::public(), Operation::http(), Key::new(key).unwrap()));
        let fingerprint =
            Fingerprint { target: target("POST", "/", None), payload: payload(b"", &PayloadParts::Raw) };
        let args = ClaimArgs::new(own, fingerprint, &Policy::default());
        let Step::Write(record) = record::claim(None, &args, Token::default(), Timestamp::default()) else {
            panic!("it stands")
        };
        let shelf = Shelf { records: [(other.digest(), Box::new(record))].into(), ..Shelf::default() };
        assert_eq!(shelf.find(&other).unwrap_err().kind(), StoreErrorKind::Corrupt);
    }

    #[tokio::test]
    async fn a_purge_leaves_those_who_wait_their_watch() {
        let store = MemoryStore::new();
        let id = RecordId::new(Tenant::public(), Operation::http(), Key::new("k").unwrap());
        let fingerprint =
            Fingerprint { target: target("POST", "/", None), payload: payload(b"", &PayloadParts::Raw) };
        let claim = ClaimArgs::new(id.clone(), fingerprint, &Policy::default());
        let Claimed::Won(Record { guard, .. }) = store.claim(claim).await.unwrap() else {
            panic!("it stands")
        };
        let watch = store.watch(&id, guard);
        store.purge(10).await.unwrap();
        store.release(ReleaseArgs { id, guard, from: record::ReleaseFrom::Claim }).await.unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(5), watch).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_purge_finds_what_became_due_after_another_purge() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1)));
        let store = MemoryStore::with_clock(Arc::clone(&clock) as Arc<dyn Clock>);
        let fingerprint =
            Fingerprint { target: target("POST", "/", None), payload: payload(b"", &PayloadParts::Raw) };
        let policy = Policy::default();
        for key in ["first", "second"] {
            let id = RecordId::new(Tenant::public(), Operation::http(), Key::new(key).unwrap());
            assert_eq!(store.purge(10).await.unwrap(), 0);
            store.claim(ClaimArgs::new(id, fingerprint, &policy)).await.unwrap();
            assert_eq!(store.purge(10).await.unwrap(), 0);
            clock.advance(policy.lease + policy.doubt_retention);
            assert_eq!(store.purge(10).await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn watchers_that_have_gone_leave_nothing_behind() {
        let store = MemoryStore::new();
        let fingerprint =
            Fingerprint { target: target("POST", "/", None), payload: payload(b"", &PayloadParts::Raw) };
        for number in 0..100 {
            let key = Key::new(&format!("k {number}")).unwrap();
            let id = RecordId::new(Tenant::public(), Operation::http(), key);
            let claim = ClaimArgs::new(id.clone(), fingerprint, &Policy::default());
            let Claimed::Won(record) = store.claim(claim).await.unwrap() else { panic!("it stands") };
            drop(store.watch(&id, record.guard));
        }
        assert_eq!(store.open().0.watchers.len(), 100);
        store.purge(10).await.unwrap();
        assert_eq!(store.open().0.watchers.len(), 0);
    }
}
