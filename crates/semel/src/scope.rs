//! What a key names: tenant, operation, and the record's identity.
//!
//! Not how a tenant is found (each surface derives it). Next: [`crate::fingerprint`].

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::digest::{Digest, Parts};
use crate::key::Key;

/// Who owns a key: a principal, never a credential that rotates. Cheap to clone.
///
/// The text begins with its kind (`id:`, `auth:`), so that a tenant of one kind can never be one of another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// Callers without any credential.
    #[must_use]
    pub fn public() -> Self {
        Self("public".into())
    }

    /// All callers of a route that was said to share its keys.
    #[must_use]
    pub fn shared() -> Self {
        Self("shared".into())
    }

    /// A tenant known by name: a user or organisation id. Several parts (organisation, then user) are kept apart
    /// by their lengths, so `["a", "b:c"]` is not `["a:b", "c"]`.
    #[must_use]
    pub fn id(parts: &[&str]) -> Self {
        match parts {
            [one] if one.len() <= 200 && one.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Self(format!("id:{one}").into())
            }
            several => {
                let mut digest = Parts::new("semel tenant v1");
                several.iter().for_each(|part| {
                    digest.add(part.as_bytes());
                });
                Self(format!("ids:{}", digest.finish()).into())
            }
        }
    }

    /// A tenant known only by a credential: its digest. A rotated credential is another tenant.
    #[must_use]
    pub fn credential(value: &[u8]) -> Self {
        Self(format!("auth:{}", Parts::new("semel credential v1").add(value).finish()).into())
    }

    /// A tenant from its stored or typed text.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// The stored and printed text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a key is used for: `http`, or the name of a workflow, task or job. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Operation(Arc<str>);

impl Operation {
    /// The operation called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The operation of requests over HTTP, unless a route names another.
    #[must_use]
    pub fn http() -> Self {
        Self::new("http")
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a record: tenant, operation and key, and under *distinct* also the payload's digest. Cheap to
/// clone; compared and hashed by its digest.
#[derive(Clone)]
pub struct RecordId(Arc<Identity>);

struct Identity {
    tenant: Tenant,
    operation: Operation,
    key: Key,
    variant: Option<Digest>,
    digest: Digest,
}

impl RecordId {
    /// The record of `key`, used by `tenant` for `operation`.
    #[must_use]
    pub fn new(tenant: Tenant, operation: Operation, key: Key) -> Self {
        Self::with_variant(tenant, operation, key, None)
    }

    /// The same with a payload digest as part of the identity, so that another payload is another record.
    #[must_use]
    pub fn with_variant(tenant: Tenant, operation: Operation, key: Key, variant: Option<Digest>) -> Self {
        let mut parts = Parts::new("semel record v1");
        parts.add(tenant.as_str().as_bytes()).add(operation.as_str().as_bytes()).add(key.as_str().as_bytes());
        if let Some(variant) = &variant {
            parts.add(variant.as_bytes());
        }
        let digest = parts.finish();
        Self(Arc::new(Identity { tenant, operation, key, variant, digest }))
    }

    /// Whose key it is.
    #[must_use]
    pub fn tenant(&self) -> &Tenant {
        &self.0.tenant
    }

    /// What the key is used for.
    #[must_use]
    pub fn operation(&self) -> &Operation {
        &self.0.operation
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// The payload digest, where it is part of the identity.
    #[must_use]
    pub fn variant(&self) -> Option<Digest> {
        self.0.variant
    }

    /// The digest that stores look records up by. They verify tenant, operation, key and variant on every read.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }
}

impl PartialEq for RecordId {
    fn eq(&self, other: &Self) -> bool {
        self.0.digest == other.0.digest
            && self.0.tenant == other.0.tenant
            && self.0.operation == other.0.operation
            && self.0.key == other.0.key
            && self.0.variant == other.0.variant
    }
}

impl Eq for RecordId {}

impl Hash for RecordId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.digest.hash(state);
    }
}

impl fmt::Debug for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{:?}", self.0.tenant, self.0.operation, self.0.key.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(tenant: &str, operation: &str, key: &str) -> RecordId {
        RecordId::new(Tenant::id(&[tenant]), Operation::new(operation), Key::new(key).unwrap())
    }

    #[test]
    fn tenant_operation_and_key_each_name_another_record() {
        let base = id("a", "http", "k");
        for other in [id("b", "http", "k"), id("a", "refund", "k"), id("a", "http", "l")] {
            assert_ne!(base.digest(), other.digest());
            assert_ne!(base, other);
        }
    }

    #[test]
    fn kinds_of_tenant_never_meet() {
        assert_ne!(Tenant::id(&["public"]), Tenant::public());
        assert_ne!(Tenant::id(&["a", "b"]), Tenant::id(&["ab"]));
        assert_ne!(Tenant::id(&["a", "b:c"]), Tenant::id(&["a:b", "c"]));
        assert_ne!(Tenant::credential(b"x"), Tenant::id(&["x"]));
    }

    #[test]
    fn a_variant_is_another_record() {
        let digest = Parts::new("t").finish();
        let base = id("a", "http", "k");
        let variant = RecordId::with_variant(
            base.tenant().clone(),
            base.operation().clone(),
            base.key().clone(),
            Some(digest),
        );
        assert_ne!(base, variant);
        assert_eq!((base.variant(), variant.variant()), (None, Some(digest)));
    }

    #[test]
    fn ids_that_share_a_digest_are_apart_all_the_same() {
        let base = id("a", "http", "k");
        let alike = |tenant, operation, key, variant| {
            let (tenant, operation) = (Tenant::id(&[tenant]), Operation::new(operation));
            let key = Key::new(key).unwrap();
            RecordId(Arc::new(Identity { tenant, operation, key, variant, digest: base.digest() }))
        };
        assert_eq!(alike("a", "http", "k", None), base);
        for other in [
            alike("b", "http", "k", None),
            alike("a", "refund", "k", None),
            alike("a", "http", "l", None),
            alike("a", "http", "k", Some(base.digest())),
        ] {
            assert_ne!(other, base);
        }
    }

    #[test]
    fn a_long_or_unreadable_name_of_a_tenant_is_digested() {
        let long = "a".repeat(201);
        assert_eq!(Tenant::id(&[&long[..200]]).as_str(), format!("id:{}", &long[..200]));
        for name in [&long, "a b", "\u{e9}"] {
            assert!(Tenant::id(&[name]).as_str().starts_with("ids:"), "{name}");
        }
    }

    #[test]
    fn what_names_a_record_is_shown_as_it_is() {
        assert_eq!(
            (Tenant::id(&["a"]).to_string(), Operation::http().to_string()),
            ("id:a".into(), "http".into())
        );
        assert_eq!(format!("{:?}", id("a", "http", "k")), "id:a/http/\"k\"");
    }

    #[test]
    fn ids_spread_over_a_table() {
        use std::hash::BuildHasher;
        let hasher = std::hash::RandomState::new();
        assert_eq!(hasher.hash_one(id("a", "http", "k")), hasher.hash_one(id("a", "http", "k")));
        assert_ne!(hasher.hash_one(id("a", "http", "k")), hasher.hash_one(id("a", "http", "l")));
    }
}
