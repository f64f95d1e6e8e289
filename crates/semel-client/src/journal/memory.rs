//! A journal in memory: calls that were dropped or given up can be finished, as long as the process lives.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::BoxError;
use crate::journal::{EntryId, Journal, Saved, Unfinished};

/// Forgets everything when the process ends.
#[derive(Debug, Default)]
pub struct MemoryJournal(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    next: i64,
    open: BTreeMap<EntryId, Saved>,
}

impl MemoryJournal {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for MemoryJournal {
    fn begin(&self, call: &Saved) -> Result<EntryId, BoxError> {
        let mut entries = self.entries();
        entries.next += 1;
        let id = EntryId(entries.next);
        entries.open.insert(id, call.clone());
        Ok(id)
    }

    fn settle(&self, id: EntryId) -> Result<(), BoxError> {
        self.entries().open.remove(&id);
        Ok(())
    }

    fn open(&self) -> Result<Vec<Unfinished>, BoxError> {
        let entries = self.entries();
        let open = entries.open.iter();
        Ok(open.map(|(id, saved)| Unfinished { id: *id, saved: saved.clone() }).collect())
    }
}
