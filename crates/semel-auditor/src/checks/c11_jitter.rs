//! C11: clients that failed together do not come back together.

use super::{Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::audit::STALL_MAX;
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C11",
    title: "retries are spread over time",
    protects_from: "all clients of a server that stumbled come back in the same moment, and it stumbles again",
    severity: Severity::S1,
    needs: &["herd"],
    judge,
};

const CALLS_MIN: usize = 20;
const SPREAD_MIN: f64 = 0.10;
const WINDOW_MS: f64 = 50.0;
const IN_WINDOW_MAX: f64 = 0.40;

#[expect(clippy::cast_precision_loss, reason = "there are some forty calls")]
fn judge(evidence: &Evidence<'_>) -> Ruling {
    let calls = evidence.calls(CHECK.needs);
    let mut delays: Vec<f64> = calls
        .iter()
        .filter_map(|call| call.delays().first().map(|delay| delay.as_secs_f64() * 1e3))
        .collect();
    if delays.is_empty() {
        return not_applicable("no call was sent a second time, or calls could not be told apart");
    }
    if delays.len() < CALLS_MIN {
        return not_applicable(format!(
            "{} retried calls are too few to judge, {CALLS_MIN} are needed",
            delays.len()
        ));
    }
    delays.sort_by(f64::total_cmp);
    let number = delays.len() as f64;
    let mean = delays.iter().sum::<f64>() / number;
    let deviation = (delays.iter().map(|delay| (delay - mean).powi(2)).sum::<f64>() / number).sqrt();
    let spread = deviation / mean.max(0.001);
    let within =
        |from: &f64| delays.iter().filter(|delay| (*from..from + WINDOW_MS).contains(*delay)).count();
    let crowd = delays.iter().map(within).max().unwrap_or(0);
    let share = crowd as f64 / number;
    let message = format!(
        "of {} calls that failed together {crowd} came back within the same {WINDOW_MS:.0} ms (delays {mean:.0} ms ± \
         {deviation:.0})",
        delays.len()
    );
    // What a machine keeps waiting runs all at once afterwards: then only the deviation counts.
    let stalled = calls.iter().map(|call| call.seen.stalled).max().unwrap_or_default();
    let ruling = match spread >= SPREAD_MIN && (share <= IN_WINDOW_MAX || stalled > STALL_MAX) {
        true => pass(message),
        false => {
            fail(format!("{message}: at most 40 % should, and the deviation should be 10 % of the delay"))
        }
    };
    let rounded: Vec<f64> = delays.iter().map(|delay| delay.round()).collect();
    ruling
        .figure("first_delays_ms", rounded)
        .figure("mean_ms", mean.round())
        .figure("deviation_ms", deviation.round())
        .figure("most_within_50_ms", crowd)
        .figure("machine_stalled_ms", (stalled.as_secs_f64() * 1e3).round())
}
