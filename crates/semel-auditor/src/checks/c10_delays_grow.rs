//! C10: each delay is longer than the one before.

use super::{Check, Evidence, Ruling, fail, info, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C10",
    title: "delays grow from retry to retry",
    protects_from: "a server that needs a minute is asked every half second, by everybody, for as long as it lasts",
    severity: Severity::S2,
    needs: &["growth"],
    judge,
};

const GROWTH_MIN: f64 = 1.3;
/// Delays as long as this may have reached their cap.
const CAP_MS: f64 = 5000.0;

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let calls = evidence.calls(CHECK.needs);
    let delays: Vec<Vec<f64>> = calls
        .iter()
        .map(|call| call.delays().iter().map(|delay| delay.as_secs_f64() * 1e3).collect())
        .collect();
    let medians: Vec<f64> = (0..3)
        .map_while(|retry| {
            let of_all: Vec<f64> =
                delays.iter().filter_map(|of_one: &Vec<f64>| of_one.get(retry).copied()).collect();
            // A delay that few calls came to is no median.
            (of_all.len() * 2 > delays.len() && !of_all.is_empty()).then(|| median(of_all))
        })
        .collect();
    let shown = medians.iter().map(|median| format!("{median:.0} ms")).collect::<Vec<_>>().join(", ");
    let rounded: Vec<f64> = medians.iter().map(|median| median.round()).collect();
    let ruling = match medians[..] {
        [] => not_applicable("no call was sent a second time"),
        [_] => not_applicable("calls were sent again only once"),
        [first, second] => info(format!(
            "delays were {shown}: by a factor of {:.1}; three retries are needed to judge",
            second / first
        )),
        [first, .., last] => {
            // Over all retries, because jitter may turn two neighbours around.
            let growth = (last / first.max(0.1)).sqrt();
            match growth >= GROWTH_MIN || first >= CAP_MS {
                true => {
                    pass(format!("delays were {shown} (medians): they grow by a factor of {growth:.1} each"))
                }
                false => fail(format!(
                    "delays were {shown} (medians), a factor of {growth:.2} from one to the next: they should grow by at \
                     least {GROWTH_MIN}"
                )),
            }
        }
    };
    ruling.figure("delay_medians_ms", rounded).figure("calls", calls.len())
}

/// Of at least one number.
pub(super) fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() % 2 {
        0 => f64::midpoint(numbers[middle - 1], numbers[middle]),
        _ => numbers[middle],
    }
}
