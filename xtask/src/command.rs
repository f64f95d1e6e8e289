//! A program to call: shown as a line that can be pasted into a shell, then run.
//!
//! Not a shell: nothing is expanded, and every word is handed over as it stands.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};

use crate::failure::{Done, Failure, While};

/// One call of one program.
pub(crate) struct Command {
    words: Vec<String>,
    env: Vec<(String, String)>,
    dir: PathBuf,
}

impl Command {
    /// `line` is split at white space; an argument that holds some goes through [`Command::arg`].
    pub(crate) fn new(line: &str) -> Self {
        let words = line.split_whitespace().map(str::to_owned).collect();
        Self { words, env: Vec::new(), dir: crate::checkout::root() }
    }

    pub(crate) fn arg(mut self, word: impl Into<String>) -> Self {
        self.words.push(word.into());
        self
    }

    /// Several arguments, as they stand.
    pub(crate) fn words(mut self, words: impl IntoIterator<Item = String>) -> Self {
        self.words.extend(words);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Where it runs; the checkout's root unless told.
    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.dir = dir.to_owned();
        self
    }

    /// Runs with this terminal's output; any exit but 0 is a failure.
    pub(crate) fn run(&self) -> Done {
        let status = self.process().status().when(self)?;
        self.demand_success(status)
    }

    /// Like [`Command::run`], and gives back the last line of standard error for which `wanted`
    /// holds.
    pub(crate) fn run_watching(&self, wanted: impl Fn(&str) -> bool) -> Done<Option<String>> {
        let mut process = self.process();
        if std::io::stderr().is_terminal() {
            process.env("CARGO_TERM_COLOR", "always");
        }
        let mut child = process.stderr(Stdio::piped()).spawn().when(self)?;
        let mut last = None;
        if let Some(lines) = child.stderr.take().map(BufReader::new) {
            for line in lines.split(b'\n') {
                let line = line.when(self)?;
                let line = String::from_utf8_lossy(&line).into_owned();
                eprintln!("{line}");
                if wanted(&line) {
                    last = Some(line);
                }
            }
        }
        self.demand_success(child.wait().when(self)?)?;
        Ok(last)
    }

    /// Runs with all output in the file `log`, and gives the exit code, or `None` after a signal.
    pub(crate) fn run_into(&self, log: &Path) -> Done<Option<i32>> {
        let out = File::create(log).when(log.display())?;
        let err = out.try_clone().when(log.display())?;
        let status = self.process().stdout(out).stderr(err).status().when(self)?;
        Ok(status.code())
    }

    /// Runs in silence and gives the standard output; any exit but 0 is a failure that carries
    /// the standard error.
    pub(crate) fn output(&self) -> Done<Vec<u8>> {
        let output = self.process().output().when(self)?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(Failure::new(format!("`{self}` failed:\n{}", said.trim_end())))
        }
    }

    /// Whether it can be started and exits with 0; says nothing.
    pub(crate) fn works(&self) -> bool {
        self.output().is_ok()
    }

    fn demand_success(&self, status: process::ExitStatus) -> Done {
        if status.success() { Ok(()) } else { Err(Failure::new(format!("`{self}` failed ({status})"))) }
    }

    fn process(&self) -> process::Command {
        let mut process = process::Command::new(&self.words[0]);
        process.args(&self.words[1..]).current_dir(&self.dir).stdin(Stdio::null());
        // `cargo xtask` sets these for xtask. Build scripts that watch them would run again, and
        // everything above them would be compiled again, for each call made from here.
        for (name, _) in std::env::vars_os() {
            let known = name.to_string_lossy();
            if known.starts_with("CARGO_PKG_") || known.starts_with("CARGO_MANIFEST_") {
                process.env_remove(&name);
            }
        }
        process.envs(self.env.iter().map(|(name, value)| (name, value)));
        process
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{name}={} ", quoted(value))?;
        }
        let words: Vec<String> = self.words.iter().map(|word| quoted(word)).collect();
        f.write_str(&words.join(" "))
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_a_line_that_a_shell_takes() {
        let command =
            Command::new("cargo doc --workspace").arg("test(=a b)").env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(command.to_string(), "RUSTDOCFLAGS='-D warnings' cargo doc --workspace 'test(=a b)'");
    }

    #[test]
    fn failure_carries_what_the_program_said() {
        let failure = Command::new("git no-such-command").output().expect_err("git has no such command");
        assert!(failure.to_string().contains("no-such-command' is not a git command"), "{failure}");
    }

    #[test]
    fn watched_line_is_given_back() {
        let command = Command::new("sh -c").arg("echo one 1>&2; echo two 1>&2; echo three 1>&2");
        let line = command.run_watching(|line| line.starts_with("tw")).expect("sh echoes");
        assert_eq!(line.as_deref(), Some("two"));
    }
}
