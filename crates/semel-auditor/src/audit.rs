//! An audit from beginning to end: runs the scenarios that the checks need, a server for each, and judges.
//!
//! Not how a client is made to act: that is a [`Drive`].

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::api::Api;
use crate::attempt::Ended;
use crate::checks::{Check, calls};
use crate::clock::Since;
use crate::drive::{Drive, Heard};
use crate::plan::{Planned, SCENARIOS, Turn};
use crate::report::{Audit, VERSION, grade};
use crate::scenario::{End, Seen};
use crate::server::tls::Tls;
use crate::server::{Server, Setup};

/// What is audited and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The checks, in the order of the report.
    pub checks: Vec<&'static Check>,
    /// What the server stands for.
    pub api: Api,
    /// TLS, where it is wanted.
    pub tls: Option<Arc<Tls>>,
    /// The folder for the bytes of each scenario.
    pub logs: Option<PathBuf>,
    /// How many scenarios run side by side, where delays are not measured.
    pub together: usize,
    /// The port of every scenario, one after the other; a free one for each where there is none.
    pub port: Option<u16>,
    /// How long a scenario is watched, where its own time is not to count.
    pub watch: Option<Duration>,
    /// How often a scenario whose delays are measured is run, until the machine did not stall meanwhile.
    pub tries: u32,
}

impl Settings {
    /// All checks, the default API, eight scenarios side by side.
    #[must_use]
    pub fn new() -> Self {
        Self {
            checks: crate::checks::CHECKS.to_vec(),
            api: Api::default(),
            tls: None,
            logs: None,
            together: 8,
            port: None,
            watch: None,
            tries: 3,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::new()
    }
}

/// How far an audit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It begins, with so many scenarios.
    Begins(usize),
    /// This scenario runs.
    Runs(&'static str),
    /// This one has ended.
    Ended(&'static str),
}

/// Why there is no audit.
#[derive(Debug)]
pub enum AuditError {
    /// A server could not be started.
    Server(io::Error),
    /// The client sent nothing at all.
    Silent {
        /// How its first scenario ended.
        end: End,
        /// What it left on its standard error.
        last_words: Option<String>,
    },
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(error) => write!(f, "no server can be started: {error}"),
            Self::Silent { end, last_words } => {
                let how = match end {
                    End::Finished | End::Quiet => "it ended with code 0".to_owned(),
                    End::Killed | End::SeenEnough => "it still ran when it was stopped".to_owned(),
                    End::Exited(code) => format!("it ended with code {code}"),
                    End::Broke(why) => why.clone(),
                };
                write!(f, "the client sent no request to the server: {how}")?;
                match last_words.as_deref().map(str::trim).filter(|words| !words.is_empty()) {
                    Some(words) => write!(f, "; its last words: {words}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for AuditError {}

/// Where progress goes to.
pub type Tell = Arc<dyn Fn(Progress) + Send + Sync>;

/// Audits a client. Once `stop` is true no scenario begins and those that run end; what was seen until then is judged.
///
/// # Errors
/// [`AuditError::Server`] without free ports, [`AuditError::Silent`] when the first scenario sees no request.
pub async fn audit(
    drive: Arc<dyn Drive>,
    settings: Settings,
    tell: Tell,
    stop: watch::Receiver<bool>,
) -> Result<Audit, AuditError> {
    let since = Since::now();
    let needed = |planned: &&Planned| {
        planned.name == SCENARIOS[0].name
            || settings.checks.iter().any(|check| check.needs.contains(&planned.name))
    };
    let planned: Vec<&'static Planned> = SCENARIOS.iter().filter(needed).collect();
    tell(Progress::Begins(planned.len()));
    let first = Run { drive: Arc::clone(&drive), settings, tell, stop, one_call: false };
    let probe = first.scenario(planned[0]).await.map_err(AuditError::Server)?;
    if probe.attempts.is_empty() {
        return Err(AuditError::Silent { end: probe.end, last_words: drive.last_words() });
    }
    let many = drive.subject().supports.is_some_and(|can| can.iter().any(|can| can == "calls"));
    let one_call = !many && probe.attempts.iter().filter(|attempt| attempt.step != "aside").count() < 2;
    let run = Arc::new(Run { one_call, ..first });
    let mut seen = vec![probe];
    for turn in [Turn::Together, Turn::Measured, Turn::Alone, Turn::Load] {
        let of_turn = planned[1..].iter().copied().filter(|planned| planned.turn == turn);
        seen.extend(run.turn(of_turn.collect()).await.map_err(AuditError::Server)?);
    }
    let place = |seen: &Seen| planned.iter().position(|planned| planned.name == seen.scenario);
    seen.sort_by_key(place);
    Ok(judge(drive.as_ref(), &run.settings.checks, seen, one_call, since.elapsed()))
}

fn judge(
    drive: &dyn Drive,
    checks: &[&'static Check],
    seen: Vec<Seen>,
    one_call: bool,
    took: Duration,
) -> Audit {
    let subject = drive.subject();
    let findings: Vec<_> = checks.iter().map(|check| check.find(&subject, &seen, one_call)).collect();
    let (score, grade) = grade(&findings);
    let (meant, made) = payments(&seen);
    let sentence = match made > meant {
        true => format!("Under these faults this client made {made} payments for {meant} calls."),
        false => format!(
            "Under these faults this client made {made} payments for {meant} calls: nobody paid twice."
        ),
    };
    Audit { version: VERSION, subject, grade, score, meant, made, sentence, findings, seen, took }
}

/// Of the calls that were carried out without their client being told so: how many they were, and how many payments
/// were made for them.
#[must_use]
pub fn payments(seen: &[Seen]) -> (u64, u64) {
    let (mut meant, mut made) = (0, 0);
    for call in seen.iter().flat_map(calls) {
        let lost = |attempt: &&&crate::attempt::Attempt| {
            attempt.effect && (attempt.ended != Ended::Answered || attempt.step.starts_with(['5', 'd']))
        };
        if call.attempts.iter().any(|attempt| lost(&attempt)) {
            meant += 1;
            made += call.attempts.iter().map(|attempt| u64::from(attempt.effect)).sum::<u64>();
        }
    }
    (meant, made)
}

/// A stall of the machine that delays can be measured in spite of.
pub const STALL_MAX: Duration = Duration::from_millis(25);

/// Notices when this process was not run although it was ready.
struct Stall {
    longest: watch::Receiver<Duration>,
    _ticking: JoinSet<()>,
}

impl Stall {
    const TICK: Duration = Duration::from_millis(5);

    fn watch() -> Self {
        let (sender, longest) = watch::channel(Duration::ZERO);
        let mut ticking = JoinSet::new();
        ticking.spawn(async move {
            loop {
                let since = Since::now();
                tokio::time::sleep(Self::TICK).await;
                let late = since.elapsed().saturating_sub(Self::TICK);
                sender.send_if_modified(|longest| {
                    let longer = late > *longest;
                    *longest = late.max(*longest);
                    longer
                });
            }
        });
        Self { longest, _ticking: ticking }
    }

    fn longest(&self) -> Duration {
        *self.longest.borrow()
    }
}

struct Run {
    drive: Arc<dyn Drive>,
    settings: Settings,
    tell: Tell,
    stop: watch::Receiver<bool>,
    /// The client makes one call, whatever it is asked.
    one_call: bool,
}

impl Run {
    /// Scenarios side by side.
    async fn turn(self: &Arc<Self>, planned: Vec<&'static Planned>) -> io::Result<Vec<Seen>> {
        let places = Arc::new(Semaphore::new(self.settings.together.max(1)));
        let mut tasks: JoinSet<io::Result<Option<Seen>>> = JoinSet::new();
        for planned in planned {
            let (run, places) = (Arc::clone(self), Arc::clone(&places));
            tasks.spawn(async move {
                // Never closed.
                let _place = places.acquire_owned().await.map_err(io::Error::other)?;
                if run.stopped() {
                    return Ok(None);
                }
                let seen = run.scenario(planned).await?;
                // What was cut short says nothing about the client.
                Ok((!run.stopped()).then_some(seen))
            });
        }
        let mut all = Vec::new();
        while let Some(ended) = tasks.join_next().await {
            all.extend(ended.map_err(io::Error::other)??);
        }
        Ok(all)
    }

    fn stopped(&self) -> bool {
        *self.stop.borrow()
    }

    async fn scenario(&self, planned: &'static Planned) -> io::Result<Seen> {
        (self.tell)(Progress::Runs(planned.name));
        let seen = match self.one_call && planned.calls > 1 {
            true => self.call_by_call(planned).await,
            false => self.steadily(planned).await,
        };
        (self.tell)(Progress::Ended(planned.name));
        seen
    }

    /// Where delays are measured, again when the machine stalled: that would be blamed on the client.
    async fn steadily(&self, planned: &'static Planned) -> io::Result<Seen> {
        let measured = matches!(planned.turn, Turn::Measured | Turn::Alone);
        let tries = if measured { self.settings.tries.max(1) } else { 1 };
        let mut steadiest: Option<Seen> = None;
        for _ in 0..tries {
            let stall = Stall::watch();
            let mut seen = self.once(*planned, 0, "").await?;
            let stalled = if measured { stall.longest() } else { Duration::ZERO };
            seen.stalled = stalled;
            if steadiest.as_ref().is_none_or(|before| stalled < before.stalled) {
                steadiest = Some(seen);
            }
            if stalled <= STALL_MAX || self.stopped() {
                break;
            }
        }
        steadiest.ok_or_else(|| io::Error::other("no try"))
    }

    /// A client that makes one call only is run once for each, with a server of its own.
    async fn call_by_call(&self, planned: &'static Planned) -> io::Result<Seen> {
        let since = Since::now();
        let one = Planned { calls: 1, parallel: 1, ..*planned };
        let most = planned.parallel.min(u32::try_from(self.settings.together).unwrap_or(1)).max(1);
        // A budget of retries is not shared by processes, and starting them costs more than it shows.
        let calls = match planned.turn {
            Turn::Load => 1,
            Turn::Measured => planned.calls.min(5),
            Turn::Together | Turn::Alone => planned.calls,
        };
        let mut all: Vec<Seen> = Vec::new();
        for wave in (0..calls).collect::<Vec<_>>().chunks(usize::try_from(most).unwrap_or(1)) {
            let began = since.elapsed();
            // Repeating a client that is slow to start has an end.
            if self.stopped() || began > planned.watch * 3 {
                break;
            }
            let mut tasks = JoinSet::new();
            for call in wave {
                let run = self.again();
                let call = *call;
                tasks.spawn(async move { run.once(one, call, &format!("-{call}")).await });
            }
            while let Some(seen) = tasks.join_next().await {
                let mut seen = seen.map_err(io::Error::other)??;
                shift(&mut seen, began);
                all.push(seen);
            }
        }
        Ok(together(planned, all, since.elapsed()))
    }

    fn again(&self) -> Self {
        Self {
            drive: Arc::clone(&self.drive),
            settings: self.settings.clone(),
            tell: Arc::clone(&self.tell),
            stop: self.stop.clone(),
            one_call: self.one_call,
        }
    }

    async fn once(&self, planned: Planned, call: u32, suffix: &str) -> io::Result<Seen> {
        let script = planned.script().map_err(io::Error::other)?;
        let bytes =
            self.settings.logs.as_ref().map(|logs| logs.join(format!("{}{suffix}.log", planned.name)));
        let server = Server::start(Setup {
            api: self.settings.api.clone(),
            calls: planned.calls,
            first_call: call,
            tls: self.settings.tls.clone(),
            bytes: bytes.clone(),
            port: self.settings.port,
            ..Setup::new(script.clone())
        })?;
        let asked = planned.scenario(server.url());
        let heard = Heard::new();
        let end = self.watched(&planned, &server, &heard).await;
        let took = server.elapsed();
        let mut said = heard.said();
        for said in &mut said {
            said.call += call;
        }
        Ok(Seen {
            scenario: planned.name.to_owned(),
            script: script.to_string(),
            asked,
            attempts: server.finish(),
            said,
            end,
            took,
            stalled: Duration::ZERO,
            log: bytes.map(|path| path.display().to_string()),
        })
    }

    async fn watched(&self, planned: &Planned, server: &Server, heard: &Heard) -> End {
        let driving = self.drive.drive(planned.scenario(server.url()), heard.clone());
        let enough = async {
            match planned.enough {
                Some(attempts) => server.attempted(attempts).await,
                None => std::future::pending().await,
            }
        };
        let quiet = async {
            match self.drive.ends_when_quiet() {
                Some(quiet) => server.quiet(planned.calls, quiet).await,
                None => std::future::pending().await,
            }
        };
        let mut stop = self.stop.clone();
        tokio::select! {
            end = driving => end,
            () = enough => End::SeenEnough,
            () = quiet => End::Quiet,
            () = tokio::time::sleep(self.settings.watch.unwrap_or(planned.watch)) => End::Killed,
            Ok(_) = stop.wait_for(|stop| *stop) => End::Killed,
        }
    }
}

fn shift(seen: &mut Seen, by: Duration) {
    for attempt in &mut seen.attempts {
        attempt.at += by;
        attempt.ended_at = attempt.ended_at.map(|at| at + by);
    }
    for said in &mut seen.said {
        said.at += by;
    }
}

/// Many runs of one call as one scenario of many calls. The worst end counts.
fn together(planned: &Planned, mut all: Vec<Seen>, took: Duration) -> Seen {
    let worst = all.iter().map(|seen| seen.end.clone()).max_by_key(|end| match end {
        End::Finished | End::Quiet => 0,
        End::Exited(_) => 1,
        End::SeenEnough => 2,
        End::Killed => 3,
        End::Broke(_) => 4,
    });
    let log = all.first().and_then(|seen| seen.log.clone());
    let url = all.first().map(|seen| seen.asked.url.clone()).unwrap_or_default();
    let mut attempts: Vec<_> = all.iter_mut().flat_map(|seen| std::mem::take(&mut seen.attempts)).collect();
    attempts.sort_by_key(|attempt| attempt.at);
    Seen {
        scenario: planned.name.to_owned(),
        script: planned.script.to_owned(),
        asked: planned.scenario(&url),
        attempts,
        said: all.into_iter().flat_map(|seen| seen.said).collect(),
        end: worst.unwrap_or(End::Killed),
        took,
        stalled: Duration::ZERO,
        log,
    }
}
