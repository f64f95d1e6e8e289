//! Which key one call gets: said by the program, or left to [`crate::Once`].
//!
//! Next: [`crate::session`], which uses it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use semel::Key;
use semel::key::KeyError;

use crate::journal::EntryId;

/// The key of **one logical call**. A clone is the same call: give every call a value of its own.
///
/// Put it into the extensions of a request. A key is minted once per value, so a layer around that sends the
/// request again sends the same key, and is noticed.
#[derive(Clone, Debug)]
pub struct Idempotency(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    choice: Choice,
    minted: OnceLock<Key>,
    entered: AtomicU32,
    resumes: Option<EntryId>,
}

#[derive(Clone, Debug)]
pub(crate) enum Choice {
    /// By method and header, as if nothing had been said.
    Unsaid,
    Auto,
    Own(Result<Key, KeyError>),
    Off,
}

impl Idempotency {
    /// A key of Semel's making, whatever the method.
    #[must_use]
    pub fn auto() -> Self {
        Self::new(Choice::Auto, None)
    }

    /// This key, sent as it is. Text that is no key makes the call fail before anything is sent.
    #[must_use]
    pub fn key(key: impl Into<Self>) -> Self {
        key.into()
    }

    /// No key: the call is retried only when its method is idempotent, or when nothing of it was sent.
    #[must_use]
    pub fn off() -> Self {
        Self::new(Choice::Off, None)
    }

    pub(crate) fn unsaid() -> Self {
        Self::new(Choice::Unsaid, None)
    }

    pub(crate) fn resuming(key: Key, entry: EntryId) -> Self {
        Self::new(Choice::Own(Ok(key)), Some(entry))
    }

    fn new(choice: Choice, resumes: Option<EntryId>) -> Self {
        Self(Arc::new(Inner { choice, minted: OnceLock::new(), entered: AtomicU32::new(0), resumes }))
    }

    pub(crate) fn choice(&self) -> &Choice {
        &self.0.choice
    }

    /// The same key each time.
    pub(crate) fn mint(&self, mint: impl FnOnce() -> Key) -> Key {
        self.0.minted.get_or_init(mint).clone()
    }

    pub(crate) fn resumes(&self) -> Option<EntryId> {
        self.0.resumes
    }

    /// How often the call had been begun before: more than never means that a layer around sends it again.
    pub(crate) fn enter(&self) -> u32 {
        self.0.entered.fetch_add(1, Ordering::Relaxed)
    }
}

impl From<Key> for Idempotency {
    fn from(key: Key) -> Self {
        Self::new(Choice::Own(Ok(key)), None)
    }
}

impl From<Result<Key, KeyError>> for Idempotency {
    fn from(key: Result<Key, KeyError>) -> Self {
        Self::new(Choice::Own(key), None)
    }
}

/// `"auto"` is [`Idempotency::auto`]; any other text is the key.
impl From<&str> for Idempotency {
    fn from(text: &str) -> Self {
        if text == "auto" { Self::auto() } else { Key::new(text).into() }
    }
}

impl From<String> for Idempotency {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

/// What an extension map says about the key: an [`Idempotency`], a [`Key`], or what [`Key::explicit`] returned.
pub(crate) fn said(extensions: &http::Extensions) -> Option<Idempotency> {
    extensions
        .get::<Idempotency>()
        .cloned()
        .or_else(|| extensions.get::<Key>().cloned().map(Idempotency::from))
        .or_else(|| extensions.get::<Result<Key, KeyError>>().cloned().map(Idempotency::from))
}
