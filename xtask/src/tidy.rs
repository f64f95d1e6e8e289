//! `cargo xtask tidy`: the house rules that no compiler checks, over every file git tracks or would.
//!
//! Not style: rustfmt and clippy have that. The rules are in `tidy/`: `dependencies.rs` (who may use
//! whom), `sizes.rs`, `names.rs`, `pages.rs` (what must be written down), `promises.rs` (what must be
//! tested), `modes.rs` (what holds which failure mode). Each is a function from the tree to findings, listed in [`CHECKS`].

use std::fmt;

use crate::checkout;
use crate::failure::{Done, Failure};

mod dependencies;
mod modes;
mod names;
mod pages;
mod promises;
mod sizes;
mod source;
pub(crate) mod tree;

use tree::Tree;

type Check = fn(&Tree) -> Vec<Finding>;

const CHECKS: &[Check] = &[
    dependencies::point_towards_the_heart,
    dependencies::chain_at_most_four_crates,
    dependencies::inherit_the_lints,
    sizes::files_have_an_end,
    sizes::functions_fit_a_screen,
    sizes::lib_rs_is_a_map,
    sizes::readmes_are_short,
    names::modules_are_named_after_their_file,
    names::files_are_named_after_what_they_hold,
    names::tests_are_sentences,
    pages::every_source_file_opens_with_its_purpose,
    pages::every_error_code_has_its_page,
    pages::every_change_says_what_kind_it_is,
    pages::nothing_refers_outside_the_checkout,
    promises::every_store_runs_the_conformance_suite,
    promises::no_test_is_ignored,
    promises::every_fuzz_target_is_guided_too,
    modes::every_failure_mode_has_its_row,
    modes::failure_modes_name_tests_that_exist,
    modes::failure_modes_name_faults_that_their_tests_see,
    modes::failure_modes_that_cannot_occur_have_a_reason,
    modes::page_of_failure_modes_is_as_its_table,
];

/// Something that breaks a rule, and what to do about it.
#[derive(Debug, PartialEq)]
struct Finding {
    path: String,
    line: usize,
    wrong: String,
    todo: String,
}

impl Finding {
    /// `line` counts from 1; a finding about a whole file is at its line 1.
    fn new(path: &str, line: usize, wrong: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, wrong: wrong.into(), todo: todo.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; {}", self.path, self.line, self.wrong, self.todo)
    }
}

pub(crate) fn run() -> Done {
    let tree = Tree::read(&checkout::root())?;
    let findings = findings(&tree)?;
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {} checks over {} text files found nothing", CHECKS.len(), tree.files().count());
            Ok(())
        }
        found => Err(Failure::new(format!("tidy: {found} to put right"))),
    }
}

fn findings(tree: &Tree) -> Done<Vec<Finding>> {
    if tree.manifests().next().is_none() {
        return Err(Failure::new("tidy: the tree holds no crate, so nothing was checked"));
    }
    let mut findings: Vec<Finding> = CHECKS.iter().flat_map(|check| check(tree)).collect();
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    Ok(findings)
}

/// Where `check` finds something in a made-up tree: `path:line`, one each.
#[cfg(test)]
fn places(check: Check, files: &[(&str, &str)]) -> Vec<String> {
    let findings = check(&Tree::made_up(files));
    findings.iter().map(|finding| format!("{}:{}", finding.path, finding.line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_is_one_line_with_place_fault_and_advice() {
        let finding = Finding::new("a/b.rs", 7, "71 lines", "split it");
        assert_eq!(finding.to_string(), "a/b.rs:7: 71 lines; split it");
    }

    #[test]
    fn tree_without_crates_is_a_failure_and_not_a_pass() {
        assert!(findings(&Tree::made_up(&[("README.md", "")])).is_err());
    }

    #[test]
    fn every_check_runs_and_findings_are_in_order_of_place() {
        let tree = Tree::made_up(&[
            ("crates/semel/Cargo.toml", "[package]\nname = \"semel\"\n"),
            ("crates/semel/src/utils.rs", "fn a() {}\n"),
        ]);
        let found: Vec<_> =
            findings(&tree).expect("one crate").into_iter().map(|finding| finding.path).collect();
        let utils = "crates/semel/src/utils.rs";
        assert_eq!(found, ["crates/semel/Cargo.toml", utils, utils]);
    }
}
