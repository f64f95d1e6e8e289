//! The programs beside Rust that the steps need: looked for first, installed where that is possible.
//!
//! Not the crates (Cargo.lock) and not the toolchain (rust-toolchain.toml).

use super::steps::Step;
use crate::command::Command;
use crate::failure::{Done, Failure, While};

/// A program and the Debian package that has it.
struct Program {
    name: &'static str,
    package: &'static str,
    /// Whether a step needs it.
    needed: fn(&Step) -> bool,
}

const ALWAYS: fn(&Step) -> bool = |_| true;
const BY_TESTS: fn(&Step) -> bool = |step| step.runs_tests;
const BY_COUNTS: fn(&Step) -> bool = |step| step.name == "counts";

const PROGRAMS: &[Program] = &[
    Program { name: "git", package: "git", needed: ALWAYS },
    Program { name: "python3", package: "python3", needed: BY_TESTS },
    Program { name: "pip3", package: "python3-pip", needed: BY_TESTS },
    Program { name: "node", package: "nodejs", needed: BY_TESTS },
    Program { name: "npm", package: "npm", needed: BY_TESTS },
    Program { name: "sqlite3", package: "sqlite3", needed: BY_TESTS },
    Program { name: "postgres", package: "postgresql", needed: BY_TESTS },
    Program { name: "pgbouncer", package: "pgbouncer", needed: BY_TESTS },
    Program { name: "chromium", package: "chromium", needed: BY_TESTS },
    Program { name: "redis-server", package: "redis-server", needed: BY_TESTS },
    Program { name: "valgrind", package: "valgrind", needed: BY_COUNTS },
];

/// Sees to it that everything the steps need is there. Its first line says whether that takes root.
pub(super) fn provide(steps: &[Step]) -> Done {
    let with_tests = steps.iter().any(|step| step.runs_tests);
    let missing = PROGRAMS.iter().filter(|program| steps.iter().any(program.needed));
    let missing: Vec<&str> =
        missing.filter(|program| !is_there(program)).map(|program| program.package).collect();
    let able = Command::new("apt-get --version").works() && is_root();
    println!("{}", first_line(&missing, able)?);
    if !missing.is_empty() {
        install(&missing)?;
    }
    if with_tests && !Command::new("cargo nextest --version").works() {
        let install = Command::new("cargo install --locked cargo-nextest");
        println!("cargo-nextest is missing; installing it takes some minutes: {install}");
        install.run().when("the tests need cargo-nextest, see https://nexte.st/docs/installation")?;
    }
    Ok(())
}

/// Debian keeps PostgreSQL's programs outside the PATH, by version.
fn is_there(program: &Program) -> bool {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.into_iter().any(|version| version.path().join("bin").join(program.name).is_file())
        || Command::new(program.name).arg("--version").works()
}

fn is_root() -> bool {
    Command::new("id -u").output().is_ok_and(|uid| uid == b"0\n")
}

/// `able`: whether Debian packages can be installed from here.
fn first_line(missing: &[&str], able: bool) -> Done<String> {
    let packages = missing.join(" ");
    match (missing, able) {
        ([], _) => Ok("cargo xtask ci: needs no root".to_owned()),
        (_, true) => Ok(format!("cargo xtask ci: needs root to install {packages}, and has it")),
        (_, false) => Err(Failure::new(format!(
            "cargo xtask ci: needs root on a Debian machine to install {packages}; install by hand and start \
             again: apt-get update && apt-get install -y --no-install-recommends {packages}"
        ))),
    }
}

fn install(packages: &[&str]) -> Done {
    let packages = packages.join(" ");
    let update = Command::new("apt-get update");
    let install = Command::new(&format!("apt-get install -y --no-install-recommends {packages}"));
    for command in [update, install.env("DEBIAN_FRONTEND", "noninteractive")] {
        println!("{command}");
        command.run()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_line_says_whether_root_is_needed() {
        assert_eq!(first_line(&[], false).expect("nothing is missing"), "cargo xtask ci: needs no root");
        let line = first_line(&["nodejs"], true).expect("it can be installed");
        assert_eq!(line, "cargo xtask ci: needs root to install nodejs, and has it");
    }

    #[test]
    fn missing_program_without_root_is_refused_in_one_line() {
        let refused = first_line(&["nodejs", "sqlite3"], false).expect_err("cannot install").to_string();
        assert_eq!(refused.lines().count(), 1);
        assert!(refused.ends_with("install -y --no-install-recommends nodejs sqlite3"), "{refused}");
    }
}
