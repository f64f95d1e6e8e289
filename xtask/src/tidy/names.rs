//! What things may be called: files, folders, tests.
//!
//! Not whether a name is good; only those that never are.

use super::Finding;
use super::source::function_name;
use super::tree::Tree;

const EMPTY_NAMES: [&str; 6] = ["utils", "util", "common", "helpers", "helper", "types"];

pub(super) fn modules_are_named_after_their_file(tree: &Tree) -> Vec<Finding> {
    let named_mod = tree.rust().filter(|(path, _)| path.ends_with("/mod.rs"));
    named_mod
        .map(|(path, _)| {
            let folder = path.trim_end_matches("/mod.rs");
            Finding::new(path, 1, "a module in mod.rs", format!("call it {folder}.rs"))
        })
        .collect()
}

pub(super) fn files_are_named_after_what_they_hold(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, _) in tree.rust() {
        let mut parts = path.trim_end_matches(".rs").split('/');
        if let Some(name) = parts.find(|part| EMPTY_NAMES.contains(part)) {
            let wrong = format!("`{name}` does not say what is inside");
            findings.push(Finding::new(path, 1, wrong, "name it after the one thing it holds"));
        }
    }
    findings
}

pub(super) fn tests_are_sentences(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        let mut is_test = false;
        for (index, line) in text.lines().map(str::trim).enumerate() {
            if let Some(name) = function_name(line).filter(|name| is_test && name.starts_with("test_")) {
                let wrong = format!("the test `{name}` is named test_");
                findings.push(Finding::new(path, index + 1, wrong, "name it by the sentence that it proves"));
            }
            is_test = if line.starts_with("#[") { is_test || line.contains("test") } else { false };
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn mod_rs_is_found() {
        let files = [("crates/a/src/b/mod.rs", ""), ("crates/a/src/b.rs", "")];
        assert_eq!(places(modules_are_named_after_their_file, &files), ["crates/a/src/b/mod.rs:1"]);
    }

    #[test]
    fn empty_names_are_found_in_files_and_folders() {
        let files = [
            ("crates/a/src/common_prefix.rs", ""),
            ("crates/a/src/utils.rs", ""),
            ("crates/a/tests/common/server.rs", ""),
        ];
        let expected = ["crates/a/src/utils.rs:1", "crates/a/tests/common/server.rs:1"];
        assert_eq!(places(files_are_named_after_what_they_hold, &files), expected);
    }

    #[test]
    fn tests_named_test_are_found_and_other_functions_are_not() {
        let text =
            "fn test_server() {}\n\n#[tokio::test]\nasync fn test_a() {}\n#[test]\nfn one_is_one() {}\n";
        assert_eq!(places(tests_are_sentences, &[("crates/a/tests/b.rs", text)]), ["crates/a/tests/b.rs:4"]);
    }
}
