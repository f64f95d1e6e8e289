//! The effect ledger: what really reached an upstream, request by request. Append-only.
//!
//! An entry is a whole request that arrived; the upstreams of this crate act on each, so entries under one key are
//! effects under one key. Next: [`crate::upstream`], which writes it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

/// One request that reached the upstream whole.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// The idempotency key it came with.
    pub key: Option<String>,
    /// `Idempotency-Attempt`.
    pub attempt: Option<u32>,
    /// `Idempotency-Token`.
    pub token: Option<u64>,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// How long the body was.
    pub body_bytes: u64,
    /// Digest of the body; which one is the upstream's own choice, so compare within one upstream.
    pub digest: String,
}

/// What reached one upstream, in order.
#[derive(Clone, Debug)]
pub struct Ledger(Source);

#[derive(Clone, Debug)]
enum Source {
    Memory(Arc<Mutex<Vec<Entry>>>),
    /// Written by a child process, one JSON object a line.
    File(PathBuf),
}

impl Ledger {
    pub(crate) fn in_memory() -> Self {
        Self(Source::Memory(Arc::default()))
    }

    pub(crate) fn of_file(path: PathBuf) -> Self {
        Self(Source::File(path))
    }

    pub(crate) fn append(&self, entry: Entry) {
        let Source::Memory(entries) = &self.0 else { panic!("a child's ledger is written by the child") };
        entries.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    /// Everything so far.
    ///
    /// # Panics
    /// When a child wrote something else than entries.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let path = match &self.0 {
            Source::Memory(entries) => return entries.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Source::File(path) => path,
        };
        let text = fs::read_to_string(path).unwrap_or_default();
        // The line that is being written has no end yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
            .collect()
    }

    /// How often the effect of `key` happened.
    #[must_use]
    pub fn effects(&self, key: &str) -> usize {
        self.entries().iter().filter(|entry| entry.key.as_deref() == Some(key)).count()
    }

    /// How many effects happened, with and without keys.
    #[must_use]
    pub fn total(&self) -> usize {
        self.entries().len()
    }

    /// How often the effect of each key happened.
    #[must_use]
    pub fn per_key(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for key in self.entries().into_iter().filter_map(|entry| entry.key) {
            *counts.entry(key).or_default() += 1;
        }
        counts
    }

    /// How often the effect of the key with the most effects happened.
    #[must_use]
    pub fn max_per_key(&self) -> usize {
        self.per_key().into_values().max().unwrap_or(0)
    }

    /// Waits until `count` requests have arrived.
    ///
    /// # Panics
    /// When they have not within 20 s.
    pub async fn reaches(&self, count: usize) {
        eventually(&format!("{count} effects in the ledger"), || self.total() >= count).await;
    }
}

/// Waits until `state` holds, looking every few milliseconds.
///
/// # Panics
/// When it does not hold within 20 s; `what` says what was waited for.
pub async fn eventually(what: &str, mut state: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !state() {
        assert!(Instant::now() < deadline, "waited 20 s for {what}");
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}
