//! What must be tested: every store by the conformance suite, every test that is there, every fuzz target in both ways.
//!
//! Not whether tests pass (the `nextest` step of ci) nor whether they see faults (`mutants.rs`).

use super::Finding;
use super::tree::Tree;

pub(super) fn every_store_runs_the_conformance_suite(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, _) in tree.manifests().filter(|(path, _)| path.starts_with("crates/semel-store-")) {
        let suite = path.replace("Cargo.toml", "tests/conformance.rs");
        if !tree.holds(&suite) {
            let todo = format!("write {suite}, which runs the suite of semel-testkit");
            findings.push(Finding::new(path, 1, "a store whose guarantees nothing tests", todo));
        }
    }
    findings
}

pub(super) fn no_test_is_ignored(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.rust() {
        for (index, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("#[ignore") {
                let todo = "make it run here, or remove it";
                findings.push(Finding::new(path, index + 1, "a test that nobody runs", todo));
            }
        }
    }
    findings
}

const GUIDED: &str = "fuzz/guided.rs";

/// A target is known by its corpus.
pub(super) fn every_fuzz_target_is_guided_too(tree: &Tree) -> Vec<Finding> {
    let known = tree.text(GUIDED).unwrap_or_default();
    let corpora = tree.files().filter(|(path, _)| path.starts_with("crates/") && path.ends_with(".txt"));
    let names =
        corpora.filter_map(|(path, _)| Some((path, path.split_once("/fuzz/")?.1.strip_suffix(".txt")?)));
    let missing = names.filter(|(_, name)| !known.contains(&format!("{name:?} =>")));
    let todo = format!("name it in {GUIDED}, with its function");
    missing.map(|(path, _)| Finding::new(path, 1, "a corpus that libFuzzer does not get", &*todo)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn store_without_conformance_is_found() {
        let files = [
            ("crates/semel-store-a/Cargo.toml", ""),
            ("crates/semel-store-a/tests/conformance.rs", ""),
            ("crates/semel-store-b/Cargo.toml", ""),
            ("crates/semel-tower/Cargo.toml", ""),
        ];
        assert_eq!(
            places(every_store_runs_the_conformance_suite, &files),
            ["crates/semel-store-b/Cargo.toml:1"]
        );
    }

    #[test]
    fn fuzz_target_that_is_not_guided_is_found() {
        let files = [
            ("crates/a/fuzz/one.txt", ""),
            ("crates/a/fuzz/two.txt", ""),
            (GUIDED, "match name { \"one\" => one }"),
        ];
        assert_eq!(places(every_fuzz_target_is_guided_too, &files), ["crates/a/fuzz/two.txt:1"]);
    }

    #[test]
    fn ignored_test_is_found() {
        let text = "#[test]\n    #[ignore = \"slow\"]\nfn a() {}\n";
        assert_eq!(places(no_test_is_ignored, &[("crates/a/tests/a.rs", text)]), ["crates/a/tests/a.rs:2"]);
    }
}
