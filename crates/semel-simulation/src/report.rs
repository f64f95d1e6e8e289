//! Runs seeds, and says of one that failed everything that is needed to run it again.
//!
//! Next: [`crate::world`], which runs one.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::fault::Tally;
use crate::judge::{Broken, judge};
use crate::options::Options;
use crate::plant::Plant;
use crate::sim::lock;
use crate::world;

/// A run that kept every promise.
#[derive(Debug)]
pub struct Run {
    /// What happened, line by line.
    pub log: Vec<String>,
    /// What struck.
    pub tally: Tally,
    /// What callers were told, and how often: values of `Idempotency-Status`, `none` and kinds of error.
    pub told: BTreeMap<String, usize>,
    /// How many effects there were.
    pub effects: usize,
    /// How many calls of the store were made.
    pub store_calls: usize,
    /// How long it took, in simulated seconds.
    pub simulated_s: u64,
}

/// A run that did not.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What the seed decided.
    pub options: Options,
    /// What was broken.
    pub broken: Vec<Broken>,
    /// What happened, line by line.
    pub log: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Broken { promise, how } in &self.broken {
            writeln!(f, "broken: {promise}: {how}")?;
        }
        let plant =
            self.options.plant.map_or_else(String::new, |plant| format!("SEMEL_SIM_PLANT={plant:?} "));
        writeln!(f, "run it again, with its log:")?;
        let seed = self.options.seed;
        writeln!(f, "    {plant}SEMEL_SIM_SEED={seed} cargo run -p semel-simulation")?;
        write!(f, "{}", self.options)
    }
}

/// Runs one seed, with a fault planted or none.
///
/// # Errors
/// When a promise was broken, or something panicked.
pub fn run_seed(seed: u64, plant: Option<Plant>) -> Result<Run, Box<Failure>> {
    let options = Options { plant, ..Options::of(seed) };
    let outcome = match panic::catch_unwind(AssertUnwindSafe(|| world::run(options.clone()))) {
        Ok(outcome) => outcome,
        Err(_) => {
            let broken = vec![Broken { promise: "nothing panics", how: "it is said above".to_owned() }];
            return Err(Box::new(Failure { options, broken, log: Vec::new() }));
        }
    };
    let broken = judge(&outcome);
    let log = outcome.sim.log();
    if !broken.is_empty() {
        return Err(Box::new(Failure { options, broken, log }));
    }
    let tally = Tally::default();
    tally.add(&outcome.sim.tally);
    Ok(Run {
        log,
        tally,
        told: told(&outcome),
        effects: outcome.entries.iter().filter(|entry| entry.effect).count(),
        store_calls: outcome.history.len(),
        simulated_s: outcome.simulated.as_secs(),
    })
}

fn told(outcome: &world::Outcome) -> BTreeMap<String, usize> {
    let mut told = BTreeMap::new();
    for heard in &outcome.heard {
        let word = match &heard.told {
            Ok(answer) if answer.said.is_empty() => "none".to_owned(),
            Ok(answer) => answer.said.clone(),
            Err(kind) => format!("{kind:?}"),
        };
        *told.entry(word).or_default() += 1;
    }
    told
}

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Total {
    /// What struck.
    pub tally: Tally,
    /// How many seeds were run.
    pub seeds: AtomicU64,
    /// What callers were told, and how often.
    pub told: Mutex<BTreeMap<String, usize>>,
    /// How many effects there were.
    pub effects: AtomicU64,
    /// How many calls of the store were made.
    pub store_calls: AtomicU64,
    /// In how many simulated seconds.
    pub simulated_s: AtomicU64,
    /// Those that failed, by seed.
    pub failures: Mutex<Vec<Failure>>,
}

/// Runs the seeds on as many threads as there are cores, each world on one.
#[must_use]
pub fn run_seeds(seeds: Range<u64>) -> Total {
    let total = Total::default();
    let next = AtomicU64::new(seeds.start);
    let count = |counter: &AtomicU64, more: usize| {
        counter.fetch_add(u64::try_from(more).unwrap_or(0), Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    count(&total.seeds, 1);
                    match run_seed(seed, None) {
                        Ok(run) => {
                            total.tally.add(&run.tally);
                            for (word, often) in run.told {
                                *lock(&total.told).entry(word).or_default() += often;
                            }
                            count(&total.effects, run.effects);
                            count(&total.store_calls, run.store_calls);
                            total.simulated_s.fetch_add(run.simulated_s, Ordering::Relaxed);
                        }
                        Err(failure) => lock(&total.failures).push(*failure),
                    }
                }
            });
        }
    });
    lock(&total.failures).sort_by_key(|failure| failure.options.seed);
    total
}
