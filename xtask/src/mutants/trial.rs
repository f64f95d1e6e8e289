//! Runs named tests in the scratch tree and says what nextest made of them.
//!
//! What happened is taken from nextest's exit codes and its machine-readable list, never from what it
//! prints for people; that goes to a file, which is named when something is not as demanded.

use std::collections::BTreeSet;

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

    /// Without a fault: each name means exactly one test, and that passes.
    pub(super) fn demand_green(&self, tests: &BTreeSet<&NamedTest>) -> Done {
        let (heart, others): (Vec<&NamedTest>, _) = tests.iter().partition(|test| is_inside_the_heart(test));
        for (name, tests) in [("heart", heart), ("others", others)] {
            if tests.is_empty() {
                continue;
            }
            let log = self.0.log(&format!("without-{name}.txt"));
            let code = self.nextest("run --no-fail-fast --profile mutants", &tests).run_into(&log)?;
            if code == Some(BUILD_FAILED) {
                return Err(Failure::new(format!("does not build without any fault, see {}", log.display())));
            }
            let list = self.nextest("list --message-format json", &tests).output()?;
            tests.iter().try_for_each(|test| demand_one(&matching(&list, test)?, test))?;
            if code != Some(0) {
                return Err(Failure::new(format!("fails without any fault, see {}", log.display())));
            }
        }
        Ok(())
    }

    pub(crate) fn with_fault(&self, fault: &str, test: &NamedTest) -> Done<Seen> {
        let log = self.0.log(&format!("{fault}-{}.txt", test.to_string().replace([' ', ':'], "-")));
        let code = self.nextest("run --profile mutants", &[test]).run_into(&log)?;
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
        match self.nextest("run --no-run", &[test]).run_into(&log)? {
            Some(0) => Ok(()),
            _ => Err(Failure::new(format!("{test}: does not build, see {}", log.display()))),
        }
    }

    /// `tests` are all inside the heart, or none is.
    fn nextest(&self, verb: &str, tests: &[&NamedTest]) -> Command {
        let selected: BTreeSet<String> = tests.iter().flat_map(|test| selection(test)).collect();
        let wanted: Vec<String> = tests.iter().map(|test| filter(test)).collect();
        Command::new(&format!("cargo nextest {verb} --locked --all-features"))
            .words(selected)
            .arg("-E")
            .arg(wanted.join(" | "))
            .env("CARGO_TARGET_DIR", self.0.build().display().to_string())
            .env("CARGO_TERM_COLOR", "never")
            .dir(&self.0.tree())
    }
}

/// Whether the test is inside `semel` itself, which all other crates need and which needs little.
fn is_inside_the_heart(test: &NamedTest) -> bool {
    test.package == "semel" && test.target == "lib"
}

/// What to build. Tests are built with the features of the whole workspace, for which the dependencies were lent; those
/// inside the heart alone, so that a fault in it does not have every crate built.
fn selection(test: &NamedTest) -> Vec<String> {
    match &*test.target {
        "lib" if is_inside_the_heart(test) => vec!["--package=semel".to_owned(), "--lib".to_owned()],
        "lib" => vec!["--workspace".to_owned(), "--lib".to_owned()],
        target => vec!["--workspace".to_owned(), format!("--test={target}")],
    }
}

fn filter(NamedTest { package, target, name }: &NamedTest) -> String {
    let binary = if target == "lib" { "kind(=lib)".to_owned() } else { format!("binary(={target})") };
    format!("(package(={package}) & {binary} & test(/(^|::){name}$/))")
}

fn demand_one(found: &[String], test: &NamedTest) -> Done {
    match found {
        [_] => Ok(()),
        [] => Err(Failure::new(format!("{test}: there is no such test"))),
        several => {
            let (many, names) = (several.len(), several.join(", "));
            Err(Failure::new(format!("{test}: means {many} tests, write more of the path: {names}")))
        }
    }
}

/// The paths of the tests in a list of nextest's that `test` means.
fn matching(list: &[u8], test: &NamedTest) -> Done<Vec<String>> {
    let list: serde_json::Value = serde_json::from_slice(list).when("cargo nextest list")?;
    let suites = list["rust-suites"].as_object();
    let suites =
        suites.ok_or_else(|| Failure::new("cargo nextest list has another shape than trial.rs expects"))?;
    let is_its_suite = |suite: &serde_json::Value| {
        let binary = if test.target == "lib" { &suite["kind"] } else { &suite["binary-name"] };
        suite["package-name"] == *test.package && *binary == *test.target
    };
    let is_it = |path: &str| {
        path.strip_suffix(&test.name).is_some_and(|before| before.is_empty() || before.ends_with("::"))
    };
    let suites = suites.values().filter(|suite| is_its_suite(suite));
    let cases = suites.flat_map(|suite| suite["testcases"].as_object().into_iter().flatten());
    Ok(cases.map(|(path, _)| path.clone()).filter(|path| is_it(path)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = br#"{ "rust-suites": {
        "a::x": { "package-name": "a", "binary-name": "x", "kind": "test",
                  "testcases": { "m::t": {}, "n::t": {}, "m::tt": {}, "u": {} } },
        "a": { "package-name": "a", "binary-name": "a", "kind": "lib", "testcases": { "l::t": {} } },
        "b::x": { "package-name": "b", "binary-name": "x", "kind": "test", "testcases": { "t": {} } } } }"#;

    fn test(package: &str, target: &str, name: &str) -> NamedTest {
        NamedTest { package: package.to_owned(), target: target.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn a_name_means_the_tests_of_its_binary_that_end_with_it() {
        let means = |package, target, name| matching(LIST, &test(package, target, name)).expect("a list");
        assert_eq!(means("a", "x", "t"), ["m::t", "n::t"]);
        assert_eq!(means("a", "x", "n::t"), ["n::t"]);
        assert_eq!(means("a", "lib", "t"), ["l::t"]);
        assert_eq!(means("b", "x", "t"), ["t"]);
        assert!(means("b", "x", "u").is_empty());
        assert!(matching(b"{}", &test("a", "x", "t")).is_err());
    }

    #[test]
    fn tests_inside_the_heart_are_built_alone_and_others_with_the_workspaces_features() {
        assert_eq!(selection(&test("semel", "lib", "t")), ["--package=semel", "--lib"]);
        assert_eq!(selection(&test("a", "lib", "t")), ["--workspace", "--lib"]);
        assert_eq!(selection(&test("semel", "x", "t")), ["--workspace", "--test=x"]);
        assert_eq!(filter(&test("a", "x", "t")), "(package(=a) & binary(=x) & test(/(^|::)t$/))");
        assert_eq!(filter(&test("a", "lib", "t")), "(package(=a) & kind(=lib) & test(/(^|::)t$/))");
    }
}
