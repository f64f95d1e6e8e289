//! C3: what has no key and may have been carried out is not sent again.

use super::{Check, Evidence, Ruling, count, fail, pass};
use crate::attempt::Attempt;
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C3",
    title: "nothing without a key is sent twice",
    protects_from: "the answer was lost and not the order: sent again without a key, it is carried out twice",
    severity: Severity::S0,
    needs: &["retry-reset", "retry-timeout", "retry-502", "lost-answer", "acted-then-failed"],
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let calls = evidence.calls(CHECK.needs);
    let bare =
        |attempt: &&Attempt| attempt.keys.is_empty() && !matches!(attempt.method.as_str(), "PUT" | "DELETE");
    let keyless: Vec<_> = calls.iter().filter(|call| call.here().next().as_ref().is_some_and(bare)).collect();
    let twice: Vec<_> = keyless.iter().filter(|call| call.retried()).collect();
    let Some(first) = twice.first() else {
        return match keyless.len() {
            0 => pass("every call had a key"),
            _ => {
                pass("calls without a key were not sent again when nobody could know what had become of them")
            }
        };
    };
    let scenarios: Vec<&str> = twice.iter().map(|call| call.place()).collect();
    let payments = first.here().filter(|attempt| attempt.effect).count();
    let message = format!(
        "a {} without a key was sent {} although the first one may have been carried out (scenario `{}`): it made {}",
        first.attempts[0].method,
        count(first.here().count(), "time"),
        first.place(),
        count(payments, "payment"),
    );
    fail(message).figure("scenarios", scenarios).figure("payments_for_that_call", payments)
}
