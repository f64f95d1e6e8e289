//! One file of `mutants/`: what the fault breaks, which tests must see it, and the diff.
//!
//! The form is told to people in `mutants/README.md`. The diff itself is left to `git apply`.

use std::fmt;

/// A fault that is put in on purpose.
#[derive(Debug)]
pub(crate) struct Mutant {
    pub(crate) name: String,
    pub(crate) breaks: String,
    /// At least one.
    pub(crate) tests: Vec<NamedTest>,
}

/// A test that must see a fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NamedTest {
    pub(crate) package: String,
    /// The test binary, `lib` for tests inside the library.
    pub(crate) target: String,
    /// The whole path of the test in its binary, or the end of it.
    pub(crate) name: String,
}

impl Mutant {
    /// The header goes up to the diff: `breaks:` once, then `package:`, `target:`, and `test:` for each
    /// test. Package and target hold for the tests below them.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, String> {
        let is_diff = |line: &&str| line.starts_with("diff --git ") || line.starts_with("--- ");
        if text.lines().find(is_diff).is_none() {
            return Err("no diff in it".to_owned());
        }
        let (mut breaks, mut package, mut target, mut tests) = (None, None, None, Vec::new());
        let header = text.lines().take_while(|line| !is_diff(line)).filter(|line| !line.trim().is_empty());
        for line in header {
            let (field, value) = line.split_once(": ").unwrap_or((line, ""));
            let value = value.trim();
            match field {
                _ if value.is_empty() => return Err(format!("`{line}` says nothing")),
                "breaks" => breaks = Some(value.to_owned()),
                "package" => (package, target) = (Some(value.to_owned()), None),
                "target" => target = Some(value.to_owned()),
                "test" => {
                    let package = package.clone().ok_or("`package:` must stand above `test:`")?;
                    let target =
                        target.clone().ok_or("`target:` must stand between `package:` and `test:`")?;
                    if !value.chars().all(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                        return Err(format!("`{value}` is not the path of a test"));
                    }
                    tests.push(NamedTest { package, target, name: value.to_owned() });
                }
                _ => return Err(format!("`{field}:` is not one of breaks, package, target, test")),
            }
        }
        let breaks = breaks.ok_or("no `breaks:`, one sentence on what no longer holds")?;
        if tests.is_empty() {
            return Err("no `test:`, so nothing has to see it".to_owned());
        }
        Ok(Self { name: name.to_owned(), breaks, tests })
    }
}

impl fmt::Display for NamedTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.package, self.target, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+test: b\n";

    #[test]
    fn package_and_target_hold_for_the_tests_below_them() {
        let header = "breaks: a stale token writes.\n\npackage: semel\ntarget: lib\ntest: engine::a\ntest: b\n\
                      package: semel-tower\ntarget: layer\ntest: c\n";
        let mutant = Mutant::parse("stale", &format!("{header}{DIFF}")).expect("well formed");
        assert_eq!((mutant.name.as_str(), mutant.breaks.as_str()), ("stale", "a stale token writes."));
        let tests: Vec<String> = mutant.tests.iter().map(NamedTest::to_string).collect();
        assert_eq!(tests, ["semel lib engine::a", "semel lib b", "semel-tower layer c"]);
    }

    #[test]
    fn header_with_something_missing_is_refused() {
        let refused = [
            "package: semel\ntest: a\n",
            "breaks: x\npackage: semel\ntarget: lib\n",
            "breaks: x\ntarget: lib\ntest: a\n",
            "breaks: x\npackage: semel\ntest: a\n",
            "breaks:\npackage: semel\ntarget: lib\ntest: a\n",
            "breaks: x\npackage: semel\ntarget: lib\ntest: a or b\n",
            "breaks: x\npackage: semel\ntarget: lib\ntset: a\ntest: a\n",
        ];
        for header in refused {
            assert!(Mutant::parse("m", &format!("{header}{DIFF}")).is_err(), "{header}");
        }
        assert!(Mutant::parse("m", "breaks: x\npackage: semel\ntarget: lib\ntest: a\n").is_err(), "no diff");
    }
}
