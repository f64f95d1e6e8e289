//! Runs a case against a server: its requests in order, those at once over connections that are open before, and what
//! came of each. Nothing is judged here. Next: [`super::judge`].

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use sha2::{Digest, Sha256};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::cases::{Assertion, Case, Send};
use super::effects::{self, Counter};
use super::plan::{Outgoing, Plan, Refused};
use super::wire::{Came, Host};
use crate::attempt::{Attempt, Ended, Origin};
use crate::clock::Since;
use crate::scenario::{End, Scenario, Seen};

/// How long a record may stay in flight once its requests are over; no longer than the plan's patience.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(15);
const SETTLE_PAUSE: Duration = Duration::from_millis(200);
/// How long the counter may lag behind the answers.
const COUNT_TIMEOUT: Duration = Duration::from_secs(2);
const COUNT_PAUSE: Duration = Duration::from_millis(50);

/// One pass through the steps of a case, with a key of its own.
pub(super) struct Round {
    pub(super) key: String,
    pub(super) unique: String,
    /// What came, in the order of the steps.
    pub(super) replies: Vec<Reply>,
    /// How many effects it had; `None` when that cannot be told.
    pub(super) effects: Option<u64>,
}

/// What came of one request.
pub(super) struct Reply {
    /// The name under which the case speaks of it.
    pub(super) name: String,
    pub(super) request: Outgoing,
    pub(super) came: Came,
    sent_at: Duration,
    ended_at: Duration,
}

/// What every case needs.
pub(super) struct Runner<'a> {
    pub(super) plan: &'a Plan,
    pub(super) host: Host,
    pub(super) counter: Option<Counter>,
    /// Whether two effects have two answers.
    pub(super) answers_differ: bool,
}

impl Runner<'_> {
    /// All rounds of a case.
    pub(super) async fn run(&self, case: &Case) -> Result<(Vec<Round>, Seen), Refused> {
        let began = Since::now();
        let mut rounds = Vec::new();
        for _ in 0..case.rounds {
            rounds.push(self.round(case, began).await?);
        }
        let seen = self.seen(case, &rounds, began.elapsed());
        Ok((rounds, seen))
    }

    async fn round(&self, case: &Case, began: Since) -> Result<Round, Refused> {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let key = format!("semel-audit-{}", uuid::Uuid::new_v4());
        let before = self.count().await?;
        let mut replies = Vec::new();
        for step in &case.steps {
            let mut requests = Vec::new();
            for send in step.sends() {
                for _ in 0..send.times.count(self.plan.parallel) {
                    requests.push((send, self.plan.request(send, &key, &unique)?));
                }
            }
            match requests.as_slice() {
                [(send, request)] => self.one(send, request, began, &mut replies).await,
                _ => replies.extend(self.at_once(requests, began).await),
            }
        }
        let effects = match before {
            Some(before) => Some(self.counted_since(before, expected(case)).await?),
            None if self.answers_differ => effects::told(&replies, self.plan.id.as_deref()),
            None => None,
        };
        Ok(Round { key, unique, replies, effects })
    }

    async fn one(&self, send: &Send, request: &Outgoing, began: Since, replies: &mut Vec<Reply>) {
        let settling = Since::now();
        loop {
            let sent_at = began.elapsed();
            let came = self.host.send(request, send.hang_up).await;
            let conflict = matches!(&came, Came::Answer(answer) if answer.status == 409);
            let again =
                send.settled && conflict && settling.elapsed() < SETTLE_TIMEOUT.min(self.plan.timeout);
            replies.push(Reply {
                // What is only waited for is in the log, and not judged.
                name: if again { format!("{} (waiting)", send.send) } else { send.send.clone() },
                request: request.clone(),
                came,
                sent_at,
                ended_at: began.elapsed(),
            });
            if !again {
                return;
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }

    /// All connections are open before the first byte, so that racers race.
    async fn at_once(&self, requests: Vec<(&Send, Outgoing)>, began: Since) -> Vec<Reply> {
        let start = Arc::new(Barrier::new(requests.len()));
        let mut racing = JoinSet::new();
        for (place, (send, request)) in requests.into_iter().enumerate() {
            let (host, start, name) = (self.host.clone(), Arc::clone(&start), send.send.clone());
            racing.spawn(async move {
                let opened = host.open().await;
                start.wait().await;
                let sent_at = began.elapsed();
                let came = match opened {
                    Ok(connection) => connection.send(&request, None).await,
                    Err(came) => came,
                };
                (place, Reply { name, request, came, sent_at, ended_at: began.elapsed() })
            });
        }
        let mut replies = racing.join_all().await;
        replies.sort_by_key(|(place, _)| *place);
        replies.into_iter().map(|(_, reply)| reply).collect()
    }

    async fn count(&self) -> Result<Option<u64>, Refused> {
        match &self.counter {
            Some(counter) => counter.read().await.map(Some),
            None => Ok(None),
        }
    }

    /// The counter may lag: it is given time to reach what is expected.
    async fn counted_since(&self, before: u64, expected: u64) -> Result<u64, Refused> {
        let waiting = Since::now();
        loop {
            let counted = self.count().await?.unwrap_or(before).saturating_sub(before);
            if counted >= expected || waiting.elapsed() > COUNT_TIMEOUT {
                return Ok(counted);
            }
            tokio::time::sleep(COUNT_PAUSE).await;
        }
    }

    fn seen(&self, case: &Case, rounds: &[Round], took: Duration) -> Seen {
        let (mut attempts, mut calls) = (Vec::new(), Vec::new());
        for round in rounds {
            let mut known = Vec::new();
            for reply in &round.replies {
                let meant = self.meant(&reply.request, &mut calls);
                attempts.push(self.attempt(meant, reply, &mut known));
            }
        }
        attempts.sort_by_key(|attempt| attempt.at);
        for (connection, attempt) in (0_u32..).zip(&mut attempts) {
            attempt.connection = connection;
        }
        let asked = Scenario {
            name: case.name.clone(),
            url: self.plan.url.to_string(),
            calls: case.rounds,
            parallel: 1,
            key: None,
            timeout_ms: None,
            max_retries: None,
            deadline_ms: None,
        };
        let (scenario, script) = (case.name.clone(), case.about.clone());
        Seen {
            scenario,
            script,
            asked,
            attempts,
            said: Vec::new(),
            end: End::Finished,
            took,
            stalled: Duration::ZERO,
            log: None,
        }
    }

    /// Which call a request is an attempt of: that of its key and its caller. Without a key it is one of its own.
    fn meant(&self, request: &Outgoing, calls: &mut Vec<Option<(String, Vec<HeaderValue>)>>) -> u32 {
        let caller = request.headers.iter().filter(|(name, _)| {
            self.plan.credentials.iter().any(|(credential, _)| credential.eq_ignore_ascii_case(name.as_str()))
        });
        let caller: Vec<_> = caller.map(|(_, value)| value.clone()).collect();
        let key = request.keys.first().map(|key| (key.trim_matches('"').to_owned(), caller));
        let known = calls.iter().position(|call| key.is_some() && *call == key);
        let place = known.unwrap_or_else(|| {
            calls.push(key);
            calls.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    fn attempt(&self, call: u32, reply: &Reply, known: &mut Vec<String>) -> Attempt {
        let (step, ended) = match &reply.came {
            Came::Answer(answer) if effects::is_marked(answer, self.plan) => {
                (format!("{}, replayed", answer.status), Ended::Answered)
            }
            Came::Answer(answer) => (answer.status.to_string(), Ended::Answered),
            Came::NotConnected(why) => (format!("not connected: {why}"), Ended::Broken),
            Came::Broken(why) => (format!("broken: {why}"), Ended::Broken),
            Came::Left => ("hung up".to_owned(), Ended::Left),
        };
        let identity = effects::success(&reply.came)
            .and_then(|answer| effects::identity(answer, self.plan.id.as_deref()));
        let effect = identity.as_ref().is_some_and(|identity| !known.contains(identity));
        known.extend(identity);
        let request = &reply.request;
        Attempt {
            at: reply.sent_at,
            call: Some(call),
            method: request.method.to_string(),
            target: request.target.clone(),
            headers: self.headers(request),
            keys: request.keys.clone(),
            body_digest: Sha256::digest(&request.body).iter().map(|byte| format!("{byte:02x}")).collect(),
            body_bytes: u64::try_from(request.body.len()).unwrap_or(u64::MAX),
            origin: Origin::Main,
            connection: 0,
            step: format!("{}: {step}", reply.name),
            effect,
            ended_at: Some(reply.ended_at),
            ended,
        }
    }

    /// Of credentials only the length.
    fn headers(&self, request: &Outgoing) -> Vec<(String, String)> {
        const SECRET: [&str; 4] = ["authorization", "cookie", "proxy-authorization", "x-api-key"];
        let credential = |name: &str| {
            let own =
                self.plan.credentials.iter().any(|(credential, _)| credential.eq_ignore_ascii_case(name));
            own || SECRET.contains(&name)
        };
        let shown = request.headers.iter().map(|(name, value)| {
            let text = match credential(name.as_str()) {
                true => format!("({} characters)", value.len()),
                false => value.as_bytes().escape_ascii().to_string(),
            };
            (name.to_string(), text)
        });
        shown.collect()
    }
}

/// The most effects that any point of the case expects.
pub(super) fn expected(case: &Case) -> u64 {
    let counts = case.points.iter().flat_map(|point| &point.expect).filter_map(|assertion| match assertion {
        Assertion::Effects { count } => Some(*count),
        _ => None,
    });
    counts.max().unwrap_or(0)
}
