//! C13: `Retry-After` as a date is obeyed.

use super::c12_retry_after_seconds::{Obeyed, obeyed, shown};
use super::{Check, Evidence, Ruling, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C13",
    title: "Retry-After as a date is obeyed",
    protects_from: "a client that knows only seconds takes a date for nothing and comes back at once",
    severity: Severity::S2,
    needs: &["retry-after-date"],
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Ruling {
    // HTTP dates have whole seconds: what is four seconds away may read as three.
    match obeyed(evidence, "retry-after-date", "429 with a Retry-After date four seconds ahead", 3.0, 5.5) {
        Obeyed::Yes(delays) => pass(format!("waited {}", shown(&delays))).figure("delays_s", delays),
        Obeyed::Unseen => not_applicable("429 is not retried"),
        Obeyed::Not(ruling) => ruling,
    }
}
