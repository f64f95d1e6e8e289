//! A child process on a core of its own: its port, its CPU time, its memory.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use crate::servers;

/// Where processes run.
#[derive(Clone, Debug)]
pub(crate) struct Cores {
    /// Of whatever is measured.
    pub(super) middle: String,
    /// Of callers and upstream.
    pub(super) outside: String,
}

impl Cores {
    /// Everything on the first.
    pub(super) fn one(&self) -> Self {
        Self { outside: self.middle.clone(), ..self.clone() }
    }

    pub(super) fn is_one(&self) -> bool {
        self.middle == self.outside
    }
}

impl std::str::FromStr for Cores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(',') {
            Some((middle, outside)) if middle != outside => {
                Ok(Self { middle: middle.to_owned(), outside: outside.to_owned() })
            }
            _ => Err("two cores, as 0,1: of what is measured, and of callers and upstream".to_owned()),
        }
    }
}

/// A child process, killed when dropped.
pub(super) struct Process(Child);

impl Process {
    pub(super) fn new(child: Child) -> Self {
        Self(child)
    }

    pub(super) fn cpu(&self) -> Duration {
        servers::cpu(&[self.0.id().to_string()])
    }

    pub(super) fn input(&mut self) -> Option<&mut ChildStdin> {
        self.0.stdin.as_mut()
    }

    /// Whether it has not ended by itself.
    pub(super) fn runs(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Resident memory now, and at its most, in MiB.
    pub(super) fn memory_mib(&self) -> (f64, f64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let field = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kib.unwrap_or_default() / 1024.0
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Whether it ended by itself is of no interest here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// It ends with this process, also when this one is killed.
pub(super) fn pinned(core: &str, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "taskset", "-c", core]).arg(program);
    command
}

/// One of this program's own hidden commands.
pub(super) fn own(core: &str, arguments: &[&str]) -> Result<Command, Box<dyn Error>> {
    let mut command = pinned(core, &std::env::current_exe()?);
    command.arg("gateway-part").args(arguments);
    Ok(command)
}

/// Starts it, and reads the port that its first line names.
pub(super) fn serving(
    command: &mut Command,
) -> Result<(Process, u16, BufReader<ChildStdout>), Box<dyn Error>> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let process = Process(child);
    let mut line = String::new();
    let mut output = BufReader::new(output);
    output.read_line(&mut line)?;
    let port = line.trim().parse().map_err(|_| format!("it said no port but {line:?}"))?;
    Ok((process, port, output))
}

/// Moves a server that runs already, with its threads, to `core`. Its later children stay there.
pub(super) fn pin(core: &str, roots: &[String]) {
    for root in roots {
        let _ = Command::new("taskset").args(["-a", "-p", "-c", core, root]).stdout(Stdio::null()).status();
    }
}
