//! Encryption of what is stored: which keys there are, and which of them seals.
//!
//! The keys are not in the configuration but in a file or an environment variable that it names: a line for each,
//! `NAME HEX`, 32 bytes as 64 hexadecimal digits. Next: [`semel::store::sealed`], which uses them.

use std::env;
use std::fs;

use semel::store::sealed::Keyring;
use serde::Deserialize;

/// The name of the line that has the secret of [`EncryptionConfig::hash_keys`].
const HASH_SECRET: &str = "hash-secret";

/// `[encryption]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncryptionConfig {
    /// A file with the keys, or `env:NAME` for an environment variable with the same text.
    pub keys: String,
    /// The name of the key that seals; all others only open.
    pub active: String,
    /// Whether records that are not encrypted are read. Default no.
    #[serde(default)]
    pub read_plain: bool,
    /// Whether keyed hashes are stored instead of idempotency keys; needs a line `hash-secret`. Default no.
    #[serde(default)]
    pub hash_keys: bool,
}

impl EncryptionConfig {
    /// Reads the keys.
    ///
    /// # Errors
    /// What is wrong with them, in a line that shows none.
    pub fn keyring(&self) -> Result<Keyring, String> {
        let text = match self.keys.strip_prefix("env:") {
            Some(name) => env::var(name).map_err(|error| format!("encryption.keys: {name}: {error}"))?,
            None => fs::read_to_string(&self.keys)
                .map_err(|error| format!("encryption.keys: {} cannot be read: {error}", self.keys))?,
        };
        self.keyring_of(&text)
    }

    fn keyring_of(&self, text: &str) -> Result<Keyring, String> {
        let (mut active, mut others, mut secret) = (None, Vec::new(), None);
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong =
                || format!("encryption.keys: line {} is not a name and 64 hexadecimal digits", number + 1);
            let (name, hex) = line.split_once(char::is_whitespace).ok_or_else(wrong)?;
            let key = bytes(hex.trim()).ok_or_else(wrong)?;
            match name {
                HASH_SECRET => secret = Some(key),
                name if name == self.active && active.is_none() => active = Some(key),
                name => others.push((name, key)),
            }
        }
        let active = active.ok_or_else(|| {
            format!("encryption.active: no line of encryption.keys is called {:?}", self.active)
        })?;
        let refused = |error| format!("encryption.keys: {error}");
        let first = Keyring::new(&self.active, active).map_err(refused)?;
        let mut ring = others
            .into_iter()
            .try_fold(first, |ring, (name, key)| ring.opening(name, key))
            .map_err(refused)?;
        if self.read_plain {
            ring = ring.reading_plain();
        }
        match (self.hash_keys, secret) {
            (false, _) => Ok(ring),
            (true, Some(secret)) => Ok(ring.hashing_keys(secret)),
            (true, None) => {
                Err(format!("encryption.hash_keys: no line of encryption.keys is called {HASH_SECRET:?}"))
            }
        }
    }
}

fn bytes(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0101010101010101010101010101010101010101010101010101010101010101";
    const TWO: &str = "0202020202020202020202020202020202020202020202020202020202020202";

    fn config(active: &str, hash_keys: bool) -> EncryptionConfig {
        EncryptionConfig {
            keys: "unused".to_owned(),
            active: active.to_owned(),
            read_plain: false,
            hash_keys,
        }
    }

    #[test]
    fn keys_are_read_by_name_and_the_active_one_seals() {
        let text = format!("# rotated in May\n\nold {ONE}\nnew\t{TWO}\nhash-secret {ONE}\n");
        let ring = config("new", true).keyring_of(&text).expect("it is well formed");
        let shown = format!("{ring:?}");
        assert!(shown.contains("active: \"new\"") && shown.contains("old") && !shown.contains("hash-secret"));
    }

    #[test]
    fn what_is_wrong_with_the_keys_is_said_without_showing_them() {
        let refusals = [
            ("new", false, format!("old {ONE}"), "encryption.active"),
            ("old", false, format!("old {ONE}\nold {TWO}"), "two keys are called old"),
            ("old", false, format!("old {}", &ONE[1..]), "line 1 is not a name and 64 hexadecimal digits"),
            ("old", false, format!("old {ONE}\nnew {}", ONE.replace('0', "g")), "line 2"),
            ("old", true, format!("old {ONE}"), "hash-secret"),
        ];
        for (active, hash_keys, text, expected) in refusals {
            let refused = config(active, hash_keys).keyring_of(&text).expect_err("it is wrong");
            assert!(refused.contains(expected), "{refused}");
            assert!(!refused.contains("0101") && !refused.contains("0202"), "{refused}");
        }
    }
}
