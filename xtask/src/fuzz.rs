//! `cargo xtask fuzz`: the targets of `crates/*/fuzz/`, guided by coverage. cargo-fuzz, which is installed when it is
//! missing, builds `fuzz/guided.rs` for libFuzzer, and each target runs for a while.
//!
//! Not part of `ci`, whose tests give the same targets inputs made from a seed. What reaches something new stays in
//! `fuzz/corpus` and is begun with the next time; an input that fails is in `fuzz/artifacts`, and stops everything.

use std::fs;

use crate::checkout;
use crate::command::Command;
use crate::failure::{Done, Failure, While};

/// What `cargo xtask fuzz` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Just this target; may be given more than once
    #[arg(long, value_name = "TARGET")]
    only: Vec<String>,
}

const INSTALL: &str = "cargo install --locked cargo-fuzz --version 0.13.2";
/// There is no unsafe code for a sanitizer to look at.
const RUN: &str = "cargo fuzz run --fuzz-dir fuzz --sanitizer none guided";
const LIMITS: &str = "-timeout=100";

pub(crate) fn run(options: &Options) -> Done {
    let root = checkout::root();
    let targets = choose(targets(&checkout::files(&root)?), &options.only)?;
    if !Command::new("cargo fuzz --version").works() {
        println!("cargo-fuzz is missing: {INSTALL}");
        Command::new(INSTALL).run()?;
    }
    // The versions that are built for everybody else.
    fs::copy(root.join("Cargo.lock"), root.join("fuzz/Cargo.lock")).when("fuzz/Cargo.lock")?;
    let mut ends = Vec::new();
    for target in targets {
        let command = guided(&target, options.seconds);
        println!("\nfuzz: {command}");
        let end = command.run_watching(|line| line.contains("cov: "))?;
        ends.push(format!("fuzz: {target}: {}", end.unwrap_or_default()));
    }
    println!("\n{}", ends.join("\n"));
    Ok(())
}

fn guided(target: &str, seconds: u64) -> Command {
    let command = Command::new(RUN).arg(format!("fuzz/corpus/{target}")).arg("--").arg(LIMITS);
    command.arg(format!("-max_total_time={seconds}")).env("SEMEL_FUZZ_TARGET", target)
}

/// Every corpus is one of a target, and named after it.
fn targets(files: &[String]) -> Vec<String> {
    let corpora = files.iter().filter_map(|path| path.strip_prefix("crates/")?.strip_suffix(".txt"));
    corpora.filter_map(|path| path.split_once("/fuzz/")).map(|(_, name)| name.to_owned()).collect()
}

fn choose(targets: Vec<String>, only: &[String]) -> Done<Vec<String>> {
    if let Some(unknown) = only.iter().find(|name| !targets.contains(name)) {
        return Err(Failure::new(format!("there is no target {unknown}, only {}", targets.join(", "))));
    }
    Ok(targets.into_iter().filter(|name| only.is_empty() || only.contains(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_named_after_their_corpora() {
        let files =
            ["crates/a/fuzz/one.txt", "crates/a/fuzz/targets.rs", "crates/b/src/two.txt", "fuzz/c.txt"];
        let targets = targets(&files.map(str::to_owned));
        assert_eq!(targets, ["one"]);
        assert!(choose(targets, &["two".to_owned()]).is_err());
    }
}
