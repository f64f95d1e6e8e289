//! C6: a retry is the same request.

use super::{Check, Evidence, Ruling, count, fail, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C6",
    title: "the same request on every attempt",
    protects_from: "a body that differs under one key is refused as another request, or carried out as one",
    severity: Severity::S0,
    needs: &["retry-503", "retry-429", "retry-reset", "retry-timeout", "acted-then-failed", "lost-answer"],
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let calls = evidence.calls(CHECK.needs);
    let retried: Vec<_> = calls.iter().filter(|call| call.retried()).collect();
    if retried.is_empty() {
        return not_applicable("no call was sent a second time");
    }
    for call in &retried {
        let mut attempts = call.here();
        let Some(first) = attempts.next() else { continue };
        for (again, attempt) in attempts.enumerate() {
            let what = if attempt.method != first.method {
                format!("method, {} and then {}", first.method, attempt.method)
            } else if attempt.target != first.target {
                format!("path, {} and then {}", first.target, attempt.target)
            } else if attempt.body_digest != first.body_digest {
                format!(
                    "body, {} bytes and then {} bytes with another SHA-256",
                    first.body_bytes, attempt.body_bytes
                )
            } else {
                continue;
            };
            let message =
                format!("attempt {} of one call had another {what} (scenario `{}`)", again + 2, call.place());
            return fail(message)
                .figure("first_sha256", first.body_digest.clone())
                .figure("then_sha256", attempt.body_digest.clone());
        }
    }
    pass(format!(
        "method, path and body of {} were the same on every attempt",
        count(retried.len(), "retried call")
    ))
    .figure("retried_calls", retried.len())
}
