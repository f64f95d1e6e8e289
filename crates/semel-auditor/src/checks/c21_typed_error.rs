//! C21: the error at the end says what is known: may it be sent again, how often it was, under which key, and when.

use super::{Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C21",
    title: "the error says what is known",
    protects_from: "without key and verdict in the error, the caller guesses whether to order again",
    severity: Severity::S2,
    needs: &["error-503", "error-429", "error-reset"],
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let calls = evidence.calls(CHECK.needs);
    let mut missing = Vec::new();
    let mut heard = 0_usize;
    for call in &calls {
        let Some(said) = call.said() else { continue };
        heard += 1;
        let mut lacks = |what: &str| missing.push(format!("{what} ({})", call.place()));
        if said.ok {
            lacks("the error itself");
            continue;
        }
        if said.retryable.is_none() {
            lacks("whether it may be sent again");
        }
        if said.attempts != u32::try_from(call.here().count()).ok() {
            lacks("how many attempts were made");
        }
        if said.key.is_none() || said.key.as_deref() != call.attempts[0].key() {
            lacks("the key");
        }
        if call.place() == "error-429" && said.retry_after_s.is_none() {
            lacks("when to come back");
        }
    }
    if heard == 0 {
        return not_applicable("nobody said what the error carries; see the guide for the line to print");
    }
    let ruling = match missing.first() {
        None => pass(
            "errors say whether to send again, how many attempts there were, the key, and when to come back",
        ),
        Some(_) => {
            let mut kinds: Vec<&str> = missing.iter().filter_map(|text| text.split(" (").next()).collect();
            kinds.dedup();
            kinds.sort_unstable();
            kinds.dedup();
            fail(format!("the error does not say {}", kinds.join(", nor ")))
        }
    };
    ruling.figure("missing", missing).figure("errors_heard", heard)
}
