//! C15: told to come back in an hour, it does not sleep for an hour.

use super::{Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::report::Severity;
use crate::scenario::End;

pub(super) const CHECK: Check = Check {
    id: "C15",
    title: "no sleep without an end",
    protects_from: "one header from a server puts every worker of a program to sleep for an hour",
    severity: Severity::S1,
    needs: &["wait-an-hour"],
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let seen = match evidence.seen("wait-an-hour") {
        Ok(seen) => seen,
        Err(ruling) => return ruling,
    };
    if seen.attempts.is_empty() {
        return not_applicable("no call arrived");
    }
    let asked = seen.asked.deadline_ms.unwrap_or(0) / 1000;
    let returned = seen.said.first().map(|said| said.at.as_secs_f64());
    let took = returned.unwrap_or(seen.took.as_secs_f64());
    let ruling = match (&seen.end, returned) {
        (End::Killed, None) => fail(format!(
            "was told to come back in an hour and had {asked} s for the call: it still waited when it was stopped after \
             {took:.0} s"
        )),
        (End::Quiet, None) => return not_applicable("nobody saw whether the call returned to its caller"),
        _ => pass(format!("was told to come back in an hour, and returned to its caller after {took:.1} s")),
    };
    ruling.figure("returned_after_s", (took * 1e3).round() / 1e3)
}
