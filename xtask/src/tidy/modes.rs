//! The table of failure modes against the tree: all rows, tests that exist, faults that these tests see, and a page
//! that says the same.
//!
//! Not whether the tests pass or the faults are seen: nextest and `cargo xtask mutants` ask that.

use std::collections::BTreeSet;

use super::Finding;
use super::tree::{Tree, line_where};
use crate::failure_modes::table::{PLACES, Row, Table};
use crate::failure_modes::{PAGE, REASONS, TABLE, page};
use crate::mutants::patch::{Mutant, NamedTest};

const ROWS: usize = 90;

/// A tree without the table is some other tree, made up by a test, unless it has the page.
fn read(tree: &Tree) -> Option<Result<Table, Finding>> {
    let Some(text) = tree.text(TABLE) else {
        let todo = "write it, or take its page away";
        return tree.holds(PAGE).then(|| Err(Finding::new(TABLE, 1, "is not there", todo)));
    };
    let read = Table::parse(text);
    Some(read.map_err(|error| Finding::new(TABLE, 1, format!("cannot be read: {error}"), "mend it")))
}

fn each_row(tree: &Tree, wrong_in: impl Fn(&Row) -> Vec<(String, &'static str)>) -> Vec<Finding> {
    let (Some(text), Some(Ok(table))) = (tree.text(TABLE), read(tree)) else { return Vec::new() };
    let found = table.rows().flat_map(|row| {
        let line = line_where(text, |line| line == format!("number = {}", row.number));
        wrong_in(row).into_iter().map(move |(wrong, todo)| Finding::new(TABLE, line, wrong, todo))
    });
    found.collect()
}

pub(super) fn every_failure_mode_has_its_row(tree: &Tree) -> Vec<Finding> {
    let table = match read(tree) {
        None => return Vec::new(),
        Some(Err(finding)) => return vec![finding],
        Some(Ok(table)) => table,
    };
    let numbers: Vec<usize> = table.rows().map(|row| row.number).collect();
    if numbers == (1..=ROWS).collect::<Vec<_>>() {
        return Vec::new();
    }
    let missing: Vec<String> =
        (1..=ROWS).filter(|row| !numbers.contains(row)).map(|row| row.to_string()).collect();
    let wrong = format!("is not the rows 1 to {ROWS} in order; missing: {}", missing.join(", "));
    vec![Finding::new(TABLE, 1, wrong, "every row is there once, open or not")]
}

pub(super) fn failure_modes_name_tests_that_exist(tree: &Tree) -> Vec<Finding> {
    each_row(tree, |row| {
        let mut wrong = Vec::new();
        for name in row.suite.iter().filter(|name| page::suite_file(name, tree).is_none()) {
            wrong.push((format!("the conformance suite does not run {name}"), "name one that it runs"));
        }
        for (place, written, test) in row.tests() {
            if !PLACES.contains(&place) {
                wrong.push((
                    format!("`{place}` is neither a store nor a surface"),
                    "see failure_modes/table.rs",
                ));
            }
            if test.is_none_or(|test| page::file_of(&test, tree).is_none()) {
                wrong.push((format!("there is no test `{written}`"), "write PACKAGE TARGET NAME of one"));
            }
        }
        wrong
    })
}

pub(super) fn failure_modes_name_faults_that_their_tests_see(tree: &Tree) -> Vec<Finding> {
    each_row(tree, |row| {
        let mut wrong = Vec::new();
        for name in &row.patches {
            let mutant = tree.text(&format!("mutants/{name}.patch")).map(|text| Mutant::parse(name, text));
            match mutant {
                Some(Ok(mutant)) if mutant.tests.iter().any(|test| is_of(row, test)) => {}
                Some(Ok(_)) => {
                    let text = format!("no test of this row is among those that must see {name}");
                    wrong.push((text, "name a test that the fault turns red, or another fault"));
                }
                _ => wrong.push((format!("there is no mutants/{name}.patch"), "name one that exists")),
            }
        }
        wrong
    })
}

/// Whether a fault's test is one that the row names.
fn is_of(row: &Row, seen_by: &NamedTest) -> bool {
    let name = seen_by.name.rsplit("::").next().unwrap_or_default();
    let of_suite = seen_by.target == "conformance" && row.suite.iter().any(|one| one == name);
    of_suite
        || row.tests().any(|(_, _, test)| {
            test.is_some_and(|test| {
                test.name == name && test.package == seen_by.package && seen_by.target == test.target
            })
        })
}

pub(super) fn failure_modes_that_cannot_occur_have_a_reason(tree: &Tree) -> Vec<Finding> {
    let reasons: BTreeSet<&str> =
        tree.text(REASONS).unwrap_or_default().lines().filter_map(|line| line.strip_prefix("## ")).collect();
    each_row(tree, |row| {
        let mut wrong = Vec::new();
        for (reason, places) in &row.not {
            if !reasons.contains(reason.as_str()) {
                wrong.push((format!("`{reason}` is no heading of {REASONS}"), "write the reason there"));
            }
            for place in places.iter().filter(|place| !PLACES.contains(&place.as_str())) {
                wrong.push((
                    format!("`{place}` is neither a store nor a surface"),
                    "see failure_modes/table.rs",
                ));
            }
        }
        wrong
    })
}

pub(super) fn page_of_failure_modes_is_as_its_table(tree: &Tree) -> Vec<Finding> {
    let Some(Ok(table)) = read(tree) else { return Vec::new() };
    if tree.text(PAGE) == Some(page::render(&table, tree).as_str()) {
        return Vec::new();
    }
    vec![Finding::new(PAGE, 1, format!("does not say what {TABLE} says"), "run cargo xtask failure-modes")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    const ROW: &str = "[[group]]\nname = \"A\"\n[[group.row]]\nnumber = 1\ncase = \"x\"\n\
        tests.engine = [\"semel engine a_b\"]\nnot.why = [\"layer\"]\npatches = [\"p\"]\n";
    const TEST: (&str, &str) = ("crates/semel/tests/engine.rs", "async fn a_b() {}\n");
    const REASON: (&str, &str) = (REASONS, "# Reasons\n\n## why\n");
    const PATCH: &str = "breaks: x.\npackage: semel\ntarget: engine\ntest: a_b\n\ndiff --git a/a b/a\n";

    #[test]
    fn row_that_is_missing_and_a_page_without_its_table_are_found() {
        assert_eq!(places(every_failure_mode_has_its_row, &[(TABLE, ROW)]), ["docs/failure-modes.toml:1"]);
        assert_eq!(places(every_failure_mode_has_its_row, &[(PAGE, "")]), ["docs/failure-modes.toml:1"]);
        let all: String =
            (1..=ROWS).map(|n| format!("[[group.row]]\nnumber = {n}\ncase = \"x\"\n")).collect();
        let all = format!("[[group]]\nname = \"A\"\n{all}");
        assert!(places(every_failure_mode_has_its_row, &[(TABLE, &all)]).is_empty());
    }

    #[test]
    fn name_of_no_test_is_found_at_its_row() {
        assert!(places(failure_modes_name_tests_that_exist, &[(TABLE, ROW), TEST]).is_empty());
        let elsewhere = ("crates/semel/tests/doubt.rs", TEST.1);
        assert_eq!(
            places(failure_modes_name_tests_that_exist, &[(TABLE, ROW), elsewhere]),
            ["docs/failure-modes.toml:4"]
        );
    }

    #[test]
    fn fault_that_no_test_of_the_row_sees_is_found() {
        let check = failure_modes_name_faults_that_their_tests_see;
        assert!(places(check, &[(TABLE, ROW), TEST, ("mutants/p.patch", PATCH)]).is_empty());
        assert_eq!(places(check, &[(TABLE, ROW), TEST]).len(), 1);
        let other = PATCH.replace("a_b", "c_d");
        assert_eq!(places(check, &[(TABLE, ROW), TEST, ("mutants/p.patch", &other)]).len(), 1);
    }

    #[test]
    fn reason_that_nobody_wrote_down_is_found() {
        let check = failure_modes_that_cannot_occur_have_a_reason;
        assert!(places(check, &[(TABLE, ROW), REASON]).is_empty());
        assert_eq!(places(check, &[(TABLE, ROW)]), ["docs/failure-modes.toml:4"]);
    }

    #[test]
    fn page_that_is_out_of_date_is_found() {
        let check = page_of_failure_modes_is_as_its_table;
        let table = Table::parse(ROW).expect("well formed");
        let page = page::render(&table, &Tree::made_up(&[(TABLE, ROW), TEST]));
        assert!(places(check, &[(TABLE, ROW), TEST, (PAGE, &page)]).is_empty());
        assert_eq!(places(check, &[(TABLE, ROW), TEST, (PAGE, "old")]), ["docs/failure-modes.md:1"]);
    }
}
