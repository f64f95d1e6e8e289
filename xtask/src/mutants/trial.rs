//! Runs one named test in the scratch tree and says what nextest made of it.
//!
//! What happened is taken from nextest's exit codes and its machine-readable list, never from what it
//! prints for people; that goes to a file, which is named when something is not as demanded.

use std::path::PathBuf;

use super::patch::NamedTest;
use super::scratch::Scratch;
use crate::command::Command;
use crate::failure::{Done, Failure, While};

/// Exit codes of nextest, which it documents as stable.
const TEST_FAILED: i32 = 100;
const BUILD_FAILED: i32 = 101;

/// Runs tests in a scratch tree.
pub(crate) struct Trial<'a>(&'a Scratch);

/// Whether a test saw a fault, and if not, why not.
pub(crate) enum Seen {
    Red,
    No(String),
}

impl<'a> Trial<'a> {
    pub(crate) fn new(scratch: &'a Scratch) -> Self {
        Self(scratch)
    }

    /// Without a fault: the name means exactly one test, and that passes.
    pub(super) fn demand_green(&self, test: &NamedTest) -> Done {
        let (code, log) = self.run("without", test)?;
        if code == Some(BUILD_FAILED) {
            return Err(Failure::new(format!("{test}: does not build, see {}", log.display())));
        }
        let list = self.nextest("list --message-format json", test).output()?;
        match &matching(&list)?[..] {
            [_] if code == Some(0) => Ok(()),
            [_] => Err(Failure::new(format!("{test}: fails without any fault, see {}", log.display()))),
            [] => Err(Failure::new(format!("{test}: there is no such test"))),
            several => Err(Failure::new(format!(
                "{test}: means {} tests, write more of the path: {}",
                several.len(),
                several.join(", ")
            ))),
        }
    }

    pub(crate) fn with_fault(&self, fault: &str, test: &NamedTest) -> Done<Seen> {
        let (code, log) = self.run(fault, test)?;
        let log = log.display();
        Ok(match code {
            Some(TEST_FAILED) => Seen::Red,
            Some(0) => Seen::No("SURVIVED, the test passed".to_owned()),
            Some(BUILD_FAILED) => Seen::No(format!("it does not build, see {log}")),
            other => Seen::No(format!("nextest ended with {other:?}, see {log}")),
        })
    }

    /// Builds it, so that what is timed afterwards is the test.
    pub(crate) fn build(&self, test: &NamedTest) -> Done {
        let log = self.0.log("build.txt");
        match self.nextest("run --no-run", test).run_into(&log)? {
            Some(0) => Ok(()),
            _ => Err(Failure::new(format!("{test}: does not build, see {}", log.display()))),
        }
    }

    fn run(&self, fault: &str, test: &NamedTest) -> Done<(Option<i32>, PathBuf)> {
        let log = self.0.log(&format!("{fault}-{}.txt", test.to_string().replace([' ', ':'], "-")));
        let code = self.nextest("run --profile mutants", test).run_into(&log)?;
        Ok((code, log))
    }

    fn nextest(&self, verb: &str, test: &NamedTest) -> Command {
        let NamedTest { package, target, name } = test;
        let binaries = match target.as_deref() {
            None => String::new(),
            Some("lib") => "--lib".to_owned(),
            Some(target) => format!("--test {target}"),
        };
        Command::new(&format!("cargo nextest {verb} --locked --all-features -p {package} {binaries} -E"))
            .arg(format!("test(/(^|::){name}$/)"))
            .env("CARGO_TARGET_DIR", self.0.build().display().to_string())
            // Nobody debugs these builds; leaving the symbols out makes them shorter.
            .env("CARGO_PROFILE_DEV_DEBUG", "false")
            .env("CARGO_TERM_COLOR", "never")
            .dir(&self.0.tree())
    }
}

/// The paths of the tests that a list of nextest's says its filter matches.
fn matching(list: &[u8]) -> Done<Vec<String>> {
    let list: serde_json::Value = serde_json::from_slice(list).when("cargo nextest list")?;
    let suites = list["rust-suites"].as_object();
    let suites =
        suites.ok_or_else(|| Failure::new("cargo nextest list has another shape than trial.rs expects"))?;
    let mut names = Vec::new();
    for suite in suites.values() {
        for (name, case) in suite["testcases"].as_object().into_iter().flatten() {
            if case["filter-match"]["status"] == "matches" {
                names.push(name.clone());
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_the_filter_matches_are_counted_over_all_binaries() {
        let list = br#"{ "rust-suites": {
            "a": { "testcases": { "x::t": { "filter-match": { "status": "matches" } },
                                  "x::u": { "filter-match": { "status": "mismatch" } } } },
            "b": { "testcases": { "t": { "filter-match": { "status": "matches" } } } } } }"#;
        assert_eq!(matching(list).expect("a list"), ["x::t", "t"]);
        assert!(matching(b"{}").is_err());
    }
}
