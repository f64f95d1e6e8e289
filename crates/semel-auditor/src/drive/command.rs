//! Runs a command once for each scenario, with what is asked in its environment.
//!
//! What the command prints is read for lines of JSON: an object with `ok` is [`Said`], one with `supports` says what it
//! can be asked for; all else is ignored. The whole process group is killed when the scenario is over.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command as Process};

use super::{Drive, Driving, Heard};
use crate::report::Subject;
use crate::scenario::{End, Said, Scenario};

/// How much of its standard error is kept.
const LAST_WORDS_BYTES: usize = 2048;

/// How long what was printed may still be on its way when the command has ended.
const PRINTED: Duration = Duration::from_millis(500);

/// A command that makes the calls.
#[derive(Clone, Debug)]
pub struct Command {
    words: Vec<String>,
    environment: Vec<(String, String)>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    supports: Option<Vec<String>>,
    last_words: String,
}

impl Command {
    /// The program and its arguments. `environment` is added to this process's own; `supports` is what the command can
    /// be asked for, where that is known.
    #[must_use]
    pub fn new(
        words: Vec<String>,
        environment: Vec<(String, String)>,
        supports: Option<Vec<String>>,
    ) -> Self {
        let state = State { supports, last_words: String::new() };
        Self { words, environment, state: Arc::new(Mutex::new(state)) }
    }

    fn start(&self, scenario: &Scenario) -> Result<Child, String> {
        let (program, arguments) = self.words.split_first().ok_or("there is no command")?;
        let mut process = Process::new(program);
        process.args(arguments).envs(self.environment.iter().cloned()).envs(asked(scenario));
        process.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process.process_group(0).kill_on_drop(true);
        process.spawn().map_err(|error| format!("`{program}` cannot be started: {error}"))
    }

    async fn run(self, scenario: Scenario, heard: Heard) -> End {
        let mut child = match self.start(&scenario) {
            Ok(child) => child,
            Err(why) => return End::Broke(why),
        };
        let _group = Group::of(&child);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let listening = async {
            if let Some(stdout) = stdout {
                self.listen(stdout, &heard).await;
            }
        };
        let complaining = async {
            let mut words = Vec::new();
            if let Some(stderr) = stderr {
                let mut stderr = stderr;
                let mut part = [0; 1024];
                while let Ok(read @ 1..) = stderr.read(&mut part).await {
                    words.extend_from_slice(&part[..read]);
                    let keep = words.len().saturating_sub(LAST_WORDS_BYTES);
                    words.drain(..keep);
                    let text = String::from_utf8_lossy(&words).into_owned();
                    self.state.lock().unwrap_or_else(PoisonError::into_inner).last_words = text;
                }
            }
        };
        let reading = async { tokio::join!(listening, complaining) };
        tokio::pin!(reading);
        let status = tokio::select! {
            status = child.wait() => {
                // A grandchild may hold the pipes for ever.
                let _ = tokio::time::timeout(PRINTED, reading).await;
                status
            }
            _ = &mut reading => child.wait().await,
        };
        status.map_or_else(|error| End::Broke(error.to_string()), ended)
    }

    async fn listen(&self, stdout: ChildStdout, heard: &Heard) {
        let mut lines = BufReader::new(stdout).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            if let Ok(said) = serde_json::from_slice::<OkSaid>(&line) {
                heard.say(said.into());
            } else if let Ok(Supports { supports }) = serde_json::from_slice(&line) {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.supports = Some(supports);
            }
        }
    }
}

impl Drive for Command {
    fn subject(&self) -> Subject {
        let command = self.words.join(" ");
        let supports = self.state.lock().unwrap_or_else(PoisonError::into_inner).supports.clone();
        Subject { name: command.clone(), command: Some(command), supports, ..Subject::default() }
    }

    fn drive(&self, scenario: Scenario, heard: Heard) -> Driving {
        Box::pin(self.clone().run(scenario, heard))
    }

    fn last_words(&self) -> Option<String> {
        Some(self.state.lock().unwrap_or_else(PoisonError::into_inner).last_words.clone())
    }
}

/// A line counts when it says whether the call was ok.
#[derive(Deserialize)]
struct OkSaid {
    ok: bool,
    #[serde(flatten)]
    said: Said,
}

impl From<OkSaid> for Said {
    fn from(line: OkSaid) -> Self {
        Self { ok: line.ok, ..line.said }
    }
}

#[derive(Deserialize)]
struct Supports {
    supports: Vec<String>,
}

/// What a scenario asks, as environment variables.
#[must_use]
pub fn asked(scenario: &Scenario) -> Vec<(String, String)> {
    let mut asked = vec![
        ("SEMEL_AUDIT_URL".to_owned(), scenario.url.clone()),
        ("SEMEL_AUDIT_SCENARIO".to_owned(), scenario.name.clone()),
        ("SEMEL_AUDIT_CALLS".to_owned(), scenario.calls.to_string()),
        ("SEMEL_AUDIT_PARALLEL".to_owned(), scenario.parallel.to_string()),
    ];
    let wishes = [
        ("KEY", scenario.key.clone()),
        ("TIMEOUT_MS", scenario.timeout_ms.map(|ms| ms.to_string())),
        ("MAX_RETRIES", scenario.max_retries.map(|retries| retries.to_string())),
        ("DEADLINE_MS", scenario.deadline_ms.map(|ms| ms.to_string())),
    ];
    asked
        .extend(wishes.into_iter().filter_map(|(name, value)| Some((format!("SEMEL_AUDIT_{name}"), value?))));
    asked
}

fn ended(status: ExitStatus) -> End {
    match status.code() {
        Some(0) => End::Finished,
        Some(code) => End::Exited(code),
        None => End::Broke(format!("the command ended by a signal ({status})")),
    }
}

/// The command and what it has started; killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
