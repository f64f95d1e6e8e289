//! The keys of [`super::SealedStore`], and what it does with them: XChaCha20-Poly1305, a fresh random nonce for each
//! seal, the record's identity and claim as associated data.
//!
//! A sealed head begins with [`MAGIC`], then the length of the key's name, its name, the nonce and the ciphertext; a
//! sealed body is a nonce and a ciphertext. Not a store of keys: who has them hands them in.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use chacha20poly1305::aead::{Aead, Generate, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::record::{Guard, Outcome};
use crate::scope::RecordId;
use crate::store::{StoreError, StoreErrorKind};

/// No surface's head begins so: it is no UTF-8.
const MAGIC: &[u8] = b"\xffsemel1";
const NONCE_BYTES: usize = 24;
const HASHED: &str = "hashed:";

/// The key that seals, those that open, and how keys' texts are stored.
#[derive(Clone)]
pub struct Keyring {
    active: String,
    ciphers: BTreeMap<String, XChaCha20Poly1305>,
    read_plain: bool,
    hash: Option<[u8; 32]>,
}

/// Why a key is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyringError(String);

impl fmt::Display for KeyringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeyringError {}

/// The names of the keys, never the keys.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.ciphers.keys().collect();
        f.debug_struct("Keyring")
            .field("active", &self.active)
            .field("keys", &names)
            .field("read_plain", &self.read_plain)
            .field("hashes_keys", &self.hash.is_some())
            .finish()
    }
}

impl Keyring {
    /// A keyring that seals with `key`, called `name`: 1 to 64 printable ASCII characters, stored with each record.
    ///
    /// # Errors
    /// When the name is none.
    pub fn new(name: &str, key: [u8; 32]) -> Result<Self, KeyringError> {
        let empty = Self { active: name.to_owned(), ciphers: BTreeMap::new(), read_plain: false, hash: None };
        empty.opening(name, key)
    }

    /// Opens what was sealed under `key` as well: the key before the active one, or the one after it.
    ///
    /// # Errors
    /// When the name is none, or is taken.
    pub fn opening(mut self, name: &str, key: [u8; 32]) -> Result<Self, KeyringError> {
        if !(1..=64).contains(&name.len()) || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            let wrong =
                format!("{name:?} is no name of a key: 1 to 64 printable ASCII characters without spaces");
            return Err(KeyringError(wrong));
        }
        match self.ciphers.insert(name.to_owned(), XChaCha20Poly1305::new(&key.into())) {
            None => Ok(self),
            Some(_) => Err(KeyringError(format!("two keys are called {name}"))),
        }
    }

    /// Reads outcomes that were stored before encryption was switched on. Whoever can write to the store can then
    /// replace a sealed outcome by a plain one.
    #[must_use]
    pub fn reading_plain(self) -> Self {
        Self { read_plain: true, ..self }
    }

    /// Stores keyed hashes of idempotency keys instead of the keys. With another secret every key is a new one, so
    /// that it is never changed while records matter.
    #[must_use]
    pub fn hashing_keys(self, secret: [u8; 32]) -> Self {
        Self { hash: Some(secret), ..self }
    }

    /// What is stored instead of a key; `None` when it is stored as it is. What is a hash already stays one.
    pub(super) fn stored_key(&self, key: &str) -> Option<String> {
        let secret = self.hash.as_ref()?;
        let is_hash = key
            .strip_prefix(HASHED)
            .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if is_hash {
            return None;
        }
        Some(format!("{HASHED}{}", blake3::keyed_hash(secret, key.as_bytes()).to_hex()))
    }

    pub(super) fn seal(
        &self,
        id: &RecordId,
        guard: Guard,
        ending: &str,
        outcome: Outcome,
    ) -> Result<Outcome, StoreError> {
        let refuse = |_| StoreError::new(StoreErrorKind::Unavailable, "the outcome cannot be encrypted");
        let Some(cipher) = self.ciphers.get(&self.active) else {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "there is no active encryption key"));
        };
        let seal = |part: &str, text: &[u8]| {
            let aad = associated(id, guard, ending, &outcome, part);
            let nonce = XNonce::generate();
            let sealed = cipher.encrypt(&nonce, Payload { msg: text, aad: &aad }).map_err(refuse)?;
            Ok::<_, StoreError>([nonce.as_slice(), &sealed].concat())
        };
        let mut head = MAGIC.to_vec();
        head.push(u8::try_from(self.active.len()).unwrap_or(u8::MAX));
        head.extend_from_slice(self.active.as_bytes());
        head.extend_from_slice(&seal("head", &outcome.head)?);
        let body = seal("body", &outcome.body)?;
        Ok(Outcome { head: head.into(), body: body.into(), ..outcome })
    }

    pub(super) fn open(
        &self,
        id: &RecordId,
        guard: Guard,
        ending: &str,
        outcome: Outcome,
    ) -> Result<Outcome, StoreError> {
        let refuse = |why: String| StoreError::new(StoreErrorKind::Corrupt, why);
        let Some((name, head)) = envelope(&outcome.head) else {
            if self.read_plain {
                return Ok(outcome);
            }
            let why = "the record is not encrypted; reading such records has to be allowed (read_plain)";
            return Err(refuse(why.to_owned()));
        };
        let Some(cipher) = self.ciphers.get(name) else {
            return Err(refuse(format!(
                "the record is encrypted under the key {name:?}, which is not configured"
            )));
        };
        let open = |part: &str, sealed: &[u8]| {
            let wrong = || {
                refuse(format!(
                    "the record does not open under the key {name:?}: the key is another one, or the record was \
                     altered or moved"
                ))
            };
            let aad = associated(id, guard, ending, &outcome, part);
            let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or_else(wrong)?;
            let nonce = XNonce::try_from(nonce).map_err(|_| wrong())?;
            cipher.decrypt(&nonce, Payload { msg: sealed, aad: &aad }).map(Bytes::from).map_err(|_| wrong())
        };
        let head = open("head", head)?;
        // A page of a scan may leave bodies out; a sealed one is never empty.
        let body = if outcome.body.is_empty() { Bytes::new() } else { open("body", &outcome.body)? };
        Ok(Outcome { head, body, ..outcome })
    }
}

/// The key's name and what follows it.
fn envelope(head: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = head.strip_prefix(MAGIC)?.split_first()?;
    let (name, sealed) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(name).ok()?, sealed))
}

/// What a seal is bound to: whose it is, which claim made it, how it ended, and which part it is. Each piece is
/// preceded by its length.
fn associated(id: &RecordId, guard: Guard, ending: &str, outcome: &Outcome, part: &str) -> Vec<u8> {
    let (token, attempt) = (guard.token.0.to_le_bytes(), guard.attempt.to_bytes());
    let variant = id.variant();
    let pieces: [&[u8]; 10] = [
        b"semel seal v1",
        id.tenant().as_str().as_bytes(),
        id.operation().as_str().as_bytes(),
        id.key().as_str().as_bytes(),
        variant.as_ref().map_or(&[], |variant| variant.as_bytes().as_slice()),
        &token,
        &attempt,
        ending.as_bytes(),
        &[outcome.code.to_le_bytes().as_slice(), &[u8::from(outcome.body_kept)]].concat(),
        part.as_bytes(),
    ];
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(&u64::try_from(piece.len()).unwrap_or(u64::MAX).to_le_bytes());
        bytes.extend_from_slice(piece);
    }
    bytes
}
