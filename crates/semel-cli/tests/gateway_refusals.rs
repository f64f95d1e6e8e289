//! What the gateway refuses, what it says about it, and that a refusal has no effect.

use std::time::Duration;

use serde_json::Value;

use semel_testkit::client::{Answer, Call, Raw};
use semel_testkit::gateway::Gateway;
use semel_testkit::upstream::Upstream;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
const PATIENCE: Duration = Duration::from_secs(20);
/// What no refusal may show.
const SECRET: &str = "4242-4242-4242-4242";

#[track_caller]
fn assert_problem(problem: &Value, status: u16, name: &str, resend: &str) {
    assert_eq!(problem["type"], format!("urn:semel:error:{name}"), "{problem}");
    assert_eq!(problem["status"], status, "{problem}");
    assert_eq!(problem["resend"], resend, "{problem}");
    assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("Nothing was run")), "{problem}");
    assert!(problem["code"].as_str().is_some_and(|code| code.starts_with("SEMEL-")), "{problem}");
}

#[track_caller]
fn assert_refused(answer: &Answer, status: u16, name: &str, resend: &str) {
    assert_eq!((answer.status, answer.standing()), (status, Some("refused")), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(!answer.is_replay());
    assert_problem(&answer.json(), status, name, resend);
}

/// The status and problem of a request that is sent byte by byte.
async fn raw(gateway: &Gateway, head: &[u8], body: &str) -> (u16, Value) {
    let mut raw = Raw::open(gateway.addr()).await;
    let mut request = head.to_vec();
    let rest = format!("Host: api\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    request.extend_from_slice(rest.as_bytes());
    assert!(raw.write(&request).await);
    let answer = raw.read_to_close(PATIENCE).await.expect("the gateway answers and closes");
    let answer = String::from_utf8(answer).expect("this answer is text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_read_are_refused_before_anything_runs() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let too_long = format!("Idempotency-Key: {}", "k".repeat(256));
    let quoted_too_long = format!("Idempotency-Key: \"{}\"", "k".repeat(256));
    let invalid: [&[u8]; 9] = [
        b"Idempotency-Key:",
        b"Idempotency-Key:  \t ",
        b"Idempotency-Key: \"\"",
        too_long.as_bytes(),
        quoted_too_long.as_bytes(),
        b"Idempotency-Key: tab\there",
        b"Idempotency-Key: caf\xc3\xa9",
        b"Idempotency-Key: \xff",
        b"Idempotency-Key: \"not closed",
    ];
    for header in invalid {
        let head = [b"POST /charges HTTP/1.1\r\n", header, b"\r\n"].concat();
        let (status, problem) = raw(&gateway, &head, "{}").await;
        assert_eq!(status, 400, "{}: {problem}", header.escape_ascii());
        assert_problem(&problem, 400, "key-invalid", "never");
    }
    for twice in
        ["Idempotency-Key: a\r\nIdempotency-Key: a\r\n", "Idempotency-Key: a\r\nidempotency-key: b\r\n"]
    {
        let head = format!("POST /charges HTTP/1.1\r\n{twice}");
        let (status, problem) = raw(&gateway, head.as_bytes(), "{}").await;
        assert_eq!(status, 400, "{twice}");
        assert_problem(&problem, 400, "key-repeated", "never");
    }
    assert_eq!(upstream.ledger().total(), 0);
    let longest = "k".repeat(255);
    assert_eq!(Call::post("/charges", "{}").key(&longest).answer(gateway.addr()).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_raw_and_the_quoted_form_are_one_key() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    for (raw, quoted) in [("order-7", "\"order-7\""), ("a\\b", "\"a\\\\b\"")] {
        let first = Call::post("/charges", "{}").key(raw).answer(gateway.addr()).await;
        let second = Call::post("/charges", "{}").key(quoted).answer(gateway.addr()).await;
        assert_eq!((first.standing(), second.standing()), (Some("executed"), Some("replayed")), "{raw}");
        assert_eq!(first.essence(), second.essence());
        assert_eq!(upstream.ledger().effects(raw), 1, "the upstream gets the raw form");
    }
    assert_eq!(upstream.ledger().total(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_requires_keys_refuses_requests_without_one() {
    let upstream = Upstream::charging();
    let config = "[[routes]]\npath = \"/charges*\"\nmissing = \"require\"\n";
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), config).await;
    let refused = Call::post("/charges", "{}").answer(gateway.addr()).await;
    assert_refused(&refused, 400, "key-missing", "never");
    assert_eq!(upstream.ledger().total(), 0);
    assert_eq!(Call::post("/charges", "{}").key("k").answer(gateway.addr()).await.status, 201);
    let elsewhere = Call::post("/elsewhere", "{}").answer(gateway.addr()).await;
    assert_eq!((elsewhere.status, elsewhere.standing()), (201, Some("unrecorded")), "passed on");
    assert_eq!(upstream.ledger().total(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_amount_under_a_used_key_is_refused_and_shows_nothing_of_the_first() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let card = format!(r#"{{"amount":500,"card":"{SECRET}"}}"#);
    assert_eq!(Call::post("/charges", card).key("order").answer(gateway.addr()).await.status, 201);
    let changed = Call::post("/charges", r#"{"amount":900}"#).key("order").answer(gateway.addr()).await;
    assert_refused(&changed, 422, "mismatch", "never");
    let shown = format!("{:?}{}", changed.headers, changed.body.escape_ascii());
    assert!(!shown.contains(SECRET) && !shown.contains("500") && !shown.contains("/charges/1"), "{shown}");
    assert_eq!(upstream.ledger().effects("order"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_one_method_path_and_query() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    assert_eq!(Call::post("/charges?a=1", "{}").key("order").answer(gateway.addr()).await.status, 201);
    for target in ["/refunds?a=1", "/charges?a=2", "/charges", "/charges?a=1&b=2", "/charges/?a=1"] {
        let other = Call::post(target, "{}").key("order").answer(gateway.addr()).await;
        assert_refused(&other, 422, "mismatch", "never");
    }
    let put = Call::new(http::Method::DELETE, "/charges?a=1").key("order").answer(gateway.addr()).await;
    assert_refused(&put, 422, "mismatch", "never");
    assert_eq!(upstream.ledger().total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_with_one_key_have_two_effects_and_never_each_others_answer() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let as_tenant = |authorization: &str| {
        Call::post("/charges", "{}").key("order").header("authorization", authorization)
    };
    let (alice, bob) = (as_tenant("Bearer alice"), as_tenant("Bearer bob"));
    let first = [alice.answer(gateway.addr()).await, bob.answer(gateway.addr()).await];
    assert!(first.iter().all(|answer| answer.standing() == Some("executed")), "{first:?}");
    assert_ne!(first[0].json()["charge"], first[1].json()["charge"]);
    let again = [alice.answer(gateway.addr()).await, bob.answer(gateway.addr()).await];
    for (first, again) in first.iter().zip(&again) {
        assert_eq!((again.standing(), again.essence()), (Some("replayed"), first.essence()));
    }
    // Another payload of a third tenant is its own business too.
    let carol = Call::post("/charges", "{\"other\":1}").key("order").header("authorization", "Bearer carol");
    assert_eq!(carol.answer(gateway.addr()).await.standing(), Some("executed"));
    assert_eq!(upstream.ledger().effects("order"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_alone_says_not_whose_key_it_is() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let call = Call::post("/charges", "{}").key("order").header("cookie", "session=1");
    assert_refused(&call.answer(gateway.addr()).await, 403, "tenant-not-configured", "never");
    assert_eq!(upstream.ledger().total(), 0);
    let shared = "[defaults]\ntenant = \"shared\"\n";
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), shared).await;
    assert_eq!(call.answer(gateway.addr()).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_request_that_is_too_large_is_refused_and_never_runs_unprotected() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let at = Call::post("/charges", vec![b'x'; 1 << 20]).key("at").answer(gateway.addr()).await;
    assert_eq!(at.status, 201, "{at:?}");
    let above = Call::post("/charges", vec![b'x'; (1 << 20) + 1]).key("above").answer(gateway.addr()).await;
    assert_refused(&above, 413, "too-large", "never");
    assert_eq!(upstream.ledger().total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_is_told_to_wait_where_the_route_says_so() {
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let held = std::sync::Arc::clone(&gate);
    let upstream = Upstream::scripted(move |arrived| {
        let held = std::sync::Arc::clone(&held);
        async move {
            held.acquire().await.expect("the gate is never closed").forget();
            arrived.charge()
        }
    });
    let config = "[[routes]]\npath = \"/at-once\"\non_duplicate = \"conflict\"\n\
                  [[routes]]\npath = \"/wait\"\nwait_timeout = \"300ms\"\n";
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), config).await;
    for (nth, target) in [(1, "/at-once"), (2, "/wait")] {
        let call = Call::post(target, "{}").key(target);
        let (addr, holder) = (gateway.addr(), call.clone());
        let first = tokio::spawn(async move { holder.answer(addr).await });
        upstream.ledger().reaches(nth).await;
        let duplicate = call.answer(gateway.addr()).await;
        assert_eq!((duplicate.status, duplicate.standing()), (409, Some("in-progress")), "{duplicate:?}");
        assert_eq!(duplicate.problem().as_deref(), Some("in-progress"));
        assert_eq!(duplicate.json()["resend"], "after");
        let retry_after: u64 =
            duplicate.header("retry-after").and_then(|text| text.parse().ok()).expect("a time");
        assert!((1..=5).contains(&retry_after), "{retry_after}");
        gate.add_permits(1);
        let first = first.await.expect("the first caller is answered");
        assert_eq!(call.answer(gateway.addr()).await.essence(), first.essence());
        assert_eq!(upstream.ledger().effects(target), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_servers_read_in_two_ways_reaches_nobody_and_another_spelling_is_the_same() {
    let upstream = Upstream::charging();
    let config = "[[routes]]\npath = \"/search*\"\nmethods = []\n[[routes]]\npath = \"/charges\"\nmissing = \"require\"\n";
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), config).await;
    for path in [
        "/search/../charges",
        "/search/%2e%2E/charges",
        "/search/.%2e/charges",
        "/search/..%2fcharges",
        "/search/..%5Ccharges",
        "/search/..;a=b/charges",
        "/./charges",
        "/charges/.",
    ] {
        let refused = Call::post(path, "{}").key("k").answer(gateway.addr()).await;
        assert_eq!(
            (refused.status, refused.problem().as_deref()),
            (400, Some("bad-request")),
            "{path}: {refused:?}"
        );
    }
    assert_eq!(upstream.ledger().total(), 0);
    for path in ["/search/..hidden", "/search/a...b", "/search?next=../up"] {
        let passed = Call::post(path, "{}").answer(gateway.addr()).await;
        assert_eq!((passed.status, passed.standing()), (201, None), "{path}: {passed:?}");
    }
    let unkeyed = Call::post("/%63harges", "{}").answer(gateway.addr()).await;
    assert_eq!((unkeyed.status, unkeyed.problem().as_deref()), (400, Some("key-missing")));
    let first = Call::post("/%63harges?to=%61lice", "{}").key("k").answer(gateway.addr()).await;
    assert_eq!((first.status, first.standing()), (201, Some("executed")), "{first:?}");
    let again = Call::post("/charges?to=alice", "{}").key("k").answer(gateway.addr()).await;
    assert_eq!((again.standing(), again.essence()), (Some("replayed"), first.essence()));
    assert_eq!(upstream.ledger().effects("k"), 1);
}
