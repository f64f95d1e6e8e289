//! C9: retries end.

use super::{Check, Evidence, Ruling, fail, info, not_applicable, pass};
use crate::report::Severity;
use crate::scenario::End;

pub(super) const CHECK: Check = Check {
    id: "C9",
    title: "retries come to an end",
    protects_from: "a client that never gives up holds its caller for ever and a server that is down, down",
    severity: Severity::S1,
    needs: &["steady-503"],
    judge,
};

const ATTEMPTS_MAX: usize = 6;
const TIME_MAX_S: f64 = 120.0;

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let calls = evidence.calls(CHECK.needs);
    let Some(call) = calls.iter().max_by_key(|call| call.here().count()) else {
        return not_applicable("no call arrived");
    };
    let (attempts, took) = (call.here().count(), call.seen.took.as_secs_f64());
    let ruling = if attempts > ATTEMPTS_MAX {
        let end = if call.seen.end == End::SeenEnough { ", and was not seen to give up" } else { "" };
        fail(format!(
            "one call was sent {attempts} times in {took:.0} s while the server answered 503 each time{end}: more than \
             {ATTEMPTS_MAX} attempts are a burden on a server that is down"
        ))
    } else if took > TIME_MAX_S {
        fail(format!("one call took {took:.0} s while the server answered 503 each time"))
    } else if attempts == 1 {
        not_applicable("a call that is answered 503 is not sent again")
    } else if call.seen.end == End::Killed {
        info(format!("{attempts} attempts in {took:.0} s, and it had not given up when it was stopped"))
    } else {
        pass(format!("it gave up after {attempts} attempts and {took:.1} s"))
    };
    ruling.figure("attempts", attempts).figure("took_s", took)
}
