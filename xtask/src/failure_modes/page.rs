//! docs/failure-modes.md, written from the table.
//!
//! Whether what it says is so is asked in `tidy/modes.rs`.

use std::fmt::Write;

use super::table::{Group, PLACES, Row, STORES, Said, Table, Test};
use crate::tidy::tree::Tree;

/// How many rows are what, as one sentence.
pub(crate) fn counts(table: &Table) -> String {
    let rows: Vec<&Row> = table.rows().collect();
    let count = |wanted: &dyn Fn(&Row) -> bool| rows.iter().filter(|row| wanted(row)).count();
    let cells = |wanted: &dyn Fn(Said<'_>) -> bool| {
        rows.iter().flat_map(|row| PLACES.map(|place| row.said(place))).filter(|said| wanted(*said)).count()
    };
    format!(
        "{} rows: {} with a test, {} of them also with a seeded fault; {} open somewhere. Of {} places, {} are kept by \
         a test, {} cannot break that way, {} are open.",
        rows.len(),
        count(&Row::has_a_test),
        count(&|row| row.has_a_test() && !row.patches.is_empty()),
        count(&Row::is_open),
        rows.len() * PLACES.len(),
        cells(&|said| said == Said::Kept),
        cells(&|said| matches!(said, Said::Not(_))),
        cells(&|said| said == Said::Open),
    )
}

pub(crate) fn render(table: &Table, tree: &Tree) -> String {
    let mut page = String::from(
        "# What broke elsewhere, and what holds Semel to it\n\n\
         Each row is a way in which something that makes retries safe has failed for its users. It names the tests that\n\
         show Semel not to fail so, for each store and surface, and the seeded faults (`mutants/`) that these tests have\n\
         been seen to find: every run of `cargo xtask ci` sees each of them red again. Where a row cannot occur, the\n\
         table says `n/a`, with its [reason](decisions/failure-modes.md). What nothing holds is called open.\n\n\
         This page is written by `cargo xtask failure-modes` from `failure-modes.toml`.\n\n",
    );
    page += &counts(table);
    page.push('\n');
    for group in &table.group {
        overview(&mut page, group);
        for row in &group.row {
            details(&mut page, row, tree);
        }
    }
    page
}

fn overview(page: &mut String, group: &Group) {
    let _ = write!(page, "\n## {}\n\n| row | {} | red by |\n|", group.name, PLACES.join(" | "));
    page.push_str(&" --- |".repeat(PLACES.len() + 2));
    for row in &group.row {
        let _ = write!(page, "\n| {} ", row.number);
        for place in PLACES {
            let said = match row.said(place) {
                Said::Kept => "kept",
                Said::Not(_) => "n/a",
                Said::Open => "**open**",
            };
            let _ = write!(page, "| {said} ");
        }
        let faults = match row.patches.len() {
            0 => "**open**".to_owned(),
            1 => "1 fault".to_owned(),
            many => format!("{many} faults"),
        };
        let _ = write!(page, "| {faults} |");
    }
    page.push('\n');
}

fn details(page: &mut String, row: &Row, tree: &Tree) {
    let _ = writeln!(page, "\n### {}. {}\n", row.number, row.case);
    if !row.suite.is_empty() {
        let tests = row.suite.iter().map(|name| linked(name, suite_file(name, tree))).collect::<Vec<_>>();
        let _ = writeln!(page, "- {}: {}", STORES.join(", "), tests.join(", "));
    }
    for place in PLACES {
        let tests: Vec<_> = row
            .tests()
            .filter(|(at, ..)| *at == place)
            .map(|(_, written, test)| linked(written, test.and_then(|test| file_of(&test, tree))))
            .collect();
        if !tests.is_empty() {
            let _ = writeln!(page, "- {place}: {}", tests.join(", "));
        }
    }
    for (reason, places) in &row.not {
        let _ =
            writeln!(page, "- n/a at {}: [{reason}](decisions/failure-modes.md#{reason})", places.join(", "));
    }
    let open: Vec<_> = PLACES.into_iter().filter(|place| row.said(place) == Said::Open).collect();
    if !open.is_empty() {
        let _ = writeln!(page, "- **open** at {}", open.join(", "));
    }
    if !row.patches.is_empty() {
        let patches = row.patches.iter().map(|name| format!("[`{name}`](../mutants/{name}.patch)"));
        let _ = writeln!(page, "- red by {}", patches.collect::<Vec<_>>().join(", "));
    }
}

fn linked(text: &str, path: Option<&str>) -> String {
    path.map_or_else(|| format!("`{text}`"), |path| format!("[`{text}`](../{path})"))
}

/// The file that holds `test`.
pub(crate) fn file_of<'a>(test: &Test<'_>, tree: &'a Tree) -> Option<&'a str> {
    let heading = format!("fn {}(", test.name);
    tree.rust().find(|(path, text)| test.may_be_in(path) && text.contains(&heading)).map(|(path, _)| path)
}

/// The file of the conformance suite that holds `name`, if the suite's macro runs it.
pub(crate) fn suite_file<'a>(name: &str, tree: &'a Tree) -> Option<&'a str> {
    const SUITE: &str = "crates/semel-testkit/src/conformance";
    let listed = tree
        .text(&format!("{SUITE}.rs"))?
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| word == name);
    let heading = format!("pub async fn {name}(");
    let holds =
        |(path, text): &(&str, &str)| path.starts_with(&format!("{SUITE}/")) && text.contains(&heading);
    tree.rust().find(holds).filter(|_| listed).map(|(path, _)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_places_are_shown_as_open_and_counted() {
        let text = "[[group]]\nname = \"A\"\n[[group.row]]\nnumber = 1\ncase = \"x\"\ntests.engine = [\"semel e a\"]\n\
            not.why = [\"memory\", \"embedded\", \"postgres\", \"redis\", \"layer\", \"gateway\"]\n";
        let table = Table::parse(text).expect("well formed");
        let page = render(&table, &Tree::made_up(&[("crates/semel/tests/e.rs", "fn a() {}")]));
        assert!(
            page.contains("| 1 | n/a | n/a | n/a | n/a | kept | n/a | n/a | **open** | **open** |"),
            "{page}"
        );
        assert!(page.contains("- **open** at client\n"), "{page}");
        assert!(page.contains("- engine: [`semel e a`](../crates/semel/tests/e.rs)"), "{page}");
        assert!(
            page.contains("1 with a test, 0 of them also with a seeded fault; 1 open somewhere"),
            "{page}"
        );
    }

    #[test]
    fn name_in_the_suite_that_no_store_runs_is_none() {
        let file = ("crates/semel-testkit/src/conformance/a.rs", "pub async fn s01_x(subject: Subject) {");
        let listed = ("crates/semel-testkit/src/conformance.rs", "claims: s01_x,");
        let unlisted = ("crates/semel-testkit/src/conformance.rs", "claims: s01_xy,");
        assert_eq!(suite_file("s01_x", &Tree::made_up(&[file, listed])), Some(file.0));
        assert_eq!(suite_file("s01_x", &Tree::made_up(&[file, unlisted])), None);
    }
}
