//! Keys that outlive the process: a call is written down before its first byte is sent and struck out once it has a
//! final answer. What is left after a crash is sent again under its old key.
//!
//! Credentials are not written down: not `Authorization`, `Cookie` or `X-Api-Key`, and no header value marked as
//! sensitive. The URL is, with its query.
//!
//! Each call is an entry of its own, also when a program sends it again under its key: the older entry ends when it is
//! resumed, with the answer of the newer. Next: `memory` and `sqlite`, the two journals.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use semel::Key;
use url::Url;

use crate::error::BoxError;
use crate::idempotency::Idempotency;

pub mod memory;
#[cfg(feature = "journal-sqlite")]
pub mod sqlite;

/// Where an entry stands in its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub i64);

/// A call as it is written down.
#[derive(Clone, Debug)]
pub struct Saved {
    /// Its key.
    pub key: Key,
    /// Its method.
    pub method: Method,
    /// Where it goes.
    pub url: Url,
    /// Its headers, without credentials and without the key.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// A call without a final answer.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// Where it stands.
    pub id: EntryId,
    /// What it was.
    pub saved: Saved,
}

impl Unfinished {
    /// The key to send it again with; the call then takes over this entry of the journal.
    #[must_use]
    pub fn idempotency(&self) -> Idempotency {
        Idempotency::resuming(self.saved.key.clone(), self.id)
    }
}

/// A place for calls that must not be forgotten. One process at a time.
pub trait Journal: Send + Sync + fmt::Debug + 'static {
    /// Writes a call down. When it returns, the call outlives the process.
    ///
    /// # Errors
    /// Any; nothing is sent then.
    fn begin(&self, call: &Saved) -> Result<EntryId, BoxError>;

    /// Strikes out a call that has its final answer. May be lost in a crash: the call is then sent again under its
    /// old key.
    ///
    /// # Errors
    /// Any; the call's answer is handed out all the same.
    fn settle(&self, id: EntryId) -> Result<(), BoxError>;

    /// All calls that were begun and not struck out, oldest first.
    ///
    /// # Errors
    /// Any.
    fn open(&self) -> Result<Vec<Unfinished>, BoxError>;
}

/// A journal, and which of its calls this process is working on.
#[derive(Clone, Debug)]
pub(crate) struct Journaled {
    journal: Arc<dyn Journal>,
    live: Arc<Mutex<HashSet<EntryId>>>,
}

/// A call in the journal that is being worked on. Dropped without [`Held::settle`] it is unfinished.
#[derive(Debug)]
pub(crate) struct Held {
    of: Journaled,
    id: EntryId,
}

impl Journaled {
    pub(crate) fn new(journal: Arc<dyn Journal>) -> Self {
        Self { journal, live: Arc::default() }
    }

    pub(crate) fn begin(&self, call: &Saved) -> Result<Held, BoxError> {
        let id = self.journal.begin(call)?;
        self.live().insert(id);
        Ok(Held { of: self.clone(), id })
    }

    /// Takes an entry over; `None` when somebody in this process works on it.
    pub(crate) fn take(&self, id: EntryId) -> Option<Held> {
        self.live().insert(id).then(|| Held { of: self.clone(), id })
    }

    pub(crate) fn unfinished(&self) -> Result<Vec<Unfinished>, BoxError> {
        let mut open = self.journal.open()?;
        let live = self.live();
        open.retain(|entry| !live.contains(&entry.id));
        Ok(open)
    }

    pub(crate) fn forget(&self, id: EntryId) -> Result<(), BoxError> {
        // Held while it is struck out, so that nobody resumes it meanwhile.
        let held = self.take(id).ok_or("the call is being worked on")?;
        held.of.journal.settle(held.id)
    }

    fn live(&self) -> std::sync::MutexGuard<'_, HashSet<EntryId>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    pub(crate) fn settle(self) {
        if let Err(error) = self.of.journal.settle(self.id) {
            tracing::warn!(%error, "a finished call could not be struck out of the journal; it will be sent again");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.live().remove(&self.id);
    }
}

/// The headers without what must not be on a disk.
pub(crate) fn without_credentials(headers: &HeaderMap, key_header: &header::HeaderName) -> HeaderMap {
    let named = [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE];
    let secret = |name: &header::HeaderName, value: &http::HeaderValue| {
        value.is_sensitive() || named.contains(name) || name == "x-api-key" || name == key_header
    };
    let kept = headers.iter().filter(|(name, value)| !secret(name, value));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}
