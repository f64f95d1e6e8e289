//! `cargo xtask`: the tasks of this project that are more than one command.
//!
//! Not a build system: each task calls cargo, git or nextest and says which call it makes.
//! Read `ci.rs` first; it runs all the others but `bench`, `torture`, `fuzz`, `failure-modes` and
//! `changelog`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod changelog;
mod checkout;
mod ci;
mod clock;
mod command;
mod counts;
mod failure;
mod failure_modes;
mod fuzz;
mod mutants;
mod tidy;
mod torture;

/// The tasks of this project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that must hold before a change lands, in order, stopping at the first failure
    Ci(ci::Options),
    /// The house rules that no compiler checks: directions, sizes, names, pages
    Tidy,
    /// Puts faults into a copy of the tree and demands that named tests see them
    Mutants(mutants::Options),
    /// Counts the instructions of the library's calls and holds them against committed figures
    Counts(counts::Options),
    /// Measures Semel beside its floors and writes the tables and plots of docs/performance.md
    Bench(bench::Options),
    /// The model, the checker, seeds and kills at length, with a report
    Torture(torture::Options),
    /// The fuzz targets, guided by coverage
    Fuzz(fuzz::Options),
    /// Writes docs/failure-modes.md from its table
    FailureModes,
    /// Folds changes/*.md into CHANGELOG.md
    Changelog(changelog::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Ci(options) => ci::run(&options),
        Task::Tidy => tidy::run(),
        Task::Mutants(options) => mutants::run(&options),
        Task::Counts(options) => counts::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Torture(options) => torture::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::FailureModes => failure_modes::run(),
        Task::Changelog(options) => changelog::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
