//! The fingerprint: two digests that say whether a repeated key brings the same request.
//!
//! *Target* digests method, path and query; *payload* the body, its canonical JSON, or chosen JSON parts of it.
//! Nothing of a payload can be read back from a fingerprint. Next: [`crate::record`].

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

pub use crate::digest::Digest;
use crate::digest::Parts;
use crate::policy::OnMismatch;

/// The digests of a request, version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Of method, path and query.
    pub target: Digest,
    /// Of the body, or of what was chosen from it.
    pub payload: Digest,
}

/// Which half of a fingerprint differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Another method, path or query.
    Target,
    /// Another payload.
    Payload,
}

impl Fingerprint {
    /// How a request with this fingerprint differs from the one that claimed the record; `None` when it is let
    /// in. A target that differs is never let in.
    #[must_use]
    pub fn difference(&self, claimed: &Self, on_mismatch: OnMismatch) -> Option<Difference> {
        if self.target != claimed.target {
            return Some(Difference::Target);
        }
        (on_mismatch == OnMismatch::Reject && self.payload != claimed.payload).then_some(Difference::Payload)
    }

    pub(crate) fn matches(&self, claimed: &Self, on_mismatch: OnMismatch) -> bool {
        self.difference(claimed, on_mismatch).is_none()
    }
}

/// The digest of a target. `query` is what follows the question mark, as sent.
#[must_use]
pub fn target(method: &str, path: &str, query: Option<&str>) -> Digest {
    let mut parts = Parts::new("semel target v1");
    parts.add(method.as_bytes()).add(path.as_bytes());
    if let Some(query) = query {
        parts.add(query.as_bytes());
    }
    parts.finish()
}

/// What of a body makes the payload digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PayloadParts {
    /// Every byte.
    #[default]
    Raw,
    /// The JSON value: member order and white space do not count. A body that is not JSON, repeats a member, or has
    /// a number that is not a 64-bit integer counts by its bytes: two fractions may be one double.
    Json,
    /// The values at these JSON pointers (RFC 6901); an absent one counts as absent. Bodies that cannot be read
    /// as under [`PayloadParts::Json`] count by their bytes.
    Pointers(Vec<String>),
}

/// The digest of a body under `parts`.
#[must_use]
pub fn payload(body: &[u8], parts: &PayloadParts) -> Digest {
    let pointers = match parts {
        PayloadParts::Raw => None,
        PayloadParts::Json => Some([String::new()].as_slice().to_vec()),
        PayloadParts::Pointers(pointers) => Some(pointers.clone()),
    };
    let read = pointers.and_then(|pointers| {
        serde_json::from_slice::<Strict>(body).ok().map(|Strict(value)| (pointers, value))
    });
    let Some((pointers, value)) = read else {
        return Parts::new("semel payload raw v1").add(body).finish();
    };
    let mut digest = Parts::new("semel payload json v1");
    for pointer in &pointers {
        digest.add(pointer.as_bytes());
        match value.pointer(pointer) {
            Some(part) => add_value(&mut digest, part),
            None => {
                digest.add(b"absent");
            }
        }
    }
    digest.finish()
}

fn add_value(digest: &mut Parts, value: &Value) {
    match value {
        Value::Null => digest.add(b"null"),
        Value::Bool(flag) => digest.add(b"bool").add(&[u8::from(*flag)]),
        Value::Number(number) => digest.add(b"number").add(number.to_string().as_bytes()),
        Value::String(text) => digest.add(b"string").add(text.as_bytes()),
        Value::Array(items) => {
            digest.add(b"array").add(&items.len().to_le_bytes());
            items.iter().for_each(|item| add_value(digest, item));
            digest
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            digest.add(b"object").add(&sorted.len().to_le_bytes());
            for (name, member) in sorted {
                digest.add(name.as_bytes());
                add_value(digest, member);
            }
            digest
        }
    };
}

/// A JSON value in which no two different texts look alike: repeated members and numbers that lose digits are
/// refused.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Value, E> {
        Err(E::custom("a number that may have lost digits"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = serde_json::Map::new();
        while let Some((name, Strict(member))) = members.next_entry::<String, Strict>()? {
            if object.insert(name, member).is_some() {
                return Err(de::Error::custom("a repeated member"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(body: &str) -> Digest {
        payload(body.as_bytes(), &PayloadParts::Json)
    }

    fn raw(body: &str) -> Digest {
        payload(body.as_bytes(), &PayloadParts::Raw)
    }

    #[test]
    fn query_is_part_of_the_target() {
        assert_ne!(target("POST", "/pay", Some("to=alice")), target("POST", "/pay", Some("to=mallory")));
        assert_ne!(target("POST", "/pay", Some("")), target("POST", "/pay", None));
        assert_ne!(target("POST", "/pay/1", None), target("POST", "/pay/2", None));
    }

    #[test]
    fn a_target_that_differs_is_never_let_in() {
        let (one, two) = (target("POST", "/a", None), target("POST", "/b", None));
        let body = raw("x");
        let claimed = Fingerprint { target: one, payload: body };
        let brought = Fingerprint { target: two, payload: body };
        for on_mismatch in OnMismatch::ALL {
            assert_eq!(brought.difference(&claimed, on_mismatch), Some(Difference::Target));
        }
    }

    #[test]
    fn a_payload_that_differs_is_let_in_only_under_replay() {
        let target = target("POST", "/a", None);
        let claimed = Fingerprint { target, payload: raw("100") };
        let brought = Fingerprint { target, payload: raw("900") };
        assert_eq!(brought.difference(&claimed, OnMismatch::Reject), Some(Difference::Payload));
        assert_eq!(brought.difference(&claimed, OnMismatch::Replay), None);
    }

    #[test]
    fn canonical_json_ignores_member_order_and_white_space_only() {
        assert_eq!(json(r#"{"a":1,"b":[true,null]}"#), json(" { \"b\" : [ true , null ] , \"a\" : 1 } "));
        assert_ne!(json(r#"{"a":1}"#), json(r#"{"a":2}"#));
        assert_ne!(json(r#"{"a":1}"#), json(r#"{"a":"1"}"#));
        assert_ne!(json(r#"[1,[2]]"#), json(r#"[[1],2]"#));
    }

    #[test]
    fn every_kind_of_json_value_counts() {
        let values = [
            "null",
            "true",
            "false",
            "0",
            "1",
            "-1",
            "-2",
            "18446744073709551615",
            r#""""#,
            r#""a""#,
            r#""b""#,
            "[]",
            "[0]",
            "[0,0]",
            "{}",
            r#"{"a":0}"#,
            r#"{"b":0}"#,
            r#"{"a":1}"#,
            r#"{"a":0,"b":0}"#,
            r#""null""#,
        ];
        let digests: std::collections::HashSet<_> = values.map(json).map(|digest| *digest.as_bytes()).into();
        assert_eq!(digests.len(), values.len());
        for value in values {
            assert_ne!(json(value), raw(value));
        }
    }

    #[test]
    fn json_that_hides_a_difference_counts_by_its_bytes() {
        assert_ne!(json("123456789012345678901"), json("123456789012345678902"));
        assert_ne!(json("[1.000000000000000001]"), json("[1.000000000000000002]"));
        assert_ne!(json("[1e-400]"), json("[2e-400]"));
        assert_ne!(json(r#"{"a":1,"a":2}"#), json(r#"{"a":2}"#));
        assert_eq!(json("not json"), raw("not json"));
    }

    #[test]
    fn chosen_parts_ignore_the_rest_of_the_envelope() {
        let parts = PayloadParts::Pointers(vec!["/method".into(), "/params".into()]);
        let of = |body: &str| payload(body.as_bytes(), &parts);
        assert_eq!(
            of(r#"{"id":1,"method":"pay","params":{"cents":5}}"#),
            of(r#"{"id":2,"params":{"cents":5},"method":"pay"}"#)
        );
        assert_ne!(
            of(r#"{"method":"pay","params":{"cents":5}}"#),
            of(r#"{"method":"pay","params":{"cents":6}}"#)
        );
        assert_ne!(of(r#"{"method":"pay"}"#), of(r#"{"method":"pay","params":null}"#));
    }

    proptest! {
        #[test]
        fn digesting_any_bytes_never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = payload(&body, &PayloadParts::Json);
        }
    }
}
