//! `semel audit server` against this project's own gateway, in front of an API that knows nothing of keys: every promise
//! is kept.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use semel_testkit::gateway::Gateway;
use semel_testkit::upstream::{Arrived, Reply, Upstream};
use serde_json::{Value, json};

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");

/// An API that acts on every request, and tells at `/count` how often it did.
fn acting() -> Upstream {
    let effects = Arc::new(AtomicU64::new(0));
    Upstream::scripted(move |arrived| {
        let effects = Arc::clone(&effects);
        async move { Reply::Answer(act(&arrived, &effects).await) }
    })
}

async fn act(arrived: &Arrived, effects: &AtomicU64) -> Response<Bytes> {
    let made = || effects.fetch_add(1, Ordering::SeqCst) + 1;
    let payload: Value = serde_json::from_slice(&arrived.body).unwrap_or_default();
    match (&arrived.head.method, arrived.path()) {
        (&Method::GET, "/count") => answer(200, &json!({ "made": effects.load(Ordering::SeqCst) })),
        (&Method::POST, "/charges") if !payload["amount"].is_i64() => {
            answer(400, &json!({ "error": "amount" }))
        }
        (&Method::POST, "/charges") => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            charged(made(), arrived)
        }
        (&Method::DELETE, _) => {
            made();
            Response::builder().status(204).body(Bytes::new()).unwrap()
        }
        (_, "/fails") => {
            made();
            answer(500, &json!({ "error": "too late" }))
        }
        _ => answer(404, &json!({})),
    }
}

/// Everything that an answer can have, and marks that are not this API's to give.
fn charged(nth: u64, arrived: &Arrived) -> Response<Bytes> {
    let gzip = arrived.head.headers.get("accept-encoding").is_some_and(|value| value == "gzip");
    let mut answer = match gzip {
        // Not text, and not what its header says: nobody in between may look into it.
        true => {
            let bytes = [&[0x1f, 0x8b, 0x00, 0xff][..], nth.to_string().as_bytes()].concat();
            Response::builder().status(201).header("content-encoding", "gzip").body(bytes.into()).unwrap()
        }
        false => answer(201, &json!({ "id": format!("ch_{nth}") })),
    };
    for (name, value) in [
        ("location", format!("/charges/{nth}")),
        ("link", "</a>; rel=\"a\"".to_owned()),
        ("link", "</b>; rel=\"b\"".to_owned()),
        ("set-cookie", format!("session={nth}")),
        ("x-request-id", format!("req-{nth}")),
        ("idempotency-replayed", "true".to_owned()),
        ("idempotent-replayed", "true".to_owned()),
    ] {
        let name: http::HeaderName = name.parse().unwrap();
        answer.headers_mut().append(name, value.parse().unwrap());
    }
    answer
}

fn answer(status: u16, body: &Value) -> Response<Bytes> {
    let answer = Response::builder().status(status).header("content-type", "application/json");
    answer.body(body.to_string().into()).unwrap()
}

/// What the program finds, with whatever it ends with.
async fn audited(gateway: &Gateway, upstream: &Upstream, wishes: &[&str]) -> (Value, Option<i32>) {
    let mut command = tokio::process::Command::new(SEMEL);
    command.args(["audit", "server", &format!("http://{}/charges", gateway.addr()), "--json"]);
    command.args(["--fail-on", "s3", "--count-url", &format!("{}/count", upstream.url())]);
    command.args(["--count-pointer", "/made", "--body", r#"{"amount": 4000, "note": "order {unique}"}"#]);
    command.args(["--body-invalid", r#"{"amount": "much"}"#, "--failing", "POST /fails"]);
    command.args(["--no-content", "DELETE /charges/{unique}"]);
    command.args([
        "--credential",
        "Authorization: Bearer alice",
        "--credential",
        "Authorization: Bearer bob",
    ]);
    let output = command.args(wishes).stdin(Stdio::null()).output().await.unwrap();
    let audit = serde_json::from_slice(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (audit.unwrap_or_else(|error| panic!("{error}: {said}")), output.status.code())
}

fn with<'a>(audit: &'a Value, verdict: &str) -> BTreeSet<&'a str> {
    let findings = audit["findings"].as_array().unwrap();
    findings
        .iter()
        .filter(|finding| finding["verdict"] == verdict)
        .map(|one| one["check"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_keeps_every_promise_of_the_draft() {
    let upstream = acting();
    let config = "[defaults]\nmissing = \"require\"\ntell_expiry = true\n";
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), config).await;
    let (audit, code) = audited(&gateway, &upstream, &["--key-required"]).await;
    assert!(with(&audit, "fail").is_empty() && code == Some(0), "{audit:#}");
    assert!(with(&audit, "info").is_empty(), "{:?}", with(&audit, "info"));
    // Whoever comes second waits, and gets the answer: nobody is told to come back.
    let waited = BTreeSet::from(["conflict_is_explained", "conflict_says_when_to_come_back"]);
    assert_eq!(with(&audit, "not-applicable"), waited);
    assert_eq!(audit["meant"], audit["made"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_keeps_every_promise_of_its_profile_stripe() {
    let upstream = acting();
    let config = "[defaults]\nprofile = \"stripe\"\ntell_expiry = true\n";
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), config).await;
    let (audit, code) = audited(&gateway, &upstream, &["--expect", "stripe"]).await;
    assert!(with(&audit, "fail").is_empty() && code == Some(0), "{audit:#}");
    // That profile lets requests without a key pass.
    assert_eq!(with(&audit, "info"), BTreeSet::from(["missing_key_is_refused"]));
    assert!(with(&audit, "not-applicable").is_empty(), "{audit:#}");
    assert_eq!(audit["meant"], audit["made"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_without_the_gateway_is_told_what_it_does_twice() {
    let upstream = acting();
    let url = format!("{}/charges", upstream.url());
    let mut command = tokio::process::Command::new(SEMEL);
    command.args(["audit", "server", &url, "--only", "fm10"]).stdin(Stdio::null());
    let output = command.output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    // The code that says: somebody would pay twice.
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(said.contains("FAIL  S0") && said.contains("21 requests had 21 effects"), "{said}");
    let words: Vec<&str> = said.split_whitespace().collect();
    assert!(words.join(" ").contains("acted 63 times where 3 were meant"), "{said}");
}
