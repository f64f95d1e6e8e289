//! `cargo xtask mutants --seeded`: puts each fault of `mutants/*.patch` into a copy of the tree and
//! demands that the tests it names go red.
//!
//! Not a search for faults: each one is written by a person, next to the tests that must see it. The
//! work tree is only read. The form of a patch is in `mutants/patch.rs`, the copy in `mutants/scratch.rs`
//! and `mutants/lend.rs`, running a test in `mutants/trial.rs`.

use std::collections::BTreeSet;
use std::fs;

use crate::checkout::{self, Workspace};
use crate::clock::{Stopwatch, Took};
use crate::failure::{Done, Failure, While};

mod lend;
pub(crate) mod patch;
mod scratch;
mod trial;

use patch::{Mutant, NamedTest};
pub(crate) use scratch::Scratch;
pub(crate) use trial::{Seen, Trial};

/// What `cargo xtask mutants` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The faults in mutants/*.patch; there is no other kind yet
    #[arg(long)]
    seeded: bool,
    /// Just this fault, by its file name without .patch; may be given more than once
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// List the faults and the tests that must see them, run none
    #[arg(long)]
    list: bool,
}

pub(crate) fn run(options: &Options) -> Done {
    if !options.seeded {
        return Err(Failure::new("say which faults: cargo xtask mutants --seeded"));
    }
    let mutants = choose(read_patches()?, &options.only)?;
    if options.list {
        for mutant in &mutants {
            println!("{}: {}", mutant.name, mutant.breaks);
            mutant.tests.iter().for_each(|test| println!("    {test}"));
        }
        return Ok(());
    }
    try_all(&mutants)
}

/// Every seeded fault, as ci does it.
pub(crate) fn run_all() -> Done {
    try_all(&read_patches()?)
}

pub(crate) fn read_patches() -> Done<Vec<Mutant>> {
    let root = checkout::root();
    let mut mutants = Vec::new();
    for path in checkout::files(&root)? {
        let name = path.strip_prefix("mutants/").and_then(|name| name.strip_suffix(".patch"));
        if let Some(name) = name {
            let text = fs::read_to_string(root.join(&path)).when(&path)?;
            mutants.push(Mutant::parse(name, &text).when(&path)?);
        }
    }
    if mutants.is_empty() {
        return Err(Failure::new("mutants/ holds no .patch, so nothing shows that the tests see faults"));
    }
    Ok(mutants)
}

pub(crate) fn choose(mutants: Vec<Mutant>, only: &[String]) -> Done<Vec<Mutant>> {
    let known = |name: &&String| mutants.iter().any(|mutant| mutant.name == **name);
    if let Some(unknown) = only.iter().find(|name| !known(name)) {
        return Err(Failure::new(format!("there is no mutants/{unknown}.patch")));
    }
    Ok(mutants.into_iter().filter(|mutant| only.is_empty() || only.contains(&mutant.name)).collect())
}

fn try_all(mutants: &[Mutant]) -> Done {
    let scratch = Scratch::open(&Workspace::load()?)?;
    let trial = Trial::new(&scratch);
    scratch.restore()?;
    let tests: BTreeSet<&NamedTest> = mutants.iter().flat_map(|mutant| &mutant.tests).collect();
    println!("mutants: {} named tests without any fault, in {}", tests.len(), scratch.tree().display());
    trial.demand_green(&tests)?;
    let mut table = Vec::new();
    for (index, mutant) in mutants.iter().enumerate() {
        println!("mutants: [{}/{}] {}: {}", index + 1, mutants.len(), mutant.name, mutant.breaks);
        try_one(mutant, &scratch, &trial, &mut table)?;
    }
    report(&table)
}

/// One row: a fault, a test that must see it, and whether it did.
struct Row<'a> {
    mutant: &'a str,
    test: &'a NamedTest,
    seen: Seen,
    took: Took,
}

fn try_one<'a>(mutant: &'a Mutant, scratch: &Scratch, trial: &Trial<'_>, table: &mut Vec<Row<'a>>) -> Done {
    let applied = scratch.apply(mutant);
    if let Err(failure) = &applied {
        println!("{failure}");
    }
    for test in &mutant.tests {
        let watch = Stopwatch::start();
        let seen = match applied {
            Ok(()) => trial.with_fault(&mutant.name, test)?,
            Err(_) => Seen::No("the patch does not apply".to_owned()),
        };
        table.push(Row { mutant: &mutant.name, test, seen, took: watch.read() });
    }
    scratch.restore()
}

fn report(table: &[Row<'_>]) -> Done {
    let mutant_width = table.iter().map(|row| row.mutant.len()).max().unwrap_or_default();
    let tests: Vec<String> = table.iter().map(|row| row.test.to_string()).collect();
    let test_width = tests.iter().map(String::len).max().unwrap_or_default();
    println!("\n{:<mutant_width$}  {:<test_width$}  seen red", "fault", "test");
    for (row, test) in table.iter().zip(&tests) {
        let seen = match &row.seen {
            Seen::Red => row.took.to_string(),
            Seen::No(why) => format!("NO: {why}"),
        };
        println!("{:<mutant_width$}  {test:<test_width$}  {seen}", row.mutant);
    }
    let unseen: Vec<String> = table
        .iter()
        .filter_map(|row| match &row.seen {
            Seen::Red => None,
            Seen::No(why) => Some(format!("{} by {}: {why}", row.mutant, row.test)),
        })
        .collect();
    if unseen.is_empty() {
        return Ok(());
    }
    // Named again here, because of a long log only the end may have been kept.
    Err(Failure::new(format!(
        "mutants: {} of {} not seen red\n{}",
        unseen.len(),
        table.len(),
        unseen.join("\n")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(name: &str) -> Mutant {
        let text = "breaks: a\npackage: semel\ntarget: lib\ntest: t\n--- a/x\n+++ b/x\n";
        Mutant::parse(name, text).expect("well formed")
    }

    #[test]
    fn unknown_mutant_is_refused_and_a_known_one_chosen() {
        let both = || vec![mutant("a"), mutant("b")];
        assert!(choose(both(), &["c".to_owned()]).is_err());
        assert_eq!(choose(both(), &["b".to_owned()]).expect("b is there")[0].name, "b");
        assert_eq!(choose(both(), &[]).expect("all").len(), 2);
    }

    #[test]
    fn one_survivor_fails_the_whole() {
        let mutant = mutant("a");
        let row = |seen| Row {
            mutant: &mutant.name,
            test: &mutant.tests[0],
            seen,
            took: Stopwatch::start().read(),
        };
        assert!(report(&[row(Seen::Red)]).is_ok());
        let failure =
            report(&[row(Seen::Red), row(Seen::No("passed".to_owned()))]).expect_err("one is not seen");
        assert_eq!(failure.to_string(), "mutants: 1 of 2 not seen red\na by semel lib t: passed");
    }
}
