//! One process that makes the calls of all scenarios: scenarios go in as JSON lines, what calls came to comes out.
//!
//! The first line out says that it is ready. Then, for each call `{"scenario":NAME,"call":0,"ok":true,…}`, see [`Said`],
//! and `{"scenario":NAME,"done":true}` at a scenario's end. `{"give_up":NAME}` goes in when a scenario is dropped, and
//! the end of input ends it. Not which program that is: `sdk/start.rs` knows.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};

use super::{Drive, Driving, Heard};
use crate::report::Subject;
use crate::scenario::{End, Said, Scenario};

/// How long it may take to load what it drives.
const READY: Duration = Duration::from_secs(90);

/// How long its last words may be on their way after its last line.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How much of its standard error is kept.
const LAST_WORDS_BYTES: usize = 2000;

/// A running driver. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    subject: Subject,
    shared: Arc<Shared>,
    lines: mpsc::UnboundedSender<String>,
    _child: Child,
}

#[derive(Debug, Default)]
struct Shared {
    under_way: Mutex<UnderWay>,
    last_words: Mutex<Vec<u8>>,
}

#[derive(Debug, Default)]
struct UnderWay {
    scenarios: HashMap<String, Listener>,
    /// Why nothing more will be heard.
    gone: Option<String>,
}

#[derive(Debug)]
struct Listener {
    heard: Heard,
    end: oneshot::Sender<End>,
}

/// A line of the driver's.
#[derive(Deserialize)]
struct Line {
    scenario: String,
    #[serde(default)]
    done: bool,
    #[serde(flatten)]
    said: Said,
}

#[derive(Deserialize)]
struct Ready {
    ready: bool,
}

impl Process {
    /// Starts it and waits for its first line, for at most 90 seconds. Its input, output and error are taken.
    ///
    /// # Errors
    /// When it cannot be started, is not ready in time or ends before; with the last it wrote on standard error.
    pub async fn start(mut command: Command, subject: Subject) -> Result<Self, String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| format!("its driver cannot be started: {error}"))?;
        let taken = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = taken else {
            return Err("it has no pipes".to_owned());
        };
        let shared = Arc::new(Shared::default());
        let complaining = tokio::spawn(complain(stderr, Arc::clone(&shared)));
        let mut stdout = BufReader::new(stdout);
        let mut first = String::new();
        let read = tokio::time::timeout(READY, stdout.read_line(&mut first)).await;
        if !serde_json::from_str::<Ready>(&first).is_ok_and(|line| line.ready) {
            drop(child);
            // Its last words may be on their way.
            let _ = tokio::time::timeout(Duration::from_secs(1), complaining).await;
            let what = match read {
                Err(_) => format!("its driver is not ready after {} s", READY.as_secs()),
                Ok(_) => "its driver ended before it was ready".to_owned(),
            };
            return Err(format!("{what}: {}", shared.words().trim()));
        }
        let (lines, to_write) = mpsc::unbounded_channel();
        tokio::spawn(write(stdin, to_write));
        tokio::spawn(listen(stdout, Arc::clone(&shared)));
        Ok(Self { subject, shared, lines, _child: child })
    }
}

impl Drive for Process {
    fn subject(&self) -> Subject {
        self.subject.clone()
    }

    fn drive(&self, scenario: Scenario, heard: Heard) -> Driving {
        let (sender, receiver) = oneshot::channel();
        let asked = serde_json::to_string(&scenario);
        let mut under_way = self.shared.under_way();
        if let Some(why) = under_way.gone.clone() {
            return Box::pin(std::future::ready(End::Broke(why)));
        }
        under_way.scenarios.insert(scenario.name.clone(), Listener { heard, end: sender });
        drop(under_way);
        let given_up =
            GivenUp { name: scenario.name, shared: Arc::clone(&self.shared), lines: self.lines.clone() };
        match asked {
            // Who does not read any more has gone, which the other direction notices.
            Ok(line) => drop(self.lines.send(line)),
            Err(error) => return Box::pin(std::future::ready(End::Broke(error.to_string()))),
        }
        Box::pin(async move {
            let _given_up = given_up;
            receiver.await.unwrap_or_else(|_| End::Broke("its driver is gone".to_owned()))
        })
    }

    fn last_words(&self) -> Option<String> {
        Some(self.shared.words())
    }
}

/// Tells the driver that nobody listens any more, unless the scenario has ended.
struct GivenUp {
    name: String,
    shared: Arc<Shared>,
    lines: mpsc::UnboundedSender<String>,
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        if self.shared.under_way().scenarios.remove(&self.name).is_some() {
            let _ = self.lines.send(serde_json::json!({ "give_up": self.name }).to_string());
        }
    }
}

impl Shared {
    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn words(&self) -> String {
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&words).into_owned()
    }

    fn hear(&self, line: Line) {
        let mut under_way = self.under_way();
        if !line.done {
            if let Some(listener) = under_way.scenarios.get(&line.scenario) {
                listener.heard.say(line.said);
            }
        } else if let Some(listener) = under_way.scenarios.remove(&line.scenario) {
            let end = line.said.error.map_or(End::Finished, End::Broke);
            let _ = listener.end.send(end);
        }
    }
}

async fn write(mut stdin: ChildStdin, mut lines: mpsc::UnboundedReceiver<String>) {
    while let Some(line) = lines.recv().await {
        if stdin.write_all(format!("{line}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn listen(mut stdout: BufReader<ChildStdout>, shared: Arc<Shared>) {
    let mut line = Vec::new();
    while let Ok(1..) = stdout.read_until(b'\n', &mut line).await {
        // Something else than a driver may write there too.
        if let Ok(line) = serde_json::from_slice(&line) {
            shared.hear(line);
        }
        line.clear();
    }
    // Its last words come by another way and may be on theirs.
    tokio::time::sleep(LAST_WORDS).await;
    let why = format!("its driver ended: {}", shared.words().trim());
    let mut under_way = shared.under_way();
    for (_, listener) in under_way.scenarios.drain() {
        let _ = listener.end.send(End::Broke(why.clone()));
    }
    under_way.gone = Some(why);
}

async fn complain(mut stderr: ChildStderr, shared: Arc<Shared>) {
    let mut part = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut part).await {
        let mut words = shared.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        words.extend_from_slice(&part[..read]);
        let keep = words.len().saturating_sub(LAST_WORDS_BYTES);
        words.drain(..keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says that it is ready; then answers each scenario by its name.
    const DRIVER: &str = r#"
import json, os, sys
def tell(line):
    print(json.dumps(line), flush=True)
tell({"ready": True})
for line in sys.stdin:
    asked = json.loads(line)
    if "give_up" in asked:
        tell({"scenario": "asked", "call": 7, "ok": True})
        tell({"scenario": "asked", "done": True})
    elif asked["name"] == "good":
        print("not a line of the driver's", flush=True)
        tell({"scenario": "good", "call": 1, "ok": False, "status": 503})
        tell({"scenario": "good", "done": True})
    elif asked["name"] == "die":
        sys.exit("out of ideas")
"#;

    async fn python(script: &str) -> Result<Process, String> {
        let mut command = Command::new("python3");
        command.args(["-c", script]);
        Process::start(command, Subject::default()).await
    }

    fn scenario(name: &str) -> Scenario {
        let any = crate::plan::SCENARIOS[0].scenario("http://127.0.0.1:1");
        Scenario { name: name.to_owned(), ..any }
    }

    #[tokio::test]
    async fn scenario_hears_its_own_lines_and_a_driver_that_dies_breaks_those_under_way() {
        let process = python(DRIVER).await.expect("it starts");
        let heard = Heard::new();
        let waiting = process.drive(scenario("waiting"), Heard::new());
        let good = process.drive(scenario("good"), heard.clone()).await;
        assert_eq!(good, End::Finished);
        let said: Vec<_> = heard.said().iter().map(|said| (said.call, said.ok, said.status)).collect();
        assert_eq!(said, [(1, false, Some(503))]);

        let died = process.drive(scenario("die"), Heard::new()).await;
        assert!(matches!(&died, End::Broke(why) if why.contains("out of ideas")), "{died:?}");
        assert!(matches!(waiting.await, End::Broke(_)));
        let late = process.drive(scenario("good"), Heard::new()).await;
        assert!(matches!(late, End::Broke(_)), "{late:?}");
    }

    #[tokio::test]
    async fn dropped_scenario_is_given_up_at_the_driver() {
        let process = python(DRIVER).await.expect("it starts");
        let heard = Heard::new();
        let asked = process.drive(scenario("asked"), heard.clone());
        drop(process.drive(scenario("dropped"), Heard::new()));
        assert_eq!(asked.await, End::Finished);
        assert_eq!(heard.said()[0].call, 7);
    }

    #[tokio::test]
    async fn driver_that_does_not_start_is_told_with_its_last_words() {
        let error = python("raise SystemExit('no such module')").await.expect_err("it ends at once");
        assert_eq!(error, "its driver ended before it was ready: no such module");
    }
}
