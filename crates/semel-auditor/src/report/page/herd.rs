//! The herd: when the clients that failed together came back, in bins of 50 ms. From what check C11 was judged from.

use std::collections::BTreeMap;
use std::time::Duration;

use maud::{Markup, html};

use crate::attempt::Attempt;
use crate::report::Audit;

const CHECK: &str = "C11";
const BIN_MS: u128 = 50;
/// The share of all delays that one bin may have.
const SHARE_MAX: f64 = 0.4;
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 62.0;
const TOP: f64 = 16.0;
const BASE: f64 = 160.0;
/// Bins beyond are one.
const BINS_MAX: usize = 120;

/// The histogram; `None` where no herd was seen.
pub(super) fn drawing(audit: &Audit) -> Option<Markup> {
    let finding = audit.findings.iter().find(|finding| finding.check == CHECK)?;
    let delays: Vec<Duration> = finding
        .seen
        .iter()
        .filter_map(|&seen| audit.seen.get(seen))
        .flat_map(|seen| first_delays(&seen.attempts))
        .collect();
    if delays.len() < 2 {
        return None;
    }
    Some(histogram(&delays))
}

/// From the end of each call's first attempt to its second one.
fn first_delays(attempts: &[Attempt]) -> Vec<Duration> {
    let mut calls: BTreeMap<u32, Vec<&Attempt>> = BTreeMap::new();
    for attempt in attempts {
        if let Some(call) = attempt.call {
            calls.entry(call).or_default().push(attempt);
        }
    }
    let delay = |call: Vec<&Attempt>| {
        let [first, second, ..] = call.as_slice() else { return None };
        Some(second.at.saturating_sub(first.ended_at.unwrap_or(first.at)))
    };
    calls.into_values().filter_map(delay).collect()
}

fn histogram(delays: &[Duration]) -> Markup {
    let mut bins = Vec::new();
    for delay in delays {
        let bin = usize::try_from(delay.as_millis() / BIN_MS).unwrap_or(BINS_MAX).min(BINS_MAX);
        if bins.len() <= bin {
            bins.resize(bin + 1, 0_u32);
        }
        bins[bin] += 1;
    }
    let most = bins.iter().copied().max().unwrap_or(1).max(1);
    let all = f64::from(u32::try_from(delays.len()).unwrap_or(u32::MAX));
    let limit = all * SHARE_MAX;
    let ceiling = f64::from(most).max(limit) * 1.08;
    let count = f64::from(u32::try_from(bins.len().max(8)).unwrap_or(u32::MAX));
    let wide = (WIDTH - LEFT) / count;
    let y = |many: f64| BASE - (BASE - TOP) * many / ceiling;
    let crowded = bins.iter().filter(|many| f64::from(**many) > limit).count();
    let alt = format!("{} delays; the fullest 50 ms hold {most} of them", delays.len());
    // A mark every so many bins, so that they do not touch.
    let every =
        [1_u32, 2, 5, 10, 20, 40].into_iter().find(|every| wide * f64::from(*every) >= 46.0).unwrap_or(40);
    html! {
        figure {
            div.wide {
                svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label=(alt) {
                    line.axis x1=(LEFT) x2=(WIDTH) y1=(BASE) y2=(BASE) {}
                    @for (nth, many) in (0_u32..).zip(bins.iter()) {
                        @let x = LEFT + wide * f64::from(nth);
                        @if *many > 0 {
                            rect class=(if f64::from(*many) > limit { "over" } else { "bin" })
                                x=(format!("{:.1}", x + 0.5)) width=(format!("{:.1}", (wide - 1.0).max(1.0)))
                                y=(format!("{:.1}", y(f64::from(*many)))) height=(format!("{:.1}", BASE - y(f64::from(*many)))) {
                                title { (many) " calls came back " (nth * 50) " to " (nth * 50 + 50) " ms after the failure" }
                            }
                        }
                        @if nth % every == 0 {
                            text.faint x=(format!("{x:.1}")) y="176" text-anchor="middle" { (nth * 50) " ms" }
                        }
                    }
                    line.limit x1=(LEFT) x2=(WIDTH) y1=(format!("{:.1}", y(limit))) y2=(format!("{:.1}", y(limit))) {}
                    text.faint x="0" y=(format!("{:.1}", y(limit) + 4.0)) { "40 %" }
                    text.faint x="0" y=(format!("{:.1}", y(f64::from(most)) + 4.0)) { (most) " calls" }
                }
            }
            figcaption {
                (delays.len()) " calls failed at once; this is when they came back. "
                @if crowded > 0 { "The fullest 50 ms hold " (most) " of them, more than the 40 % that a host can bear." }
                @else { "No 50 ms hold more than " (most) " of them." }
            }
        }
    }
}
