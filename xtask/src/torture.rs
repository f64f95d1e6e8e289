//! `cargo xtask torture`: the model in full, the checker at size, seeds by the thousand, the simulation, the kills, and at
//! length what the tests do in small: fuzz targets, two tenants, power cuts, the wind tunnel; a report at the end.
//! `--quick` takes two minutes and leaves out what kills and what comes after it.
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
    /// What random inputs, moments and winds are made from
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const MODEL: &str = "cargo run --release --locked -p semel-testkit --features model --bin semel-torture --";
const SIMULATION: &str = "cargo run --release --locked -p semel-simulation --";
const KILLS: &str = "cargo nextest run --locked --all-features -p semel-cli -p semel-store-embedded \
                     -p semel-store-postgres -p semel-store-redis";
/// Tests whose size is in the environment: what they are called, which they are, how large here.
type AtLength = (&'static str, &'static str, &'static [(&'static str, &'static str)]);
const AT_LENGTH: [AtLength; 4] = [
    (
        "fuzz",
        "binary(fuzz) | test(/any_bytes_are_damaged|log_of_any_bytes/)",
        &[("SEMEL_FUZZ_INPUTS", "1000000")],
    ),
    ("two tenants", "binary(gateway_two_tenants)", &[("SEMEL_TENANT_OPERATIONS", "1000000")]),
    ("power cuts", "binary(kill_power)", &[("SEMEL_POWER_CUTS", "5000")]),
    ("wind tunnel", "binary(kill_wind)", &[("SEMEL_WIND_ROUNDS", "100"), ("SEMEL_WIND_NETWORK", "1")]),
];
const TESTS: &str = "cargo nextest run --locked --all-features --workspace --profile torture";

fn at_length(seed: u64) -> impl Iterator<Item = (&'static str, Command)> {
    AT_LENGTH.iter().map(move |(name, tests, sizes)| {
        let command = Command::new(TESTS).arg("-E").arg(*tests).env("SEMEL_SEED", seed.to_string());
        (*name, sizes.iter().fold(command, |command, (size, value)| command.env(size, *value)))
    })
}

fn parts(quick: bool, seed: u64) -> Vec<(&'static str, Command)> {
    let simulation = |seeds| ("simulation", Command::new(SIMULATION).arg("--seeds").arg(seeds));
    let plants = ("simulation, planted", Command::new(SIMULATION).arg("--plants").arg("1000"));
    if quick {
        return vec![
            ("model, checker, seeds", Command::new(MODEL).arg("--quick")),
            simulation("200"),
            plants,
        ];
    }
    let kills = "binary(/^(kill_|crash)/) - binary(/^kill_(power|wind)$/)";
    let mut parts = vec![
        ("model, checker, seeds", Command::new(MODEL)),
        simulation("10000"),
        plants,
        ("kills", Command::new(KILLS).arg("-E").arg(kills)),
    ];
    parts.extend(at_length(seed));
    parts
}

pub(crate) fn run(options: &Options) -> Done {
    let mut report: Vec<(&str, bool, Took)> = Vec::new();
    for (name, command) in parts(options.quick, options.seed) {
        println!("torture: {name}: {command}");
        let watch = Stopwatch::start();
        let done = command.run();
        if let Err(failure) = &done {
            println!("{failure}");
        }
        report.push((name, done.is_ok(), watch.read()));
    }
    println!("\nseed {}", options.seed);
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
        let (quick, whole) = (parts(true, 7), parts(false, 7));
        assert_eq!((quick.len(), whole.len()), (3, 8));
        assert!(quick[0].1.to_string().ends_with("-- --quick"));
        assert!(quick[1].1.to_string().ends_with("--seeds 200"));
        assert!(whole[1].1.to_string().ends_with("--seeds 10000"));
        assert!(whole[3].1.to_string().contains("kill_"));
        assert!(whole[7].1.to_string().contains("SEMEL_SEED=7"));
    }
}
