//! What must be written down: a purpose for each file, a page for each error code, a line for each change.
//!
//! Not whether it is well said.

use std::collections::BTreeMap;

use super::Finding;
use super::source::production_lines;
use super::tree::{Tree, line_where};
use crate::changelog::{Change, is_change};

pub(super) fn every_source_file_opens_with_its_purpose(tree: &Tree) -> Vec<Finding> {
    let silent = tree.rust().filter(|(_, text)| !text.starts_with("//!"));
    let todo = "open it with //!: what it is, what it is not, where to go next";
    silent.map(|(path, _)| Finding::new(path, 1, "does not say what it is for", todo)).collect()
}

pub(super) fn every_error_code_has_its_page(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut codes: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
    let sources = tree.rust().filter(|(path, _)| path.starts_with("crates/") && path.contains("/src/"));
    for (path, text) in sources {
        for (number, line) in production_lines(text) {
            for code in codes_in(line) {
                codes.entry(code).or_insert((path, number));
            }
        }
    }
    for (code, (path, line)) in &codes {
        let page = format!("docs/errors/{code}.md");
        if !tree.holds(&page) {
            let todo = format!("write {page}: what happened, whether sending again is safe, what to do");
            findings.push(Finding::new(path, *line, format!("{code} has no page"), todo));
        }
    }
    for (path, _) in tree.files() {
        let code = path.strip_prefix("docs/errors/SEMEL-").and_then(|name| name.strip_suffix(".md"));
        if code.is_some_and(|digits| !codes.contains_key(format!("SEMEL-{digits}").as_str())) {
            findings.push(Finding::new(
                path,
                1,
                "no crate raises this code",
                "remove the page or correct its name",
            ));
        }
    }
    findings
}

/// Every `SEMEL-` with four digits.
fn codes_in(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("SEMEL-").filter_map(|(start, prefix)| {
        let code = line.get(start..start + prefix.len() + 4)?;
        code[prefix.len()..].chars().all(|c| c.is_ascii_digit()).then_some(code)
    })
}

pub(super) fn every_change_says_what_kind_it_is(tree: &Tree) -> Vec<Finding> {
    let changes = tree.files().filter(|(path, _)| is_change(path));
    let findings = changes.filter_map(|(path, text)| {
        let wrong = Change::parse(text).err()?;
        Some(Finding::new(path, 1, wrong, "see changes/README.md"))
    });
    findings.collect()
}

/// Notes from which the project was built do not travel with it.
const ELSEWHERE: [&str; 2] = [concat!("../", "shared"), concat!("semantics", ".md")];

pub(super) fn nothing_refers_outside_the_checkout(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files() {
        for name in ELSEWHERE.into_iter().filter(|name| text.contains(name)) {
            let line = line_where(text, |line| line.contains(name));
            let wrong = format!("refers to `{name}`, which is not part of the project");
            findings.push(Finding::new(path, line, wrong, "say here what it says there"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn file_without_purpose_is_found() {
        let files = [("crates/a/src/a.rs", "//! A.\n"), ("crates/a/src/b.rs", "// B.\n//! B.\n")];
        assert_eq!(places(every_source_file_opens_with_its_purpose, &files), ["crates/a/src/b.rs:1"]);
    }

    #[test]
    fn code_without_page_and_page_without_code_are_found() {
        let files = [
            ("crates/a/src/error.rs", "//! E.\n// SEMEL-0001, SEMEL-0002\n// SEMEL-NNNN\n"),
            ("docs/errors/README.md", "all of them"),
            ("docs/errors/SEMEL-0001.md", "one"),
            ("docs/errors/SEMEL-0003.md", "three"),
        ];
        let expected = ["crates/a/src/error.rs:2", "docs/errors/SEMEL-0003.md:1"];
        assert_eq!(places(every_error_code_has_its_page, &files), expected);
    }

    #[test]
    fn code_that_only_a_test_names_needs_no_page() {
        let text = "//! E.\n#[cfg(test)]\nmod tests {\n    const A: &str = \"SEMEL-9999\";\n}\n";
        assert!(places(every_error_code_has_its_page, &[("crates/a/src/error.rs", text)]).is_empty());
    }

    #[test]
    fn empty_change_is_found() {
        let files = [("changes/README.md", ""), ("changes/a.md", ""), ("changes/b.md", "# Fixed: b.\n")];
        assert_eq!(places(every_change_says_what_kind_it_is, &files), ["changes/a.md:1"]);
    }

    #[test]
    fn reference_to_what_is_elsewhere_is_found_in_any_text_file() {
        let text = format!("a\nsee {}/design\n", ELSEWHERE[0]);
        assert_eq!(places(nothing_refers_outside_the_checkout, &[("docs/a.md", &text)]), ["docs/a.md:2"]);
    }
}
