//! Bars as SVG, on no background and in tones that show on a light page and on a dark one.

use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{All, CALLERS, among_peers, grouped};
use crate::gateway::rows::{Row, Workload};
use crate::store;

const INK: RGBColor = RGBColor(125, 133, 144);
const TONES: [RGBColor; 7] = [
    RGBColor(125, 133, 144),
    RGBColor(160, 120, 80),
    RGBColor(56, 132, 220),
    RGBColor(34, 150, 110),
    RGBColor(205, 90, 70),
    RGBColor(150, 100, 200),
    RGBColor(200, 140, 30),
];
const WIDTH: i32 = 820;
const LEFT: i32 = 200;
const RIGHT: i32 = 120;
const BAR: i32 = 18;
const GAP: i32 = 12;
const TOP: i32 = 40;
const BOTTOM: i32 = 14;

/// A bar: whose it is, how long, what stands at its end, and the tone.
struct Bar {
    name: String,
    value: f64,
    label: String,
    tone: RGBColor,
}

/// Bars below a heading of their own.
struct Group {
    name: String,
    bars: Vec<Bar>,
}

pub(super) fn draw(all: &All) -> Result<Vec<(&'static str, String)>, Box<dyn Error>> {
    let rows: Vec<Row> = all.rows(&CALLERS)?;
    let mut plots = Vec::new();
    let at_32: Vec<&Row> = rows.iter().filter(|row| row.connections == 32).collect();
    if !at_32.is_empty() {
        plots.push(("throughput.svg", bars("Requests per second, 32 callers", &throughput(&at_32))?));
        plots.push((
            "cpu.svg",
            bars(
                "CPU for a request, gateway and its store's server, us, 32 callers",
                &cpu(&at_32, str::to_owned),
            )?,
        ));
    }
    let mut stores = Vec::new();
    for (part, name) in [("embedded", "Embedded"), ("redis", "Redis"), ("postgres", "PostgreSQL")] {
        stores.extend(pairs(name, &all.rows::<store::Row>(&[part])?));
    }
    if !stores.is_empty() {
        plots.push(("stores.svg", bars("Claims completed per second, beside each store's floor", &stores)?));
    }
    let peers: Vec<Row> = all.rows(&["peers"])?;
    if !peers.is_empty() {
        let peers: Vec<&Row> = peers.iter().collect();
        plots.push((
            "peers.svg",
            bars("CPU for a request with its store's server, us, 32 callers", &cpu(&peers, among_peers))?,
        ));
    }
    Ok(plots)
}

fn tone(middle: &str) -> RGBColor {
    let middle = middle.strip_prefix("axum-").unwrap_or(middle);
    let names = ["floor", "nginx", "memory", "embedded", "redis", "postgres"];
    TONES[names.iter().position(|name| *name == middle).unwrap_or(TONES.len() - 1)]
}

/// One group for each workload.
fn by_workload<'a>(rows: &[&'a Row], bar: impl Fn(&'a Row) -> Bar) -> Vec<Group> {
    let workloads = [Workload::Unkeyed, Workload::Fresh, Workload::Mixed, Workload::Replay];
    let group = |workload: Workload| {
        let of = rows.iter().filter(|row| row.workload == workload && !row.rounds.is_empty());
        let bars: Vec<Bar> = of.map(|row| bar(row)).collect();
        (!bars.is_empty()).then(|| Group { name: workload.called().to_owned(), bars })
    };
    workloads.into_iter().filter_map(group).collect()
}

fn throughput(rows: &[&Row]) -> Vec<Group> {
    by_workload(rows, |row| {
        let value = row.spread(|figures| figures.requests_per_s).median;
        Bar { name: row.middle.clone(), value, label: grouped(value), tone: tone(&row.middle) }
    })
}

fn cpu(rows: &[&Row], called: fn(&str) -> String) -> Vec<Group> {
    by_workload(rows, |row| {
        let own = row.spread(|figures| figures.cpu_us).median;
        let server = row.spread(|figures| figures.store_us).median;
        let label = if server > 0.05 { format!("{own:.0} + {server:.0}") } else { format!("{own:.0}") };
        Bar { name: called(&row.middle), value: own + server, label, tone: tone(&row.middle) }
    })
}

fn pairs(store: &str, rows: &[store::Row]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let callers = if row.callers == 1 { "caller" } else { "callers" };
        let name = format!("{store}, {} {callers}", row.callers);
        let value = row.figures.pairs_per_s;
        let is_ours = ["embedded", "redis", "postgres"].contains(&row.what.as_str());
        let tone = if is_ours { tone(&row.what) } else { INK };
        let bar = Bar { name: row.what.clone(), value, label: grouped(value), tone };
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) => group.bars.push(bar),
            None => groups.push(Group { name, bars: vec![bar] }),
        }
    }
    groups
}

fn bars(title: &str, groups: &[Group]) -> Result<String, Box<dyn Error>> {
    let count: i32 = groups.iter().map(|group| i32::try_from(group.bars.len()).unwrap_or(0)).sum();
    let groups_high = i32::try_from(groups.len())? * (BAR + GAP);
    let height = TOP + groups_high + count * BAR + BOTTOM;
    let longest =
        groups.iter().flat_map(|group| &group.bars).map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (u32::try_from(WIDTH)?, u32::try_from(height)?))
            .into_drawing_area();
        let style = |size: i32, horizontal| {
            ("sans-serif", size).into_font().color(&INK).pos(Pos::new(horizontal, VPos::Center))
        };
        area.draw(&Text::new(title, (4, TOP / 2 - 4), style(18, HPos::Left)))?;
        let mut y = TOP;
        for group in groups {
            area.draw(&Text::new(group.name.as_str(), (4, y + BAR / 2), style(16, HPos::Left)))?;
            y += BAR;
            for bar in &group.bars {
                let end = LEFT + pixels(bar.value / longest * f64::from(WIDTH - LEFT - RIGHT));
                area.draw(&Text::new(bar.name.as_str(), (LEFT - 8, y + BAR / 2), style(15, HPos::Right)))?;
                area.draw(&Rectangle::new(
                    [(LEFT, y + 3), (end.max(LEFT + 1), y + BAR - 3)],
                    bar.tone.filled(),
                ))?;
                area.draw(&Text::new(bar.label.as_str(), (end + 6, y + BAR / 2), style(15, HPos::Left)))?;
                y += BAR;
            }
            y += GAP;
        }
        area.present()?;
    }
    Ok(svg)
}

#[expect(clippy::cast_possible_truncation, reason = "a place on a picture")]
fn pixels(length: f64) -> i32 {
    length.round() as i32
}
