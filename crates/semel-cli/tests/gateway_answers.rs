//! What of an answer comes back on a replay, byte by byte, and what happens to answers that are too large to keep.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use http_body_util::BodyExt;
use semel_testkit::client::{Call, Connection, Raw, drain, is_own_of_each};
use semel_testkit::gateway::Gateway;
use semel_testkit::repeat::Repeat;
use semel_testkit::upstream::{Arrived, Reply, Upstream};
use tokio::sync::Semaphore;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
const PATIENCE: Duration = Duration::from_secs(20);

fn answer(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Bytes> {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(body.into()).expect("the test writes headers that exist")
}

/// `printf 'once' | gzip -n`, which no part of the way may unpack.
const GZIP: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\xcfKN\x05\0\xd0s@s\x04\0\0\0";

fn api(arrived: &Arrived) -> Response<Bytes> {
    let nth = arrived.nth.to_string();
    match arrived.path() {
        "/created" => answer(201, &[("location", &format!("/charges/{nth}")), ("x-nth", &nth)], nth.clone()),
        "/no-content" => answer(204, &[("x-nth", &nth)], ""),
        "/empty" => answer(200, &[("x-nth", &nth)], ""),
        "/not-modified" => answer(304, &[("etag", "\"7\""), ("x-nth", &nth)], ""),
        "/gzip" => answer(200, &[("content-encoding", "gzip"), ("x-nth", &nth)], GZIP),
        "/binary" => {
            let every_byte: Vec<u8> = (0..=u8::MAX).chain((0..=u8::MAX).rev()).collect();
            answer(200, &[("content-type", "application/octet-stream"), ("x-nth", &nth)], every_byte)
        }
        "/repeated" => answer(
            200,
            &[
                ("x-nth", &nth),
                ("link", "</2>; rel=next"),
                ("vary", "accept"),
                ("link", "</9>; rel=last"),
                ("warning", "199 - \"a, b\""),
                ("link", "</0>; rel=first"),
                ("vary", ""),
            ],
            "three links",
        ),
        "/bad-request" => {
            answer(400, &[("content-type", "application/problem+json")], format!("{{\"n\":{nth}}}"))
        }
        "/not-found" => answer(404, &[("x-nth", &nth)], "nothing here"),
        "/cookie" => answer(
            200,
            &[
                ("set-cookie", "session=secret"),
                ("set-cookie", "theme=dark"),
                ("www-authenticate", "Basic"),
                ("x-nth", &nth),
            ],
            "signed in",
        ),
        "/spoofed" => answer(
            200,
            &[
                ("idempotency-replayed", "true"),
                ("idempotent-replayed", "true"),
                ("idempotency-status", "replayed"),
                ("idempotency-key", "another"),
                ("connection", "x-private"),
                ("x-private", "of this connection"),
                ("x-nth", &nth),
            ],
            "spoofed",
        ),
        path => panic!("{path} is not in the script"),
    }
}

fn scripted() -> Upstream {
    Upstream::scripted(|arrived| {
        let answer = api(&arrived);
        async move { Reply::Answer(answer) }
    })
}

/// An answer as it is on the wire: the lines of its head, and its body.
struct OnTheWire {
    head: Vec<String>,
    body: Vec<u8>,
}

impl OnTheWire {
    /// The lines that a replay must have as they are, in their order.
    fn kept(&self) -> Vec<&str> {
        let own = |line: &str| line.split_once(':').is_some_and(|(name, _)| is_own_of_each(name));
        self.head.iter().map(String::as_str).filter(|line| !own(line)).collect()
    }

    fn has(&self, line: &str) -> bool {
        self.head.iter().any(|own| own.eq_ignore_ascii_case(line))
    }

    fn names(&self, name: &str) -> bool {
        self.head.iter().any(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))
    }
}

async fn post(gateway: &Gateway, path: &str, more: &str) -> OnTheWire {
    let mut raw = Raw::open(gateway.addr()).await;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: api\r\nIdempotency-Key: key-of{path}\r\nContent-Length: 2\r\n{more}\
         Connection: close\r\n\r\n{{}}"
    );
    assert!(raw.write(request.as_bytes()).await);
    let bytes = raw.read_to_close(PATIENCE).await.expect("the gateway answers and closes");
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
    let head = bytes[..end].escape_ascii().to_string();
    OnTheWire { head: head.split("\\r\\n").map(str::to_owned).collect(), body: bytes[end + 4..].to_vec() }
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_equal_the_first_answer_byte_by_byte() {
    let upstream = scripted();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let paths = [
        "/created",
        "/no-content",
        "/empty",
        "/not-modified",
        "/gzip",
        "/binary",
        "/repeated",
        "/bad-request",
        "/not-found",
    ];
    for path in paths {
        let first = post(&gateway, path, "").await;
        assert!(first.has("idempotency-status: executed"), "{path}: {:?}", first.head);
        assert!(!first.names("idempotency-replayed"), "{path}");
        for _ in 0..2 {
            let replay = post(&gateway, path, "").await;
            assert!(replay.has("idempotency-replayed: true"), "{path}: {:?}", replay.head);
            assert!(replay.has("idempotency-status: replayed"), "{path}");
            assert!(replay.has("cache-control: no-store"), "{path}");
            assert!(replay.has(&format!("idempotency-key: key-of{path}")), "{path}");
            assert_eq!(replay.kept(), first.kept(), "{path}");
            assert_eq!(replay.body, first.body, "{path}");
        }
    }
    assert_eq!(upstream.ledger().total(), paths.len());
    assert_eq!(upstream.ledger().max_per_key(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_are_the_same_after_a_restart() {
    let upstream = scripted();
    let mut gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let paths = ["/created", "/no-content", "/gzip", "/binary", "/repeated", "/not-found"];
    let mut first = Vec::new();
    for path in paths {
        first.push(post(&gateway, path, "").await);
    }
    gateway.terminate();
    assert!(gateway.wait().await.status.success());
    gateway.start_again().await;
    for (path, first) in paths.into_iter().zip(first) {
        let replay = post(&gateway, path, "").await;
        assert!(replay.has("idempotency-status: replayed"), "{path}: {:?}", replay.head);
        assert_eq!((replay.kept(), &replay.body), (first.kept(), &first.body), "{path}");
    }
    assert_eq!(upstream.ledger().total(), paths.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_headers_keep_their_number_and_order() {
    let upstream = scripted();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    for _ in 0..2 {
        let answer = post(&gateway, "/repeated", "").await;
        let of = |name: &str| -> Vec<&str> {
            let lines = answer.head.iter().filter_map(|line| line.split_once(':'));
            lines.filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
        };
        assert_eq!(of("link"), ["</2>; rel=next", "</9>; rel=last", "</0>; rel=first"]);
        assert_eq!(of("vary"), ["accept", ""]);
        assert_eq!(of("warning"), ["199 - \\\"a, b\\\""]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_and_challenges_are_for_the_first_caller_only() {
    let upstream = scripted();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let first = post(&gateway, "/cookie", "").await;
    assert!(
        first.has("set-cookie: session=secret") && first.has("set-cookie: theme=dark"),
        "{:?}",
        first.head
    );
    assert!(first.has("www-authenticate: Basic"));
    let replay = post(&gateway, "/cookie", "").await;
    assert!(replay.has("idempotency-replayed: true"));
    assert!(!replay.names("set-cookie") && !replay.names("www-authenticate"), "{:?}", replay.head);
    assert_eq!(replay.body, first.body);
    assert_eq!(upstream.ledger().total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_that_a_client_or_an_upstream_makes_up_never_pass() {
    let spoofed = "Idempotency-Replayed: true\r\nIdempotency-Attempt: 7\r\nIdempotency-Token: 1\r\n\
                   Idempotency-Status: executed\r\n";
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    let upstream = Upstream::scripted(move |arrived| {
        kept.lock().expect("no test panics while it holds this").push(arrived.head.headers.clone());
        let answer = api(&arrived);
        async move { Reply::Answer(answer) }
    });
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let first = post(&gateway, "/spoofed", spoofed).await;
    assert!(!first.names("idempotency-replayed") && !first.names("idempotent-replayed"), "{:?}", first.head);
    assert!(first.has("idempotency-status: executed"));
    assert!(first.has("idempotency-key: key-of/spoofed"));
    assert!(!first.names("x-private"), "a header of the upstream's connection: {:?}", first.head);
    let replay = post(&gateway, "/spoofed", spoofed).await;
    assert!(replay.has("idempotency-replayed: true") && !replay.names("idempotent-replayed"));
    let entries = upstream.ledger().entries();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].attempt, Some(1));
    assert!(entries[0].token.is_some_and(|token| token > 1_000_000), "{entries:?}");
    let headers = &seen.lock().expect("no test panics while it holds this")[0];
    assert!(!headers.contains_key("idempotency-replayed") && !headers.contains_key("idempotency-status"));
    assert_eq!(headers.get_all("idempotency-attempt").iter().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn get_and_head_pass_untouched_and_get_streams() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let upstream = Upstream::scripted(move |arrived| {
        let held = Arc::clone(&held);
        async move {
            if arrived.head.method == Method::HEAD {
                return Reply::Answer(answer(200, &[("content-length", "12345"), ("x-of", "head")], ""));
            }
            Reply::Stream(answer(200, &[("x-of", "get")], "").map(|_| halves(held)))
        }
    });
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let mut connection = Connection::open(gateway.addr()).await.expect("the gateway listens");
    for nth in 1..=2 {
        let get = Call::new(Method::GET, "/report").key("not-looked-at");
        let mut answer = connection.begin(&get).await.expect("the head comes before the body's end");
        assert!(answer.headers().keys().all(|name| !name.as_str().starts_with("idempotency")), "{answer:?}");
        let first = answer.body_mut().frame().await.expect("a frame").expect("the first half comes");
        assert_eq!(first.into_data().expect("data"), "first half, ");
        gate.add_permits(1);
        assert_eq!(answer.collect().await.expect("the rest comes").to_bytes(), "second half");
        let head = Call::new(Method::HEAD, "/report").key("not-looked-at");
        let head = connection.send(&head).await.expect("an answer");
        assert_eq!((head.status, head.header("content-length")), (200, Some("12345")));
        assert!(head.headers.keys().all(|name| !name.as_str().starts_with("idempotency")), "{head:?}");
        assert_eq!(upstream.ledger().total(), 2 * nth);
    }
    assert!(gateway.keys(&["list"]).await.documents.is_empty(), "nothing was recorded");
}

type Stream = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

/// Sends its second half when the gate opens.
fn halves(gate: Arc<Semaphore>) -> Stream {
    let (mut sender, body) = http_body_util::channel::Channel::<Bytes, std::io::Error>::new(2);
    tokio::spawn(async move {
        let first = sender.send_data(Bytes::from_static(b"first half, ")).await;
        gate.acquire().await.expect("the gate is never closed").forget();
        // The caller may have hung up.
        let _ = first.and(sender.send_data(Bytes::from_static(b"second half")).await);
    });
    body.boxed_unsync()
}

fn large(path: &'static str, content_type: &'static str, body: Repeat) -> Upstream {
    Upstream::scripted(move |arrived| {
        assert_eq!(arrived.path(), path);
        let location = format!("/reports/{}", arrived.nth);
        let head = [("location", location.as_str()), ("content-type", content_type)];
        let body = body.clone().map_err(|never| match never {}).boxed_unsync();
        let answer = answer(201, &head, "").map(|_| body);
        async move { Reply::Stream(answer) }
    })
}

async fn assert_answer_not_kept(gateway: &Gateway, call: &Call) {
    for _ in 0..2 {
        let retry = call.answer(gateway.addr()).await;
        assert_eq!((retry.status, retry.problem().as_deref()), (409, Some("answer-not-kept")), "{retry:?}");
        assert_eq!(retry.json()["original_status"], 201);
        assert_eq!(retry.json()["resend"], "never");
        assert_eq!(retry.header("location"), Some("/reports/1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_the_limit_reaches_its_caller_whole_and_is_not_run_again() {
    // One byte more than is kept, and much more.
    for body in [Repeat::new(vec![7; (1 << 20) + 1], 1), Repeat::new(vec![7; 1 << 20], 24)] {
        let upstream = large("/reports", "application/octet-stream", body.clone());
        let gateway = Gateway::start(SEMEL, &upstream.url()).await;
        let call = Call::post("/reports", "{}").key("large");
        let mut connection = Connection::open(gateway.addr()).await.expect("the gateway listens");
        let answer = connection.begin(&call).await.expect("a head");
        assert_eq!(answer.status(), 201);
        assert_eq!(answer.headers()["idempotency-status"], "executed");
        assert_eq!(drain(answer.into_body()).await.expect("the whole body"), body.digest());
        assert_answer_not_kept(&gateway, &call).await;
        assert_eq!(upstream.ledger().effects("large"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_at_the_limit_is_kept() {
    let body = Repeat::new(vec![7; 1 << 20], 1);
    let upstream = large("/reports", "application/octet-stream", body.clone());
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let call = Call::post("/reports", "{}").key("at-the-limit");
    let first = call.answer(gateway.addr()).await;
    let replay = call.answer(gateway.addr()).await;
    assert_eq!(first.body.len(), 1 << 20);
    assert_eq!((replay.standing(), replay.essence()), (Some("replayed"), first.essence()));
    assert_eq!(upstream.ledger().total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_their_caller_as_they_come_and_are_not_run_again() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let upstream = Upstream::scripted(move |arrived| {
        let head = [("content-type", "text/event-stream"), ("location", "/reports/1")];
        let answer = answer(201, &head, "").map(|_| halves(Arc::clone(&held)));
        async move {
            drop(arrived);
            Reply::Stream(answer)
        }
    });
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let call = Call::post("/events", "{}").key("events");
    let mut connection = Connection::open(gateway.addr()).await.expect("the gateway listens");
    let mut answer = connection.begin(&call).await.expect("a head");
    let first = answer.body_mut().frame().await.expect("a frame").expect("the first event comes");
    assert_eq!(first.into_data().expect("data"), "first half, ");
    // The stream is still open, and the effect is on record already.
    assert_answer_not_kept(&gateway, &call).await;
    gate.add_permits(1);
    assert_eq!(answer.collect().await.expect("the rest comes").to_bytes(), "second half");
    assert_answer_not_kept(&gateway, &call).await;
    assert_eq!(upstream.ledger().effects("events"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_takes_too_long_to_gather_is_streamed_and_not_kept() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let upstream = Upstream::scripted(move |arrived| {
        let answer = answer(201, &[("location", "/reports/1")], "").map(|_| halves(Arc::clone(&held)));
        async move {
            drop(arrived);
            Reply::Stream(answer)
        }
    });
    let config = "[defaults]\nbuffer_timeout = \"200ms\"\n";
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), config).await;
    let call = Call::post("/slow", "{}").key("slow");
    let mut connection = Connection::open(gateway.addr()).await.expect("the gateway listens");
    let mut answer = connection.begin(&call).await.expect("a head before the body's end");
    let first = answer.body_mut().frame().await.expect("a frame").expect("the first half comes");
    assert_eq!(first.into_data().expect("data"), "first half, ");
    assert_answer_not_kept(&gateway, &call).await;
    gate.add_permits(1);
    assert_eq!(answer.collect().await.expect("the rest comes").to_bytes(), "second half");
    assert_eq!(upstream.ledger().effects("slow"), 1);
}
