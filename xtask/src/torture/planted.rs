//! `cargo xtask torture --planted`: the product is broken by a patch of `mutants/`, and a whole harness must see it: the
//! wind tunnel, the two tenants, the power cuts, the hidden requests, the conformance suite and its checker.
//!
//! What `cargo xtask mutants --seeded` does for single quick tests. The faults around the model and in the simulation are
//! theirs, and run with them.

use crate::checkout::Workspace;
use crate::clock::Stopwatch;
use crate::failure::{Done, Failure};
use crate::mutants::patch::NamedTest;
use crate::mutants::{Scratch, Seen, Trial, choose, read_patches};

/// A fault, and the tests of harnesses that must see it: package, target, name.
type Planted = (&'static str, &'static [(&'static str, &'static str, &'static str)]);

const PLANTED: [Planted; 13] = [
    ("complete-unfenced", &[("semel", "conformance", "s03_a_stale_guard_changes_nothing")]),
    ("purge-takes-in-flight", &[("semel", "conformance", "s07_purge_takes_what_expired_and_nothing_else")]),
    (
        "postgres-purge-takes-in-flight",
        &[("semel-cli", "kill_wind", "on_postgres_no_effect_is_doubled_under_hold")],
    ),
    ("answer-before-storing", &[("semel-cli", "kill_wind", "on_a_file_no_effect_is_doubled_under_hold")]),
    (
        "lease-is-retention",
        &[
            ("semel", "conformance", "s05_in_flight_never_expires_but_lapses"),
            ("semel-cli", "kill_wind", "on_a_file_no_effect_is_doubled_under_hold"),
        ],
    ),
    ("takeover-unasked", &[("semel-cli", "kill_wind", "on_a_file_no_effect_is_doubled_under_hold")]),
    (
        "tenant-not-in-identity",
        &[("semel-cli", "gateway_two_tenants", "two_tenants_of_one_memory_never_see_each_other")],
    ),
    (
        "body-buffer-recycled",
        &[("semel-cli", "gateway_two_tenants", "two_tenants_of_one_memory_never_see_each_other")],
    ),
    (
        "embedded-told-before-synced",
        &[("semel-store-embedded", "kill_power", "a_power_cut_at_any_moment_loses_nothing_that_was_told")],
    ),
    (
        "embedded-failed-sync-acknowledged",
        &[(
            "semel-store-embedded",
            "kill_power",
            "a_failed_sync_ends_the_store_and_loses_nothing_that_was_told",
        )],
    ),
    (
        "postgres-commits-are-not-waited-for",
        &[("semel-store-postgres", "kill_server", "power_cuts_of_the_server_lose_nothing_that_was_told")],
    ),
    ("ambiguous-requests-pass", &[("semel-cli", "gateway_smuggling", "no_keyed_request_hides_another")]),
    ("keys-of-any-bytes", &[("semel", "fuzz", "any_text_is_a_key_or_is_not_and_a_key_is_kept_as_it_is")]),
];

pub(super) fn run(only: &[String]) -> Done {
    let mutants = choose(read_patches()?, &PLANTED.map(|(patch, _)| patch.to_owned()))?;
    let scratch = Scratch::open(&Workspace::load()?)?;
    let trial = Trial::new(&scratch);
    let (mut table, mut unseen) = (Vec::new(), 0);
    for (patch, tests) in PLANTED {
        if !only.is_empty() && !only.iter().any(|name| name == patch) {
            continue;
        }
        let mutant = mutants.iter().find(|mutant| mutant.name == patch);
        let mutant = mutant.ok_or_else(|| Failure::new(format!("there is no mutants/{patch}.patch")))?;
        println!("planted: {patch}: not kept any more: {}", mutant.breaks);
        scratch.restore()?;
        scratch.apply(mutant)?;
        for (package, target, name) in tests {
            let test = NamedTest {
                package: (*package).to_owned(),
                target: (*target).to_owned(),
                name: (*name).to_owned(),
            };
            trial.build(&test)?;
            let watch = Stopwatch::start();
            let seen = match trial.with_fault(patch, &test)? {
                Seen::Red => watch.read().to_string(),
                Seen::No(why) => {
                    unseen += 1;
                    format!("NO: {why}")
                }
            };
            println!("planted: {patch}: {test}: {seen}");
            table.push(format!("| `{patch}` | `{target}` {name} | {seen} |"));
        }
    }
    scratch.restore()?;
    println!("\n| fault | seen by | after |\n| --- | --- | --- |\n{}", table.join("\n"));
    match unseen {
        0 => Ok(()),
        _ => Err(Failure::new(format!("planted: {unseen} of {} not seen red", table.len()))),
    }
}
