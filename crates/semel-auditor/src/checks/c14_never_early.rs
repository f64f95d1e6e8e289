//! C14: told to come back in an hour, it does not come back in a second.

use super::{Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C14",
    title: "never earlier than Retry-After says",
    protects_from: "a client that finds an hour too long and tries at once keeps a server down that asked for rest",
    severity: Severity::S1,
    needs: &["wait-an-hour"],
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let calls = evidence.calls(CHECK.needs);
    let Some(call) = calls.first() else { return not_applicable("no call arrived") };
    let watched = call.seen.took.as_secs_f64();
    let attempts = call.here().count();
    let ruling = match call.delays().first() {
        Some(early) => fail(format!(
            "was told to come back in an hour and came back after {:.1} s: {attempts} attempts in {watched:.0} s",
            early.as_secs_f64()
        )),
        None => pass(format!("was told to come back in an hour, and did not within {watched:.1} s")),
    };
    ruling.figure("attempts", attempts).figure("watched_s", watched)
}
