//! A small client that does everything right, and can be told to do one thing wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use semel_auditor::scenario::{Said, Scenario};
use tokio::net::TcpStream;

/// One thing that a client can do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// A key only when it is given one; nothing without a key is sent again after an unknown outcome.
    NoKeyByDefault,
    /// The same, and it is sent again all the same.
    KeylessReplay,
    /// A new key after a 5xx.
    NewKeyAfterFailure,
    /// Two calls share each key.
    SharedKeys,
    IgnoresOwnKey,
    BodyHasAttempt,
    CounterKeys,
    LongKeys,
    NeverGivesUp,
    ConstantDelay,
    NoJitter,
    IgnoresRetryAfterOn503,
    IgnoresDates,
    ComesBackWhenTooLong,
    SleepsForAnHour,
    TakesNegativeAsZero,
    RetriesUnprocessable,
    GivesUpOnOutstanding,
    ForgetsKeyOfHalfAnswer,
    NoTimeout,
    BareError,
    AlwaysRetriesOnce,
    TakesCredentialsAlong,
    NoBudget,
}

/// The client. A new one for each scenario.
pub(crate) struct Client {
    fault: Fault,
    asked: Scenario,
    budget: AtomicI64,
    minted: AtomicU64,
}

const BASE_MS: f64 = 400.0;
/// As the budgets of others: a burst of 100, and a tenth of a retry for each call; in tenths.
const BURST: i64 = 1000;
const LONGEST_WAIT_S: f64 = 60.0;

enum Outcome {
    Answer(StatusCode, HeaderMap, Bytes),
    NotSent(String),
    Lost(String),
    Truncated(String),
}

/// How a call goes on.
enum Next {
    Return,
    Retry(Duration),
    Redirect(Uri),
}

impl Client {
    pub(crate) fn new(fault: Fault, asked: Scenario) -> Self {
        Self { fault, asked, budget: AtomicI64::new(BURST), minted: AtomicU64::new(0) }
    }

    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn mint(&self) -> Option<String> {
        let nth = self.minted.fetch_add(1, Ordering::SeqCst);
        match self.fault {
            Fault::NoKeyByDefault | Fault::KeylessReplay => None,
            Fault::SharedKeys => {
                Some(format!("{}-{:016x}{:016x}", nth / 2, spread(nth / 2), spread(nth / 2 + 7_777)))
            }
            Fault::CounterKeys => Some(format!("order-{nth:030}")),
            Fault::LongKeys => Some(uuid().repeat(9)),
            _ => Some(uuid()),
        }
    }

    /// One call, and what it says of itself.
    pub(crate) async fn call(self: Arc<Self>, call: u32) -> Said {
        let own = self.asked.key.clone().filter(|_| !self.is(Fault::IgnoresOwnKey));
        let first_key = own.clone().or_else(|| self.mint());
        let mut key = first_key.clone();
        let mut to: Uri = format!("{}/payments", self.asked.url).parse().unwrap();
        self.budget.fetch_add(1, Ordering::SeqCst);
        let (mut attempts, mut retries) = (0, 0);
        loop {
            attempts += 1;
            let outcome = self.attempt(&to, call, attempts, key.as_deref()).await;
            match self.next(&outcome, retries, key.is_some(), &to) {
                Next::Return => return self.said(call, &outcome, attempts, first_key),
                Next::Redirect(other) => to = other,
                Next::Retry(delay) => {
                    retries += 1;
                    tokio::time::sleep(delay).await;
                    let failed = matches!(&outcome, Outcome::Answer(status, ..) if status.is_server_error());
                    if self.is(Fault::NewKeyAfterFailure) && failed && own.is_none() {
                        key = self.mint();
                    }
                }
            }
        }
    }

    fn next(&self, outcome: &Outcome, retries: u32, keyed: bool, at: &Uri) -> Next {
        if let Some(to) = self.redirect(outcome, at) {
            return Next::Redirect(to);
        }
        let bare = self.is(Fault::NoKeyByDefault) && !keyed;
        let asked = match outcome {
            Outcome::Answer(status, headers, body) => {
                if !self.retries_status(status.as_u16(), body) || (bare && *status != 503 && *status != 429) {
                    return Next::Return;
                }
                self.retry_after(*status, headers)
            }
            Outcome::Lost(_) | Outcome::Truncated(_) if bare => return Next::Return,
            Outcome::Truncated(_) if self.is(Fault::ForgetsKeyOfHalfAnswer) => return Next::Return,
            Outcome::NotSent(_) | Outcome::Lost(_) | Outcome::Truncated(_) => None,
        };
        if retries >= self.retries_max() {
            return Next::Return;
        }
        let Some(delay) = self.delay(asked, retries) else { return Next::Return };
        let paid = self
            .budget
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| (left >= 10).then(|| left - 10));
        match paid.is_ok() || self.is(Fault::NoBudget) {
            true => Next::Retry(delay),
            false => Next::Return,
        }
    }

    fn retries_max(&self) -> u32 {
        let asked = self.asked.max_retries;
        match self.fault {
            Fault::NeverGivesUp => asked.unwrap_or(u32::MAX),
            Fault::AlwaysRetriesOnce => asked.unwrap_or(3).max(1),
            _ => asked.unwrap_or(3),
        }
    }

    fn retries_status(&self, status: u16, body: &Bytes) -> bool {
        match status {
            429 | 500 | 502 | 503 | 504 => true,
            409 => {
                let outstanding = body.windows(11).any(|window| window == b"outstanding");
                outstanding && !self.is(Fault::GivesUpOnOutstanding)
            }
            422 => self.is(Fault::RetriesUnprocessable),
            _ => false,
        }
    }

    /// Seconds.
    fn retry_after(&self, status: StatusCode, headers: &HeaderMap) -> Option<f64> {
        let value = headers.get("retry-after")?.to_str().ok()?;
        if status == 503 && value == "2" && self.is(Fault::IgnoresRetryAfterOn503) {
            return None;
        }
        if value.starts_with('-') && self.is(Fault::TakesNegativeAsZero) {
            return Some(0.0);
        }
        if let Ok(seconds) = value.parse::<u64>() {
            return Some(seconds as f64);
        }
        if self.is(Fault::IgnoresDates) {
            return None;
        }
        let date = httpdate::parse_http_date(value).ok()?;
        let now = httpdate::parse_http_date(headers.get("date")?.to_str().ok()?).ok()?;
        Some(date.duration_since(now).unwrap_or_default().as_secs_f64())
    }

    /// `None`: too long to wait.
    fn delay(&self, asked: Option<f64>, retries: u32) -> Option<Duration> {
        let random = f64::from(u32::try_from(spread(chance()) >> 40).unwrap()) / f64::from(1 << 24);
        let cap = if self.is(Fault::NeverGivesUp) { 1600.0 } else { 8000.0 };
        let step = if self.is(Fault::ConstantDelay) { 0 } else { retries.min(8) };
        let jitter = if self.is(Fault::NoJitter) { 1.0 } else { 0.2 + 1.6 * random };
        let backoff = (BASE_MS * 2_f64.powi(i32::try_from(step).unwrap())).min(cap) * jitter;
        let ms = match asked {
            None => backoff,
            Some(0.0) if self.is(Fault::TakesNegativeAsZero) => 0.0,
            Some(seconds) if seconds > LONGEST_WAIT_S => match self.fault {
                Fault::ComesBackWhenTooLong => backoff,
                Fault::SleepsForAnHour if seconds < 86_400.0 => seconds * 1e3,
                _ => return None,
            },
            Some(seconds) => seconds * 1e3 + random * 500.0,
        };
        Some(Duration::from_secs_f64(ms / 1e3))
    }

    fn redirect(&self, outcome: &Outcome, at: &Uri) -> Option<Uri> {
        let Outcome::Answer(status, headers, _) = outcome else { return None };
        if !matches!(status.as_u16(), 307 | 308) {
            return None;
        }
        let to: Uri = headers.get("location")?.to_str().ok()?.parse().ok()?;
        (to.authority() == at.authority() || self.is(Fault::TakesCredentialsAlong)).then_some(to)
    }

    async fn attempt(&self, to: &Uri, call: u32, attempt: u32, key: Option<&str>) -> Outcome {
        let timeout = match self.fault {
            Fault::NoTimeout => Duration::from_secs(3600),
            _ => Duration::from_millis(self.asked.timeout_ms.unwrap_or(30_000)),
        };
        let sending = self.send(to, call, attempt, key);
        tokio::time::timeout(timeout, sending).await.unwrap_or_else(|_| Outcome::Lost("timed out".to_owned()))
    }

    async fn send(&self, to: &Uri, call: u32, attempt: u32, key: Option<&str>) -> Outcome {
        let authority = to.authority().unwrap().as_str();
        let stream = match TcpStream::connect(authority).await {
            Ok(stream) => stream,
            Err(error) => return Outcome::NotSent(error.to_string()),
        };
        let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else {
            return Outcome::NotSent("no handshake".to_owned());
        };
        let connection = tokio::spawn(connection);
        let attempt = if self.is(Fault::BodyHasAttempt) { attempt } else { 0 };
        let body = format!("{{\"name\":\"semel-audit-{call}\",\"cents\":100,\"attempt\":{attempt}}}");
        let mut request = Request::post(to.path())
            .header("host", authority)
            .header("content-type", "application/json")
            .header("authorization", "Bearer test");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let sent = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await;
        let outcome = match sent {
            Err(error) => Outcome::Lost(error.to_string()),
            Ok(answer) => whole(answer).await,
        };
        connection.abort();
        outcome
    }

    fn said(&self, call: u32, outcome: &Outcome, attempts: u32, key: Option<String>) -> Said {
        let said = Said { call, ..Said::default() };
        let (status, error) = match outcome {
            Outcome::Answer(status, ..) if status.is_success() => return Said { ok: true, ..said },
            Outcome::Answer(status, ..) => (Some(status.as_u16()), format!("status {status}")),
            Outcome::NotSent(why) | Outcome::Lost(why) | Outcome::Truncated(why) => (None, why.clone()),
        };
        let retry_after_s = match outcome {
            Outcome::Answer(status, headers, _) => self.retry_after(*status, headers),
            _ => None,
        };
        let said = Said { status, error: Some(error), ..said };
        let half = matches!(outcome, Outcome::Truncated(_)) && self.is(Fault::ForgetsKeyOfHalfAnswer);
        match self.is(Fault::BareError) || half {
            true => said,
            false => Said { key, retryable: Some(true), attempts: Some(attempts), retry_after_s, ..said },
        }
    }
}

async fn whole(answer: Response<hyper::body::Incoming>) -> Outcome {
    let (head, body) = answer.into_parts();
    match body.collect().await {
        Ok(body) => Outcome::Answer(head.status, head.headers, body.to_bytes()),
        Err(error) => Outcome::Truncated(error.to_string()),
    }
}

/// A different number each time, in this process and in others.
fn chance() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

fn spread(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Version 4.
fn uuid() -> String {
    let (high, low) = (spread(chance()), spread(chance()));
    let (high, low) = ((high & !0xf000) | 0x4000, (low & !(0b11 << 62)) | (0b10 << 62));
    let text = format!("{high:016x}{low:016x}");
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}
