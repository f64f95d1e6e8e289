//! The layer around an axum router: what each request gets, and how often the effect happened.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body as AxumBody, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{Request, StatusCode, request};
use http_body::Frame;
use http_body_util::BodyExt;
use semel::clock::{ManualClock, Timestamp};
use semel::engine::Limits;
use semel::event::Silent;
use semel::policy::{OnDoubt, OnDuplicate};
use semel::store::memory::MemoryStore;
use semel::store::{
    Capabilities, ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Guard, Page, ReleaseArgs, RenewArgs, ScanArgs,
    Store, StoreError, StoreErrorKind, StoreFuture, Tier, Written,
};
use semel::{Engine, Key, Policy, Record, RecordId};
use semel_tower::problem::Problem;
use semel_tower::route::{Authorize, HookFuture, KeySource, Missing, OnStoreDown, Probe, Probed};
use semel_tower::tenant::TenantRule;
use semel_tower::{EffectReport, Route, Routes, SemelLayer};
use serde_json::Value;
use tokio::sync::Notify;
use tower::{Layer, ServiceExt};

/// An API that knows nothing of keys: it acts, and answers from a script.
#[derive(Clone, Default)]
struct Api {
    effects: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<request::Parts>>>,
    script: Arc<Mutex<VecDeque<Response>>>,
    delay: Duration,
}

impl Api {
    fn answers(answers: impl IntoIterator<Item = Response>) -> Self {
        let api = Self::default();
        api.script.lock().unwrap().extend(answers);
        api
    }

    fn effects(&self) -> usize {
        self.effects.load(Ordering::SeqCst)
    }

    async fn act(State(api): State<Self>, request: axum::extract::Request) -> Response {
        let (parts, _) = request.into_parts();
        let nth = api.effects.fetch_add(1, Ordering::SeqCst) + 1;
        api.seen.lock().unwrap().push(parts);
        tokio::time::sleep(api.delay).await;
        let scripted = api.script.lock().unwrap().pop_front();
        scripted.unwrap_or_else(|| (StatusCode::CREATED, format!("effect {nth}")).into_response())
    }
}

type Service = <SemelLayer as Layer<Router>>::Service;

fn service(api: &Api, route: Route) -> Service {
    service_on(api, route, Engine::new(MemoryStore::new()))
}

fn service_on(api: &Api, route: Route, engine: Engine) -> Service {
    let router = Router::new().fallback(any(Api::act)).with_state(api.clone());
    SemelLayer::with_routes(engine, Routes::new(route)).layer(router)
}

fn post(key: &str, body: &str) -> request::Builder {
    let _ = body;
    Request::post("/pay").header("idempotency-key", key)
}

struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The short name of the problem.
    fn problem(&self) -> String {
        self.json()["type"].as_str().unwrap().rsplit(':').next().unwrap().to_owned()
    }

    fn said(&self) -> (u16, &str) {
        (self.status, self.header("idempotency-status"))
    }
}

async fn send(service: &Service, request: request::Builder, body: &str) -> Answer {
    let request = request.body(AxumBody::from(body.to_owned())).unwrap();
    let answer = service.clone().oneshot(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: body.collect().await.unwrap().to_bytes(),
    }
}

async fn pay(service: &Service, key: &str, body: &str) -> Answer {
    send(service, post(key, body), body).await
}

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<AxumBody>) -> Response {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body.into()).unwrap()
}

#[tokio::test]
async fn a_retried_post_takes_effect_once_and_is_replayed() {
    let api = Api::default();
    let service = service(&api, Route::default());
    let first = pay(&service, "k", "100").await;
    let again = pay(&service, "\"k\"", "100").await;
    assert_eq!((first.said(), again.said()), ((201, "executed"), (201, "replayed")));
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
    assert_eq!((first.body.clone(), again.header("cache-control")), (again.body.clone(), "no-store"));
    assert_eq!((again.header("idempotency-key"), api.effects()), ("k", 1));
}

#[tokio::test]
async fn two_hundred_racers_on_one_key_are_one_effect_and_equal_answers() {
    let api = Api { delay: Duration::from_millis(50), ..Api::default() };
    let service = service(&api, Route::default());
    let racers: Vec<_> = (0..200)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { pay(&service, "k", "100").await })
        })
        .collect();
    for racer in racers {
        let racer = racer.await.unwrap();
        assert_eq!((racer.status, racer.body), (201, Bytes::from("effect 1")));
    }
    assert_eq!(api.effects(), 1);
}

#[tokio::test]
async fn replays_are_byte_exact() {
    let binary: Vec<u8> = (0..=255).collect();
    let cases = [
        answer(201, &[("location", "/pay/7"), ("x-twice", "a"), ("x-twice", "b"), ("x-after", "c")], "made"),
        answer(204, &[], ""),
        answer(200, &[("content-type", "text/plain")], ""),
        answer(200, &[("content-encoding", "gzip")], vec![0x1f, 0x8b, 8, 0, 0]),
        answer(200, &[("content-type", "application/octet-stream")], binary),
        answer(304, &[("etag", "\"v1\"")], ""),
        answer(400, &[("content-type", "application/json")], "{\"error\":1}"),
        answer(404, &[], "none"),
    ];
    let count = cases.len();
    let api = Api::answers(cases);
    let service = service(&api, Route::default());
    for nth in 0..count {
        let first = pay(&service, &nth.to_string(), "x").await;
        let again = pay(&service, &nth.to_string(), "x").await;
        assert_eq!((first.status, &first.body), (again.status, &again.body), "case {nth}");
        let visible = |answer: &Answer| -> Vec<(String, Vec<u8>)> {
            let marks = ["idempotency-status", "idempotency-replayed", "cache-control"];
            let wanted = answer.headers.iter().filter(|(name, _)| !marks.contains(&name.as_str()));
            wanted.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
        };
        assert_eq!(visible(&first), visible(&again), "case {nth}");
        assert_eq!(again.header("idempotency-status"), "replayed");
    }
    assert_eq!(api.effects(), count);
}

#[tokio::test]
async fn cookies_and_challenges_are_given_once_and_never_replayed() {
    let headers =
        [("set-cookie", "session=1"), ("www-authenticate", "Basic"), ("idempotency-replayed", "true")];
    let api = Api::answers([answer(200, &headers, "ok")]);
    let service = service(&api, Route::default());
    let first = pay(&service, "k", "x").await;
    assert_eq!((first.header("set-cookie"), first.header("idempotency-replayed")), ("session=1", ""));
    let again = pay(&service, "k", "x").await;
    assert_eq!((again.header("set-cookie"), again.header("www-authenticate")), ("", ""));
}

#[tokio::test]
async fn what_belongs_to_one_connection_or_one_moment_is_not_replayed() {
    let of_the_moment = [
        ("connection", "close, x-named"),
        ("x-named", "1"),
        ("keep-alive", "timeout=5"),
        ("date", "Tue, 15 Nov 1994 08:12:31 GMT"),
    ];
    let mut headers = of_the_moment.to_vec();
    headers.push(("x-kept", "1"));
    let service = service(&Api::answers([answer(200, &headers, "ok")]), Route::default());
    pay(&service, "k", "x").await;
    let again = pay(&service, "k", "x").await;
    assert_eq!((again.said(), again.header("x-kept")), ((200, "replayed"), "1"));
    for (name, _) in of_the_moment {
        assert_eq!(again.header(name), "", "{name}");
    }
}

#[tokio::test]
async fn another_payload_path_or_query_under_one_key_is_refused() {
    let api = Api::default();
    let service = service(&api, Route::default());
    pay(&service, "k", "secret 100").await;
    let changed = pay(&service, "k", "900").await;
    assert_eq!((changed.said(), changed.problem()), ((422, "refused"), "mismatch".to_owned()));
    assert!(!String::from_utf8_lossy(&changed.body).contains("secret"));
    for uri in ["/pay?to=mallory", "/refund"] {
        let other = send(&service, Request::post(uri).header("idempotency-key", "k"), "secret 100").await;
        assert_eq!(other.problem(), "mismatch", "{uri}");
    }
    let method = send(&service, Request::put("/pay").header("idempotency-key", "k"), "secret 100").await;
    assert_eq!((method.problem(), api.effects()), ("mismatch".to_owned(), 1));
}

#[tokio::test]
async fn the_upstream_is_told_key_attempt_and_token_and_no_copies_that_a_client_made_up() {
    let api = Api::default();
    let service = service(&api, Route::default());
    let request = post("\"k\"", "").header("idempotency-attempt", "99").header("idempotency-token", "99");
    send(&service, request.header("idempotency-replayed", "true"), "x").await;
    let seen = api.seen.lock().unwrap();
    let header = |name: &str| seen[0].headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(
        (header("idempotency-key"), header("idempotency-attempt")),
        (Some("k".into()), Some("1".into()))
    );
    assert!(header("idempotency-token").unwrap().parse::<u64>().unwrap() > 1_000_000);
    assert_eq!(header("idempotency-replayed"), None);
}

#[tokio::test]
async fn a_request_without_a_key_cannot_bring_marks_that_only_semel_gives() {
    let api = Api::default();
    let service = service(&api, Route::default());
    let made_up = Request::post("/pay").header("idempotency-attempt", "1").header("idempotency-token", "99");
    assert_eq!(send(&service, made_up, "x").await.status, 201);
    let seen = api.seen.lock().unwrap();
    assert!(!seen[0].headers.contains_key("idempotency-attempt"));
    assert!(!seen[0].headers.contains_key("idempotency-token"));
}

#[tokio::test]
async fn a_5xx_reaches_its_caller_and_holds_the_key() {
    let api = Api::answers([answer(500, &[], "boom")]);
    let service = service(&api, Route::default());
    let first = pay(&service, "k", "x").await;
    assert_eq!((first.said(), first.body.clone()), ((500, "in-doubt"), Bytes::from("boom")));
    let again = pay(&service, "k", "x").await;
    assert_eq!((again.said(), again.problem()), ((409, "in-doubt"), "outcome-unknown".to_owned()));
    assert_eq!(api.effects(), 1);
}

#[tokio::test]
async fn a_503_or_429_releases_the_key() {
    let api = Api::answers([answer(503, &[], ""), answer(429, &[("retry-after", "1")], "")]);
    let service = service(&api, Route::default());
    assert_eq!(pay(&service, "k", "x").await.said(), (503, "refused"));
    assert_eq!(pay(&service, "k", "x").await.said(), (429, "refused"));
    assert_eq!(pay(&service, "k", "x").await.said(), (201, "executed"));
    assert_eq!(pay(&service, "k", "x").await.said(), (201, "replayed"));
    assert_eq!(api.effects(), 3);
}

#[tokio::test]
async fn what_the_inner_service_reports_outweighs_the_status() {
    let mut not_run = answer(502, &[], "refused");
    not_run.extensions_mut().insert(EffectReport::NotRun);
    let mut unknown = answer(200, &[], "half");
    unknown.extensions_mut().insert(EffectReport::Unknown);
    let api = Api::answers([not_run, unknown]);
    let service = service(&api, Route::default());
    assert_eq!(pay(&service, "k", "x").await.said(), (502, "refused"));
    assert_eq!(pay(&service, "k", "x").await.said(), (200, "in-doubt"));
    assert_eq!(pay(&service, "k", "x").await.said(), (409, "in-doubt"));
}

#[tokio::test]
async fn retry_runs_a_doubt_again_and_says_which_attempt_it_is() {
    let api = Api::answers([answer(500, &[], "boom")]);
    let policy = Policy { on_doubt: OnDoubt::Retry, ..Policy::default() };
    let service = service(&api, Route { policy: policy.into(), ..Route::default() });
    pay(&service, "k", "x").await;
    assert_eq!(pay(&service, "k", "x").await.said(), (201, "executed"));
    let seen = api.seen.lock().unwrap();
    assert_eq!(seen[1].headers["idempotency-attempt"], "2");
}

#[derive(Debug)]
struct Ledger(Probed);

impl Probe for Ledger {
    fn ask<'a>(&'a self, _key: &'a Key, _request: &'a request::Parts) -> HookFuture<'a, Probed> {
        let answer = self.0.clone();
        Box::pin(async move { answer })
    }
}

#[tokio::test]
async fn probe_completes_runs_or_holds_as_the_upstream_says() {
    let happened = semel_tower::replay::outcome(201, vec![("x-from".into(), "probe".into())], "paid".into());
    let cases = [
        (Probed::Happened(happened), (201, "replayed"), 1),
        (Probed::NotHappened, (201, "executed"), 2),
        (Probed::Unknown, (409, "in-doubt"), 1),
    ];
    for (probed, said, effects) in cases {
        let api = Api::answers([answer(500, &[], "boom")]);
        let policy = Policy { on_doubt: OnDoubt::Probe, ..Policy::default() };
        let probe: Arc<dyn Probe> = Arc::new(Ledger(probed));
        let route = Route { policy: policy.into(), probe: Some(probe), ..Route::default() };
        let service = service(&api, route);
        pay(&service, "k", "x").await;
        assert_eq!(pay(&service, "k", "x").await.said(), said);
        assert_eq!(api.effects(), effects);
    }
}

#[tokio::test]
async fn a_handler_that_panics_leaves_the_key_in_doubt() {
    let router: Router = Router::new().fallback(|| async {
        if std::hint::black_box(true) {
            panic!("the handler panics");
        }
    });
    let service = SemelLayer::new(Engine::new(MemoryStore::new())).layer(router);
    assert_eq!(pay(&service, "k", "x").await.said(), (502, "in-doubt"));
    assert_eq!(pay(&service, "k", "x").await.problem(), "outcome-unknown");
}

/// A body that breaks off after its first bytes.
#[derive(Default)]
struct Half {
    begun: bool,
}

impl http_body::Body for Half {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let begun = std::mem::replace(&mut self.begun, true);
        Poll::Ready(Some(match begun {
            false => Ok(Frame::data(Bytes::from("half"))),
            true => Err(std::io::Error::other("reset")),
        }))
    }
}

#[tokio::test]
async fn an_effect_that_fails_or_breaks_off_is_in_doubt_and_held() {
    let api = Api::answers([answer(201, &[], AxumBody::new(Half::default()))]);
    let service = service(&api, Route::default());
    assert_eq!(pay(&service, "k", "x").await.said(), (502, "in-doubt"));
    assert_eq!(pay(&service, "k", "x").await.problem(), "outcome-unknown");
    assert_eq!(api.effects(), 1);

    let effects = Arc::new(AtomicUsize::new(0));
    let counted = effects.clone();
    let failing = tower::service_fn(move |_: Request<semel_tower::Body<AxumBody>>| {
        counted.fetch_add(1, Ordering::SeqCst);
        std::future::ready(Err::<Response, _>(std::io::Error::other("reset")))
    });
    let service = SemelLayer::new(Engine::new(MemoryStore::new())).layer(failing);
    for status in [502, 409] {
        let request = post("k", "x").body(AxumBody::from("x")).unwrap();
        assert_eq!(service.clone().oneshot(request).await.unwrap().status(), status);
    }
    assert_eq!(effects.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_caller_that_hangs_up_changes_nothing() {
    let api = Api { delay: Duration::from_millis(100), ..Api::default() };
    let service = service(&api, Route::default());
    let hung_up = tokio::time::timeout(Duration::from_millis(20), pay(&service, "k", "x")).await;
    assert!(hung_up.is_err());
    assert_eq!(pay(&service, "k", "x").await.said(), (201, "replayed"));
    assert_eq!(api.effects(), 1);
}

#[tokio::test]
async fn an_answer_over_the_limit_arrives_whole_and_is_never_run_again() {
    let large = "x".repeat(5_000);
    let api = Api::answers([answer(201, &[("location", "/pay/7")], large.clone())]);
    let service = service(&api, Route { response_max_bytes: 1_000, ..Route::default() });
    let first = pay(&service, "k", "x").await;
    assert_eq!((first.said(), first.body.clone()), ((201, "executed"), Bytes::from(large)));
    let again = pay(&service, "k", "x").await;
    assert_eq!((again.status, again.problem()), (409, "answer-not-kept".to_owned()));
    assert_eq!((again.json()["original_status"].as_u64(), again.header("location")), (Some(201), "/pay/7"));
    assert_eq!(api.effects(), 1);
}

#[tokio::test]
async fn an_event_stream_and_a_slow_body_are_streamed_and_not_kept() {
    let events = answer(200, &[("content-type", "text/event-stream")], "data: 1\n\n");
    let api = Api::answers([events]);
    let service = service(&api, Route::default());
    assert_eq!(pay(&service, "k", "x").await.body, Bytes::from("data: 1\n\n"));
    assert_eq!(pay(&service, "k", "x").await.problem(), "answer-not-kept");
}

#[tokio::test]
async fn bad_keys_are_refused_with_what_to_do() {
    let api = Api::default();
    let service = service(&api, Route::default());
    let long = "a".repeat(256);
    for (key, name) in [("", "key-invalid"), ("\"\"", "key-invalid"), (long.as_str(), "key-invalid")] {
        let refused = pay(&service, key, "x").await;
        assert_eq!((refused.status, refused.problem()), (400, name.to_owned()));
        let body = refused.json();
        assert_eq!(body["resend"], "never");
        assert!(body["detail"].as_str().unwrap().contains("Nothing was run"));
        assert_eq!(refused.header("content-type"), "application/problem+json");
    }
    let twice = send(&service, post("k", "").header("idempotency-key", "l"), "x").await;
    assert_eq!((twice.status, twice.problem(), api.effects()), (400, "key-repeated".to_owned(), 0));
}

#[tokio::test]
async fn a_missing_key_passes_is_refused_generated_or_derived() {
    let run = |missing| async move {
        let api = Api::default();
        let service = service(&api, Route { missing, ..Route::default() });
        let first = send(&service, Request::post("/pay"), "x").await;
        let again = send(&service, Request::post("/pay"), "x").await;
        (first, again, api.effects())
    };
    let (first, _, effects) = run(Missing::Pass).await;
    assert_eq!((first.said(), effects), ((201, "unrecorded"), 2));
    let (first, _, effects) = run(Missing::Require).await;
    assert_eq!((first.status, first.problem(), effects), (400, "key-missing".to_owned(), 0));
    let (first, _, effects) = run(Missing::Generate).await;
    assert!(first.header("idempotency-key").starts_with("autogenerated-"));
    assert_eq!(effects, 2);
    let (first, again, effects) = run(Missing::Derive).await;
    assert_eq!((first.said(), again.said(), effects), ((201, "executed"), (201, "replayed"), 1));
}

#[tokio::test]
async fn the_key_is_found_in_json_and_in_forms() {
    let api = Api::default();
    let route = Route { key: KeySource::Body("/idempotency_key".into()), ..Route::profile("form").unwrap() };
    let service = service(&api, route);
    let json = |body: &'static str| send(&service, Request::post("/pay"), body);
    assert_eq!(json(r#"{"idempotency_key":"k","cents":1}"#).await.said(), (201, "executed"));
    assert_eq!(json(r#"{"idempotency_key":"k","cents":2}"#).await.said(), (201, "replayed"));
    assert_eq!(json(r#"{"idempotency_key":7}"#).await.problem(), "key-invalid");
    let form = || Request::post("/pay").header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(send(&service, form(), "idempotency_key=k&cents=3").await.said(), (201, "replayed"));
    assert_eq!(send(&service, form(), "idempotency_key=k&idempotency_key=l").await.problem(), "key-repeated");
    assert_eq!(api.effects(), 1);
}

#[tokio::test]
async fn tenants_never_meet() {
    let api = Api::default();
    let service = service(&api, Route::default());
    let as_user = |name: &str| post("k", "").header("authorization", format!("Bearer {name}"));
    let alice = send(&service, as_user("alice"), "x").await;
    let mallory = send(&service, as_user("mallory"), "x").await;
    assert_eq!((alice.said(), mallory.said()), ((201, "executed"), (201, "executed")));
    assert_ne!(alice.body, mallory.body);
    assert_eq!(send(&service, as_user("alice"), "x").await.body, alice.body);
    let cookie = send(&service, post("k", "").header("cookie", "session=1"), "x").await;
    assert_eq!((cookie.status, cookie.problem()), (403, "tenant-not-configured".to_owned()));
    assert_eq!(api.effects(), 2);
}

#[tokio::test]
async fn a_shared_route_has_one_tenant() {
    let api = Api::default();
    let service = service(&api, Route { tenant: TenantRule::Shared, ..Route::default() });
    send(&service, post("k", "").header("authorization", "Bearer a"), "x").await;
    let other = send(&service, post("k", "").header("authorization", "Bearer b"), "x").await;
    assert_eq!((other.said(), api.effects()), ((201, "replayed"), 1));
}

#[derive(Debug)]
struct Nobody;

impl Authorize for Nobody {
    fn may_see<'a>(&'a self, _request: &'a request::Parts) -> HookFuture<'a, bool> {
        Box::pin(async { false })
    }
}

#[tokio::test]
async fn a_revoked_caller_gets_no_replay() {
    let api = Api::default();
    let authorize: Arc<dyn Authorize> = Arc::new(Nobody);
    let service = service(&api, Route { authorize: Some(authorize), ..Route::default() });
    assert_eq!(pay(&service, "k", "x").await.status, 201);
    let again = pay(&service, "k", "x").await;
    assert_eq!((again.status, again.problem(), api.effects()), (403, "not-authorised".to_owned(), 1));
}

#[tokio::test]
async fn conflict_answers_a_duplicate_at_once_with_when_to_come_back() {
    let api = Api { delay: Duration::from_millis(100), ..Api::default() };
    let policy = Policy { on_duplicate: OnDuplicate::Conflict, ..Policy::default() };
    let service = service(&api, Route { policy: policy.into(), ..Route::default() });
    let first = tokio::spawn({
        let service = service.clone();
        async move { pay(&service, "k", "x").await }
    });
    while api.effects() == 0 {
        tokio::task::yield_now().await;
    }
    let second = pay(&service, "k", "x").await;
    assert_eq!((second.said(), second.problem()), ((409, "in-progress"), "in-progress".to_owned()));
    assert!((1..=3).contains(&second.header("retry-after").parse::<u32>().unwrap()));
    assert_eq!(first.await.unwrap().said(), (201, "executed"));
}

#[tokio::test]
async fn the_stripe_profile_stores_5xx_and_speaks_its_own_errors() {
    let api = Api::answers([answer(500, &[], "boom")]);
    let service = service(&api, Route::profile("stripe").unwrap());
    assert_eq!(pay(&service, "k", "x").await.said(), (500, "executed"));
    let again = pay(&service, "k", "x").await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (500, "true"));
    let changed = pay(&service, "k", "y").await;
    assert_eq!(changed.status, 400);
    assert_eq!(changed.json()["error"]["type"], "idempotency_error");
}

#[tokio::test]
async fn keyed_requests_in_early_data_and_oversized_ones_are_refused() {
    let api = Api::default();
    let service = service(&api, Route { request_max_bytes: 3, ..Route::default() });
    let early = send(&service, post("k", "").header("early-data", "1"), "x").await;
    assert_eq!((early.status, early.problem()), (425, "early-data".to_owned()));
    let large = pay(&service, "k", "1234").await;
    assert_eq!((large.status, large.problem(), api.effects()), (413, "too-large".to_owned(), 0));
}

#[tokio::test]
async fn uncovered_methods_pass_untouched() {
    let api = Api::answers([answer(200, &[("idempotency-replayed", "true")], "x")]);
    let service = service(&api, Route::default());
    let get = send(&service, Request::get("/pay").header("idempotency-key", "k"), "").await;
    assert_eq!(
        (get.status, get.header("idempotency-status"), get.header("idempotency-replayed")),
        (200, "", "true")
    );
    send(&service, Request::get("/pay").header("idempotency-key", "k"), "").await;
    assert_eq!(api.effects(), 2);
}

#[tokio::test]
async fn grpc_callers_are_refused_in_grpc() {
    let ok = answer(200, &[("content-type", "application/grpc"), ("grpc-status", "0")], "");
    let api = Api::answers([ok]);
    let service = service(&api, Route::default());
    let call = |key: &str| {
        Request::post("/pay.Api/Charge")
            .header("content-type", "application/grpc")
            .header("idempotency-key", key)
    };
    assert_eq!(send(&service, call("k"), "a").await.said(), (200, "executed"));
    let again = send(&service, call("k"), "a").await;
    assert_eq!((again.said(), again.header("grpc-status")), ((200, "replayed"), "0"));
    let changed = send(&service, call("k"), "b").await;
    assert_eq!((changed.status, changed.header("grpc-status")), (200, "9"));
    assert!(changed.header("grpc-message").starts_with("SEMEL-0004"));
    assert_eq!(send(&service, call(""), "b").await.header("grpc-status"), "3");
}

#[tokio::test]
async fn a_grpc_answer_without_a_status_is_in_doubt() {
    let api = Api::answers([answer(200, &[("content-type", "application/grpc")], "half")]);
    let service = service(&api, Route::default());
    let call = || {
        Request::post("/pay.Api/Charge")
            .header("content-type", "application/grpc")
            .header("idempotency-key", "k")
    };
    send(&service, call(), "a").await;
    assert_eq!(send(&service, call(), "a").await.header("grpc-status"), "9");
    assert_eq!(api.effects(), 1);
}

/// A store that can be cut off: before every call, or only before completions.
#[derive(Debug, Default)]
struct Flaky {
    inner: MemoryStore,
    claims_fail: bool,
    completions_fail: bool,
    /// Completions are announced here and made after it was answered.
    completions_wait: Option<Arc<Gate>>,
}

#[derive(Debug, Default)]
struct Gate {
    reached: Notify,
    open: Notify,
}

fn down<'a, T: 'a>() -> StoreFuture<'a, T> {
    Box::pin(async { Err(StoreError::new(StoreErrorKind::Unavailable, "cut off")) })
}

impl Store for Flaky {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn tier(&self) -> Tier {
        self.inner.tier()
    }
    fn import(&self, record: Record) -> StoreFuture<'_, Written> {
        self.inner.import(record)
    }
    fn claim(&self, args: ClaimArgs) -> StoreFuture<'_, Claimed> {
        if self.claims_fail { down() } else { self.inner.claim(args) }
    }
    fn renew(&self, args: RenewArgs) -> StoreFuture<'_, Written> {
        self.inner.renew(args)
    }
    fn complete(&self, args: CompleteArgs) -> StoreFuture<'_, Written> {
        if self.completions_fail {
            return down();
        }
        Box::pin(async move {
            if let Some(gate) = &self.completions_wait {
                gate.reached.notify_one();
                gate.open.notified().await;
            }
            self.inner.complete(args).await
        })
    }
    fn doubt(&self, args: DoubtArgs) -> StoreFuture<'_, Written> {
        self.inner.doubt(args)
    }
    fn release(&self, args: ReleaseArgs) -> StoreFuture<'_, Written> {
        self.inner.release(args)
    }
    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>> {
        self.inner.get(id)
    }
    fn scan(&self, args: ScanArgs) -> StoreFuture<'_, Page> {
        self.inner.scan(args)
    }
    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        self.inner.purge(limit)
    }
    fn watch(&self, id: &RecordId, seen: Guard) -> StoreFuture<'_, ()> {
        self.inner.watch(id, seen)
    }
}

#[tokio::test]
async fn without_the_store_nothing_runs_unless_the_route_says_so() {
    let run = Route { on_store_down: OnStoreDown::Run, ..Route::default() };
    for (route, said, effects) in [(Route::default(), (503, "refused"), 0), (run, (201, "unrecorded"), 1)] {
        let api = Api::default();
        let engine = Engine::new(Flaky { claims_fail: true, ..Flaky::default() });
        let service = service_on(&api, route, engine);
        let answer = pay(&service, "k", "x").await;
        assert_eq!((answer.said(), api.effects()), (said, effects));
    }
}

#[tokio::test]
async fn an_outcome_that_cannot_be_stored_reaches_its_caller_and_the_key_is_not_run_again() {
    let api = Api::default();
    let engine = Engine::new(Flaky { completions_fail: true, ..Flaky::default() });
    let policy = Policy {
        complete_timeout: Duration::from_millis(50),
        wait_timeout: Duration::from_millis(50),
        ..Policy::default()
    };
    let service = service_on(&api, Route { policy: policy.into(), ..Route::default() }, engine);
    let first = pay(&service, "k", "x").await;
    assert_eq!((first.said(), first.body.clone()), ((201, "unrecorded"), Bytes::from("effect 1")));
    let again = pay(&service, "k", "x").await;
    assert_eq!((again.status, api.effects()), (409, 1));
}

#[tokio::test]
async fn the_answer_waits_until_the_outcome_is_stored() {
    let gate = Arc::new(Gate::default());
    let engine = Engine::new(Flaky { completions_wait: Some(gate.clone()), ..Flaky::default() });
    let service = service_on(&Api::default(), Route::default(), engine);
    let first = tokio::spawn(async move { pay(&service, "k", "x").await.status });
    gate.reached.notified().await;
    // Everything else in this one thread has had its turn many times over.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(!first.is_finished());
    gate.open.notify_one();
    assert_eq!(first.await.unwrap(), 201);
}

#[tokio::test]
async fn a_claim_lost_meanwhile_is_answered_with_the_winners_outcome() {
    let (loser, winner) = loser_and_winner(None).await;
    assert_eq!((loser.said(), &loser.body), ((201, "replayed"), &winner.body));
}

#[tokio::test]
async fn the_winners_outcome_is_shown_to_the_loser_only_if_it_may_be() {
    let (loser, winner) = loser_and_winner(Some(Arc::new(Nobody))).await;
    assert_eq!((loser.said(), loser.problem()), ((403, "refused"), "not-authorised".to_owned()));
    assert_ne!(loser.body, winner.body);
}

/// Two attempts of one request: the first is frozen past its lease, the second takes over and completes, the first
/// wakes.
async fn loser_and_winner(authorize: Option<Arc<dyn Authorize>>) -> (Answer, Answer) {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_700_000_000_000_000)));
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let engine = || Engine::with(store.clone(), Arc::new(Silent), Limits::default());
    let route = || {
        let policy = Policy { on_doubt: OnDoubt::Retry, ..Policy::default() };
        Route { policy: policy.into(), authorize: authorize.clone(), ..Route::default() }
    };
    let (begun, thaw) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let frozen = Router::new().fallback({
        let (begun, thaw) = (begun.clone(), thaw.clone());
        move || async move {
            begun.notify_one();
            thaw.notified().await;
            "the loser's"
        }
    });
    let frozen = SemelLayer::with_routes(engine(), Routes::new(route())).layer(frozen);
    let loser = tokio::spawn(async move { pay(&frozen, "k", "x").await });
    begun.notified().await;
    clock.advance(Policy::default().max_execution);
    let api = Api::default();
    let winner = pay(&service_on(&api, route(), engine()), "k", "x").await;
    assert_eq!(winner.said(), (201, "executed"));
    thaw.notify_one();
    (loser.await.unwrap(), winner)
}

#[tokio::test]
async fn a_problem_of_the_inner_service_is_told_in_the_routes_own_words() {
    let unreachable = || {
        let problem = Problem::new(semel::Code::UpstreamUnreachable, "Nothing was sent.");
        let mut answer = answer(502, &[], "the inner service's own words");
        answer.extensions_mut().insert(EffectReport::NotRun);
        answer.extensions_mut().insert(problem);
        answer
    };
    let api = Api::answers([unreachable(), unreachable(), unreachable()]);
    let service = service(&api, Route::profile("stripe").unwrap());
    for request in [post("k", ""), Request::post("/pay")] {
        let refused = send(&service, request, "x").await;
        assert_eq!(refused.said(), (502, "refused"));
        assert_eq!(refused.json()["error"]["code"], "upstream_unreachable");
    }
    let call = post("g", "").header("content-type", "application/grpc");
    let refused = send(&service, call, "x").await;
    assert_eq!((refused.said(), refused.header("grpc-status")), ((200, "refused"), "14"));
}

#[tokio::test]
async fn a_covered_request_that_passes_without_a_key_says_that_nothing_is_recorded() {
    let api = Api::answers([answer(200, &[("idempotency-replayed", "true"), ("x-kept", "1")], "x")]);
    let service = service(&api, Route::default());
    let passed = send(&service, Request::post("/pay"), "x").await;
    assert_eq!((passed.said(), passed.header("x-kept")), ((200, "unrecorded"), "1"));
    assert_eq!((passed.header("idempotency-replayed"), passed.header("idempotency-key")), ("", ""));
    send(&service, Request::post("/pay"), "x").await;
    assert_eq!(api.effects(), 2);
}

#[tokio::test]
async fn another_spelling_of_a_path_is_the_same_route_and_the_same_target() {
    let api = Api::default();
    let routes =
        Routes::new(Route { methods: Vec::new(), ..Route::default() }).route("/pay", Route::default());
    let router = Router::new().fallback(any(Api::act)).with_state(api.clone());
    let service = SemelLayer::with_routes(Engine::new(MemoryStore::new()), routes).layer(router);
    let at = |uri: &str| Request::post(uri).header("idempotency-key", "k");
    assert_eq!(send(&service, at("/pay?to=al%69ce"), "x").await.said(), (201, "executed"));
    assert_eq!(send(&service, at("/%70ay?to=alice"), "x").await.said(), (201, "replayed"));
    assert_eq!(api.effects(), 1);
}
