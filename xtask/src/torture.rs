//! `cargo xtask torture`: the model in full, the checker at size, seeds by the thousand, the simulation and the kills; a
//! report at the end. `--quick` takes two minutes and leaves the kills out.
//!
//! Not part of `ci`, which runs the same in small as tests. The model, the checker and the seeds are the program
//! `semel-torture` of the testkit, the simulation is `semel-simulate`.

use crate::clock::{Stopwatch, Took};
use crate::command::Command;
use crate::failure::{Done, Failure};

/// What `cargo xtask torture` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The small model, fewer calls and seeds, no kills
    #[arg(long)]
    quick: bool,
}

const MODEL: &str = "cargo run --release --locked -p semel-testkit --features model --bin semel-torture --";
const SIMULATION: &str = "cargo run --release --locked -p semel-simulation --";
const KILLS: &str = "cargo nextest run --locked --all-features -p semel-cli -p semel-store-embedded \
                     -p semel-store-postgres -p semel-store-redis";

fn parts(quick: bool) -> Vec<(&'static str, Command)> {
    let simulation = |seeds| ("simulation", Command::new(SIMULATION).arg("--seeds").arg(seeds));
    let plants = ("simulation, planted", Command::new(SIMULATION).arg("--plants").arg("1000"));
    if quick {
        return vec![
            ("model, checker, seeds", Command::new(MODEL).arg("--quick")),
            simulation("200"),
            plants,
        ];
    }
    vec![
        ("model, checker, seeds", Command::new(MODEL)),
        simulation("10000"),
        plants,
        ("kills", Command::new(KILLS).arg("-E").arg("binary(/^(kill_|crash)/)")),
    ]
}

pub(crate) fn run(options: &Options) -> Done {
    let mut report: Vec<(&str, bool, Took)> = Vec::new();
    for (name, command) in parts(options.quick) {
        println!("torture: {name}: {command}");
        let watch = Stopwatch::start();
        let done = command.run();
        if let Err(failure) = &done {
            println!("{failure}");
        }
        report.push((name, done.is_ok(), watch.read()));
    }
    println!();
    for (name, ok, took) in &report {
        println!("{:<24} {:<6} {took}", name, if *ok { "ok" } else { "FAULT" });
    }
    match report.iter().filter(|(_, ok, _)| !ok).count() {
        0 => Ok(()),
        faults => Err(Failure::new(format!("torture: {faults} of {} parts found a fault", report.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_is_a_part_of_the_whole_without_kills() {
        let (quick, whole) = (parts(true), parts(false));
        assert_eq!((quick.len(), whole.len()), (3, 4));
        assert!(quick[0].1.to_string().ends_with("-- --quick"));
        assert!(quick[1].1.to_string().ends_with("--seeds 200"));
        assert!(whole[1].1.to_string().ends_with("--seeds 10000"));
        assert!(whole[3].1.to_string().contains("kill_"));
    }
}
