//! C16: a Retry-After that makes no sense does no harm.

use std::time::Duration;

use super::c10_delays_grow::median;
use super::{Call, Check, Evidence, Ruling, calls, fail, not_applicable, pass};
use crate::report::Severity;
use crate::scenario::{End, Seen};

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
const AT_ONCE_S: f64 = 0.05;

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let retries = evidence.calls(&["retry-503"]).iter().any(Call::retried);
    if !retries {
        return not_applicable("503 is not retried");
    }
    let mut faults = Vec::new();
    let mut delays = Vec::new();
    for seen in evidence.seen.iter().filter(|seen| seen.scenario.starts_with("hostile-")) {
        let (calls, name) = (calls(seen), seen.scenario.trim_start_matches("hostile-"));
        let waited: Vec<f64> =
            calls.iter().filter_map(|call| call.delays().first().map(Duration::as_secs_f64)).collect();
        let usual = (!waited.is_empty()).then(|| median(waited));
        if let Some(usual) = usual {
            delays.push(format!("{name} {usual:.2} s"));
        }
        if let Some(fault) = fault(seen, &calls, usual, name) {
            faults.push(format!("{}: {fault}", written(seen)));
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
fn written(seen: &Seen) -> String {
    let step = seen.script.rsplit_once(", ").map_or(seen.script.as_str(), |(first, _)| first);
    step.split_once("retry-after=").map_or_else(String::new, |(_, value)| format!("Retry-After: {value}"))
}

fn fault(seen: &Seen, calls: &[Call<'_>], usual: Option<f64>, name: &str) -> Option<String> {
    if let Some(usual) = usual {
        // A date that has passed asks for no wait.
        let early = usual < AT_ONCE_S && name != "past";
        return early.then(|| format!("came back after {:.0} ms", usual * 1e3));
    }
    if let End::Broke(why) = &seen.end {
        return Some(why.clone());
    }
    if seen.said.is_empty() && seen.end == End::Killed {
        return Some(format!("still waited when it was stopped after {:.0} s", seen.took.as_secs_f64()));
    }
    // Who was told to wait for ever may give up. Who gives up otherwise says so with the status.
    let may_stop = matches!(name, "far" | "infinite");
    let said = calls.iter().filter_map(Call::said).find(|said| !said.ok && said.status.is_none());
    let error = said.and_then(|said| said.error.as_deref()).filter(|_| !may_stop);
    error.map(|error| format!("did not retry and failed with `{error}`"))
}
