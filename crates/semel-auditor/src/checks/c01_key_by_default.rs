//! C1: a call that asks for no key has one all the same.

use super::{Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C1",
    title: "a key without being asked",
    protects_from: "whoever forgets the key has no protection, and finds out when a customer pays twice",
    severity: Severity::S1,
    needs: &["plain", "retry-503", "retry-reset"],
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let plain = evidence.calls(&["plain"]);
    let Some(first) = plain.first().and_then(|call| call.attempts.first()) else {
        return not_applicable("no call arrived");
    };
    if first.key().is_some() {
        return pass("a call that asks for no key is sent with one");
    }
    let retries = evidence.calls(&["retry-503", "retry-reset"]).iter().any(super::Call::retried);
    match retries {
        true => fail(
            "a call is sent without a key and is sent again when it fails: nobody can tell a retry from a second order",
        ),
        false => fail("a call is sent without a key: whoever sends it again by hand orders twice")
            .severity(Severity::S2),
    }
}
