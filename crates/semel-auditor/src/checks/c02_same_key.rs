//! C2: all attempts of one call carry the same key.

use super::{Check, Evidence, Ruling, count, fail, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C2",
    title: "the same key on every attempt",
    protects_from: "a retry under another key is a second payment, made by the very thing that should prevent it",
    severity: Severity::S0,
    needs: &["retry-503", "retry-429", "retry-reset", "retry-timeout", "acted-then-failed", "lost-answer"],
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let calls = evidence.calls(CHECK.needs);
    let retried: Vec<_> = calls.iter().filter(|call| call.retried()).collect();
    let keyed: Vec<_> = retried.iter().filter(|call| call.keys() != [None]).collect();
    if retried.is_empty() {
        return not_applicable("no call was sent a second time");
    }
    if keyed.is_empty() {
        return not_applicable("no call has a key that could change; see C3");
    }
    let changed: Vec<_> = keyed.iter().filter(|call| call.keys().len() > 1).collect();
    let Some(worst) = changed.iter().max_by_key(|call| call.keys().len()) else {
        let message =
            format!("{} in {} kept their keys", count(keyed.len(), "retried call"), "every scenario");
        return pass(message).figure("retried_calls", keyed.len());
    };
    let (attempts, keys) = (worst.here().count(), worst.keys());
    let message = match keys.contains(&None) {
        true => format!(
            "one call was sent {attempts} times, and not every time with a key (scenario `{}`): an API that honours \
             keys takes it for several orders",
            worst.place()
        ),
        false => format!(
            "one call was sent {attempts} times under {} different keys (scenario `{}`): an API that honours keys \
             takes it for {} orders",
            keys.len(),
            worst.place(),
            keys.len()
        ),
    };
    let scenarios: Vec<&str> = changed.iter().map(|call| call.place()).collect();
    fail(message).figure("retried_calls", retried.len()).figure("scenarios_with_another_key", scenarios)
}
