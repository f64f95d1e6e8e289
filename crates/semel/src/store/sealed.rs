//! Encryption at rest, around any store: outcomes are sealed before the store sees them and opened after it gave them
//! back, so that a dump of it shows no answer. With the feature `encryption`.
//!
//! Sealed are an outcome's head and body. Tenant, operation, code, times and fingerprint stay readable, and so does
//! the key unless [`Keyring::hashing_keys`]. What was sealed for one record and claim opens for no other. Not
//! covered: records that a caller's own SQL transaction writes. Next: [`keyring`], which has the cryptography.

pub mod keyring;

use std::sync::Arc;

pub use keyring::{Keyring, KeyringError};

use super::{
    Capabilities, ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Ending, Guard, Page, ReleaseArgs, RenewArgs,
    ScanArgs, Store, StoreError, StoreErrorKind, StoreFuture, Tier, Written,
};
use crate::key::Key;
use crate::record::{Record, State};
use crate::scope::RecordId;

/// A store whose outcomes are encrypted.
#[derive(Clone, Debug)]
pub struct SealedStore {
    inner: Arc<dyn Store>,
    keyring: Arc<Keyring>,
}

impl SealedStore {
    /// `inner`, sealed with the active key of `keyring` and opened with any of them.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, keyring: Keyring) -> Self {
        Self { inner, keyring: Arc::new(keyring) }
    }

    /// The id under which the store keeps the record of `id`.
    fn stored_id(&self, id: &RecordId) -> RecordId {
        let key = self.keyring.stored_key(id.key().as_str());
        match key.and_then(|key| Key::new(&key).ok()) {
            Some(key) => {
                RecordId::with_variant(id.tenant().clone(), id.operation().clone(), key, id.variant())
            }
            None => id.clone(),
        }
    }

    fn seal(&self, id: &RecordId, guard: Guard, ending: Ending) -> Result<Ending, StoreError> {
        Ok(match ending {
            Ending::Completed(outcome) => {
                Ending::Completed(self.keyring.seal(id, guard, "completed", outcome)?)
            }
            Ending::Failed(outcome) => Ending::Failed(self.keyring.seal(id, guard, "failed", outcome)?),
        })
    }

    /// The record that the store gave for `id`, as it was before it was sealed.
    fn open(&self, id: &RecordId, record: Record) -> Result<Record, StoreError> {
        if record.id != self.stored_id(id) {
            let why = "the store returned the record of another key";
            return Err(StoreError::new(StoreErrorKind::Corrupt, why));
        }
        Ok(Record { id: id.clone(), ..self.unseal(record)? })
    }

    fn unseal(&self, mut record: Record) -> Result<Record, StoreError> {
        let (ending, outcome) = match &mut record.state {
            State::Completed { outcome, .. } => ("completed", outcome),
            State::Failed { outcome, .. } => ("failed", outcome),
            State::InFlight { .. } | State::InDoubt { .. } => return Ok(record),
        };
        *outcome = self.keyring.open(&record.id, record.guard, ending, std::mem::take(outcome))?;
        Ok(record)
    }

    fn open_written(&self, id: &RecordId, written: Written) -> Result<Written, StoreError> {
        let open = |record: Option<Record>| record.map(|record| self.open(id, record)).transpose();
        Ok(match written {
            Written::Done(record) => Written::Done(open(record)?),
            Written::Refused(record) => Written::Refused(open(record)?),
        })
    }

    fn write<'a>(
        &'a self,
        id: RecordId,
        write: impl FnOnce(&'a dyn Store, RecordId) -> Result<StoreFuture<'a, Written>, StoreError>,
    ) -> StoreFuture<'a, Written> {
        let written = write(&*self.inner, self.stored_id(&id));
        Box::pin(async move { self.open_written(&id, written?.await?) })
    }
}

impl Store for SealedStore {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn tier(&self) -> Tier {
        self.inner.tier()
    }

    fn claim(&self, args: ClaimArgs) -> StoreFuture<'_, Claimed> {
        let id = args.id.clone();
        let claimed = self.inner.claim(ClaimArgs { id: self.stored_id(&id), ..args });
        Box::pin(async move {
            Ok(match claimed.await? {
                Claimed::Won(record) => Claimed::Won(self.open(&id, record)?),
                Claimed::Standing(record) => Claimed::Standing(self.open(&id, record)?),
            })
        })
    }

    fn renew(&self, args: RenewArgs) -> StoreFuture<'_, Written> {
        self.write(args.id.clone(), move |store, id| Ok(store.renew(RenewArgs { id, ..args })))
    }

    fn complete(&self, args: CompleteArgs) -> StoreFuture<'_, Written> {
        self.write(args.id.clone(), move |store, id| {
            let ending = self.seal(&id, args.guard, args.ending)?;
            Ok(store.complete(CompleteArgs { id, ending, ..args }))
        })
    }

    fn doubt(&self, args: DoubtArgs) -> StoreFuture<'_, Written> {
        self.write(args.id.clone(), move |store, id| Ok(store.doubt(DoubtArgs { id, ..args })))
    }

    fn release(&self, args: ReleaseArgs) -> StoreFuture<'_, Written> {
        self.write(args.id.clone(), move |store, id| Ok(store.release(ReleaseArgs { id, ..args })))
    }

    fn import(&self, mut record: Record) -> StoreFuture<'_, Written> {
        self.write(record.id.clone(), move |store, id| {
            record.id = id;
            match &mut record.state {
                State::Completed { outcome, .. } => {
                    *outcome = self.keyring.seal(&record.id, record.guard, "completed", outcome.clone())?;
                }
                State::Failed { outcome, .. } => {
                    *outcome = self.keyring.seal(&record.id, record.guard, "failed", outcome.clone())?;
                }
                State::InFlight { .. } | State::InDoubt { .. } => {}
            }
            Ok(store.import(record))
        })
    }

    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>> {
        let (id, stored) = (id.clone(), self.stored_id(id));
        Box::pin(async move {
            let found = self.inner.get(&stored).await?;
            found.map(|record| self.open(&id, record)).transpose()
        })
    }

    fn near(&self, id: &RecordId) -> Option<Record> {
        let record = self.inner.near(&self.stored_id(id))?;
        self.open(id, record).ok()
    }

    /// Where keys are hashed, the page shows the hashes: they name the records in every other method.
    fn scan(&self, mut args: ScanArgs) -> StoreFuture<'_, Page> {
        args.key = args.key.map(|key| self.keyring.stored_key(&key).unwrap_or(key));
        Box::pin(async move {
            let mut page = self.inner.scan(args).await?;
            page.records =
                page.records.into_iter().map(|record| self.unseal(record)).collect::<Result<_, _>>()?;
            Ok(page)
        })
    }

    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        self.inner.purge(limit)
    }

    fn watch(&self, id: &RecordId, seen: Guard) -> StoreFuture<'_, ()> {
        self.inner.watch(&self.stored_id(id), seen)
    }
}
