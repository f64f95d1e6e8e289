//! An API that honours keys as it should, in memory, and that can be told to make one mistake.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What it does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Looks first and stores later.
    CheckThenSet,
    /// Stores by the key alone.
    NoFingerprint,
    /// Compares path and payload, not the query.
    NoQuery,
    /// One store for all callers.
    SharedTenants,
    /// As the above, but compares who calls as if it were payload.
    TenantInFingerprint,
    /// Takes an empty answer for none.
    EmptyIsNone,
    /// Takes the quoted form for another key.
    QuotedDiffers,
    /// Sends back the marker that it got.
    MarkerPassedThrough,
    /// Never says that it replays.
    NoMarker,
    CookieReplayed,
    CacheableReplay,
    /// Shows what the first payload was.
    Leaks,
    /// Of two keys takes the first.
    FirstOfTwo,
    /// Cuts keys at 255 characters.
    CutsKeys,
    /// Takes keys of 300 characters as they are.
    LongKeys,
    EmptyKeys,
    OddKeys,
    LowerCase,
    /// Takes no key for one key that all share, and compares no payloads under it.
    MissingIsBlank,
    /// Stops working, and leaves the record in flight, when the caller goes.
    StopsAtHangUp,
    ReplaysWith200,
    LocationLost,
    RepeatsLost,
    RequestIdLost,
    RacersFail,
    NoRetryAfter,
    PlainErrors,
    /// 409 where 422 is documented.
    MismatchIs409,
    /// Runs again what failed with 5xx.
    FailuresRunAgain,
    /// A mismatch takes the record away.
    MismatchForgets,
    /// Uses the key up with the head of a request.
    HeadUsesKeyUp,
    /// Whoever meets a request in flight and leaves takes its record away.
    WaiterRemoves,
    /// Keeps what was replayed near, by its key alone.
    NearByKey,
    /// Refuses a payload that it has seen under another key.
    SamePayloadRefused,
    /// Callers of one key who meet in flight share the answer, whoever they are.
    SharedFlights,
}

#[derive(Clone, Debug)]
struct Stored {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Clone, Debug)]
struct Record {
    target: String,
    payload: Bytes,
    /// `None` while it is in flight.
    answer: Option<Stored>,
}

pub(crate) struct Api {
    fault: Fault,
    stripe: bool,
    effects: AtomicU64,
    records: Mutex<HashMap<String, Record>>,
    near: Mutex<HashMap<String, Stored>>,
}

type Answer = Response<Full<Bytes>>;

/// Runs until dropped.
pub(crate) struct Serving {
    pub(crate) addr: SocketAddr,
    _tasks: JoinSet<()>,
}

pub(crate) async fn serve(fault: Fault, stripe: bool) -> Serving {
    let api = Arc::new(Api {
        fault,
        stripe,
        effects: AtomicU64::new(0),
        records: Mutex::default(),
        near: Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let api = Arc::clone(&api);
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let api = Arc::clone(&api);
                    async move { api.answer(request).await }
                });
                // What a client does to its connection is the test's business.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
            while connections.try_join_next().is_some() {}
        }
    });
    Serving { addr, _tasks: tasks }
}

impl Api {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, hyper::Error> {
        let (head, body) = request.into_parts();
        if head.uri.path() == "/count" {
            return Ok(json_answer(200, &json!({ "made": { "n": self.effects.load(Ordering::SeqCst) } })));
        }
        let key = match self.key(&head.headers) {
            Ok(key) => key,
            Err(answer) => return Ok(*answer),
        };
        let spoofed = head.headers.get("idempotency-replayed").cloned();
        let sent = head.headers.get("idempotency-key").cloned();
        let target = head.uri.path_and_query().unwrap().to_string();
        let mut id = None;
        if let Some(key) = key {
            let tenant = head.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
            id = Some(match self.fault {
                Fault::SharedTenants | Fault::TenantInFingerprint => key,
                _ => format!("{tenant:?} {key}"),
            });
        }
        let head_id = id.as_ref().map(|id| format!("head {id}")).filter(|_| self.is(Fault::HeadUsesKeyUp));
        if let Some(head_id) = head_id.clone() {
            let record = Record { target: target.clone(), payload: Bytes::new(), answer: None };
            if self.records.lock().unwrap().insert(head_id, record).is_some() {
                body.collect().await?;
                return Ok(self.refuse(409, "in flight"));
            }
        }
        let mut payload = body.collect().await?.to_bytes();
        if let Some(head_id) = head_id {
            self.records.lock().unwrap().remove(&head_id);
        }
        let work = Work { method: head.method, path: head.uri.path().to_owned(), payload: payload.clone() };
        if self.is(Fault::TenantInFingerprint) {
            let tenant = head.headers.get("authorization").map(|value| value.as_bytes().to_vec());
            payload = [payload.to_vec(), tenant.unwrap_or_default()].concat().into();
        }
        let Some(id) = id else { return Ok(self.work(&work).await.fresh()) };
        let mut answer = Arc::clone(&self).keyed(id, target, payload, work).await;
        if self.is(Fault::MarkerPassedThrough)
            && let Some(value) = spoofed
        {
            answer.headers_mut().insert("idempotency-replayed", value);
        }
        answer.headers_mut().extend(sent.map(|key| (http::HeaderName::from_static("idempotency-key"), key)));
        Ok(answer)
    }

    fn key(&self, headers: &HeaderMap) -> Result<Option<String>, Box<Answer>> {
        let refuse = |what: &str| Box::new(self.refuse(400, what));
        let values: Vec<_> = headers.get_all("idempotency-key").iter().collect();
        let value = match values.as_slice() {
            [] if self.is(Fault::MissingIsBlank) => return Ok(Some(String::new())),
            [] => return Ok(None),
            [value] => value,
            [value, ..] if self.is(Fault::FirstOfTwo) => value,
            _ => return Err(refuse("the key is there twice")),
        };
        let mut key = String::from_utf8_lossy(value.as_bytes()).into_owned();
        if !self.is(Fault::QuotedDiffers)
            && let Some(inner) = key.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'))
        {
            key = inner.to_owned();
        }
        if self.is(Fault::LowerCase) {
            key.make_ascii_lowercase();
        }
        if self.is(Fault::CutsKeys) {
            key.truncate(255);
        }
        if key.is_empty() && !self.is(Fault::EmptyKeys) {
            return Err(refuse("the key is empty"));
        }
        if key.len() > 255 && !self.is(Fault::LongKeys) {
            return Err(refuse("the key is too long"));
        }
        if key.bytes().any(|byte| !(0x20..0x7f).contains(&byte)) && !self.is(Fault::OddKeys) {
            return Err(refuse("the key is not printable"));
        }
        Ok(Some(key))
    }

    async fn keyed(self: Arc<Self>, id: String, target: String, payload: Bytes, work: Work) -> Answer {
        if self.is(Fault::NearByKey)
            && let Some(stored) = self.near.lock().unwrap().get(&id).cloned()
        {
            return self.replay(stored);
        }
        if self.is(Fault::SamePayloadRefused) && self.has_elsewhere(&id, &payload) {
            return self.refuse(422, "this was sent under another key");
        }
        if self.is(Fault::SharedFlights)
            && let Some(stored) = self.another_flight(&id).await
        {
            return self.replay(stored);
        }
        let claimed = Record { target: target.clone(), payload: payload.clone(), answer: None };
        let standing = {
            let mut records = self.records.lock().unwrap();
            let standing = records.get(&id).cloned();
            if standing.is_none() && !self.is(Fault::CheckThenSet) {
                records.insert(id.clone(), claimed.clone());
            }
            standing
        };
        if let Some(record) = standing {
            return self.again(&id, record, &target, &payload);
        }
        let api = Arc::clone(&self);
        let running = async move {
            let stored = api.work(&work).await;
            let kept = match api.fault {
                Fault::EmptyIsNone => !stored.body.is_empty(),
                Fault::FailuresRunAgain => !stored.status.is_server_error(),
                _ => true,
            };
            let mut records = api.records.lock().unwrap();
            if kept {
                records.insert(id, Record { answer: Some(stored.clone()), ..claimed });
            } else {
                records.remove(&id);
            }
            stored
        };
        let stored = match self.fault {
            Fault::StopsAtHangUp => running.await,
            _ => tokio::spawn(running).await.unwrap(),
        };
        stored.fresh()
    }

    fn has_elsewhere(&self, id: &str, payload: &Bytes) -> bool {
        let records = self.records.lock().unwrap();
        records.iter().any(|(other, record)| other != id && record.payload == payload && !payload.is_empty())
    }

    /// What another caller who uses the same key right now is answered.
    async fn another_flight(&self, id: &str) -> Option<Stored> {
        let key = id.rsplit(' ').next().unwrap();
        let of_another = |(other, record): (&String, &Record)| {
            (other != id && other.ends_with(key) && record.answer.is_none()).then(|| other.clone())
        };
        let other = self.records.lock().unwrap().iter().find_map(of_another)?;
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let records = self.records.lock().unwrap();
            if let Some(stored) = records.get(&other).and_then(|record| record.answer.clone()) {
                return Some(stored);
            }
        }
    }

    fn again(&self, id: &str, record: Record, target: &str, payload: &Bytes) -> Answer {
        let path = |target: &str| target.split('?').next().unwrap().to_owned();
        let same_target = match self.fault {
            Fault::NoFingerprint => true,
            Fault::NoQuery => path(&record.target) == path(target),
            _ => record.target == target,
        };
        let unlike = self.is(Fault::NoFingerprint) || (self.is(Fault::MissingIsBlank) && id.ends_with(' '));
        let same = same_target && (record.payload == payload || unlike);
        if !same {
            let status = match self.fault {
                Fault::MismatchIs409 => 409,
                _ if self.stripe => 400,
                _ => 422,
            };
            if self.is(Fault::MismatchForgets) {
                self.records.lock().unwrap().remove(id);
            }
            let first = String::from_utf8_lossy(&record.payload).into_owned();
            let leak = if self.is(Fault::Leaks) { first } else { String::new() };
            return self.refuse(status, &format!("the key was used for another request {leak}"));
        }
        if record.answer.is_none() && self.is(Fault::WaiterRemoves) {
            self.records.lock().unwrap().remove(id);
        }
        match record.answer {
            Some(stored) => {
                self.near.lock().unwrap().insert(id.to_owned(), stored.clone());
                self.replay(stored)
            }
            None if self.is(Fault::RacersFail) => self.refuse(500, "unique violation"),
            None => self.refuse(409, "in flight"),
        }
    }

    fn replay(&self, stored: Stored) -> Answer {
        let Stored { mut status, mut headers, body } = stored;
        if !self.is(Fault::CookieReplayed) {
            headers.remove("set-cookie");
        }
        if !self.is(Fault::CacheableReplay) {
            headers.insert("cache-control", "no-store".parse().unwrap());
        }
        let marker = if self.stripe { "idempotent-replayed" } else { "idempotency-replayed" };
        if !self.is(Fault::NoMarker) {
            headers.insert(marker, "true".parse().unwrap());
        }
        match self.fault {
            Fault::LocationLost => drop(headers.remove("location")),
            Fault::RequestIdLost => drop(headers.remove("x-request-id")),
            // Takes all others of that name out.
            Fault::RepeatsLost => {
                if let Some(first) = headers.get("link").cloned() {
                    headers.insert("link", first);
                }
            }
            Fault::ReplaysWith200 => status = StatusCode::OK,
            _ => {}
        }
        Stored { status, headers, body }.fresh()
    }

    fn refuse(&self, status: u16, why: &str) -> Answer {
        let mut answer = if self.is(Fault::PlainErrors) {
            let mut answer = Response::new(Full::from(why.to_owned()));
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            answer
        } else if self.stripe {
            json_answer(status, &json!({ "error": { "type": "idempotency_error", "message": why } }))
        } else {
            let mut answer = json_answer(status, &json!({ "title": why }));
            answer.headers_mut().insert("content-type", "application/problem+json".parse().unwrap());
            answer
        };
        if status == 409 && !self.is(Fault::NoRetryAfter) {
            answer.headers_mut().insert("retry-after", "1".parse().unwrap());
        }
        answer
    }

    /// Acts. A charge takes its time, so that racers meet.
    async fn work(&self, work: &Work) -> Stored {
        let payload: Value = serde_json::from_slice(&work.payload).unwrap_or_default();
        let answer = match (&work.method, work.path.as_str()) {
            (&Method::POST, "/charges") if !payload["amount"].is_i64() => {
                json_answer(400, &json!({ "error": "amount" }))
            }
            (&Method::POST, "/charges") => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let nth = self.effects.fetch_add(1, Ordering::SeqCst) + 1;
                let mut answer =
                    json_answer(201, &json!({ "id": format!("ch_{nth}"), "amount": payload["amount"] }));
                for (name, value) in [
                    ("location", format!("/charges/{nth}")),
                    ("link", "</a>; rel=\"a\"".to_owned()),
                    ("link", "</b>; rel=\"b\"".to_owned()),
                    ("set-cookie", format!("session={nth}")),
                    ("x-request-id", format!("req-{nth}")),
                ] {
                    let name: http::HeaderName = name.parse().unwrap();
                    answer.headers_mut().append(name, value.parse().unwrap());
                }
                answer
            }
            (&Method::DELETE, _) => {
                self.effects.fetch_add(1, Ordering::SeqCst);
                let mut answer = Response::new(Full::default());
                *answer.status_mut() = StatusCode::NO_CONTENT;
                answer
            }
            (_, "/fails") => {
                self.effects.fetch_add(1, Ordering::SeqCst);
                json_answer(500, &json!({ "error": "late" }))
            }
            _ => json_answer(404, &json!({})),
        };
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Stored { status: head.status, headers: head.headers, body }
    }
}

struct Work {
    method: Method,
    path: String,
    payload: Bytes,
}

impl Stored {
    fn fresh(self) -> Answer {
        let mut answer = Response::new(Full::new(self.body));
        *answer.status_mut() = self.status;
        *answer.headers_mut() = self.headers;
        answer
    }
}

fn json_answer(status: u16, body: &Value) -> Answer {
    let mut answer = Response::new(Full::from(body.to_string()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer.headers_mut().insert("content-type", "application/json".parse().unwrap());
    answer
}
