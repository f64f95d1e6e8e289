//! The model in small, and that each planted fault is found in it. The full one is `cargo xtask torture`'s.

use semel_testkit::model::{Found, Machine, Plant, Shape};

/// Two executors at one key, which holds its doubts.
const SMALL: Shape = Shape { executors: 2, keys: 1, asks: 1, ticks: 5, late: 1, resolutions: 0 };

fn search(machine: Machine, threads: usize) -> Found {
    let found = machine.search(threads);
    println!("{} states, {} transitions, depth {}", found.states, found.transitions, found.depth);
    if let Some((guarantee, steps)) = &found.broken {
        println!("{guarantee} is broken by {}", steps.join(", "));
    }
    found
}

#[test]
fn two_executors_at_a_key_that_holds_and_one_that_retries_keep_every_guarantee() {
    let found = search(Machine::new(Shape { keys: 2, ..SMALL }), 2);
    assert_eq!(found.broken, None);
    assert!(found.never.is_empty(), "what should be possible is not: {:?}", found.never);
    assert!(found.states > 100_000, "only {} states", found.states);
}

#[test]
fn an_operator_who_resolves_doubts_breaks_no_guarantee() {
    let found = search(Machine::new(Shape { resolutions: 1, ..SMALL }), 2);
    assert_eq!(found.broken, None);
    assert!(found.states > 10_000, "only {} states", found.states);
}

#[test]
fn every_planted_fault_is_found_with_the_steps_that_show_it() {
    for plant in Plant::ALL {
        let (guarantee, shape) = plant.breaks();
        let found = search(Machine::new(shape).with(plant), 1);
        let (broken, steps) = found.broken.unwrap_or_else(|| panic!("{plant:?} was not found"));
        assert!(broken.starts_with(guarantee), "{plant:?} breaks {broken}: {steps:?}");
        assert!(steps.len() <= 14, "{plant:?} is shown in {} steps", steps.len());
    }
}
