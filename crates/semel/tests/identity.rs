//! What names a record and what tells two requests apart: every part counts, and so does where it ends.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use semel::fingerprint::{PayloadParts, payload, target};
use semel::policy::OnMismatch;
use semel::{Ask, Fingerprint, Key, Operation, Policy, RecordId, Tenant};

fn record(tenant: &str, operation: &str, key: &str) -> RecordId {
    RecordId::new(Tenant::from_text(tenant), Operation::new(operation), Key::new(key).unwrap())
}

#[test]
fn tenant_operation_and_key_each_name_another_record() {
    let base = record("a", "http", "k");
    assert_eq!(base, record("a", "http", "k"));
    for other in [record("b", "http", "k"), record("a", "refund", "k"), record("a", "http", "l")] {
        assert_ne!(base.digest(), other.digest());
        assert_ne!(base, other);
    }
}

#[test]
fn moving_a_border_between_two_parts_names_another_record() {
    let base = record("ab", "cd", "ef");
    for other in [record("a", "bcd", "ef"), record("abc", "d", "ef"), record("ab", "c", "def")] {
        assert_ne!(base.digest(), other.digest());
    }
}

#[test]
fn method_path_and_query_each_make_another_target() {
    let base = target("POST", "/pay", Some("to=a"));
    assert_eq!(base, target("POST", "/pay", Some("to=a")));
    for other in [
        target("PUT", "/pay", Some("to=a")),
        target("POST", "/refund", Some("to=a")),
        target("POST", "/pay", Some("to=b")),
        target("POST", "/pay", None),
        target("POST", "/payto=a", None),
        target("POST/", "pay", Some("to=a")),
    ] {
        assert_ne!(base, other);
    }
}

#[test]
fn moving_a_border_between_chosen_parts_makes_another_payload() {
    let parts = PayloadParts::Pointers(vec!["/a".into(), "/b".into()]);
    let of = |body: &str| payload(body.as_bytes(), &parts);
    assert_ne!(of(r#"{"a":"12","b":"3"}"#), of(r#"{"a":"1","b":"23"}"#));
    assert_ne!(of(r#"{"a":["1","2"],"b":[]}"#), of(r#"{"a":["1"],"b":["2"]}"#));
}

#[test]
fn payload_is_part_of_the_identity_under_distinct_only() {
    let ask = |body: &str, on_mismatch| {
        let raw = payload(body.as_bytes(), &PayloadParts::Raw);
        let fingerprint = Fingerprint { target: target("POST", "/pay", None), payload: raw };
        let policy = Policy { on_mismatch, ..Policy::default() };
        Ask::new(Tenant::public(), Operation::http(), Key::new("k").unwrap(), fingerprint, policy.into()).id
    };
    assert_ne!(ask("100", OnMismatch::Distinct), ask("900", OnMismatch::Distinct));
    for on_mismatch in [OnMismatch::Reject, OnMismatch::Replay] {
        assert_eq!(ask("100", on_mismatch), ask("900", on_mismatch));
    }
}
