//! What arrives: which call it belongs to, which step of the script it gets, whether it pays; and how it ended.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method, request};
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::Setup;
use crate::api::Api;
use crate::attempt::{Attempt, Ended, Origin};
use crate::clock::Since;
use crate::ledger::Ledger;
use crate::script::Step;

/// What a client writes into the body of a call, before its number.
pub(crate) const MARKER: &str = "semel-audit-";

/// How long an answer may take to be written.
const LAST_ANSWER: Duration = Duration::from_millis(100);

/// Headers of which only the length is kept.
const SECRET: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-api-key"];

#[derive(Debug)]
pub(crate) struct Log {
    pub(super) setup: Setup,
    /// The main port and the other one.
    pub(super) urls: [String; 2],
    since: Since,
    connections: AtomicU32,
    inner: Mutex<Inner>,
    /// How many arrivals and endings there were.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    attempts: Vec<Attempt>,
    ledger: Ledger,
    /// Of each call on each port.
    arrived: HashMap<(Option<u32>, bool), usize>,
    /// Calls without a number that were answered with a success.
    succeeded: u32,
}

/// What is done about a request.
pub(super) enum Todo {
    Step(Step),
    /// It is no call; this is its answer.
    Aside(String),
}

impl Log {
    pub(super) fn new(setup: Setup, urls: [String; 2]) -> Self {
        Self {
            setup,
            urls,
            since: Since::now(),
            connections: AtomicU32::new(0),
            inner: Mutex::default(),
            changes: watch::Sender::new(0),
        }
    }

    pub(super) fn connection(&self) -> u32 {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn attempts(&self) -> Vec<Attempt> {
        self.inner().attempts.clone()
    }

    /// A request has been read. Says which attempt it is, and what to do about it.
    pub(super) fn arrive(
        &self,
        head: &request::Parts,
        body: &[u8],
        origin: Origin,
        connection: u32,
    ) -> (usize, Todo) {
        let target = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
        let aside = aside(&self.setup.api, &head.method, head.uri.path());
        let keys = keys(&self.setup.api, &head.headers, body);
        let inner = &mut *self.inner();
        let call = if aside.is_some() { None } else { self.call(inner, body, &target) };
        let (todo, step, acts) = match aside {
            Some(answer) => (Todo::Aside(answer), "aside".to_owned(), false),
            None => {
                let step = self.step(inner, call, origin);
                (Todo::Step(step.clone()), step.to_string(), step.act.acts())
            }
        };
        let effect = acts && inner.ledger.pay(keys.first().map(String::as_str));
        inner.attempts.push(Attempt {
            at: self.since.elapsed(),
            call,
            method: head.method.to_string(),
            target,
            headers: headers(&head.headers),
            keys,
            body_digest: Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect(),
            body_bytes: u64::try_from(body.len()).unwrap_or(u64::MAX),
            origin,
            connection,
            step,
            effect,
            ended_at: None,
            ended: Ended::Running,
        });
        self.changes.send_modify(|changes| *changes += 1);
        (inner.attempts.len() - 1, todo)
    }

    /// The number of the call: its marker, or the count of successes before where there is one call at a time.
    fn call(&self, inner: &Inner, body: &[u8], target: &str) -> Option<u32> {
        let marked = marker(body).or_else(|| marker(target.as_bytes()));
        match self.setup.calls {
            // Whoever makes one call for each process writes the same marker every time.
            0 | 1 => Some(self.setup.first_call + marked.unwrap_or(0).max(inner.succeeded)),
            _ => marked,
        }
    }

    fn step(&self, inner: &mut Inner, call: Option<u32>, origin: Origin) -> Step {
        let other = origin == Origin::Other;
        let arrived = inner.arrived.entry((call, other)).or_default();
        let index = match call {
            Some(_) => *arrived,
            // Calls that cannot be told apart share the script: each step is for as many requests as there are calls.
            None => *arrived / usize::try_from(self.setup.calls.max(1)).unwrap_or(1),
        };
        *arrived += 1;
        let script = if other { &self.setup.other } else { &self.setup.script };
        script.step(index).clone()
    }

    /// The first end counts.
    pub(super) fn end(&self, index: usize, ended: Ended, succeeded: bool) {
        let inner = &mut *self.inner();
        let Some(attempt) = inner.attempts.get_mut(index) else { return };
        if attempt.ended == Ended::Running {
            attempt.ended = ended;
            attempt.ended_at = Some(self.since.elapsed());
            inner.succeeded += u32::from(succeeded);
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    pub(super) async fn attempted(&self, times: usize) {
        let mut changes = self.changes.subscribe();
        loop {
            let arrived = self.inner().arrived.values().copied().max().unwrap_or(0);
            if arrived >= times || changes.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) async fn quiet(&self, calls: u32, quiet: Duration) {
        let mut changes = self.changes.subscribe();
        self.attempted(1).await;
        while self.inner().succeeded < calls {
            let running = || self.inner().attempts.iter().any(|attempt| attempt.ended == Ended::Running);
            match tokio::time::timeout(quiet, changes.changed()).await {
                Ok(Ok(())) => {}
                // A request that the server itself keeps waiting is not quiet.
                Err(_) if running() => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
        // The last answer is on its way.
        tokio::time::sleep(LAST_ANSWER).await;
    }
}

/// Ends an attempt: as it was told, or because the client left.
pub(super) struct Ending {
    log: Arc<Log>,
    index: usize,
}

impl Ending {
    pub(super) fn new(log: Arc<Log>, index: usize) -> Self {
        Self { log, index }
    }

    pub(super) fn answered(&self, succeeded: bool) {
        self.log.end(self.index, Ended::Answered, succeeded);
    }

    pub(super) fn broken(&self) {
        self.log.end(self.index, Ended::Broken, false);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.log.end(self.index, Ended::Left, false);
    }
}

fn aside(api: &Api, method: &Method, path: &str) -> Option<String> {
    if let Some(aside) = api.aside.iter().find(|aside| path.starts_with(&aside.path)) {
        return Some(aside.body.clone());
    }
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS).then(|| api.body.clone())
}

fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let shown = |name: &str, value: &[u8]| match SECRET.contains(&name) {
        true => format!("(hidden, {} bytes)", value.len()),
        false => String::from_utf8_lossy(value).into_owned(),
    };
    headers.iter().map(|(name, value)| (name.to_string(), shown(name.as_str(), value.as_bytes()))).collect()
}

/// Every key of a request.
fn keys(api: &Api, headers: &HeaderMap, body: &[u8]) -> Vec<String> {
    let about_a_key = ["attempt", "retry", "count"];
    let carries = |name: &str| {
        api.key_headers.iter().any(|header| header.eq_ignore_ascii_case(name))
            || (name.contains("idempot") && !about_a_key.iter().any(|word| name.contains(word)))
    };
    let in_headers = headers.iter().filter(|(name, _)| carries(name.as_str()));
    let in_headers = in_headers.map(|(_, value)| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let in_body = api.key_fields.iter().filter_map(|field| body_field(body, field));
    in_headers.chain(in_body).collect()
}

/// A field of a JSON object, with dots between levels, or of a form.
fn body_field(body: &[u8], field: &str) -> Option<String> {
    if let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) {
        let found = field.split('.').try_fold(&json, |at, name| at.get(name))?;
        return found.as_str().map(str::to_owned);
    }
    let pairs = body.split(|byte| *byte == b'&').filter_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        Some((&pair[..at], &pair[at + 1..]))
    });
    let mut found = pairs.filter(|(name, _)| *name == field.as_bytes());
    found.next().map(|(_, value)| String::from_utf8_lossy(value).into_owned())
}

/// The number behind the marker.
fn marker(text: &[u8]) -> Option<u32> {
    let at = text.windows(MARKER.len()).position(|window| window == MARKER.as_bytes())?;
    let digits: String = text[at + MARKER.len()..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .map(|byte| char::from(*byte))
        .collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_is_found_in_any_body() {
        for (body, number) in [
            (&b"{\"name\":\"semel-audit-17\"}"[..], Some(17)),
            (b"name=semel-audit-3&x=1", Some(3)),
            (b"semel-audit-", None),
            (b"", None),
        ] {
            assert_eq!(marker(body), number);
        }
    }

    #[test]
    fn keys_are_found_in_headers_and_declared_fields() {
        let mut headers = HeaderMap::new();
        headers.insert("x-idempotency-key", "a".parse().unwrap());
        headers.insert("idempotency-attempt", "2".parse().unwrap());
        headers.insert("request-token", "b".parse().unwrap());
        let api = Api {
            key_headers: vec!["Request-Token".to_owned()],
            key_fields: vec!["order.key".to_owned()],
            ..Api::default()
        };
        assert_eq!(keys(&api, &headers, br#"{"order":{"key":"c"}}"#), ["a", "b", "c"]);
        let form = Api { key_fields: vec!["key".to_owned()], ..Api::default() };
        assert_eq!(keys(&form, &HeaderMap::new(), b"a=1&key=d"), ["d"]);
        assert_eq!(keys(&Api::default(), &headers, b""), ["a"]);
    }
}
