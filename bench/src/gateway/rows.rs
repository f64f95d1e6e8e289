//! The figures of the gateway, as they are kept and shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) use super::load::Workload;
use super::peer::About;
use crate::results::Spread;

/// What the floor's CPU may be of nginx's: a floor that is slow would make everything beside it look fast.
const FLOOR_OF_NGINX: f64 = 1.4;

/// One measurement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) answers: u64,
    pub(crate) requests_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
    /// CPU time of the process in the middle for a request, user and system.
    pub(crate) cpu_us: f64,
    /// CPU time of its store's server.
    pub(crate) store_us: f64,
    pub(crate) effects: u64,
    /// From the end of the last effect to the last answer, where the upstream makes the effect.
    pub(crate) after_effect_ms: Option<f64>,
    /// How often the gateway asked its store, in all.
    pub(crate) store_calls: Option<f64>,
    /// Answers of each status, of a peer's crowd.
    pub(crate) statuses: BTreeMap<u16, u64>,
}

/// All rounds of one thing under one load.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) workload: Workload,
    /// How many callers shared a connection, over HTTP/2.
    pub(crate) http2: Option<u64>,
    pub(crate) connections: u64,
    pub(crate) pause_ms: u64,
    pub(crate) middle: String,
    pub(crate) rounds: Vec<Figures>,
    /// What was wrong with a peer's answers, which ended its rounds.
    pub(crate) failed: Option<String>,
    pub(crate) resident_mib: f64,
    pub(crate) peak_mib: f64,
    /// Of a peer.
    pub(crate) about: Option<About>,
}

impl Row {
    pub(crate) fn spread(&self, of: impl Fn(&Figures) -> f64) -> Spread {
        Spread::of(self.rounds.iter().map(of))
    }

    /// Round by round, of `base`'s.
    pub(crate) fn ratio(&self, base: &Self, of: impl Fn(&Figures) -> f64) -> Spread {
        Spread::of(self.rounds.iter().zip(&base.rounds).map(|(ours, theirs)| of(ours) / of(theirs)))
    }
}

/// Why the rows of one load say nothing, if they do not.
pub(super) fn void(rows: &[Row]) -> Option<String> {
    let of = |name: &str| rows.iter().find(|row| row.middle == name);
    let (floor, nginx) = (of("floor")?, of("nginx")?);
    let cpu = |row: &Row| row.spread(|figures| figures.cpu_us).median;
    let ratio = cpu(floor) / cpu(nginx);
    (floor.workload != Workload::Crowd && ratio > FLOOR_OF_NGINX).then(|| {
        format!(
            "{}, {} callers: the floor took {ratio:.2} times nginx's CPU, {FLOOR_OF_NGINX} is allowed",
            floor.workload.called(),
            floor.connections
        )
    })
}

pub(super) fn show(rows: &[Row]) {
    println!(
        "{:<9} {:>5} {:<12} {:>9} {:>18} {:>8} {:>8} {:>7} {:>6} {:>7} {:>6}",
        "workload", "conn", "", "req/s", "ratio", "p50 us", "p99 us", "cpu us", "ratio", "store", "MiB"
    );
    for row in rows {
        let of = |what: fn(&Figures) -> f64| row.spread(what).median;
        println!(
            "{:<9} {:>5} {:<12} {:>9.0} {:>18} {:>8.0} {:>8.0} {:>7.1} {:>6.2} {:>7.1} {:>6.1}",
            row.workload.called(),
            row.connections,
            row.middle,
            of(|figures| figures.requests_per_s),
            row.ratio(&rows[0], |figures| figures.requests_per_s).to_string(),
            of(|figures| figures.p50_us),
            of(|figures| figures.p99_us),
            of(|figures| figures.cpu_us),
            row.ratio(&rows[0], |figures| figures.cpu_us).median,
            of(|figures| figures.store_us),
            row.resident_mib,
        );
        if row.workload == Workload::Crowd {
            show_crowd(row);
        }
        if let Some(failed) = &row.failed {
            println!("  left out from here on: {failed}");
        }
    }
}

fn show_crowd(row: &Row) {
    let after = Spread::of(row.rounds.iter().filter_map(|figures| figures.after_effect_ms)).median;
    let effects = row.spread(|figures| figures.effects as f64).most;
    let last = row.rounds.last();
    let calls = last.and_then(|figures| figures.store_calls);
    let calls = calls.map_or(String::new(), |calls| format!(", {calls} calls of the store"));
    let statuses = last.map(|figures| &figures.statuses).filter(|statuses| !statuses.is_empty());
    let statuses = statuses.map_or(String::new(), |statuses| format!(", {statuses:?}"));
    println!("  effects: {effects}; last answer {after:.0} ms after the effect{calls}{statuses}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(middle: &str, cpu_us: f64) -> Row {
        Row {
            workload: Workload::Fresh,
            http2: None,
            connections: 32,
            pause_ms: 0,
            middle: middle.to_owned(),
            rounds: vec![Figures { cpu_us, ..Figures::default() }],
            failed: None,
            resident_mib: 0.0,
            peak_mib: 0.0,
            about: None,
        }
    }

    #[test]
    fn floor_that_costs_more_than_it_may_makes_the_run_void() {
        assert_eq!(void(&[row("floor", 13.9), row("nginx", 10.0)]), None);
        let void = void(&[row("floor", 14.1), row("nginx", 10.0)]).expect("1.41 is more than 1.4");
        assert_eq!(void, "fresh, 32 callers: the floor took 1.41 times nginx's CPU, 1.4 is allowed");
    }
}
