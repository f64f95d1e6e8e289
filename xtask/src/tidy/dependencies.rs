//! Who may use whom: everything points towards `semel`, and no chain is longer than four crates.
//!
//! Not which crates from outside may be used. A new crate gets its line in [`may_use`].

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::Finding;
use super::tree::{Tree, line_where};

const CHAIN_CRATES: usize = 4;
const TESTKIT: &str = "semel-testkit";

/// What a crate may use of the workspace; `None` for a name that is not known here.
fn may_use(name: &str) -> Option<&'static [&'static str]> {
    Some(match name {
        "semel" => &[],
        "semel-tower" | "semel-client" | "semel-workflow" | "semel-auditor" | "semel-admin" => &["semel"],
        "semel-gateway" => &["semel", "semel-tower", "semel-admin"],
        TESTKIT => &["semel"],
        _ if name.starts_with("semel-store-") => &["semel"],
        _ => return None,
    })
}

/// What nothing else is built on may use everything, and is where stores and surfaces meet.
fn is_leaf(manifest: &Manifest) -> bool {
    manifest.name == "semel-cli"
        || manifest.name == "semel-simulation"
        || manifest.path.starts_with("examples/")
        || manifest.path.starts_with("xtask/")
        || manifest.path.starts_with("bench/")
        || manifest.path.starts_with("fuzz/")
}

pub(super) fn point_towards_the_heart(tree: &Tree) -> Vec<Finding> {
    let (manifests, mut findings) = read(tree);
    for manifest in manifests.values().filter(|manifest| !is_leaf(manifest)) {
        let name = manifest.name.as_str();
        let Some(allowed) = may_use(name) else {
            let todo = "add what it may use to xtask/src/tidy/dependencies.rs";
            findings.push(Finding::new(
                manifest.path,
                1,
                format!("{name} has no place in the directions"),
                todo,
            ));
            continue;
        };
        for used in manifest.uses.iter().filter(|used| !allowed.contains(&used.as_str())) {
            let wrong = format!("{name} depends on {used}, against the direction");
            let todo = match (used.as_str(), allowed) {
                (TESTKIT, _) => "make it a dev-dependency".to_owned(),
                (_, []) => "the heart depends on no crate of the workspace".to_owned(),
                _ => format!("it may use {}", allowed.join(", ")),
            };
            findings.push(Finding::new(manifest.path, manifest.line_of(used), wrong, todo));
        }
        for used in manifest.tests_use.iter().filter(|used| name == "semel" && *used != TESTKIT) {
            let wrong = format!("tests of semel depend on {used}");
            let todo = format!("test it where {used} is, the heart's tests may use {TESTKIT} only");
            findings.push(Finding::new(manifest.path, manifest.line_of(used), wrong, todo));
        }
    }
    findings
}

pub(super) fn chain_at_most_four_crates(tree: &Tree) -> Vec<Finding> {
    let (manifests, _) = read(tree);
    let mut findings = Vec::new();
    for manifest in manifests.values() {
        let chain = longest_chain(&manifest.name, &manifests, CHAIN_CRATES + 1);
        if chain.len() > CHAIN_CRATES {
            let wrong = format!("a chain of more than {CHAIN_CRATES} crates: {}", chain.join(" → "));
            let line = manifest.line_of(chain[1]);
            findings.push(Finding::new(
                manifest.path,
                line,
                wrong,
                "use the crate at its end directly, or fold one in",
            ));
        }
    }
    findings
}

/// At most `most` crates of it, so that a circle ends too.
fn longest_chain<'a>(name: &'a str, all: &'a BTreeMap<String, Manifest<'_>>, most: usize) -> Vec<&'a str> {
    let uses = all.get(name).filter(|_| most > 1).map_or(&[][..], |manifest| &manifest.uses);
    let chains = uses.iter().map(|used| longest_chain(used, all, most - 1));
    let mut chain = vec![name];
    chain.extend(chains.max_by_key(Vec::len).unwrap_or_default());
    chain
}

pub(super) fn inherit_the_lints(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.manifests() {
        let table: Table = text.parse().unwrap_or_default();
        let inherits = table.get("lints").and_then(|lints| lints.get("workspace")).and_then(Value::as_bool);
        if inherits != Some(true) {
            findings.push(Finding::new(
                path,
                1,
                "does not inherit the lints",
                "add [lints] workspace = true",
            ));
        }
    }
    findings
}

/// What a Cargo.toml says of the workspace's crates.
struct Manifest<'a> {
    name: String,
    path: &'a str,
    text: &'a str,
    /// For the crate or its build script, on any platform, also when optional.
    uses: Vec<String>,
    tests_use: Vec<String>,
}

impl Manifest<'_> {
    fn line_of(&self, used: &str) -> usize {
        let names_it =
            |line: &str| line.strip_prefix(used).is_some_and(|rest| rest.starts_with([' ', '.', '=']));
        line_where(self.text, names_it)
    }
}

/// By crate name. A Cargo.toml that cannot be read is a finding.
fn read(tree: &Tree) -> (BTreeMap<String, Manifest<'_>>, Vec<Finding>) {
    let (mut parsed, mut findings) = (Vec::new(), Vec::new());
    for (path, text) in tree.manifests() {
        let table = text.parse::<Table>().unwrap_or_default();
        let name = table.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
        match name.map(str::to_owned) {
            Some(name) => parsed.push((name, path, text, table)),
            None => {
                findings.push(Finding::new(path, 1, "no package name can be read", "give it [package] name"))
            }
        }
    }
    let names: Vec<String> = parsed.iter().map(|(name, ..)| name.clone()).collect();
    let ours = |section: &Table, kinds: &[&str]| -> Vec<String> {
        let used = kinds.iter().filter_map(|kind| section.get(*kind)?.as_table()).flatten();
        used.map(|(key, spec)| spec.get("package").and_then(Value::as_str).unwrap_or(key).to_owned())
            .filter(|used| names.contains(used))
            .collect()
    };
    let manifest = |(name, path, text, table): (String, _, _, Table)| {
        let platforms = table.get("target").and_then(Value::as_table).into_iter().flatten();
        let sections: Vec<&Table> =
            platforms.filter_map(|(_, section)| section.as_table()).chain([&table]).collect();
        let all = |kinds: &[&str]| sections.iter().flat_map(|section| ours(section, kinds)).collect();
        let uses = all(&["dependencies", "build-dependencies"]);
        (name.clone(), Manifest { name, path, text, uses, tests_use: all(&["dev-dependencies"]) })
    };
    (parsed.into_iter().map(manifest).collect(), findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    /// A tree with one crate for each name and the dependency lines that follow it.
    fn crates(of: &[(&str, &str)]) -> Vec<(String, String)> {
        let file = |name: &str, dependencies: &str| {
            let folder = if name.starts_with("example") { "examples" } else { "crates" };
            (
                format!("{folder}/{name}/Cargo.toml"),
                format!("[package]\nname = \"{name}\"\n[dependencies]\n{dependencies}\n"),
            )
        };
        of.iter().map(|(name, dependencies)| file(name, dependencies)).collect()
    }

    fn found(check: super::super::Check, of: &[(&str, &str)]) -> Vec<String> {
        let files = crates(of);
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        places(check, &files)
    }

    #[test]
    fn heart_that_uses_the_workspace_is_found() {
        let tree = [("semel", "serde.workspace = true\nsemel-tower.workspace = true"), ("semel-tower", "")];
        assert_eq!(found(point_towards_the_heart, &tree), ["crates/semel/Cargo.toml:5"]);
    }

    #[test]
    fn hearts_tests_may_use_the_testkit_only() {
        let of = |used| [("semel", used), ("semel-testkit", "semel.workspace = true"), ("semel-tower", "")];
        let testkit = of("[dev-dependencies]\nsemel-testkit.workspace = true");
        assert!(found(point_towards_the_heart, &testkit).is_empty());
        let tower = of("[dev-dependencies]\nsemel-tower.workspace = true");
        assert_eq!(found(point_towards_the_heart, &tower), ["crates/semel/Cargo.toml:5"]);
    }

    #[test]
    fn store_and_surface_use_neither_store_nor_surface() {
        let tree = [
            ("semel-store-a", ""),
            ("semel-store-b", "a = { package = \"semel-store-a\", path = \"../a\" }"),
            ("semel-tower", "[target.'cfg(unix)'.dependencies]\nsemel-store-a.workspace = true"),
            ("semel-admin", "semel-tower = { workspace = true, optional = true }"),
        ];
        let files: Vec<_> = found(point_towards_the_heart, &tree)
            .iter()
            .map(|place| place.replace("/Cargo.toml", ""))
            .collect();
        assert_eq!(files, ["crates/semel-admin:4", "crates/semel-store-b:1", "crates/semel-tower:5"]);
    }

    #[test]
    fn gateway_uses_tower_and_admin_and_leaves_use_everything() {
        let tree = [
            ("semel", ""),
            ("semel-tower", "semel.workspace = true"),
            ("semel-admin", "semel.workspace = true"),
            ("semel-store-a", "semel.workspace = true\n[dev-dependencies]\nsemel-testkit.workspace = true"),
            ("semel-testkit", "semel.workspace = true"),
            ("semel-gateway", "semel-tower.workspace = true\nsemel-admin.workspace = true"),
            ("semel-cli", "semel-gateway.workspace = true\nsemel-store-a.workspace = true"),
            (
                "example-shop",
                "semel-tower.workspace = true\nsemel-store-a.workspace = true\nsemel-testkit = \"0\"",
            ),
        ];
        assert_eq!(found(point_towards_the_heart, &tree), Vec::<String>::new());
        assert_eq!(found(chain_at_most_four_crates, &tree), Vec::<String>::new());
    }

    #[test]
    fn testkit_outside_tests_is_found() {
        let tree = [("semel-testkit", ""), ("semel-store-a", "semel-testkit.workspace = true")];
        assert_eq!(found(point_towards_the_heart, &tree), ["crates/semel-store-a/Cargo.toml:4"]);
    }

    #[test]
    fn crate_without_a_place_is_found() {
        assert_eq!(found(point_towards_the_heart, &[("semel-new", "")]), ["crates/semel-new/Cargo.toml:1"]);
    }

    #[test]
    fn chain_of_five_crates_is_found_and_a_circle_ends() {
        let chain =
            [("a", "b = \"1\""), ("b", "c = \"1\""), ("c", "d = \"1\""), ("d", "e = \"1\""), ("e", "")];
        assert_eq!(found(chain_at_most_four_crates, &chain), ["crates/a/Cargo.toml:4"]);
        assert_eq!(found(chain_at_most_four_crates, &[("a", "b = \"1\""), ("b", "a = \"1\"")]).len(), 2);
    }

    #[test]
    fn crate_with_lints_of_its_own_is_found() {
        let files =
            [("crates/a/Cargo.toml", "[lints]\nworkspace = true\n"), ("crates/b/Cargo.toml", "[package]\n")];
        assert_eq!(places(inherit_the_lints, &files), ["crates/b/Cargo.toml:1"]);
    }

    #[test]
    fn manifest_that_cannot_be_read_is_found() {
        assert_eq!(places(point_towards_the_heart, &[("crates/a/Cargo.toml", "[package")]).len(), 1);
    }
}
