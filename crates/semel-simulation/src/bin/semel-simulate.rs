//! Runs seeds of the simulation. `SEMEL_SIM_SEED=N` runs one and prints its log; `--seeds N` runs so many and says what
//! struck; `--plants N` looks for each planted fault in up to so many. Exit code 1 when a promise was broken.

use std::process::ExitCode;
use std::sync::atomic::Ordering;

use semel_simulation::clock::Stopwatch;
use semel_simulation::sim::lock;
use semel_simulation::{Fault, Options, Plant, run_seed, run_seeds};
use semel_testkit::figures;

fn main() -> ExitCode {
    let argument = |name: &str| {
        let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
        arguments.next().and_then(|number| number.parse::<u64>().ok())
    };
    let seed = std::env::var("SEMEL_SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let plant = std::env::var("SEMEL_SIM_PLANT").ok().and_then(|name| Plant::named(&name));
    let ok = match (seed, argument("--plants")) {
        (Some(seed), _) => one(seed, plant),
        (None, Some(most)) => plants(most),
        (None, None) => many(argument("--from").unwrap_or(0), argument("--seeds").unwrap_or(200)),
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one(seed: u64, plant: Option<Plant>) -> bool {
    match run_seed(seed, plant) {
        Ok(run) => {
            println!("{}", run.log.join("\n"));
            println!("{}every promise was kept", Options::of(seed));
            true
        }
        Err(failure) => {
            println!("{}\n{failure}", failure.log.join("\n"));
            false
        }
    }
}

fn many(from: u64, seeds: u64) -> bool {
    let watch = Stopwatch::start();
    let total = run_seeds(from..from + seeds);
    for fault in Fault::ALL {
        println!("{:>9} {fault}", total.tally.of(*fault));
    }
    println!("told: {:?}", lock(&total.told));
    let failures = lock(&total.failures);
    for failure in failures.iter().take(5) {
        println!("\n{failure}");
    }
    if let [first, ..] = &failures[..] {
        let seeds: Vec<u64> = failures.iter().map(|failure| failure.options.seed).collect();
        println!("\n{} seeds failed, {} first: {seeds:?}", failures.len(), first.options.seed);
    }
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "simulation {} {:.1} s: {} seeds, {} answers, {} effects, {} calls of the store, {} simulated hours, {} kinds \
         of fault, {} of which never struck",
        if failures.is_empty() { "ok" } else { "FAULT" },
        watch.read().as_secs_f64(),
        read(&total.seeds),
        lock(&total.told).values().sum::<usize>(),
        read(&total.effects),
        read(&total.store_calls),
        read(&total.simulated_s) / 3_600,
        Fault::ALL.len(),
        total.tally.missing().len(),
    );
    let count = |counter| usize::try_from(read(counter)).unwrap_or(usize::MAX);
    figures::tell(&[
        ("seeds", count(&total.seeds)),
        ("answers", lock(&total.told).values().sum()),
        ("effects", count(&total.effects)),
        ("calls of the store judged", count(&total.store_calls)),
        ("kinds of fault that struck", Fault::ALL.len() - total.tally.missing().len()),
        ("seeds with a broken promise", failures.len()),
    ]);
    failures.is_empty()
}

fn plants(most: u64) -> bool {
    let mut all_found = true;
    for plant in Plant::ALL {
        let watch = Stopwatch::start();
        let found =
            (0..most).find_map(|seed| run_seed(seed, Some(plant)).err().map(|failure| (seed, failure)));
        let took = watch.read().as_secs_f64();
        figures::tell(&[("faults planted", 1), ("faults found", usize::from(found.is_some()))]);
        match found {
            Some((seed, failure)) => {
                let promise = failure.broken.first().map_or("", |broken| broken.promise);
                println!(
                    "{plant:?}: found by seed {seed}, after {} seeds and {took:.2} s: {promise}",
                    seed + 1
                );
            }
            None => {
                all_found = false;
                println!("{plant:?}: NOT found in {most} seeds and {took:.2} s");
            }
        }
    }
    all_found
}
