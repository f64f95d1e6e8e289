//! C12: `Retry-After: 2` is two seconds, on 429 and on 503.

use super::{Check, Evidence, Ruling, c10_delays_grow::median, fail, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C12",
    title: "Retry-After in seconds is obeyed",
    protects_from: "who comes back before the server is ready is turned away again, or banned",
    severity: Severity::S1,
    needs: &["retry-after-429", "retry-after-503"],
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let first = obeyed(evidence, "retry-after-429", "429 with Retry-After: 2", 2.0, 3.0);
    let second = obeyed(evidence, "retry-after-503", "503 with Retry-After: 2", 2.0, 3.0);
    match (first, second) {
        (Obeyed::Not(ruling), _) | (_, Obeyed::Not(ruling)) => ruling,
        (Obeyed::Unseen, Obeyed::Unseen) => not_applicable("neither 429 nor 503 is retried"),
        (Obeyed::Yes(delays), Obeyed::Unseen) => {
            pass(format!("waited {} after 429; 503 is not retried", shown(&delays)))
                .figure("delays_429_s", delays)
        }
        (Obeyed::Unseen, Obeyed::Yes(delays)) => {
            pass(format!("waited {} after 503; 429 is not retried", shown(&delays)))
                .figure("delays_503_s", delays)
        }
        (Obeyed::Yes(first), Obeyed::Yes(second)) => {
            pass(format!("waited {} after 429 and {} after 503", shown(&first), shown(&second)))
                .figure("delays_429_s", first)
                .figure("delays_503_s", second)
        }
    }
}

pub(super) enum Obeyed {
    Yes(Vec<f64>),
    /// Nothing was sent again.
    Unseen,
    Not(Ruling),
}

/// A timer that fires this much early is exact.
const EXACT_S: f64 = 0.01;

/// Whether the first retries of a scenario's calls came after `least` seconds each, and half of them by `most`: a single
/// late one is the machine's doing.
pub(super) fn obeyed(evidence: &Evidence<'_>, scenario: &str, told: &str, least: f64, most: f64) -> Obeyed {
    let calls = evidence.calls(&[scenario]);
    let delays = calls.iter().filter_map(|call| call.delays().first().map(std::time::Duration::as_secs_f64));
    let delays: Vec<f64> = delays.map(|delay| (delay * 1e3).round() / 1e3).collect();
    let Some(earliest) = delays.iter().copied().min_by(f64::total_cmp) else { return Obeyed::Unseen };
    let usual = median(delays.clone());
    let ruling = if earliest < least - EXACT_S {
        fail(format!(
            "was answered {told}, and came back after {earliest:.2} s: it was not to come before {least} s"
        ))
    } else if usual > most {
        fail(format!("was answered {told}, and came back after {usual:.2} s: {most} s would do"))
    } else {
        return Obeyed::Yes(delays);
    };
    Obeyed::Not(ruling.figure("delays_s", delays))
}

pub(super) fn shown(delays: &[f64]) -> String {
    let least = delays.iter().copied().min_by(f64::total_cmp).unwrap_or(0.0);
    let most = delays.iter().copied().max_by(f64::total_cmp).unwrap_or(0.0);
    if delays.len() == 1 { format!("{least:.2} s") } else { format!("{least:.2} to {most:.2} s") }
}
