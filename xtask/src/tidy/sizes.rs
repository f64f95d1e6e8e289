//! How long things may be: files, functions, the map in lib.rs, README pages.
//!
//! Not how complex: a length is what can be counted without arguing.

use super::Finding;
use super::source::{functions, is_test_file, production_lines};
use super::tree::Tree;

const FILE_LINES: usize = 600;
const TEST_FILE_LINES: usize = 900;
const FUNCTION_LINES: usize = 70;
const MAP_LINES: usize = 80;
const README_LINES: usize = 120;

pub(super) fn files_have_an_end(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        let (lines, most) = if is_test_file(path) {
            (text.lines().count(), TEST_FILE_LINES)
        } else {
            (production_lines(text).len(), FILE_LINES)
        };
        if lines > most {
            let wrong = format!("{lines} lines without tests, {most} allowed");
            findings.push(Finding::new(path, 1, wrong, "move one of its concerns to a file of its own"));
        }
    }
    findings
}

pub(super) fn functions_fit_a_screen(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust().filter(|(path, _)| !is_test_file(path)) {
        for function in functions(&production_lines(text)) {
            if function.length > FUNCTION_LINES {
                let wrong =
                    format!("fn {} has {} lines, {FUNCTION_LINES} allowed", function.name, function.length);
                findings.push(Finding::new(
                    path,
                    function.first_line,
                    wrong,
                    "give its steps names of their own",
                ));
            }
        }
    }
    findings
}

pub(super) fn lib_rs_is_a_map(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust().filter(|(path, _)| path.ends_with("/src/lib.rs")) {
        let lines = production_lines(text);
        let code = lines
            .iter()
            .map(|(_, line)| line.trim())
            .filter(|line| !line.is_empty() && !line.starts_with("//"));
        let code = code.count();
        if code > MAP_LINES {
            let wrong = format!("{code} lines of code, {MAP_LINES} allowed");
            findings.push(Finding::new(
                path,
                1,
                wrong,
                "keep the modules and re-exports, move the rest to a module",
            ));
        }
    }
    findings
}

pub(super) fn readmes_are_short(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.files().filter(|(path, _)| path.rsplit('/').next() == Some("README.md")) {
        let lines = text.lines().count();
        if lines > README_LINES {
            let wrong = format!("{lines} lines, {README_LINES} allowed");
            findings.push(Finding::new(path, 1, wrong, "move what is not for a first reader to docs/guides"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn long_file_is_found_and_its_tests_do_not_count() {
        let long = "x\n".repeat(601);
        let tested =
            format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "x\n".repeat(600), "    y\n".repeat(500));
        let files = [("crates/a/src/long.rs", long.as_str()), ("crates/a/src/tested.rs", tested.as_str())];
        assert_eq!(places(files_have_an_end, &files), ["crates/a/src/long.rs:1"]);
    }

    #[test]
    fn files_of_tests_may_be_longer_and_have_an_end_too() {
        let (fits, long) = ("x\n".repeat(900), "x\n".repeat(901));
        let files = [("crates/a/tests/fits.rs", fits.as_str()), ("crates/a/tests/long.rs", long.as_str())];
        assert_eq!(places(files_have_an_end, &files), ["crates/a/tests/long.rs:1"]);
    }

    #[test]
    fn function_of_71_lines_is_found_at_its_first_line() {
        let body = |lines: usize| format!("fn a() {{\n{}}}\n", "    x;\n".repeat(lines));
        let text = format!("//! a\n{}{}", body(67), body(68));
        assert!(places(functions_fit_a_screen, &[("crates/a/src/a.rs", &text)]).is_empty());
        let text = format!("{text}{}", body(69));
        assert_eq!(
            places(functions_fit_a_screen, &[("crates/a/src/a.rs", &text)]),
            ["crates/a/src/a.rs:141"]
        );
        assert!(places(functions_fit_a_screen, &[("crates/a/tests/a.rs", &text)]).is_empty());
    }

    #[test]
    fn lib_rs_with_81_lines_of_code_is_found() {
        let text = |lines| format!("//! Words.\n\n{}// more\n", "mod a;\n".repeat(lines));
        assert!(places(lib_rs_is_a_map, &[("crates/a/src/lib.rs", &text(80))]).is_empty());
        assert_eq!(places(lib_rs_is_a_map, &[("crates/a/src/lib.rs", &text(81))]).len(), 1);
    }

    #[test]
    fn readme_of_121_lines_is_found() {
        assert!(places(readmes_are_short, &[("README.md", &"a\n".repeat(120))]).is_empty());
        assert_eq!(places(readmes_are_short, &[("README.md", &"a\n".repeat(121))]), ["README.md:1"]);
    }
}
