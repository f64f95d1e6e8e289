//! The fake upstream: acts once for each request that reaches it whole, writes down what it did, and fails in the ways
//! that upstreams do.
//!
//! What it wrote down survives its crashes. Next: [`crate::judge`], which reads it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Channel, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use semel::wire;
use tokio::sync::Notify;

use crate::fault::{Fault, Kind};
use crate::gate;
use crate::network::{Host, Network};
use crate::options::Mode;
use crate::sim::{Life, Sim, lock};
use crate::wire::Stream;

/// The largest answer that the gateways keep.
pub const ANSWER_MAX_BYTES: usize = 16 << 10;
/// How long the gateways gather an answer.
pub const BUFFER_TIMEOUT: Duration = Duration::from_secs(2);
/// The header that names the entry which an answer is about.
pub const ENTRY: &str = "x-entry";

/// One thing that the upstream did, or refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Whether it is an effect; otherwise a refusal.
    pub effect: bool,
    /// The credential it came with.
    pub tenant: String,
    /// The key it came with.
    pub key: String,
    /// Which path it came to.
    pub path: String,
    /// The body it came with.
    pub payload: String,
    /// The token it came with.
    pub token: u64,
    /// Who asked.
    pub caller: String,
    /// Whether the answer says that nothing happened although it did.
    pub lie: bool,
}

/// What has happened at the upstream.
#[derive(Debug, Default)]
pub struct Books {
    /// Effects and refusals, in order.
    pub entries: Vec<Entry>,
    /// How often each claim was sent.
    pub sent: BTreeMap<(String, String, u64), usize>,
    /// The highest token that was acted on.
    fence: BTreeMap<(String, String), u64>,
    /// Claims below these are not acted on any more: a probe was told that nothing has happened.
    void: BTreeMap<String, u64>,
}

/// The upstream, over all its lives.
#[derive(Debug)]
pub struct Upstream {
    network: Arc<Network>,
    store: Arc<gate::Service>,
    books: Mutex<Books>,
    life: Mutex<Arc<Life>>,
}

struct Asked {
    entry: Entry,
    number: usize,
}

type Answer = Response<Either<Full<Bytes>, Channel<Bytes, Infallible>>>;

impl Upstream {
    /// An upstream that listens.
    #[must_use]
    pub fn start(network: Arc<Network>, store: Arc<gate::Service>) -> Arc<Self> {
        let upstream = Arc::new(Self { network, store, books: Mutex::default(), life: Mutex::default() });
        upstream.live();
        upstream
    }

    /// Looks at what has happened.
    pub fn look<T>(&self, look: impl FnOnce(&Books) -> T) -> T {
        look(&lock(&self.books))
    }

    fn sim(&self) -> &Arc<Sim> {
        self.network.sim()
    }

    fn live(self: &Arc<Self>) {
        let life = Life::begin();
        *lock(&self.life) = Arc::clone(&life);
        let listener = self.network.listen(Host::Upstream, &life);
        let upstream = Arc::clone(self);
        tokio::spawn(async move {
            while !life.is_dead() {
                let stream = listener.next().await;
                tokio::spawn(Arc::clone(&upstream).serve(stream, Arc::clone(&life)));
            }
        });
    }

    fn crash(self: &Arc<Self>, life: &Arc<Life>, downtime: Duration) {
        if life.is_dead() {
            return;
        }
        self.network.kill(life);
        let upstream = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(downtime).await;
            upstream.sim().say("upstream", "is back");
            upstream.live();
        });
    }

    async fn serve(self: Arc<Self>, stream: Stream, life: Arc<Life>) {
        let closing = Arc::new(Notify::new());
        let closes = Arc::clone(&closing);
        let service = service_fn(move |request| {
            let (upstream, life, closes) = (Arc::clone(&self), Arc::clone(&life), Arc::clone(&closes));
            async move {
                // What it has begun, it ends, whoever is there to hear of it.
                let handling = tokio::spawn(upstream.handle(request, life, closes));
                match handling.await {
                    Ok(Some(answer)) => Ok(answer),
                    Ok(None) | Err(_) => Err("there is no answer"),
                }
            }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        let mut connection =
            pin!(builder.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            biased;
            _ = connection.as_mut() => return,
            () = closing.notified() => {}
        }
        // The answer is on its way out when its body has been taken.
        let _ = tokio::time::timeout(Duration::from_millis(5), connection).await;
    }

    async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        life: Arc<Life>,
        closing: Arc<Notify>,
    ) -> Option<Answer> {
        let (parts, body) = request.into_parts();
        if parts.method == Method::GET {
            return Some(self.probed(parts.uri.path(), &parts.headers));
        }
        let Ok(body) = body.collect().await else {
            return Some(answer(StatusCode::BAD_REQUEST, "half a request", None));
        };
        let payload = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        let asked = self.arrived(&parts.headers, parts.uri.path(), payload);
        let mut dice = self.sim().dice(&format!("request {} of {}", asked.number, asked.entry.key));
        let fault = self.sim().strike(Kind::Upstream, &mut dice);
        let who = format!("upstream {}", asked.entry.key);
        if let Some(fault) = fault {
            self.sim().struck(fault, &who);
        }
        tokio::time::sleep(dice.millis(1, 40)).await;
        let options = &self.sim().options;
        match fault {
            Some(Fault::SlowHandler) => {
                let lease = u64::try_from(options.lease.as_millis()).unwrap_or(1_000);
                tokio::time::sleep(dice.millis(lease, lease * 3)).await;
            }
            Some(Fault::HangBefore) => tokio::time::sleep(options.upstream_timeout * 2).await,
            Some(Fault::CrashBefore) => {
                self.crash(&life, dice.millis(100, 5_000));
                return None;
            }
            _ => {}
        }
        if life.is_dead() {
            return None;
        }
        let acted = self.act(asked.entry, fault);
        match fault {
            Some(Fault::HangAfter) => tokio::time::sleep(options.upstream_timeout * 2).await,
            Some(Fault::CrashAfter) => {
                self.crash(&life, dice.millis(100, 5_000));
                return None;
            }
            Some(Fault::ClosesAfterAnswer) => closing.notify_one(),
            _ => {}
        }
        Some(acted)
    }

    fn arrived(&self, headers: &HeaderMap, path: &str, payload: String) -> Asked {
        let text = |name: &str| {
            headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let key = text(wire::KEY).trim_matches('"').to_owned();
        let entry = Entry {
            effect: true,
            tenant: text("authorization"),
            key,
            path: path.to_owned(),
            payload,
            token: text(wire::TOKEN).parse().unwrap_or(0),
            caller: text("x-caller"),
            lie: false,
        };
        let mut books = lock(&self.books);
        let claim = (entry.tenant.clone(), entry.key.clone(), entry.token);
        *books.sent.entry(claim).or_default() += 1;
        let number =
            books.sent.iter().filter(|((_, key, _), _)| *key == entry.key).map(|(_, sent)| sent).sum();
        self.sim().say("upstream", &format!("{} arrives with token {}", entry.key, entry.token));
        Asked { entry, number }
    }

    /// Acts, or not, and answers.
    fn act(&self, mut entry: Entry, fault: Option<Fault>) -> Answer {
        let refused = match fault {
            Some(Fault::Error500Before) => Some((StatusCode::INTERNAL_SERVER_ERROR, "broken")),
            Some(Fault::Busy503Before) => Some((StatusCode::SERVICE_UNAVAILABLE, "busy")),
            Some(Fault::Throttled429Before) => Some((StatusCode::TOO_MANY_REQUESTS, "slow down")),
            _ => None,
        };
        if let Some((status, text)) = refused {
            return answer(status, text, None);
        }
        let mode = self.sim().options.mode;
        let record = (entry.tenant.clone(), entry.key.clone());
        let mut books = lock(&self.books);
        if mode == Mode::PassThrough
            && let Some(number) = books
                .entries
                .iter()
                .position(|before| before.effect && before.tenant == entry.tenant && before.key == entry.key)
        {
            let done = &books.entries[number];
            if (&done.path, &done.payload) != (&entry.path, &entry.payload) {
                return answer(StatusCode::UNPROCESSABLE_ENTITY, "another payload", None);
            }
            return answer(StatusCode::CREATED, &body(number, &entry), Some(number));
        }
        let fenced = mode == Mode::Fenced && books.fence.get(&record).is_some_and(|seen| *seen > entry.token);
        let void = books.void.get(&entry.key).is_some_and(|below| entry.token < *below);
        if fenced || void {
            return answer(StatusCode::CONFLICT, "an old token", None);
        }
        books.fence.insert(record, entry.token);
        entry.effect = fault != Some(Fault::Rejected422);
        entry.lie = matches!(fault, Some(Fault::Busy503After | Fault::Throttled429After));
        let number = books.entries.len();
        books.entries.push(entry.clone());
        let kind = if entry.effect { "EFFECT" } else { "refusal" };
        self.sim().say("upstream", &format!("{} {kind} {number} under token {}", entry.key, entry.token));
        done(fault, number, &entry)
    }

    /// Whether the effect of a key happened. After a no, no older claim will make it happen.
    fn probed(&self, path: &str, headers: &HeaderMap) -> Answer {
        let key = path.trim_start_matches("/probe/");
        let tenant = headers.get("authorization").map(HeaderValue::as_bytes).unwrap_or_default();
        let mut books = lock(&self.books);
        let found =
            books.entries.iter().position(|entry| entry.key == key && entry.tenant.as_bytes() == tenant);
        if let Some(number) = found {
            let entry = &books.entries[number];
            let status = if entry.effect { StatusCode::CREATED } else { StatusCode::UNPROCESSABLE_ENTITY };
            return answer(status, &body(number, entry), Some(number));
        }
        if let Some(token) = self.store.token(key) {
            books.void.insert(key.to_owned(), token.0);
        }
        answer(StatusCode::NOT_FOUND, "it has not happened", None)
    }
}

/// The answer to what was done.
fn done(fault: Option<Fault>, number: usize, entry: &Entry) -> Answer {
    let text = body(number, entry);
    match fault {
        Some(Fault::Rejected422) => answer(StatusCode::UNPROCESSABLE_ENTITY, &text, Some(number)),
        Some(Fault::Error500After) => answer(StatusCode::INTERNAL_SERVER_ERROR, "broken", None),
        Some(Fault::Busy503After) => answer(StatusCode::SERVICE_UNAVAILABLE, "busy", None),
        Some(Fault::Throttled429After) => answer(StatusCode::TOO_MANY_REQUESTS, "slow down", None),
        Some(Fault::EmptyAnswer) => answer(StatusCode::NO_CONTENT, "", Some(number)),
        Some(Fault::OversizedAnswer) => {
            let long = format!("{text}{}", "x".repeat(2 * ANSWER_MAX_BYTES));
            answer(StatusCode::CREATED, &long, Some(number))
        }
        Some(Fault::SlowAnswer) => slowly(text, number),
        _ => answer(StatusCode::CREATED, &text, Some(number)),
    }
}

/// What an answer says: whose effect it was, so that nobody else may be shown it.
fn body(number: usize, entry: &Entry) -> String {
    let Entry { tenant, key, path, payload, .. } = entry;
    format!("entry {number}: {tenant} {key} {path} {payload}")
}

fn answer(status: StatusCode, text: &str, number: Option<usize>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::copy_from_slice(text.as_bytes()))));
    *answer.status_mut() = status;
    if let Some(number) = number {
        name(answer.headers_mut(), number);
    }
    answer
}

fn name(headers: &mut HeaderMap, number: usize) {
    headers.insert(ENTRY, HeaderValue::from(number));
    if let Ok(location) = HeaderValue::from_str(&format!("/charges/{number}")) {
        headers.insert("location", location);
    }
}

fn slowly(text: String, number: usize) -> Answer {
    let (mut sender, channel) = Channel::new(1);
    tokio::spawn(async move {
        for piece in text.as_bytes().chunks(text.len() / 3 + 1) {
            if sender.send_data(Bytes::copy_from_slice(piece)).await.is_err() {
                return;
            }
            tokio::time::sleep(BUFFER_TIMEOUT).await;
        }
    });
    let mut answer = Response::new(Either::Right(channel));
    *answer.status_mut() = StatusCode::CREATED;
    name(answer.headers_mut(), number);
    answer
}
