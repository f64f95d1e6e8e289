//! C18: "your first request is still running" is waited out, under the same key.

use super::c10_delays_grow::median;
use super::{Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C18",
    title: "a request that still runs is waited for",
    protects_from: "a retry that overtakes its first attempt reports an error for an order that goes through",
    severity: Severity::S2,
    needs: &["conflict", "conflict-outstanding"],
    judge,
};

const AT_ONCE_S: f64 = 0.05;

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let plain = evidence.calls(&["conflict"]).iter().map(|call| call.here().count()).max().unwrap_or(0);
    let calls = evidence.calls(&["conflict-outstanding"]);
    let Some(call) = calls.first() else { return not_applicable("no call arrived") };
    let delays: Vec<f64> =
        calls.iter().filter_map(|call| call.delays().first().map(std::time::Duration::as_secs_f64)).collect();
    let told = "was answered 409 \"a request is outstanding for this Idempotency-Key\"";
    let ruling = if call.keys() == [None] {
        not_applicable("calls have no keys, so that no server can answer that one is outstanding")
    } else if delays.is_empty() {
        fail(format!("{told} and gave up: its caller sees an error although the first request goes through"))
    } else if calls.iter().any(|call| call.keys().len() > 1) {
        fail(format!("{told} and sent it again under another key: that is a second order"))
    } else if median(delays) < AT_ONCE_S {
        fail(format!("{told} and sent it again at once, without a wait"))
    } else {
        pass(format!("{told}, and asked again under the same key after a wait"))
    };
    ruling.figure("attempts_after_plain_409", plain)
}
