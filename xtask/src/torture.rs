//! `cargo xtask torture`: the model in full, the checker at size, seeds by the thousand, the simulation, the kills, and at
//! length what the tests do in small: fuzz targets, two tenants, power cuts, the wind tunnel; a report at the end, which
//! is also in `target/torture.md`. `--quick` takes two minutes and leaves out what kills and what comes after it.
//!
//! Not part of `ci`, which runs the same in small as tests. The model, the checker and the seeds are the program
//! `semel-torture` of the testkit, the simulation is `semel-simulate`. What each part counted it says in the file that
//! `SEMEL_FIGURES` names (`semel-testkit/src/figures.rs`).

use std::fs;
use std::path::Path;

use crate::checkout::Workspace;
use crate::clock::{Stopwatch, Took};
use crate::command::Command;
use crate::failure::{Done, Failure, While};

mod planted;

/// What `cargo xtask torture` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The small model, fewer calls and seeds, no kills
    #[arg(long)]
    quick: bool,
    /// What random inputs, moments and winds are made from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Just this part, by its name; may be given more than once
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Break the product, and demand that the harnesses see it; `--only` takes names of patches then
    #[arg(long)]
    planted: bool,
}

const MODEL: &str = "cargo run --release --locked -p semel-testkit --features model --bin semel-torture --";
const BUILD_MODEL: &str =
    "cargo build --release --locked -p semel-testkit --features model --bin semel-torture";
const BUILD_SIMULATION: &str = "cargo build --release --locked -p semel-simulation";
const SIMULATION: &str = "cargo run --release --locked -p semel-simulation --";
const KILLS: &str = "binary(/^(kill_|crash)/) - binary(/^kill_(power|wind)$/)";
const TESTS: &str = "cargo nextest run --locked --all-features --workspace --profile torture";
/// Tests whose size is in the environment: what they are called, which they are, how large here.
type AtLength = (&'static str, &'static str, &'static [(&'static str, &'static str)]);
const AT_LENGTH: [AtLength; 6] = [
    (
        "kills",
        KILLS,
        &[
            ("SEMEL_VOLUMES", "1"),
            ("SEMEL_SERVER_POWER_CUTS", "20"),
            ("SEMEL_KILLS", "20"),
            ("SEMEL_FAILOVERS", "5"),
        ],
    ),
    ("hidden requests", "binary(gateway_smuggling)", &[]),
    (
        "fuzz",
        "binary(fuzz) | test(/any_bytes_are_damaged|log_of_any_bytes/)",
        &[("SEMEL_FUZZ_INPUTS", "1000000")],
    ),
    ("two tenants", "binary(gateway_two_tenants)", &[("SEMEL_TENANT_OPERATIONS", "1000000")]),
    ("power cuts", "binary(kill_power)", &[("SEMEL_POWER_CUTS", "700")]),
    (
        "wind tunnel",
        "binary(kill_wind)",
        &[("SEMEL_WIND_ROUNDS", "16"), ("SEMEL_WIND_NETWORK", "1"), ("SEMEL_VOLUMES", "1")],
    ),
];

struct Part {
    name: &'static str,
    command: Command,
}

fn parts(quick: bool, seed: u64) -> Vec<Part> {
    let part = |name, command| Part { name, command };
    let seeds = if quick { "200" } else { "10000" };
    let model = Command::new(MODEL);
    let mut parts = vec![
        part("model, checker, seeds", if quick { model.arg("--quick") } else { model }),
        part("simulation", Command::new(SIMULATION).arg("--seeds").arg(seeds)),
        part("simulation, planted", Command::new(SIMULATION).arg("--plants").arg("1000")),
    ];
    if quick {
        return parts;
    }
    // Built before they are timed.
    parts.insert(0, part("build", Command::new(TESTS).arg("--no-run")));
    parts.insert(1, part("build of the model", Command::new(BUILD_MODEL)));
    parts.insert(2, part("build of the simulation", Command::new(BUILD_SIMULATION)));
    parts.extend(AT_LENGTH.iter().map(|(name, tests, sizes)| {
        // Not captured, so that one sees how far it is.
        let command = Command::new(TESTS).arg("--no-capture").arg("-E").arg(*tests);
        let command = command.env("SEMEL_SEED", seed.to_string());
        part(name, sizes.iter().fold(command, |command, (size, value)| command.env(size, *value)))
    }));
    parts
}

/// What became of a part.
struct Row {
    name: &'static str,
    ok: bool,
    took: Took,
    /// In the order in which they were first told.
    figures: Vec<(String, u64)>,
}

/// Adds up the figures of one name.
fn added_up(told: &str) -> Vec<(String, u64)> {
    let mut figures: Vec<(String, u64)> = Vec::new();
    for (number, name) in told.lines().filter_map(|line| line.split_once(' ')) {
        let number: u64 = number.parse().unwrap_or_default();
        match figures.iter_mut().find(|(known, _)| known == name) {
            Some((_, sum)) => *sum += number,
            None => figures.push((name.to_owned(), number)),
        }
    }
    figures
}

fn run_part(part: Part, told: &Path) -> Done<Row> {
    let Part { name, command } = part;
    println!("\ntorture: {name}: {command}");
    fs::write(told, "").when(told.display())?;
    let watch = Stopwatch::start();
    let done = command.env("SEMEL_FIGURES", told.display().to_string()).run();
    let took = watch.read();
    if let Err(failure) = &done {
        println!("{failure}");
    }
    let figures = added_up(&fs::read_to_string(told).when(told.display())?);
    println!("torture: {name}: {} after {took}", if done.is_ok() { "ok" } else { "FAULT" });
    Ok(Row { name, ok: done.is_ok(), took, figures })
}

/// A table that can stand in a page.
fn report(seed: u64, rows: &[Row], took: Took) -> String {
    let mut lines = vec![
        format!("`cargo xtask torture --seed {seed}`: {took} in all.\n"),
        "| part | found | took | what was counted |".to_owned(),
        "| --- | --- | --- | --- |".to_owned(),
    ];
    for Row { name, ok, took, figures } in rows {
        let counted: Vec<String> =
            figures.iter().map(|(name, number)| format!("{} {name}", grouped(*number))).collect();
        let found = if *ok { "no fault" } else { "FAULT" };
        lines.push(format!("| {name} | {found} | {took} | {} |", counted.join(", ")));
    }
    lines.join("\n") + "\n"
}

/// 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn run(options: &Options) -> Done {
    if options.planted {
        return planted::run(&options.only);
    }
    let target = Workspace::load()?.target_dir;
    fs::create_dir_all(&target).when(target.display())?;
    let told = target.join("torture-figures");
    let all = parts(options.quick, options.seed);
    if let Some(unknown) = options.only.iter().find(|only| !all.iter().any(|part| part.name == **only)) {
        let names: Vec<&str> = all.iter().map(|part| part.name).collect();
        return Err(Failure::new(format!("there is no part {unknown:?}, only {}", names.join("; "))));
    }
    let chosen = |part: &Part| options.only.is_empty() || options.only.iter().any(|only| only == part.name);
    let watch = Stopwatch::start();
    let rows: Vec<Row> =
        all.into_iter().filter(chosen).map(|part| run_part(part, &told)).collect::<Done<_>>()?;
    let report = report(options.seed, &rows, watch.read());
    let page = target.join("torture.md");
    fs::write(&page, &report).when(page.display())?;
    println!("\n{report}");
    match rows.iter().filter(|row| !row.ok).count() {
        0 => Ok(()),
        faults => Err(Failure::new(format!("torture: {faults} of {} parts found a fault", rows.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_is_a_part_of_the_whole_without_kills() {
        let shown = |quick| -> Vec<String> {
            parts(quick, 7).iter().map(|part| format!("{}: {}", part.name, part.command)).collect()
        };
        let (quick, whole) = (shown(true), shown(false));
        assert_eq!((quick.len(), whole.len()), (3, 12));
        assert!(quick[0].ends_with("-- --quick"));
        assert!(quick[1].ends_with("--seeds 200"));
        assert!(whole[4].ends_with("--seeds 10000"));
        assert!(whole[6].contains("kill_"));
        assert!(whole[11].contains("SEMEL_SEED=7"));
    }

    #[test]
    fn figures_of_one_name_are_added_up_and_none_is_left_out() {
        let told = "50 kills of a gateway\n0 lost answers\n1200 kills of a gateway\n";
        let figures = added_up(told);
        assert_eq!(figures, [("kills of a gateway".to_owned(), 1250), ("lost answers".to_owned(), 0)]);
        let row = Row { name: "kills", ok: true, took: Stopwatch::start().read(), figures };
        let report = report(7, &[row], Stopwatch::start().read());
        assert!(report.ends_with("| 1,250 kills of a gateway, 0 lost answers |\n"), "{report}");
        assert!(report.contains("--seed 7"));
    }
}
