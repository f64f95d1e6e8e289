//! C20: an attempt has a time limit, and the retry after it the same key.

use super::{Check, Evidence, Ruling, fail, info, not_applicable, pass};
use crate::attempt::Ended;
use crate::report::Severity;
use crate::scenario::End;

pub(super) const CHECK: Check = Check {
    id: "C20",
    title: "an attempt that hangs is given up, and its key kept",
    protects_from: "a server that hangs takes its clients with it; a retry beside the first attempt needs its key",
    severity: Severity::S1,
    needs: &["retry-timeout"],
    judge,
};

/// The limit is 1.5 s; this is late even for a machine that is busy.
const LATE_S: f64 = 4.5;

fn judge(evidence: &Evidence<'_>) -> Ruling {
    if evidence.supports("timeout") == Some(false) {
        return not_applicable("a call cannot be given a time limit");
    }
    let calls = evidence.calls(CHECK.needs);
    let Some((call, first)) = calls.first().and_then(|call| Some((call, call.here().next()?))) else {
        return not_applicable("no call arrived");
    };
    let limit = call.seen.asked.timeout_ms.unwrap_or(0);
    let waited = first.ended_at.unwrap_or(call.seen.took).saturating_sub(first.at).as_secs_f64();
    // The server may not have noticed yet when the client had returned.
    let gone = call.retried() || call.seen.end != End::Killed;
    let gave_up = first.ended == Ended::Left || (first.ended == Ended::Running && gone);
    let again = call.here().nth(1).map(|second| second.at.saturating_sub(first.at).as_secs_f64());
    let waited = if first.ended == Ended::Left { waited } else { again.unwrap_or(waited).min(waited) };
    let ruling = if (!gave_up && again.is_none()) || waited > LATE_S {
        let message =
            format!("had {limit} ms for an attempt and waited {waited:.1} s for a server that hung");
        match evidence.supports("timeout") {
            None => info(format!(
                "{message}; say `--supports timeout` if the command reads SEMEL_AUDIT_TIMEOUT_MS"
            )),
            _ => fail(message),
        }
    } else if call.keys().len() > 1 {
        fail(format!(
            "gave up after {waited:.1} s and sent the call again under another key, beside the first attempt that still ran"
        ))
        .severity(Severity::S0)
    } else if call.retried() {
        let how = if call.keys() == [None] { "without a key, see C3" } else { "under the same key" };
        pass(format!("gave the attempt up after {waited:.1} s and sent the call again {how}"))
    } else {
        pass(format!("gave the attempt up after {waited:.1} s and did not send it again"))
    };
    ruling.figure("waited_s", (waited * 1e3).round() / 1e3).figure("attempts", call.here().count())
}
