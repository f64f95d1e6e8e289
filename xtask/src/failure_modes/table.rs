//! One row of docs/failure-modes.toml for each way in which others broke: who holds Semel to it, where, and where
//! nothing is to be held.
//!
//! Nothing here looks at the tree; `tidy/modes.rs` does.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Where a row may apply: four stores, then four surfaces.
pub(crate) const PLACES: [&str; 8] =
    ["memory", "embedded", "postgres", "redis", "engine", "layer", "gateway", "client"];
pub(crate) const STORES: &[&str] = &["memory", "embedded", "postgres", "redis"];

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    pub(crate) group: Vec<Group>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) row: Vec<Row>,
}

/// One way to break.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    pub(crate) number: usize,
    /// What went wrong, in one sentence.
    pub(crate) case: String,
    /// Tests of the conformance suite, which every store runs.
    #[serde(default)]
    pub(crate) suite: Vec<String>,
    /// Place to tests, each `PACKAGE TARGET NAME`.
    #[serde(default)]
    tests: BTreeMap<String, Vec<String>>,
    /// Reason to the places where the row cannot occur.
    #[serde(default)]
    pub(crate) not: BTreeMap<String, Vec<String>>,
    /// Seeded faults, by the name of their patch.
    #[serde(default)]
    pub(crate) patches: Vec<String>,
}

/// A test as the table names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Test<'a> {
    pub(crate) package: &'a str,
    /// The file in `tests/`, or `lib` for a test inside the library.
    pub(crate) target: &'a str,
    pub(crate) name: &'a str,
}

/// What is said of a row at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said<'a> {
    Kept,
    Not(&'a str),
    Open,
}

impl Table {
    pub(crate) fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.group.iter().flat_map(|group| &group.row)
    }
}

impl Row {
    /// Place, test as written, and test as read; `None` when it cannot be read.
    pub(crate) fn tests(&self) -> impl Iterator<Item = (&str, &str, Option<Test<'_>>)> {
        let each = self.tests.iter().flat_map(|(place, tests)| tests.iter().map(move |test| (place, test)));
        each.map(|(place, test)| (place.as_str(), test.as_str(), Test::parse(test)))
    }

    pub(crate) fn said(&self, place: &str) -> Said<'_> {
        let suite = !self.suite.is_empty() && STORES.contains(&place);
        if suite || self.tests.get(place).is_some_and(|tests| !tests.is_empty()) {
            return Said::Kept;
        }
        let reason = self.not.iter().find(|(_, places)| places.iter().any(|one| one == place));
        reason.map_or(Said::Open, |(reason, _)| Said::Not(reason))
    }

    pub(crate) fn has_a_test(&self) -> bool {
        PLACES.iter().any(|place| self.said(place) == Said::Kept)
    }

    /// Without a test, or silent about a place.
    pub(crate) fn is_open(&self) -> bool {
        !self.has_a_test() || PLACES.iter().any(|place| self.said(place) == Said::Open)
    }
}

impl<'a> Test<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut words = text.split(' ');
        let test = Self { package: words.next()?, target: words.next()?, name: words.next()? };
        words.next().is_none().then_some(test)
    }

    /// Whether a file may hold this test.
    pub(crate) fn may_be_in(&self, path: &str) -> bool {
        let mut parts = path.splitn(3, '/');
        let (Some("crates" | "examples"), Some(folder), Some(rest)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let in_package = folder == self.package;
        in_package
            && match self.target {
                "lib" => rest.starts_with("src/"),
                target => {
                    let inside = rest.strip_prefix("tests/").and_then(|rest| rest.strip_prefix(target));
                    inside.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[[group]]\nname = \"A\"\n[[group.row]]\nnumber = 1\ncase = \"x\"\nsuite = [\"s\"]\n\
        tests.engine = [\"semel engine a\"]\nnot.why = [\"layer\", \"gateway\"]\n";

    #[test]
    fn place_is_kept_by_a_test_or_apart_for_a_reason_or_open() {
        let table = Table::parse(TEXT).expect("well formed");
        let row = &table.group[0].row[0];
        let said: Vec<_> = ["redis", "engine", "layer", "client"].map(|place| row.said(place)).to_vec();
        assert_eq!(said, [Said::Kept, Said::Kept, Said::Not("why"), Said::Open]);
        assert!(row.is_open() && row.has_a_test());
    }

    #[test]
    fn misspelt_field_is_refused() {
        assert!(Table::parse(&TEXT.replace("suite", "suit")).is_err());
    }

    #[test]
    fn tests_are_looked_for_in_their_package_and_target_only() {
        let in_file = Test { package: "semel", target: "engine", name: "a" };
        let in_lib = Test { target: "lib", ..in_file };
        assert!(in_file.may_be_in("crates/semel/tests/engine.rs"));
        assert!(in_file.may_be_in("crates/semel/tests/engine/more.rs"));
        assert!(!in_file.may_be_in("crates/semel/tests/engine_room.rs"));
        assert!(!in_file.may_be_in("crates/semel-tower/tests/engine.rs"));
        assert!(in_lib.may_be_in("crates/semel/src/engine/wait.rs"));
        assert!(!in_lib.may_be_in("crates/semel/tests/engine.rs"));
    }
}
