//! `cargo xtask bench`: builds what is measured, measures it part by part and writes docs/performance.md anew.
//!
//! Not the measuring itself: that is `semel-bench` (`bench/src`) and criterion (`bench/library`). A part leaves its figures in
//! docs/performance/, and the tables and plots are made from whatever is there. Never part of `ci`.

use std::path::{Path, PathBuf};

use crate::checkout::{self, Workspace};
use crate::clock::{Stopwatch, Took};
use crate::command::Command;
use crate::failure::{Done, Failure, While};

mod parts;

use parts::{Part, Work};

const NEEDS: &str = "\
Needs Linux, two cores with nothing else running on them, 20 GiB of disk below --folder and /tmp, and as programs a C \
compiler, taskset and setpriv, nginx, redis-server and PostgreSQL (below /usr/lib/postgresql or in PATH). Peers are \
measured where bench/peers/README.md was followed. A part takes at most four minutes; a wrong answer, or a floor that \
costs more than 1.4 times nginx's CPU, fails it, and its figures stay as they were.";

/// What `cargo xtask bench` takes.
#[derive(clap::Args)]
#[command(after_help = NEEDS)]
pub(crate) struct Options {
    /// Parts to measure, in the order of --list; all when none is named
    parts: Vec<String>,
    /// List the parts and their commands, measure none
    #[arg(long)]
    list: bool,
    /// Measure nothing, write the page from the figures there are
    #[arg(long, conflicts_with = "parts")]
    report: bool,
    /// A tenth of the time: to see that everything works. Figures and pages go to target/bench-quick
    #[arg(long)]
    quick: bool,
    /// The core of what is measured, and that of callers and upstream
    #[arg(long, default_value = "0,1")]
    pin: String,
    /// Where stores have their files
    #[arg(long, default_value = "/tmp/semel-bench")]
    folder: PathBuf,
    /// Put in front of each part's command, such as a lock that others who use the machine take as well
    #[arg(long, value_name = "COMMAND", default_value = "")]
    through: String,
}

const BUILD: &str = "cargo build --release --locked -p semel-cli -p semel-bench";

pub(crate) fn run(options: &Options) -> Done {
    let root = checkout::root();
    let target = Workspace::load()?.target_dir;
    let docs = if options.quick { target.join("bench-quick") } else { root.join("docs") };
    let figures = docs.join("performance");
    let mut chosen = choose(parts::all(options.quick), &options.parts)?;
    if options.report {
        chosen.clear();
    }
    let commands: Vec<(Part, Command)> = chosen
        .into_iter()
        .map(|part| {
            let command = command(&part, options, &target, &figures);
            (part, command)
        })
        .collect();
    if options.list {
        commands.iter().for_each(|(part, command)| println!("{}: {}\n    {command}", part.name, part.about));
        return Ok(());
    }
    for folder in [&figures, &options.folder] {
        std::fs::create_dir_all(folder).when(folder.display())?;
    }
    if options.quick {
        let page = "performance.md";
        std::fs::copy(root.join("docs").join(page), docs.join(page)).when(page)?;
    }
    let calls_criterion = commands.iter().any(|(part, _)| part.name == parts::LIBRARY);
    for build in [BUILD, parts::BUILD_LIBRARY].into_iter().take(if calls_criterion { 2 } else { 1 }) {
        println!("bench: {build}");
        Command::new(build).run()?;
    }
    let (report, failed) = measure(&commands);
    let mut write = Command::new("").arg(path(&target.join("release/semel-bench"))).arg("report");
    write = write.arg("--docs").arg(path(&docs));
    if report.iter().any(|(name, _)| *name == parts::LIBRARY && !failed.contains(name)) {
        write = write.arg("--criterion").arg(path(&target.join("criterion")));
    }
    println!("bench: {write}");
    write.run()?;
    report.iter().for_each(|(name, took)| println!("{name:<16} {took:>9}"));
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Failure::new(format!("bench: failed: {}", failed.join(", "))))
    }
}

/// Every part is tried: one that fails leaves the figures as they were.
fn measure(commands: &[(Part, Command)]) -> (Vec<(&'static str, Took)>, Vec<&'static str>) {
    let (mut report, mut failed) = (Vec::new(), Vec::new());
    for (nth, (part, command)) in commands.iter().enumerate() {
        println!("bench [{}/{}] {}: {command}", nth + 1, commands.len(), part.name);
        let watch = Stopwatch::start();
        if let Err(failure) = command.run() {
            eprintln!("{failure}");
            failed.push(part.name);
        }
        report.push((part.name, watch.read()));
    }
    (report, failed)
}

fn choose(parts: Vec<Part>, named: &[String]) -> Done<Vec<Part>> {
    let names: Vec<&str> = parts.iter().map(|part| part.name).collect();
    if let Some(unknown) = named.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(Failure::new(format!("no part is called {unknown}; there are {}", names.join(", "))));
    }
    let wanted = |part: &Part| named.is_empty() || named.iter().any(|name| name == part.name);
    Ok(parts.into_iter().filter(wanted).collect())
}

/// From the checkout's root, where commands run, so that figures name no folder of their machine.
fn path(path: &Path) -> String {
    path.strip_prefix(checkout::root()).unwrap_or(path).display().to_string()
}

fn command(part: &Part, options: &Options, target: &Path, figures: &Path) -> Command {
    let through = Command::new(&options.through);
    let json = path(&figures.join(format!("{}.json", part.name)));
    let program = path(&target.join("release/semel-bench"));
    match &part.work {
        Work::Criterion(arguments) => through.words(arguments.split_whitespace().map(str::to_owned)),
        Work::Gateway(arguments) => {
            let semel = path(&target.join("release/semel"));
            let words = format!("gateway {arguments}");
            let command = through.arg(program).words(words.split_whitespace().map(str::to_owned));
            let command = command.arg("--semel").arg(semel).arg("--pin").arg(options.pin.as_str());
            command.arg("--folder").arg(path(&options.folder)).arg("--json").arg(json)
        }
        Work::Embedded(arguments) => {
            let words = format!("store {arguments}");
            let command = through.arg(program).words(words.split_whitespace().map(str::to_owned));
            command.arg("--folder").arg(path(&options.folder)).arg("--json").arg(json)
        }
        Work::Server(arguments) => {
            let command = through.arg(program).words(arguments.split_whitespace().map(str::to_owned));
            command.arg("--json").arg(json)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_part_is_refused_by_name() {
        let failure = choose(parts::all(false), &["store".to_owned()]).err().expect("no such part");
        assert!(failure.to_string().starts_with("no part is called store; there are "), "{failure}");
    }

    #[test]
    fn named_parts_are_measured_in_their_usual_order() {
        let chosen = choose(parts::all(true), &["redis".to_owned(), "crowd".to_owned()]).expect("both exist");
        assert_eq!(chosen.iter().map(|part| part.name).collect::<Vec<_>>(), ["crowd", "redis"]);
    }
}
