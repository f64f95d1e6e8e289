//! Two hundred seeds, the same twice over, and faults of Semel's own that they must find.

use std::sync::atomic::Ordering;

use semel_simulation::sim::lock;
use semel_simulation::{Fault, Options, Plant, run_seed, run_seeds};

#[test]
fn two_hundred_seeds_keep_every_promise_and_every_fault_strikes() {
    let total = run_seeds(0..200);
    let failures = lock(&total.failures);
    let shown: Vec<String> = failures.iter().take(3).map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{} seeds failed:\n{}", failures.len(), shown.join("\n\n"));
    assert_eq!(total.seeds.load(Ordering::Relaxed), 200);
    assert_eq!(total.tally.missing(), [], "what never strikes tests nothing");
    assert!(Fault::ALL.len() >= 30);
    let told = lock(&total.told);
    for word in ["executed", "replayed", "in-progress", "in-doubt", "refused", "unrecorded"] {
        assert!(told.contains_key(word), "nobody was told {word}: {told:?}");
    }
}

/// Chance that does not come from the seed, and order that comes from a hash map or a thread, shows here.
#[test]
fn a_seed_is_the_same_run_to_the_line() {
    for seed in 0..60 {
        let log = || match run_seed(seed, None) {
            Ok(run) => run.log,
            Err(failure) => failure.log,
        };
        let (first, second) = (log(), log());
        let differs = first.iter().zip(&second).position(|(one, other)| one != other);
        if let Some(line) = differs {
            panic!("seed {seed} differs from line {line} on:\n{}\n{}", first[line], second[line]);
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

#[test]
fn a_failing_seed_prints_its_options_and_how_to_run_it_again() {
    let failure = (0..20).find_map(|seed| run_seed(seed, Some(Plant::HoldTakesOver)).err());
    let failure = failure.expect("a planted fault is found");
    let seed = failure.options.seed;
    let shown = failure.to_string();
    assert!(shown.contains(&format!(
        "SEMEL_SIM_PLANT=HoldTakesOver SEMEL_SIM_SEED={seed} cargo run -p semel-simulation"
    )));
    assert!(shown.contains("planted: HoldTakesOver"), "{shown}");
    for line in Options::of(seed).to_string().lines() {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }
    assert!(!failure.log.is_empty());
}

#[test]
fn planted_faults_are_found() {
    for plant in Plant::ALL {
        let found = (0..1_000).find(|seed| run_seed(*seed, Some(plant)).is_err());
        assert!(found.is_some(), "{plant:?} is not found in 1,000 seeds");
    }
}
