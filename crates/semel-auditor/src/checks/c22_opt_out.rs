//! C22: retries can be switched off.

use super::{Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C22",
    title: "retries can be switched off",
    protects_from: "who has a retry of his own around the call gets both, multiplied",
    severity: Severity::S2,
    needs: &["no-retry-503", "no-retry-reset"],
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Ruling {
    if evidence.supports("max_retries") == Some(false) {
        return not_applicable("the number of retries cannot be set");
    }
    let calls = evidence.calls(CHECK.needs);
    let Some(most) = calls.iter().max_by_key(|call| call.here().count()) else {
        return not_applicable("no call arrived");
    };
    let attempts = most.here().count();
    if attempts == 1 {
        return pass("with retries switched off a call is sent once");
    }
    if evidence.supports("max_retries").is_none() {
        return not_applicable(
            "SEMEL_AUDIT_MAX_RETRIES=0 had no effect; say `--supports max_retries` if the command reads it",
        );
    }
    fail(format!("with retries switched off a call was sent {attempts} times (scenario `{}`)", most.place()))
        .figure("attempts", attempts)
}
