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
#[derive(Clone)]
pub(crate) struct Parts(blake3::Hasher);

impl Parts {
    /// `purpose` names what is digested and the version of its layout: two purposes never share a digest.
    pub(crate) fn new(purpose: &str) -> Self {
        let mut parts = Self(blake3::Hasher::new());
        parts.add(purpose.as_bytes());
        parts
    }

    pub(crate) fn add(&mut self, part: &[u8]) -> &mut Self {
        self.0.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        self.0.update(part);
        self
    }

    pub(crate) fn finish(&self) -> Digest {
        let mut short = [0; 16];
        short.copy_from_slice(&self.0.finalize().as_bytes()[..16]);
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
    fn a_digest_is_shown_in_hexadecimal() {
        let digest = Digest::from_bytes([0x0a; 16]);
        assert_eq!((digest.to_string(), format!("{digest:?}")), ("0a".repeat(16), "0a".repeat(16)));
    }

    #[test]
    fn purposes_never_share_a_digest() {
        assert_ne!(Parts::new("a").add(b"x").finish(), Parts::new("b").add(b"x").finish());
    }
}
