//! C24: in an outage a client does not multiply its load.

use super::{Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C24",
    title: "an outage is not made worse",
    protects_from: "when everything fails, every call becomes three or four: the server comes back into a flood",
    severity: Severity::S1,
    needs: &["outage"],
    judge,
};

/// Retries for each call, and a burst: 1,000 calls may become 1,200 requests.
const SHARE: f64 = 0.1;
const BURST: f64 = 100.0;
const CALLS_MIN: usize = 300;

#[expect(clippy::cast_precision_loss, reason = "there are some thousand calls")]
fn judge(evidence: &Evidence<'_>) -> Ruling {
    if evidence.one_call {
        return not_applicable(
            "a budget is shared by the calls of one process, and this command makes one call for each",
        );
    }
    let seen = match evidence.seen("outage") {
        Ok(seen) => seen,
        Err(ruling) => return ruling,
    };
    let attempts: Vec<_> = seen.attempts.iter().filter(|attempt| attempt.step != "aside").collect();
    let mut calls: Vec<u32> = attempts.iter().filter_map(|attempt| attempt.call).collect();
    calls.sort_unstable();
    calls.dedup();
    let (requests, calls) = (attempts.len(), calls.len());
    if calls < CALLS_MIN {
        return not_applicable(format!(
            "{calls} calls were made or could be told apart, {CALLS_MIN} are needed"
        ));
    }
    let factor = requests as f64 / calls as f64;
    let message = format!(
        "while every request failed, {calls} calls became {requests} requests (a factor of {factor:.2})"
    );
    let ruling = match requests as f64 <= calls as f64 * (1.0 + SHARE) + BURST {
        true => pass(message),
        false => fail(format!(
            "{message}: there is no budget for retries, which would keep it at 1.2 for 1,000 calls"
        )),
    };
    ruling
        .figure("calls", calls)
        .figure("requests", requests)
        .figure("factor", (factor * 100.0).round() / 100.0)
}
