//! Callers over HTTP/1.1 or HTTP/2, who look at every answer: in a closed loop, or as many requests a second as are
//! asked for.
//!
//! They live in the upstream's process. A wrong answer ends the measurement: a fast wrong answer is none. Next: `caller`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::caller::{Caller, Sent};
use super::upstream::{ANSWER_BYTES, Book};

/// Requests that are repeated have one of so many keys.
const HOT_KEYS: u64 = 100;

/// Which keys requests have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Workload {
    /// None.
    Unkeyed,
    /// Each a key of its own.
    Fresh,
    /// Four of five are repeated.
    Mixed,
    /// One of a hundred keys that are all finished.
    Replay,
    /// One request of each caller, all at once and with one key.
    Crowd,
}

impl Workload {
    /// For people.
    pub(crate) fn called(self) -> &'static str {
        match self {
            Self::Unkeyed => "no key",
            Self::Fresh => "fresh",
            Self::Mixed => "mixed",
            Self::Replay => "replay",
            Self::Crowd => "one key",
        }
    }
}

/// What callers are told to do.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Load {
    pub(super) port: u16,
    pub(super) path: String,
    pub(super) workload: Workload,
    pub(super) callers: u64,
    /// How many callers share a connection, each in a stream of its own; `None` for HTTP/1.1.
    pub(super) http2: Option<u64>,
    /// They stop after so long, or after so many requests.
    pub(super) milliseconds: u64,
    pub(super) requests: Option<u64>,
    /// So many a second, evenly, however long answers take: latency is from when a request was due, so that one that had
    /// to wait for a caller counts as late.
    pub(super) rate: Option<u64>,
    /// How long the effect takes.
    pub(super) pause_ms: u64,
    /// A header that carries the key to the effect, where the middle keeps `Idempotency-Key` to itself.
    pub(super) key_header: Option<String>,
    /// Whether nobody in the middle knows keys, so that a repeated one has another answer.
    pub(super) bare: bool,
    /// The status of an answer.
    pub(super) status: u16,
    /// Whether another status is counted and not refused.
    pub(super) lenient: bool,
    /// Begins every key.
    pub(super) prefix: String,
}

/// What the callers saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Saw {
    pub(super) answers: u64,
    /// Distinct keys that were sent.
    pub(super) keys: u64,
    pub(super) seconds: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) max_us: f64,
    /// From the end of the last effect to the last answer; 0 when that was before.
    pub(super) after_effect_ms: f64,
    /// Answers of each status, where any is taken.
    pub(super) statuses: BTreeMap<u16, u64>,
}

struct Callers {
    load: Load,
    begun: Instant,
    until: Instant,
    next: Cell<u64>,
    fresh: Cell<u64>,
    /// The answer that each repeated key must give.
    first: RefCell<HashMap<String, Bytes>>,
    latencies: RefCell<Vec<Duration>>,
    statuses: RefCell<BTreeMap<u16, u64>>,
}

pub(super) async fn run(load: Load, book: &RefCell<Book>) -> Result<Saw, Box<dyn Error>> {
    let mut callers = Callers {
        load,
        begun: Instant::now(),
        until: Instant::now() + Duration::from_secs(600),
        next: Cell::new(0),
        fresh: Cell::new(0),
        first: RefCell::default(),
        latencies: RefCell::default(),
        statuses: RefCell::default(),
    };
    let mut connected = callers.connect().await?;
    if matches!(callers.load.workload, Workload::Replay | Workload::Mixed) {
        for hot in 0..HOT_KEYS {
            callers.ask(&mut connected[0], Some(&callers.hot(hot))).await?;
        }
    }
    callers.begun = Instant::now();
    callers.until = callers.begun + Duration::from_millis(callers.load.milliseconds);
    let callers = Rc::new(callers);
    let mut tasks = JoinSet::new();
    for caller in connected {
        tasks.spawn_local(Rc::clone(&callers).call(caller));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let mut saw = callers.saw(callers.begun.elapsed());
    let after = book.borrow().ended.map_or(Duration::ZERO, |ended| ended.elapsed());
    saw.after_effect_ms = after.as_secs_f64() * 1e3;
    Ok(saw)
}

impl Callers {
    /// Everybody's connection, or their place on one.
    async fn connect(&self) -> Result<Vec<Caller>, Box<dyn Error>> {
        let mut all: Vec<Caller> = Vec::new();
        for number in 0..self.load.callers {
            let shared = self.load.http2.filter(|streams| !number.is_multiple_of(*streams));
            let next = match all.last().filter(|_| shared.is_some()).and_then(Caller::beside) {
                Some(beside) => beside,
                None => Caller::connect(self.load.port, self.load.http2.is_some()).await?,
            };
            all.push(next);
        }
        Ok(all)
    }

    fn hot(&self, hot: u64) -> String {
        format!("{}-hot-{hot:03}", self.load.prefix)
    }

    fn key(&self) -> Option<String> {
        let number = self.next.replace(self.next.get() + 1);
        let repeated = match self.load.workload {
            Workload::Unkeyed => return None,
            Workload::Crowd => return Some(self.hot(0)),
            Workload::Fresh => false,
            Workload::Replay => true,
            Workload::Mixed => !number.is_multiple_of(5),
        };
        if repeated {
            return Some(self.hot(number % HOT_KEYS));
        }
        self.fresh.set(self.fresh.get() + 1);
        Some(format!("{}-{number:016x}", self.load.prefix))
    }

    fn goes_on(&self) -> bool {
        match self.load.requests {
            Some(requests) => self.next.get() < requests,
            None => Instant::now() < self.until,
        }
    }

    async fn call(self: Rc<Self>, mut caller: Caller) -> Result<(), String> {
        while self.goes_on() {
            let nth = self.next.get();
            let key = self.key();
            let due = self.due(nth).await;
            self.ask(&mut caller, key.as_deref()).await?;
            self.latencies.borrow_mut().push(due.elapsed());
            if self.load.workload == Workload::Crowd {
                break;
            }
        }
        Ok(())
    }

    /// When the `nth` request is to be sent: at once where there is no rate. A timer would be a millisecond late.
    async fn due(&self, nth: u64) -> Instant {
        let Some(rate) = self.load.rate else { return Instant::now() };
        let due = self.begun + Duration::from_secs_f64(nth as f64 / rate as f64);
        while Instant::now() < due {
            tokio::task::yield_now().await;
        }
        due
    }

    /// One request; an answer that is not the right one is an error.
    async fn ask(&self, caller: &mut Caller, key: Option<&str>) -> Result<(), String> {
        let (path, key_header) = (&self.load.path, self.load.key_header.as_deref());
        let sent = Sent { path, key, key_header, pause_ms: self.load.pause_ms };
        let (status, body) = caller.send(&sent).await.map_err(|error| error.to_string())?;
        if self.load.lenient {
            *self.statuses.borrow_mut().entry(status).or_default() += 1;
            if status != self.load.status {
                return Ok(());
            }
        }
        let named = format!(r#"{{"key":"{}","number":"#, key.unwrap_or("none"));
        if status != self.load.status || body.len() != ANSWER_BYTES || !body.starts_with(named.as_bytes()) {
            let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
            return Err(format!("a wrong answer to {key:?}: {status} {text}"));
        }
        if let Some(key) = key.filter(|key| key.contains("-hot-") && !self.load.bare) {
            let mut first = self.first.borrow_mut();
            match first.get(key) {
                Some(first) if *first == body => {}
                Some(_) => return Err(format!("two answers to {key}")),
                None => _ = first.insert(key.to_owned(), body),
            }
        }
        Ok(())
    }

    fn saw(&self, took: Duration) -> Saw {
        let mut latencies = self.latencies.take();
        latencies.sort_unstable();
        let at = |thousandth: usize| {
            latencies.get(latencies.len() * thousandth / 1000).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        Saw {
            answers: latencies.len() as u64,
            keys: self.fresh.get() + self.first.borrow().len() as u64,
            seconds: took.as_secs_f64(),
            p50_us: at(500),
            p99_us: at(990),
            max_us: latencies.last().map_or(0.0, |time| time.as_secs_f64() * 1e6),
            after_effect_ms: 0.0,
            statuses: self.statuses.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::gateway::upstream;

    /// The upstream, called with nothing in the middle.
    async fn straight(workload: Workload, change: impl FnOnce(&mut Load)) -> Result<Saw, Box<dyn Error>> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut load = Load {
            port: listener.local_addr()?.port(),
            path: "/charges".to_owned(),
            workload,
            callers: 4,
            http2: None,
            milliseconds: 0,
            requests: Some(200),
            rate: None,
            pause_ms: 0,
            key_header: None,
            bare: false,
            status: 201,
            lenient: false,
            prefix: "test".to_owned(),
        };
        change(&mut load);
        let book = Rc::default();
        let local = tokio::task::LocalSet::new();
        local.spawn_local(upstream::serve(listener, Rc::clone(&book)));
        local.run_until(run(load, &book)).await
    }

    #[tokio::test]
    async fn each_key_that_is_fresh_is_counted() {
        let saw = straight(Workload::Fresh, |_| ()).await.expect("all are right");
        assert_eq!((saw.answers, saw.keys), (200, 200));
    }

    #[tokio::test]
    async fn two_answers_to_one_key_end_the_measurement() {
        for workload in [Workload::Replay, Workload::Mixed, Workload::Crowd] {
            let error = straight(workload, |_| ()).await.expect_err("the upstream knows no keys");
            assert!(error.to_string().starts_with("two answers to test-hot-"), "{error}");
        }
    }

    #[tokio::test]
    async fn requests_are_as_many_as_asked_for_and_who_waits_for_a_caller_is_late() {
        let saw = straight(Workload::Fresh, |load| load.rate = Some(2_000)).await.expect("all are right");
        assert!((0.099..0.5).contains(&saw.seconds), "{saw:?}");
        // One caller, and 10 ms for each of 20 that are due within 1 ms: the last is 200 ms late.
        let slow = |load: &mut Load| {
            (load.callers, load.pause_ms, load.requests, load.rate) = (1, 10, Some(20), Some(20_000));
        };
        let saw = straight(Workload::Fresh, slow).await.expect("all are right");
        assert!(saw.max_us > 199_000.0 && saw.p50_us > 90_000.0, "{saw:?}");
    }

    #[tokio::test]
    async fn another_status_ends_the_measurement() {
        let error = straight(Workload::Fresh, |load| load.status = 200).await.expect_err("it is 201");
        assert!(error.to_string().starts_with("a wrong answer to"), "{error}");
    }

    #[tokio::test]
    async fn answer_is_after_the_end_of_its_effect() {
        let saw = straight(Workload::Crowd, |load| (load.callers, load.pause_ms) = (1, 30)).await;
        let saw = saw.expect("one caller is answered");
        assert!(saw.after_effect_ms < saw.max_us / 1e3 - 29.0, "{saw:?}");
    }
}
