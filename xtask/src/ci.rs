//! `cargo xtask ci`: every step that must pass before a change lands, stopping at the first failure.
//!
//! Not the steps themselves (`ci/steps.rs`) and not the programs they need (`ci/programs.rs`).

use crate::checkout::Workspace;
use crate::clock::{Stopwatch, Took};
use crate::failure::{Done, Failure};

mod programs;
mod steps;

use steps::Step;

/// What `cargo xtask ci` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run just this step; may be given more than once
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// List the steps and their commands, run none
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(options: &Options) -> Done {
    let steps = steps::all(&Workspace::load()?);
    if options.list {
        for step in &steps {
            println!("{}", step.name);
            step.lines().iter().for_each(|line| println!("    {line}"));
        }
        return Ok(());
    }
    let chosen = choose(steps, &options.only)?;
    programs::provide(&chosen)?;
    run_in_order(&chosen)
}

/// All steps, or those named, in their usual order.
fn choose(steps: Vec<Step>, only: &[String]) -> Done<Vec<Step>> {
    let names: Vec<&str> = steps.iter().map(|step| step.name).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(Failure::new(format!("no step is called {unknown}; there are {}", names.join(", "))));
    }
    let wanted = |step: &Step| only.is_empty() || only.iter().any(|name| name == step.name);
    Ok(steps.into_iter().filter(wanted).collect())
}

fn run_in_order(steps: &[Step]) -> Done {
    let whole = Stopwatch::start();
    let mut times: Vec<(&str, Took)> = Vec::new();
    let mut summary = None;
    for (i, step) in steps.iter().enumerate() {
        for line in step.lines() {
            println!("[{}/{}] {}: {line}", i + 1, steps.len(), step.name);
        }
        let watch = Stopwatch::start();
        let done = step.run();
        times.push((step.name, watch.read()));
        match done {
            Ok(line) => summary = summary.or(line),
            Err(failure) => {
                show(&times, whole.read());
                return Err(Failure::new(format!(
                    "{failure}\nci: FAILED at {name}; only this step: cargo xtask ci --only {name}",
                    name = step.name
                )));
            }
        }
    }
    show(&times, whole.read());
    println!("ci: passed");
    // What reads the log for the number of tests looks at its end.
    if let Some(line) = summary {
        println!("{line}");
    }
    Ok(())
}

fn show(times: &[(&str, Took)], whole: Took) {
    println!();
    for (name, took) in times {
        println!("{name:<10} {took:>9}");
    }
    println!("{:<10} {whole:>9}", "together");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        Workspace { packages: Vec::new(), target_dir: "target".into() }
    }

    #[test]
    fn named_steps_run_in_their_usual_order() {
        let only = ["tidy".to_owned(), "fmt".to_owned()];
        let chosen = choose(steps::all(&workspace()), &only).expect("both exist");
        assert_eq!(chosen.iter().map(|step| step.name).collect::<Vec<_>>(), ["fmt", "tidy"]);
    }

    #[test]
    fn unknown_step_is_refused_by_name() {
        let failure = choose(steps::all(&workspace()), &["fmmt".to_owned()]).err().expect("no such step");
        assert!(failure.to_string().starts_with("no step is called fmmt; there are fmt, tidy"), "{failure}");
    }
}
