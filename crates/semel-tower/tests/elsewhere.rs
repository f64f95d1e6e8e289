//! The layer where others broke (docs/failure-modes.md), as far as `layer.rs` does not show it already.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use std::collections::HashSet;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::any;
use http::{HeaderName, Method, Request, Response, StatusCode, request};
use http_body::Frame;
use http_body_util::BodyExt;
use semel::engine::Limits;
use semel::event::Silent;
use semel::fingerprint::PayloadParts;
use semel::policy::{OnDoubt, OnDuplicate};
use semel::store::Store;
use semel::store::memory::MemoryStore;
use semel::{Engine, Policy};
use semel_testkit::faulty_store::FaultyStore;
use semel_tower::route::Missing;
use semel_tower::tenant::{TenantPart, TenantRule};
use semel_tower::{Route, Routes, SemelLayer};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

type Service = <SemelLayer as Layer<Router>>::Service;

/// A service in front of `handler`, and how often that was called.
fn service<F, A>(route: Route, limits: Limits, handler: F) -> (Service, Arc<AtomicUsize>)
where
    F: Fn(Request<Body>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    service_over(MemoryStore::new(), route, limits, handler)
}

fn service_over<F, A>(
    store: impl Store,
    route: Route,
    limits: Limits,
    handler: F,
) -> (Service, Arc<AtomicUsize>)
where
    F: Fn(Request<Body>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let effects = Arc::new(AtomicUsize::new(0));
    let counted = effects.clone();
    let router = Router::new().fallback(any(move |request| {
        counted.fetch_add(1, Ordering::SeqCst);
        handler(request)
    }));
    let engine = Engine::with(Arc::new(store), Arc::new(Silent), limits);
    (SemelLayer::with_routes(engine, Routes::new(route)).layer(router), effects)
}

/// One whose effects have nothing to say.
fn plain(route: Route) -> (Service, Arc<AtomicUsize>) {
    service(route, Limits::default(), |_| std::future::ready(answer(201, "made")))
}

/// One that runs the effect of the key `k`, which ends when there is a permit in `open`.
async fn busy(
    route: Route,
    limits: Limits,
    open: &Arc<Semaphore>,
) -> (Service, Arc<AtomicUsize>, JoinHandle<u16>) {
    let open = open.clone();
    let (service, effects) = service(route, limits, move |_| {
        let open = open.clone();
        async move {
            open.acquire().await.unwrap().forget();
            answer(201, "made")
        }
    });
    let running = tokio::spawn({
        let service = service.clone();
        async move { send(&service, post("k"), "x").await.status }
    });
    while effects.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    (service, effects, running)
}

fn answer(status: u16, body: &'static str) -> Response<Body> {
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

struct Said {
    status: u16,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Said {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn said(&self) -> (u16, &str) {
        (self.status, self.header("idempotency-status"))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

async fn send(service: &Service, request: request::Builder, body: &'static str) -> Said {
    let answer = service.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap();
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Said { status: parts.status.as_u16(), headers: parts.headers, body }
}

fn post(key: &str) -> request::Builder {
    Request::post("/pay").header("idempotency-key", key)
}

#[tokio::test]
async fn requests_without_a_key_never_share_one() {
    for missing in [Missing::Pass, Missing::Generate, Missing::Derive] {
        let (service, effects) = plain(Route { missing, ..Route::default() });
        for (uri, body) in [("/pay", "1"), ("/pay", "2"), ("/refund", "1"), ("/pay?to=alice", "1")] {
            let said = send(&service, Request::post(uri), body).await;
            assert_ne!(said.header("idempotency-status"), "replayed", "{missing:?} {uri} {body}");
        }
        let alice = Request::post("/pay").header("authorization", "Bearer alice");
        assert_ne!(send(&service, alice, "1").await.header("idempotency-status"), "replayed", "{missing:?}");
        assert_eq!(effects.load(Ordering::SeqCst), 5, "{missing:?}");
    }
}

#[tokio::test]
async fn chosen_parts_of_a_payload_make_its_fingerprint_and_nothing_else_does() {
    let payload = PayloadParts::Pointers(vec!["/method".into(), "/params".into()]);
    let (service, effects) = plain(Route { payload, ..Route::default() });
    let first = r#"{"jsonrpc":"2.0","id":1,"method":"pay","params":{"cents":1}}"#;
    let retried = r#"{"jsonrpc":"2.0","id":2,"params":{"cents":1},"method":"pay"}"#;
    let another = r#"{"jsonrpc":"2.0","id":1,"method":"pay","params":{"cents":2}}"#;
    assert_eq!(send(&service, post("k"), first).await.said(), (201, "executed"));
    assert_eq!(send(&service, post("k"), retried).await.said(), (201, "replayed"));
    assert_eq!(send(&service, post("k"), another).await.said(), (422, "refused"));
    assert_eq!(effects.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn one_body_under_two_keys_or_of_two_callers_is_two_effects() {
    let (service, effects) = plain(Route::default());
    for (caller, key) in [("alice", "a"), ("alice", "b"), ("bob", "c"), ("bob", "a")] {
        let request = post(key).header("authorization", format!("Bearer {caller}"));
        assert_eq!(send(&service, request, "10 EUR").await.said(), (201, "executed"), "{caller} {key}");
    }
    assert_eq!(effects.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_rotated_credential_is_the_same_caller_where_the_route_names_its_tenant() {
    let prefix = TenantPart::KeyPrefix { header: HeaderName::from_static("x-api-key"), chars: 8 };
    let user = TenantPart::Header(HeaderName::from_static("x-user"));
    for part in [prefix, user] {
        let tenant = TenantRule::Parts(vec![part]);
        let (service, effects) = plain(Route { tenant, ..Route::default() });
        let mut said = Vec::new();
        for secret in ["before", "after"] {
            let request =
                post("k").header("x-user", "alice").header("x-api-key", format!("sk_alice_{secret}"));
            let request = request.header("authorization", format!("Bearer {secret}"));
            said.push(send(&service, request, "x").await.header("idempotency-status").to_owned());
        }
        assert_eq!((said, effects.load(Ordering::SeqCst)), (vec!["executed".into(), "replayed".into()], 1));
    }
}

#[tokio::test]
async fn too_many_in_flight_or_waiting_are_429_and_run_nothing() {
    let open = Arc::new(Semaphore::new(0));
    let limits = Limits { in_flight_per_tenant: 1, waiters_per_record: 1, ..Limits::default() };
    let (service, effects, running) = busy(Route::default(), limits, &open).await;
    let other = send(&service, post("other"), "x").await;
    assert_eq!((other.said(), other.text().contains("urn:semel:error:quota")), ((429, "refused"), true));
    assert!(!other.header("retry-after").is_empty());
    let somebody_else = post("other").header("authorization", "Bearer bob");
    let theirs = tokio::spawn({
        let service = service.clone();
        async move { send(&service, somebody_else, "x").await.status }
    });
    // Of two who come for the same key, one may wait.
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send(&service, post("k"), "x").await.status })
        })
        .collect();
    while !waiting.iter().any(|caller| caller.is_finished()) || effects.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    open.add_permits(2);
    let mut statuses = Vec::new();
    for caller in waiting {
        statuses.push(caller.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!((statuses, running.await.unwrap(), theirs.await.unwrap()), (vec![201, 429], 201, 201));
    assert_eq!(effects.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_corrected_request_under_the_key_of_a_stored_400_is_told_to_take_a_new_key() {
    let (service, effects) = service(Route::default(), Limits::default(), |request| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        if body == "cents=-1" { answer(400, "no such amount") } else { answer(201, "made") }
    });
    assert_eq!(send(&service, post("k"), "cents=-1").await.said(), (400, "executed"));
    let corrected = send(&service, post("k"), "cents=1").await;
    assert_eq!(corrected.said(), (422, "refused"));
    let text = corrected.text();
    assert!(text.contains("under a new key") && !text.contains("no such amount"), "{text}");
    assert_eq!(send(&service, post("l"), "cents=1").await.said(), (201, "executed"));
    assert_eq!(effects.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_ids_of_the_first_answer_are_in_its_replay() {
    let numbers = Arc::new(AtomicUsize::new(7));
    let names = ["x-request-id", "x-correlation-id", "traceresponse"];
    let (service, _) = service(Route::default(), Limits::default(), move |_| {
        let mut answer = answer(201, "made");
        for name in names {
            let id = numbers.fetch_add(1, Ordering::SeqCst);
            answer.headers_mut().insert(HeaderName::from_static(name), id.into());
        }
        std::future::ready(answer)
    });
    let first = send(&service, post("k"), "x").await;
    let again = send(&service, post("k").header("x-request-id", "of-the-retry"), "x").await;
    assert_eq!(again.said(), (201, "replayed"));
    for name in names {
        assert!(!first.header(name).is_empty());
        assert_eq!(first.header(name), again.header(name), "{name}");
    }
}

#[tokio::test]
async fn a_replay_is_the_first_answer_also_after_what_it_made_is_gone() {
    let orders = Arc::new(Mutex::new(HashSet::new()));
    // Under *retry*, where a claim may take over what is in doubt, and nothing else.
    let policy = Policy { on_doubt: OnDoubt::Retry, ..Policy::default() };
    let route = Route { policy: policy.into(), ..Route::default() };
    // Which keeps nothing near, so that the claim has to find what is finished.
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let (service, effects) = service_over(store, route, Limits::default(), {
        let orders = orders.clone();
        move |request| {
            let mut orders = orders.lock().unwrap();
            std::future::ready(if request.method() == Method::DELETE {
                answer(if orders.remove("7") { 204 } else { 404 }, "")
            } else {
                orders.insert("7");
                answer(201, "order 7")
            })
        }
    });
    let first = send(&service, post("create"), "x").await;
    let delete = Request::delete("/pay/7").header("idempotency-key", "delete");
    assert_eq!(send(&service, delete, "").await.said(), (204, "executed"));
    let again = send(&service, post("create"), "x").await;
    assert_eq!((again.said(), &again.body), ((201, "replayed"), &first.body));
    assert!(orders.lock().unwrap().is_empty(), "the order is not made again");
    assert_eq!(effects.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn refused_duplicates_are_told_different_times() {
    let open = Arc::new(Semaphore::new(0));
    let policy = Policy { on_duplicate: OnDuplicate::Conflict, ..Policy::default() };
    let route = Route { policy: policy.into(), ..Route::default() };
    let (service, effects, running) = busy(route, Limits::default(), &open).await;
    let mut told = HashSet::new();
    for _ in 0..200 {
        let refused = send(&service, post("k"), "x").await;
        assert_eq!(refused.said(), (409, "in-progress"));
        told.insert(refused.header("retry-after").to_owned());
    }
    assert_eq!(told.len(), 3, "1, 2 and 3 seconds: {told:?}");
    open.add_permits(1);
    assert_eq!((running.await.unwrap(), effects.load(Ordering::SeqCst)), (201, 1));
}

/// A body that begins and never ends.
struct Endless {
    begun: bool,
}

impl http_body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if std::mem::replace(&mut self.begun, true) {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from("x")))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_refused_in_time_and_its_key_is_free() {
    let (service, effects) = plain(Route { request_timeout: Duration::from_secs(10), ..Route::default() });
    let began = Instant::now();
    let request = post("k").body(Body::new(Endless { begun: false })).unwrap();
    let refused = service.clone().oneshot(request).await.unwrap();
    assert_eq!((refused.status(), began.elapsed().as_secs()), (StatusCode::REQUEST_TIMEOUT, 10));
    assert_eq!(send(&service, post("k"), "x").await.said(), (201, "executed"));
    assert_eq!(effects.load(Ordering::SeqCst), 1);
}
