//! `cargo xtask counts`: how many instructions each case of `bench/library` takes, held against the figures in
//! `bench/library/counts.toml`.
//!
//! Not a time: callgrind counts what is executed on a processor of its own making, so that neither load nor clock speed
//! matter. A case is run with few calls and with many; the difference is what a call takes, without start and end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::checkout::{self, Workspace};
use crate::command::Command;
use crate::failure::{Done, Failure, While};

/// What `cargo xtask counts` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write what is counted to bench/library/counts.toml instead of holding it against that
    #[arg(long)]
    write: bool,
}

const FIGURES: &str = "bench/library/counts.toml";
const BUILD: &str = "cargo build --locked --profile counts -p semel-bench-library --bin semel-count";
const FEW: u64 = 200;
const MANY: u64 = 1200;

/// The file of figures.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Figures {
    /// How much more than its figure a case may take, in percent.
    tolerance_percent: f64,
    instructions: BTreeMap<String, u64>,
}

pub(crate) fn run(options: &Options) -> Done {
    if options.write { write(&count()?) } else { hold() }
}

/// The step of `cargo xtask ci`.
pub(crate) fn hold() -> Done {
    let text = fs::read_to_string(checkout::root().join(FIGURES)).when(FIGURES)?;
    let figures: Figures = toml::from_str(&text).when(FIGURES)?;
    if !has_avx2() {
        println!("{FIGURES} is of x86-64 with AVX2, which this processor is not: nothing is compared here");
        return Ok(());
    }
    let (table, findings) = compare(&figures, &count()?);
    print!("{table}");
    if findings.is_empty() {
        return Ok(());
    }
    let todo = "see `callgrind_annotate target/counts-out/CASE.1200`; when it is meant to be so: cargo xtask counts \
                --write, and say in the commit what it buys";
    Err(Failure::new(format!("counts: {}\n{todo}", findings.join("\ncounts: "))))
}

/// Which code libraries choose when they run, to copy and to digest, depends on it; callgrind has the same.
fn has_avx2() -> bool {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpus.lines().any(|line| line.starts_with("flags") && line.split_whitespace().any(|flag| flag == "avx2"))
}

/// Instructions of one call, by case.
fn count() -> Done<BTreeMap<String, u64>> {
    let build = Command::new(BUILD);
    println!("counts: {build}");
    build.run()?;
    let target = Workspace::load()?.target_dir;
    let program = target.join("counts/semel-count");
    let out = target.join("counts-out");
    fs::create_dir_all(&out).when(out.display())?;
    let listed = Command::new("env").arg(program.display().to_string()).output()?;
    let cases = String::from_utf8(listed).when("semel-count names its cases")?;
    let mut counts = BTreeMap::new();
    for case in cases.lines() {
        let few = collected(&program, &out, case, FEW)?;
        let many = collected(&program, &out, case, MANY)?;
        counts.insert(case.to_owned(), many.saturating_sub(few) / (MANY - FEW));
    }
    Ok(counts)
}

fn collected(program: &Path, out: &Path, case: &str, calls: u64) -> Done<u64> {
    let file = out.join(format!("{}.{calls}", case.replace([' ', ','], "-")));
    let log = out.join("valgrind.log");
    let command = Command::new("valgrind --tool=callgrind")
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program.display().to_string())
        .arg(case)
        .arg(calls.to_string());
    let code = command.run_into(&log)?;
    let said = fs::read_to_string(&log).when(log.display())?;
    let count = said.lines().find_map(|line| line.split("Collected : ").nth(1)?.trim().parse().ok());
    match (code, count) {
        (Some(0), Some(count)) => Ok(count),
        _ => Err(Failure::new(format!("`{command}` failed:\n{}", said.trim_end()))),
    }
}

/// A line for each case, and what is wrong.
fn compare(figures: &Figures, counts: &BTreeMap<String, u64>) -> (String, Vec<String>) {
    let (mut table, mut findings) = (String::new(), Vec::new());
    for (case, &count) in counts {
        let Some(&figure) = figures.instructions.get(case) else {
            findings.push(format!("{case}: {FIGURES} has no figure for it"));
            continue;
        };
        let percent = percent_over(count, figure);
        let _ = writeln!(table, "{case:<40} {count:>9} instructions, {percent:+.1} % of {figure}");
        if percent > figures.tolerance_percent {
            findings.push(format!(
                "{case}: {count} instructions a call, {percent:+.1} % of {figure}; {} % are allowed",
                figures.tolerance_percent
            ));
        }
    }
    let gone = figures.instructions.keys().filter(|case| !counts.contains_key(*case));
    findings.extend(gone.map(|case| format!("{case}: no such case; take it out of {FIGURES}")));
    (table, findings)
}

#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
fn percent_over(count: u64, figure: u64) -> f64 {
    (count as f64 / figure as f64 - 1.0) * 100.0
}

fn write(counts: &BTreeMap<String, u64>) -> Done {
    let mut text = String::from(
        "# Instructions of one call, by case of bench/library. Written by `cargo xtask counts --write`, held by `cargo xtask ci`.\n\
         tolerance_percent = 3.0\n\n[instructions]\n",
    );
    for (case, count) in counts {
        let _ = writeln!(text, "\"{case}\" = {count}");
    }
    fs::write(checkout::root().join(FIGURES), &text).when(FIGURES)?;
    print!("{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(cases: &[(&str, u64)]) -> BTreeMap<String, u64> {
        cases.iter().map(|(case, count)| ((*case).to_owned(), *count)).collect()
    }

    fn findings(figures: &[(&str, u64)], counts: &[(&str, u64)]) -> Vec<String> {
        compare(&Figures { tolerance_percent: 3.0, instructions: of(figures) }, &of(counts)).1
    }

    #[test]
    fn more_than_the_tolerance_is_found_and_less_is_not() {
        assert!(findings(&[("a", 1000), ("b", 1000)], &[("a", 1029), ("b", 500)]).is_empty());
        let found = findings(&[("a", 1000)], &[("a", 1031)]);
        assert_eq!(found, ["a: 1031 instructions a call, +3.1 % of 1000; 3 % are allowed"]);
    }

    #[test]
    fn case_without_a_figure_and_figure_without_a_case_are_found() {
        let found = findings(&[("gone", 1)], &[("new", 1)]);
        assert_eq!(found.len(), 2);
        assert!(found[0].starts_with("new: ") && found[1].starts_with("gone: "), "{found:?}");
    }

    #[test]
    fn figures_of_this_checkout_can_be_read() {
        let text = fs::read_to_string(checkout::root().join(FIGURES)).expect("it is committed");
        let figures: Figures = toml::from_str(&text).expect("it is as `write` writes it");
        assert!(!figures.instructions.is_empty());
    }
}
