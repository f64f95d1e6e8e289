//! Length-prefixed, versioned digests: how several parts become one number without `["a|b", "c"]` meeting
//! `["a", "b|c"]`. Next: [`crate::fingerprint`] and [`crate::scope`], the two users.

use std::fmt;

/// 128 bits of a BLAKE3 hash.
///
/// Finding two inputs with one digest takes some 2^64 attempts, and would let a caller confuse only records of
/// its own tenant: the stores verify tenant, operation and key on every read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 16]);

impl Digest {
    /// A digest from its stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Builds a [`Digest`] from parts, each preceded by its length.
///
/// What is short is gathered and hashed at once: a hasher that can go on is 2 KiB to set up and to move about.
pub(crate) struct Parts {
    gathered: Vec<u8>,
    /// Goes on after what was gathered.
    hasher: Option<Box<blake3::Hasher>>,
}

/// Most of what is digested is shorter.
const USUAL_BYTES: usize = 320;

impl Parts {
    /// `purpose` names what is digested and the version of its layout: two purposes never share a digest.
    pub(crate) fn new(purpose: &str) -> Self {
        let mut parts = Self { gathered: Vec::with_capacity(USUAL_BYTES), hasher: None };
        parts.add(purpose.as_bytes());
        parts
    }

    pub(crate) fn add(&mut self, part: &[u8]) -> &mut Self {
        self.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.update(part);
        self
    }

    fn update(&mut self, bytes: &[u8]) {
        if self.hasher.is_none() && self.gathered.len() + bytes.len() <= blake3::CHUNK_LEN {
            return self.gathered.extend_from_slice(bytes);
        }
        let gathered = &self.gathered;
        let hasher = self.hasher.get_or_insert_with(|| {
            let mut hasher = Box::new(blake3::Hasher::new());
            hasher.update(gathered);
            hasher
        });
        hasher.update(bytes);
    }

    pub(crate) fn finish(&self) -> Digest {
        let hash = match &self.hasher {
            Some(hasher) => hasher.finalize(),
            None => blake3::hash(&self.gathered),
        };
        let mut short = [0; 16];
        short.copy_from_slice(&hash.as_bytes()[..16]);
        Digest(short)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moving_a_border_between_parts_changes_the_digest() {
        let one = Parts::new("t").add(b"ab").add(b"c").finish();
        let two = Parts::new("t").add(b"a").add(b"bc").finish();
        assert_ne!(one, two);
    }

    #[test]
    fn digest_is_that_of_all_bytes_in_a_row_however_many_there_are() {
        for bytes in [0, 300, 1_024 - 17, 1_024 - 16, 5_000] {
            let part = vec![b'x'; bytes];
            let row = [&1_u64.to_le_bytes()[..], b"t", &bytes.to_le_bytes(), &part].concat();
            let twice = [&row[..], &bytes.to_le_bytes(), &part].concat();
            let digest = |row: &[u8]| blake3::hash(row).as_bytes()[..16].to_vec();
            assert_eq!(Parts::new("t").add(&part).finish().as_bytes()[..], digest(&row), "{bytes}");
            assert_eq!(
                Parts::new("t").add(&part).add(&part).finish().as_bytes()[..],
                digest(&twice),
                "{bytes}"
            );
        }
    }

    #[test]
    fn a_digest_is_shown_in_hexadecimal() {
        let digest = Digest::from_bytes([0x0a; 16]);
        assert_eq!((digest.to_string(), format!("{digest:?}")), ("0a".repeat(16), "0a".repeat(16)));
    }

    #[test]
    fn purposes_never_share_a_digest() {
        assert_ne!(Parts::new("a").add(b"x").finish(), Parts::new("b").add(b"x").finish());
    }
}
