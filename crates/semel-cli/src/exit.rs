//! How the program ends: the exit codes that `semel --help` documents, and the text that goes with them.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

const ERROR: Style = AnsiColor::Red.on_default().bold();

/// Why the program did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Whoever read standard output has gone: nothing is wrong.
    ReaderGone = 0,
    /// It failed.
    Failed = 1,
    /// A flag, a variable or the configuration is refused.
    Usage = 2,
    /// No such record, or several.
    NotFound = 3,
    /// The store or the gateway cannot be reached.
    Unreachable = 4,
    /// An audit found that somebody would pay twice.
    PaidTwice = 5,
    /// An audit found another fault that counts.
    Faulty = 6,
}

/// The code and the text of a failure.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    text: String,
    /// For machines: the text stands alone.
    bare: bool,
}

impl Failure {
    /// A failure that `text` explains.
    pub(crate) fn new(exit: Exit, text: impl Display) -> Self {
        Self { exit, text: text.to_string(), bare: false }
    }

    /// A failure that a JSON `document` explains.
    pub(crate) fn document(exit: Exit, document: &impl Serialize) -> Self {
        match serde_json::to_string(document) {
            Ok(text) => Self { exit, text, bare: true },
            Err(error) => Self::caused(exit, &error),
        }
    }

    /// A failure that `error` and what caused it explain.
    pub(crate) fn caused(exit: Exit, error: &dyn Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        Self { exit, text, bare: false }
    }

    /// Prints the text and gives the code.
    pub(crate) fn report(&self) -> ExitCode {
        if self.bare {
            anstream::eprintln!("{}", self.text);
        } else if self.exit != Exit::ReaderGone {
            anstream::eprintln!("{ERROR}error:{ERROR:#} {}", self.text);
        }
        ExitCode::from(self.exit as u8)
    }
}

/// Errors of standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::ReaderGone, ""),
            _ => Self::caused(Exit::Failed, &error),
        }
    }
}
