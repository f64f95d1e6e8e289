//! The model, the checker and the seeds in full, with a report: what `cargo xtask torture` runs. `--quick` in small.
//!
//! Not the kills of real programs: those are tests of the crates they kill. A fault ends it with exit code 1 after
//! everything was tried; each line that fails names the seed or the steps that show it.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use semel::clock::{ManualClock, SystemClock, Timestamp};
use semel::store::memory::MemoryStore;
use semel::store::{Claimed, Written};
use semel_testkit::check::load::Load;
use semel_testkit::check::{Answer, Recorder, check};
use semel_testkit::faulty_store::FaultyStore;
use semel_testkit::figures;
use semel_testkit::model::{Machine, Plant, Shape};
use tokio::time::Instant;

/// What was found, one line each.
#[derive(Default)]
struct Report {
    faults: usize,
}

impl Report {
    fn line(&mut self, harness: &str, ok: bool, started: Instant, what: &str) {
        self.faults += usize::from(!ok);
        let verdict = if ok { "ok" } else { "FAULT" };
        println!("{harness:<8} {verdict:<5} {:>7.2} s  {what}", started.elapsed().as_secs_f64());
    }
}

fn main() -> ExitCode {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut report = Report::default();
    plants(&mut report);
    runtime.block_on(checker(&mut report, quick));
    runtime.block_on(seeds(&mut report, quick));
    model(&mut report, quick);
    if report.faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn model(report: &mut Report, quick: bool) {
    let one = Shape { executors: 2, keys: 1, asks: 1, ticks: 5, late: 1, resolutions: 0 };
    let mut shapes = vec![Shape { keys: 2, ..one }, Shape { resolutions: 1, ..one }];
    if !quick {
        shapes.push(Shape { asks: 2, ticks: 6, resolutions: 1, ..one });
        shapes.push(Shape { executors: 3, keys: 2, ..one });
    }
    for shape in shapes {
        let started = Instant::now();
        let found = Machine::new(shape).search(2);
        let Shape { executors, keys, asks, ticks, late, resolutions } = shape;
        let mut what = format!(
            "{executors} executors x {keys} keys ({asks} asks, {ticks} ticks, {late} late calls, {resolutions} \
             resolutions): {} states, {} transitions, depth {}",
            found.states, found.transitions, found.depth
        );
        if let Some((guarantee, steps)) = &found.broken {
            what += &format!("; {guarantee} is broken by {}", steps.join(", "));
        }
        figures::tell(&[
            ("states of the model", found.states),
            ("broken invariants", usize::from(found.broken.is_some())),
        ]);
        report.line("model", found.broken.is_none(), started, &what);
    }
}

fn plants(report: &mut Report) {
    for plant in Plant::ALL {
        let started = Instant::now();
        let (guarantee, shape) = plant.breaks();
        let found = Machine::new(shape).with(plant).search(1);
        let seen = found.broken.as_ref().filter(|(broken, _)| broken.starts_with(guarantee));
        let steps = seen.map_or(0, |(_, steps)| steps.len());
        let what = format!("planted {plant:?}: breaks {guarantee}, shown in {steps} steps");
        figures::tell(&[("faults planted", 1), ("faults found", usize::from(seen.is_some()))]);
        report.line("plant", seen.is_some(), started, &what);
    }
}

async fn checker(report: &mut Report, quick: bool) {
    let (keys, calls) = if quick { (1_000, 100_000) } else { (10_000, 1_000_000) };
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_000_000_000)));
    let recorder = Recorder::on_clock(Arc::new(MemoryStore::with_clock(clock.clone())), clock);
    let unit = Duration::from_secs(1);
    Load { seed: 1, callers: 8, keys, calls, unit }.run(Arc::new(recorder.clone())).await;
    let history = recorder.history();
    let started = Instant::now();
    let found = check(history.clone());
    figures::tell(&[("histories judged", keys), ("calls judged", calls)]);
    let what = format!("{calls} calls of {keys} keys: {found:?}");
    report.line("checker", found.is_ok(), started, &what);

    let mut lied = history;
    let mut won = lied.iter_mut().filter_map(|operation| match &mut operation.answer {
        Some((_, Answer::Claimed(Claimed::Won(record)) | Answer::Written(Written::Done(Some(record))))) => {
            Some(record)
        }
        _ => None,
    });
    if let Some(record) = won.nth(calls / 10) {
        record.generation += 1;
    }
    let started = Instant::now();
    let found = check(lied);
    let seen = found.as_ref().is_err_and(|found| found.len() == 1 && found[0].proven);
    let shown = found.err().map_or(0, |found| found[0].answered.len());
    let what = format!("one lie among {calls} calls: found, and shown by {shown} answers");
    report.line("checker", seen, started, &what);
}

async fn seeds(report: &mut Report, quick: bool) {
    let seeds = if quick { 20 } else { 2_000 };
    let started = Instant::now();
    let (mut operations, mut unanswered, mut keys) = (0, 0, 0);
    for seed in 0..seeds {
        let clock = Arc::new(SystemClock::new());
        let faulty = FaultyStore::by_seed(Arc::new(MemoryStore::with_clock(clock.clone())), seed);
        let recorder = Recorder::on_clock(Arc::new(faulty), clock);
        let unit = Duration::from_millis(2);
        let load = Load { seed, callers: 16, keys: 10, calls: 2_000, unit };
        load.run(Arc::new(recorder.clone())).await;
        match check(recorder.history()) {
            Ok(checked) => {
                operations += checked.operations;
                unanswered += checked.unanswered;
                keys += checked.keys;
            }
            Err(found) => {
                report.line("seeds", false, started, &format!("seed {seed}: {}", found[0]));
            }
        }
    }
    let what = format!(
        "{seeds} seeds of racing callers at a store that loses calls and replies: {operations} calls, \
         {unanswered} without an answer"
    );
    figures::tell(&[
        ("seeds", usize::try_from(seeds).unwrap_or(usize::MAX)),
        ("histories judged", keys),
        ("calls judged", operations),
    ]);
    report.line("seeds", true, started, &what);
}
