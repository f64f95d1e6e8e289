//! C16: a Retry-After that makes no sense does no harm.

use std::time::Duration;

use super::{Call, Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::report::Severity;
use crate::scenario::End;

pub(super) const CHECK: Check = Check {
    id: "C16",
    title: "nonsense in Retry-After does no harm",
    protects_from: "a proxy's odd header makes a client fail with a riddle, hammer the server, or sleep for ever",
    severity: Severity::S2,
    needs: &[
        "retry-503",
        "hostile-negative",
        "hostile-infinite",
        "hostile-word",
        "hostile-far",
        "hostile-past",
        "hostile-rfc850",
        "hostile-asctime",
    ],
    judge,
};

/// Who comes back sooner has not waited.
const AT_ONCE: Duration = Duration::from_millis(50);

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let retries = evidence.calls(&["retry-503"]).iter().any(Call::retried);
    if !retries {
        return not_applicable("503 is not retried");
    }
    let calls = evidence.calls(&CHECK.needs[1..]);
    let mut faults = Vec::new();
    let mut delays = Vec::new();
    for call in &calls {
        let name = call.place().trim_start_matches("hostile-");
        if let Some(delay) = call.delays().first() {
            delays.push(format!("{name} {:.2} s", delay.as_secs_f64()));
        }
        if let Some(fault) = fault(call, name) {
            faults.push(format!("{}: {fault}", written(call)));
        }
    }
    let ruling = match faults.first() {
        Some(first) => fail(format!("503 with {first}")),
        None => {
            pass("negative, infinite, far, past and unreadable values and old forms of dates did no harm")
        }
    };
    ruling.figure("faults", faults).figure("delays", delays)
}

/// The header, as the script has it.
fn written(call: &Call<'_>) -> String {
    let step = call.seen.script.split(", ").next().unwrap_or_default();
    step.split_once("retry-after=").map_or_else(String::new, |(_, value)| format!("Retry-After: {value}"))
}

fn fault(call: &Call<'_>, name: &str) -> Option<String> {
    let said = call.said();
    let returned = said.is_some() || matches!(call.seen.end, End::Finished | End::Exited(_));
    if let Some(delay) = call.delays().first() {
        // A date that has passed asks for no wait.
        let early = *delay < AT_ONCE && name != "past";
        return early.then(|| format!("came back after {} ms", delay.as_millis()));
    }
    if let End::Broke(why) = &call.seen.end {
        return Some(why.clone());
    }
    if !returned {
        return Some(format!("still waited when it was stopped after {:.0} s", call.seen.took.as_secs_f64()));
    }
    // Who was told to wait for ever may give up. Who gives up otherwise says so with the status.
    let may_stop = matches!(name, "far" | "infinite");
    let error = said.filter(|said| !said.ok && said.status.is_none()).and_then(|said| said.error.as_deref());
    error.filter(|_| !may_stop).map(|error| format!("did not retry and failed with `{error}`"))
}
