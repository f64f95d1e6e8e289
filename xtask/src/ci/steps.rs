//! The steps of `cargo xtask ci`, in order: quick ones first, so that a slip shows within seconds.
//!
//! Not how they are run and timed (`ci.rs`). Each step builds with the same profile and, where it
//! can, the same features as the one before, so that little is compiled twice.

use crate::checkout::{Package, Workspace};
use crate::command::Command;
use crate::failure::Done;
use crate::{counts, mutants, tidy};

/// One step: a name for `--only`, and what it does.
pub(super) struct Step {
    pub(super) name: &'static str,
    /// Whether tests run in it, and so the programs that tests start must be there.
    pub(super) runs_tests: bool,
    work: Work,
}

enum Work {
    Commands(Vec<Command>),
    /// The test runner, whose summary is repeated at the end of everything.
    Tests(Command),
    Tidy,
    Counts,
    Mutants,
}

pub(super) fn all(workspace: &Workspace) -> Vec<Step> {
    let step = |name, work| Step { name, runs_tests: matches!(work, Work::Tests(_) | Work::Mutants), work };
    vec![
        step(
            "fmt",
            Work::Commands(vec![
                Command::new("cargo fmt --all --check"),
                Command::new("cargo fmt --manifest-path fuzz/Cargo.toml --check"),
            ]),
        ),
        step("tidy", Work::Tidy),
        step("clippy", Work::Commands(clippy(workspace))),
        step(
            "nextest",
            Work::Tests(Command::new("cargo nextest run --workspace --all-features --locked --profile ci")),
        ),
        step(
            "doctests",
            Work::Commands(vec![Command::new("cargo test --doc --workspace --all-features --locked")]),
        ),
        step(
            "docs",
            Work::Commands(vec![
                Command::new("cargo doc --workspace --no-deps --all-features --locked")
                    .env("RUSTDOCFLAGS", "-D warnings"),
            ]),
        ),
        step("features", Work::Commands(features(&workspace.packages))),
        step("counts", Work::Counts),
        step("mutants", Work::Mutants),
    ]
}

/// With all features, and with the default ones when some crate has features to differ by.
fn clippy(workspace: &Workspace) -> Vec<Command> {
    let command = |features| {
        Command::new(&format!("cargo clippy --workspace --all-targets {features} --locked -- -D warnings"))
    };
    let mut commands = vec![command("--all-features")];
    if workspace.packages.iter().any(|package| !package.features.is_empty()) {
        commands.push(command(""));
    }
    commands
}

/// Each crate without features, then with each single one.
fn features(packages: &[Package]) -> Vec<Command> {
    let mut commands = Vec::new();
    for Package { name, features } in packages.iter().filter(|package| !package.features.is_empty()) {
        let bare = format!("cargo check -p {name} --locked --no-default-features");
        commands.push(Command::new(&bare));
        commands.extend(features.iter().map(|one| Command::new(&format!("{bare} --features {one}"))));
    }
    commands
}

impl Step {
    /// What it runs, as lines for a shell.
    pub(super) fn lines(&self) -> Vec<String> {
        match &self.work {
            Work::Commands(commands) if commands.is_empty() => vec!["nothing to do".to_owned()],
            Work::Commands(commands) => commands.iter().map(Command::to_string).collect(),
            Work::Tests(command) => vec![command.to_string()],
            Work::Tidy => vec!["cargo xtask tidy".to_owned()],
            Work::Counts => vec!["cargo xtask counts".to_owned()],
            Work::Mutants => vec!["cargo xtask mutants --seeded".to_owned()],
        }
    }

    /// Gives the test runner's summary where there was one.
    pub(super) fn run(&self) -> Done<Option<String>> {
        match &self.work {
            Work::Commands(commands) => commands.iter().try_for_each(Command::run)?,
            Work::Tests(command) => {
                return command.run_watching(|line| line.contains("Summary") && line.contains("run:"));
            }
            Work::Tidy => tidy::run()?,
            Work::Counts => counts::hold()?,
            Work::Mutants => mutants::run_all()?,
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, features: &[&str]) -> Package {
        Package { name: name.to_owned(), features: features.iter().map(|&one| one.to_owned()).collect() }
    }

    #[test]
    fn each_feature_of_each_crate_is_checked_alone() {
        let commands = features(&[package("a", &[]), package("b", &["x", "y"])]);
        let lines: Vec<String> = commands.iter().map(Command::to_string).collect();
        let bare = "cargo check -p b --locked --no-default-features";
        assert_eq!(lines, [bare.to_owned(), format!("{bare} --features x"), format!("{bare} --features y")]);
    }

    #[test]
    fn clippy_sees_default_features_too_when_there_are_others() {
        let lines = |packages| {
            let workspace = Workspace { packages, target_dir: "target".into() };
            clippy(&workspace).iter().map(Command::to_string).collect::<Vec<_>>()
        };
        assert_eq!(lines(vec![package("a", &[])]).len(), 1);
        let both = lines(vec![package("a", &["x"])]);
        assert_eq!(both[1], "cargo clippy --workspace --all-targets --locked -- -D warnings");
    }
}
