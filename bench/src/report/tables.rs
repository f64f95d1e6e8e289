//! Figures as Markdown. Of no rows, no table.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use serde::de::IgnoredAny;

use super::criterion;
use super::{among_peers, grouped, read_if_there};
use crate::gateway::rows::{Figures, Row};
use crate::results::{Results, Spread};
use crate::store;

/// Lines of cells below a head.
fn table(head: &str, lines: &[Vec<String>]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let columns = head.split('|').count();
    let mut text = format!("| {head} |\n|{}\n", " --- |".repeat(columns));
    for line in lines {
        text.push_str(&format!("| {} |\n", line.join(" | ")));
    }
    text
}

/// Which parts were measured where: figures of two machines say nothing about each other.
pub(super) fn machines(measured: &[(&str, Results<IgnoredAny>)]) -> String {
    let mut machines: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (name, results) in measured {
        machines.entry(&results.machine).or_default().push((*name, results.fdatasync_us));
    }
    let line = |(machine, parts): (&&str, &Vec<(&str, f64)>)| {
        let names: Vec<_> = parts.iter().map(|(name, _)| *name).collect();
        let syncs = parts.iter().map(|(_, us)| *us);
        let (least, most) = (syncs.clone().fold(f64::INFINITY, f64::min), syncs.fold(0.0, f64::max));
        vec![(*machine).to_owned(), names.join(", "), format!("{least:.0} to {most:.0}")]
    };
    let lines: Vec<_> = machines.iter().map(line).collect();
    table("machine | parts | one fdatasync of 4 KiB, us", &lines)
}

pub(super) fn gateway(rows: &[Row]) -> String {
    let base = |row: &Row| {
        rows.iter().find(|base| base.workload == row.workload && base.connections == row.connections)
    };
    let line = |row: &Row| {
        let of = |what: fn(&Figures) -> f64| row.spread(what).median;
        let base = base(row).unwrap_or(row);
        let server = of(|figures| figures.store_us);
        vec![
            row.workload.called().to_owned(),
            row.connections.to_string(),
            row.middle.clone(),
            grouped(of(|figures| figures.requests_per_s)),
            row.ratio(base, |figures| figures.requests_per_s).to_string(),
            grouped(of(|figures| figures.p50_us)),
            grouped(of(|figures| figures.p99_us)),
            format!("{:.1}", of(|figures| figures.cpu_us)),
            row.ratio(base, |figures| figures.cpu_us).to_string(),
            if server > 0.05 { format!("{server:.1}") } else { String::new() },
        ]
    };
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by_key(|row| (row.workload, row.connections));
    let lines: Vec<_> = sorted.into_iter().map(line).collect();
    let head = "workload | callers |  | requests/s | of floor | p50 us | p99 us | CPU us | of floor | server's CPU us";
    table(head, &lines)
}

pub(super) fn crowd(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let calls = row.rounds.iter().filter_map(|figures| figures.store_calls);
        let after = Spread::of(row.rounds.iter().filter_map(|figures| figures.after_effect_ms));
        vec![
            grouped(row.connections as f64),
            format!("{} ms", row.pause_ms),
            row.middle.clone(),
            Spread::of(row.rounds.iter().map(|figures| figures.effects as f64)).most.to_string(),
            grouped(row.spread(|figures| figures.answers as f64).least),
            format!("{:.0}", after.median),
            format!("{:.0}", after.most),
            format!("{:.0}", Spread::of(calls).most),
        ]
    };
    let lines: Vec<_> = rows.iter().map(line).collect();
    let head = "callers | effect takes | store | effects | equal answers | last answer after the effect, ms | at most | calls of the store";
    table(head, &lines)
}

pub(super) fn memory(rows: &[Row]) -> String {
    let line = |row: &Row| {
        let answers: f64 = row.rounds.iter().map(|figures| figures.answers as f64).sum();
        vec![
            row.middle.clone(),
            grouped(answers),
            row.connections.to_string(),
            format!("{:.0}", row.resident_mib),
            format!("{:.0}", row.peak_mib),
        ]
    };
    let lines: Vec<_> = rows.iter().map(line).collect();
    table(" | requests | callers | MiB resident then | at most", &lines)
}

pub(super) fn stores(rows: &[store::Row]) -> String {
    let line = |row: &store::Row| {
        let figures = &row.figures;
        let server = figures.server_us_per_pair;
        vec![
            row.mode.clone(),
            row.what.clone(),
            if row.callers == 0 { String::new() } else { row.callers.to_string() },
            grouped(figures.pairs_per_s),
            row.ratio.map_or(String::new(), |ratio| ratio.to_string()),
            format!("{:.2}", figures.p50_ms),
            format!("{:.2}", figures.p99_ms),
            format!("{:.1}", figures.max_ms),
            format!("{:.1}", figures.cpu_us_per_pair),
            if server > 0.0 { format!("{server:.1}") } else { String::new() },
        ]
    };
    let (opened, paired): (Vec<&store::Row>, Vec<&store::Row>) =
        rows.iter().partition(|row| row.opened_ms.is_some());
    let lines: Vec<_> = paired.into_iter().map(line).collect();
    let head =
        "mode |  | callers | pairs/s | of the first | p50 ms | p99 ms | max ms | CPU us | server's CPU us";
    let mut text = table(head, &lines);
    for row in opened {
        let opened = row.opened_ms.unwrap_or(Spread::of([]));
        text.push_str(&format!(
            "\nAfter `kill -9` under 64 callers it opens in {:.0} ms ({:.0} to {:.0}): {}.\n",
            opened.median, opened.least, opened.most, row.what
        ));
    }
    text
}

pub(super) fn library(rows: &[criterion::Row]) -> Result<String, Box<dyn Error>> {
    #[derive(serde::Deserialize)]
    struct Counts {
        instructions: BTreeMap<String, u64>,
    }
    let counts = read_if_there(&Path::new(env!("CARGO_MANIFEST_DIR")).join("library/counts.toml"));
    let counts: Counts = toml::from_str(&counts)?;
    let line = |row: &criterion::Row| {
        let count = counts.instructions.get(&row.case);
        vec![
            row.case.clone(),
            grouped(row.ns.median),
            format!("{} to {}", grouped(row.ns.least), grouped(row.ns.most)),
            count.map_or(String::new(), |count| grouped(*count as f64)),
        ]
    };
    let lines: Vec<_> = rows.iter().map(line).collect();
    Ok(table("call | ns | 95 % interval of the median | instructions", &lines))
}

/// What each is, then what was measured of it.
pub(super) fn peers(rows: &[Row]) -> String {
    use crate::gateway::rows::Workload::{Crowd, Fresh, Replay};
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.middle.as_str()) {
            names.push(&row.middle);
        }
    }
    let abouts =
        rows.iter().filter(|row| row.workload == Fresh).filter_map(|row| Some((row, row.about.as_ref()?)));
    let about = abouts.map(|(row, about)| {
        let place = if about.library { "in the program" } else { "a proxy" };
        vec![
            row.middle.clone(),
            about.version.clone(),
            place.to_owned(),
            about.durability.clone(),
            about.concurrent.clone(),
        ]
    });
    let about: Vec<_> = about.collect();
    let of = |name: &str, workload| rows.iter().find(|row| row.middle == name && row.workload == workload);
    let lines = names.iter().map(|name| {
        let mut line = vec![among_peers(name)];
        for workload in [Fresh, Replay] {
            line.extend(of(name, workload).map_or_else(|| vec![String::new(); 3], speed));
        }
        line.push(of(name, Crowd).map_or_else(String::new, crowd_of));
        line
    });
    let lines: Vec<_> = lines.collect();
    let figures = " | fresh, requests/s | CPU us | server's CPU us | replay, requests/s | CPU us | server's CPU us | 200 at once";
    let what = table(
        " | version | where | where records are, as set here | what it says of a second request meanwhile",
        &about,
    );
    format!("{what}\n{}", table(figures, &lines)).trim().to_owned()
}

fn speed(row: &Row) -> Vec<String> {
    if let Some(failed) = &row.failed {
        let failed: String = failed.replace(['|', '\n'], " ").chars().take(120).collect();
        return vec![format!("none: {failed}"), String::new(), String::new()];
    }
    let of = |what: fn(&Figures) -> f64| row.spread(what).median;
    let server = of(|figures| figures.store_us);
    vec![
        grouped(of(|figures| figures.requests_per_s)),
        format!("{:.0}", of(|figures| figures.cpu_us)),
        if server > 0.05 { format!("{server:.0}") } else { String::new() },
    ]
}

fn crowd_of(row: &Row) -> String {
    let Some(figures) = row.rounds.last() else {
        return row.failed.clone().unwrap_or_default();
    };
    let answers = if figures.statuses.is_empty() {
        format!("{} answers of 201", figures.answers)
    } else {
        let each = figures.statuses.iter().map(|(status, count)| format!("{count} of {status}"));
        each.collect::<Vec<_>>().join(", ")
    };
    format!("effects: {}; {answers}", figures.effects)
}
