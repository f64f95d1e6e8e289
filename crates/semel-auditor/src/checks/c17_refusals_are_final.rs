//! C17: a 4xx is the answer.

use super::{Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C17",
    title: "a refusal is final",
    protects_from: "a request that is wrong is wrong every time: retries only hide the mistake and lock accounts",
    severity: Severity::S1,
    needs: &["status-400", "status-401", "status-403", "status-404", "status-422"],
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let calls = evidence.calls(CHECK.needs);
    if calls.is_empty() {
        return not_applicable("no call arrived");
    }
    let again: Vec<&str> = calls
        .iter()
        .filter(|call| call.retried())
        .map(|call| call.place().trim_start_matches("status-"))
        .collect();
    match again.is_empty() {
        true => pass("400, 401, 403, 404 and 422 are not retried"),
        false => fail(format!("was answered {} and sent the same request again", again.join(", ")))
            .figure("retried_statuses", again),
    }
}
