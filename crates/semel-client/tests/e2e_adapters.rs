//! Every adapter against a server that fails in every way there is. What is asserted is the server's own log: how many
//! requests arrived, under which keys, with which bodies, and how far apart.
//!
//! All cases of all adapters run at once, because they mostly wait.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and measures real time"
)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::rt::TokioExecutor;
use semel::backoff::Backoff;
use semel_client::adapter::layer::OnceLayer;
use semel_client::core::call::Policy;
use semel_client::core::classify::Effect;
use semel_client::journal::memory::MemoryJournal;
use semel_client::{Client, Error, Idempotency, Key, Kind, Once, Report, adapter};
use semel_testkit::upstream::{Arrived, Reply, Reserved, Upstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::{Layer, ServiceExt};

const BODY: &[u8] = br#"{"cents":4000}"#;
const SECRET: &str = "Bearer do-not-tell";
const BASE_MS: u64 = 100;
/// How much later than due a request may arrive on a machine that is busy.
const LATE: Duration = Duration::from_millis(900);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Adapter {
    Middleware,
    Client,
    Tower,
    BlockingReqwest,
    BlockingUreq,
}

const ADAPTERS: [Adapter; 5] =
    [Adapter::Middleware, Adapter::Client, Adapter::Tower, Adapter::BlockingReqwest, Adapter::BlockingUreq];

/// What the server does with one request.
#[derive(Clone, Debug)]
enum Act {
    Answer(u16),
    With(u16, &'static str, String),
    Half,
    Reset,
    Hang,
    /// Says when it comes to it how late it is in a few seconds.
    In4Seconds,
}

#[derive(Clone, Debug, PartialEq)]
enum End {
    Status(u16),
    Fails(Kind),
}

#[derive(Clone, Debug)]
struct Case {
    name: &'static str,
    method: Method,
    /// The last one repeats.
    acts: Vec<Act>,
    trusted: bool,
    said: Option<Idempotency>,
    written: Option<&'static str>,
    /// How many requests must arrive.
    arrive: usize,
    end: End,
    /// Least and most between one arrival and the next.
    apart: Vec<(u64, u64)>,
}

/// One arrival, as the server saw it.
#[derive(Clone, Debug)]
struct Line {
    at: Instant,
    keys: Vec<String>,
    method: Method,
    body: Bytes,
    authorization: Option<String>,
}

type Log = Arc<Mutex<HashMap<String, Vec<Line>>>>;

fn case(name: &'static str, acts: &[Act], arrive: usize, end: End) -> Case {
    let backoff = |n: u32| (BASE_MS * 2_u64.pow(n) * 4 / 10, BASE_MS * 2_u64.pow(n) * 16 / 10);
    let apart = (0..u32::try_from(arrive.max(1) - 1).unwrap()).map(backoff).collect();
    let (method, acts) = (Method::POST, acts.to_vec());
    Case { name, method, acts, trusted: true, said: None, written: None, arrive, end, apart }
}

fn cases(elsewhere: &str) -> Vec<Case> {
    use Act::{Answer, Half, Hang, In4Seconds, Reset, With};
    let after = |value: &str| With(429, "retry-after", value.to_owned());
    let to = |status, place: &str| With(status, "location", place.to_owned());
    let done = End::Status(200);
    let mut cases = vec![
        case("done", &[Answer(200)], 1, done.clone()),
        case("503-503-200", &[Answer(503), Answer(503), Answer(200)], 3, done.clone()),
        case("503", &[Answer(503)], 4, End::Fails(Kind::Exhausted)),
        Case { apart: vec![(2_000, 2_900)], ..case("after-2", &[after("2"), Answer(200)], 2, done.clone()) },
        Case {
            apart: vec![(3_000, 4_900)],
            ..case("after-date", &[In4Seconds, Answer(200)], 2, done.clone())
        },
        case("after-3600", &[after("3600"), Answer(200)], 1, End::Fails(Kind::Throttled)),
        case("after-minus-5", &[after("-5"), Answer(200)], 2, done.clone()),
        case("after-abc", &[after("abc"), Answer(200)], 2, done.clone()),
        case("reset", &[Reset, Answer(200)], 2, done.clone()),
        case("half", &[Half, Answer(200)], 2, done.clone()),
        Case { apart: vec![(900, 1_650)], ..case("hang", &[Hang, Answer(200)], 2, done.clone()) },
        Case {
            trusted: false,
            ..case("undeclared-reset", &[Reset, Answer(200)], 1, End::Fails(Kind::Unknown))
        },
        Case {
            trusted: false,
            ..case("undeclared-half", &[Half, Answer(200)], 1, End::Fails(Kind::Unknown))
        },
        Case {
            trusted: false,
            ..case("undeclared-503", &[Answer(503), Answer(200)], 1, End::Fails(Kind::Unknown))
        },
        Case {
            said: Some(Idempotency::off()),
            ..case("off-reset", &[Reset, Answer(200)], 1, End::Fails(Kind::Unknown))
        },
        Case {
            method: Method::GET,
            trusted: false,
            ..case("get", &[Reset, Answer(503), Answer(200)], 3, done.clone())
        },
        Case { method: Method::PUT, ..case("put", &[Answer(503), Answer(200)], 2, done.clone()) },
        Case { method: Method::PATCH, ..case("patch", &[Answer(503), Answer(200)], 2, done.clone()) },
        Case { said: Some("order-42".into()), ..case("own-key", &[Reset, Answer(200)], 2, done.clone()) },
        Case { written: Some("order-43"), ..case("written-key", &[Reset, Answer(200)], 2, done.clone()) },
        Case { written: Some("\"order-44\""), ..case("quoted-key", &[Reset, Answer(200)], 2, done.clone()) },
        Case {
            method: Method::DELETE,
            said: Some(Idempotency::auto()),
            ..case("auto-key", &[Answer(503), Answer(200)], 2, done.clone())
        },
        Case {
            said: Some("bad\nkey".into()),
            ..case("bad-key", &[Answer(200)], 0, End::Fails(Kind::Invalid))
        },
        Case {
            apart: vec![(1_000, 1_900)],
            ..case(
                "in-flight",
                &[With(409, "idempotency-status", "in-progress".into()), Answer(200)],
                2,
                done.clone(),
            )
        },
        case("in-doubt", &[With(409, "idempotency-status", "in-doubt".into())], 1, End::Fails(Kind::Unknown)),
        Case {
            apart: vec![(0, 0)],
            ..case("307-away", &[to(307, elsewhere)], 1, End::Fails(Kind::Redirected))
        },
        Case {
            apart: vec![(0, 0)],
            ..case("308-away", &[to(308, elsewhere)], 1, End::Fails(Kind::Redirected))
        },
    ];
    for (status, name) in [(307, "307-here"), (308, "308-here")] {
        // The address of the case itself: each arrival is the next act.
        cases.push(Case {
            apart: vec![(0, 0)],
            ..case(name, &[to(status, "?again"), Answer(200)], 2, done.clone())
        });
    }
    for (status, name) in [(400, "400"), (401, "401"), (409, "409"), (422, "422"), (501, "501")] {
        cases.push(case(name, &[Answer(status), Answer(200)], 1, End::Fails(Kind::Rejected)));
    }
    // A value of `Idempotency` is one call, so every call gets one of its own.
    for case in &mut cases {
        case.apart.resize(case.arrive.saturating_sub(1), (0, 0));
    }
    cases
}

fn fresh(said: Option<&Idempotency>, case: &str) -> Option<Idempotency> {
    said.map(|_| match case {
        "off-reset" => Idempotency::off(),
        "auto-key" => Idempotency::auto(),
        "own-key" => Idempotency::from("order-42"),
        _ => Idempotency::from("bad\nkey"),
    })
}

fn once(trusted: bool) -> Once {
    let policy = Policy {
        backoff: Backoff { base: Duration::from_millis(BASE_MS), cap: Duration::from_secs(8) },
        attempt_timeout: Duration::from_secs(1),
        ..Policy::default()
    };
    let once = if trusted { Once::for_hosts(["127.0.0.1"]) } else { Once::new() };
    once.policy(policy)
}

/// What a program gets to see, whatever the adapter.
#[derive(Debug)]
struct Got {
    status: Option<u16>,
    body: Bytes,
    kind: Option<Kind>,
    key: Option<Key>,
    attempts: u32,
    retry_after: Option<Duration>,
    effect: Option<Effect>,
}

impl Got {
    fn answer(status: StatusCode, report: &Report, body: Bytes) -> Self {
        Self {
            status: Some(status.as_u16()),
            body,
            kind: report.ending.as_ref().map(|ending| ending.kind),
            key: report.key.clone(),
            attempts: report.attempts,
            retry_after: report.ending.as_ref().and_then(|ending| ending.retry_after),
            effect: report.ending.as_ref().map(|ending| ending.effect),
        }
    }

    fn whole(got: Result<Response<Bytes>, Error>) -> Self {
        match got {
            Ok(answer) => {
                Self::answer(answer.status(), answer.extensions().get().unwrap(), answer.body().clone())
            }
            Err(error) => Self::error(&error),
        }
    }

    fn error(error: &Error) -> Self {
        Self {
            status: None,
            body: Bytes::new(),
            kind: Some(error.kind()),
            key: error.key().cloned(),
            attempts: error.attempts(),
            retry_after: error.retry_after(),
            effect: Some(error.effect()),
        }
    }
}

async fn run(adapter: Adapter, url: String, case: &Case) -> Got {
    let (once, method) = (once(case.trusted), case.method.clone());
    let (said, written) = (fresh(case.said.as_ref(), case.name), case.written);
    let body = if method == Method::GET { &b""[..] } else { BODY };
    match adapter {
        Adapter::Middleware => {
            let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new()).with(once).build();
            let mut request = client.request(method, url).header("authorization", SECRET).body(body);
            if let Some(said) = said {
                request = request.with_extension(said);
            }
            if let Some(written) = written {
                request = request.header("idempotency-key", written);
            }
            match request.send().await {
                Ok(answer) => {
                    let (status, report) = (answer.status(), answer.extensions().get::<Report>().cloned());
                    Got::answer(status, &report.unwrap(), answer.bytes().await.unwrap_or_default())
                }
                Err(error) => Got::error(adapter::middleware::error(&error).expect("an error of Once")),
            }
        }
        Adapter::Client => {
            let client = Client::new(once).unwrap();
            Got::whole(call(client.call(method, &url), body, said, written).send().await)
        }
        Adapter::Tower => tower(once, method, &url, body, said, written).await,
        Adapter::BlockingReqwest => {
            let sending = move || {
                let transport = adapter::blocking::Reqwest::new().unwrap();
                let client = adapter::blocking::Client::builder(once, transport).build().unwrap();
                Got::whole(call(client.call(method, &url), body, said, written).send())
            };
            tokio::task::spawn_blocking(sending).await.unwrap()
        }
        Adapter::BlockingUreq => {
            let sending = move || {
                let client =
                    adapter::ureq::Client::builder(once, adapter::ureq::Ureq::default()).build().unwrap();
                Got::whole(call(client.call(method, &url), body, said, written).send())
            };
            tokio::task::spawn_blocking(sending).await.unwrap()
        }
    }
}

fn call<'a, T>(
    call: semel_client::api::Call<'a, T>,
    body: &'static [u8],
    said: Option<Idempotency>,
    written: Option<&str>,
) -> semel_client::api::Call<'a, T> {
    let mut call = call.header("authorization", SECRET);
    if !body.is_empty() {
        call = call.body("application/json", body);
    }
    if let Some(said) = said {
        call = call.idempotency_key(said);
    }
    match written {
        Some(written) => call.header("idempotency-key", written),
        None => call,
    }
}

async fn tower(
    once: Once,
    method: Method,
    url: &str,
    body: &'static [u8],
    said: Option<Idempotency>,
    written: Option<&str>,
) -> Got {
    let mut request = Request::builder().method(method).uri(url).header("authorization", SECRET);
    if let Some(written) = written {
        request = request.header("idempotency-key", written);
    }
    let mut request = request.body(Full::new(Bytes::from_static(body))).unwrap();
    if let Some(said) = said {
        request.extensions_mut().insert(said);
    }
    let service = OnceLayer::new(once).layer(Hyper::builder(TokioExecutor::new()).build_http());
    match service.oneshot(request).await {
        Ok(answer) => {
            let (status, report) = (answer.status(), answer.extensions().get::<Report>().cloned());
            let body = answer.into_body().collect().await.map(http_body_util::Collected::to_bytes);
            Got::answer(status, &report.unwrap(), body.unwrap_or_default())
        }
        Err(error) => Got::error(&error),
    }
}

fn act(act: &Act) -> Option<Reply> {
    let answer = |status: u16| {
        let mut answer = Response::new(Bytes::from_static(b"{\"charge\": 1}"));
        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
        answer
    };
    let with = |status, name: &'static str, value: &str| {
        let mut answer = answer(status);
        answer.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        Reply::Answer(answer)
    };
    match act {
        Act::Answer(status) => Some(Reply::Answer(answer(*status))),
        Act::With(409, name, value) if value == "in-progress" => {
            let Reply::Answer(mut answer) = with(409, name, value) else { return None };
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            Some(Reply::Answer(answer))
        }
        Act::With(status, name, value) => Some(with(*status, name, value)),
        Act::Half => Some(Reply::Half(answer(200))),
        Act::Reset => Some(Reply::Reset),
        Act::Hang => None,
        Act::In4Seconds => {
            let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(4));
            Some(with(429, "retry-after", &date))
        }
    }
}

fn server(acts: HashMap<&'static str, Vec<Act>>, log: &Log) -> Upstream {
    let (acts, log) = (Arc::new(acts), Arc::clone(log));
    Upstream::scripted(move |arrived: Arrived| {
        let (path, headers) = (arrived.path().to_owned(), &arrived.head.headers);
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let line = Line {
            at: Instant::now(),
            keys: headers.get_all("idempotency-key").iter().map(text).collect(),
            method: arrived.head.method.clone(),
            body: arrived.body.clone(),
            authorization: headers.get("authorization").map(text),
        };
        let nth = {
            let mut log = log.lock().unwrap();
            let lines = log.entry(path.clone()).or_default();
            lines.push(line);
            lines.len() - 1
        };
        let steps = &acts[path.split('/').nth(1).unwrap()];
        let reply = act(&steps[nth.min(steps.len() - 1)]);
        async move {
            match reply {
                Some(reply) => reply,
                None => std::future::pending().await,
            }
        }
    })
}

fn judge(adapter: Adapter, case: &Case, got: &Got, lines: &[Line]) {
    let what = format!("{adapter:?}, {}: {got:?}, {lines:#?}", case.name);
    assert_eq!(lines.len(), case.arrive, "arrivals; {what}");
    match &case.end {
        End::Status(status) => {
            assert_eq!((got.status, got.kind), (Some(*status), None), "{what}");
            assert_eq!(&got.body[..], b"{\"charge\": 1}", "{what}");
        }
        End::Fails(kind) => assert_eq!(got.kind, Some(*kind), "{what}"),
    }
    assert_eq!(usize::try_from(got.attempts).unwrap(), case.arrive, "attempts as told; {what}");
    let keyed = case.name != "off-reset" && case.method != Method::GET;
    for line in lines {
        assert_eq!(line.keys.len(), usize::from(keyed), "keys in one request; {what}");
        assert_eq!(line.keys, lines[0].keys, "one key over all attempts; {what}");
        assert_eq!((&line.method, &line.body), (&case.method, &lines[0].body), "{what}");
        assert_eq!(line.authorization.as_deref(), Some(SECRET), "{what}");
    }
    if let (true, Some(line)) = (keyed, lines.first()) {
        let own = case.said.as_ref().filter(|_| case.name == "own-key").map(|_| "order-42");
        if let Some(own) = own.or(case.written) {
            assert_eq!(line.keys, [own], "verbatim; {what}");
        }
        let told = got.key.as_ref().unwrap_or_else(|| panic!("no key was handed back; {what}"));
        assert_eq!(told.as_str(), line.keys[0].trim_matches('"'), "{what}");
        assert_eq!(&line.body[..], BODY, "{what}");
    }
    for (pair, (least, most)) in lines.windows(2).zip(&case.apart) {
        let apart = pair[1].at - pair[0].at;
        let (least, most) = (Duration::from_millis(*least), Duration::from_millis(*most) + LATE);
        assert!(apart >= least && apart <= most, "{apart:?} apart and not {least:?} to {most:?}; {what}");
    }
    match case.name {
        "after-3600" => assert_eq!(got.retry_after, Some(Duration::from_secs(3_600)), "{what}"),
        "undeclared-reset" | "503" | "in-doubt" => assert_eq!(got.effect, Some(Effect::Unknown), "{what}"),
        "307-away" | "400" => assert_eq!(got.effect, Some(Effect::None), "{what}"),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_adapter_sends_waits_and_gives_up_as_the_core_says() {
    let elsewhere = Upstream::charging();
    let cases = cases(&format!("{}/stolen", elsewhere.url()));
    let log = Log::default();
    let acts = cases.iter().map(|case| (case.name, case.acts.clone())).collect();
    let server = server(acts, &log);
    let mut calls = tokio::task::JoinSet::new();
    for adapter in ADAPTERS {
        for case in &cases {
            let (case, path) = (case.clone(), format!("/{}/{adapter:?}", case.name));
            let url = format!("{}{path}", server.url());
            calls.spawn(async move {
                let got = run(adapter, url, &case).await;
                (adapter, case, path, got)
            });
        }
    }
    let mut judged = 0;
    while let Some(ended) = calls.join_next().await {
        let (adapter, case, path, got) = ended.unwrap();
        let lines = log.lock().unwrap().get(&path).cloned().unwrap_or_default();
        judge(adapter, &case, &got, &lines);
        judged += 1;
    }
    assert_eq!(judged, cases.len() * ADAPTERS.len());
    assert_eq!(elsewhere.ledger().total(), 0, "nothing ever went to the other origin");
    let auto: Vec<String> = log
        .lock()
        .unwrap()
        .iter()
        .filter(|(path, _)| path.starts_with("/done/"))
        .flat_map(|(_, lines)| lines[0].keys.clone())
        .collect();
    let distinct: std::collections::HashSet<_> = auto.iter().collect();
    assert_eq!(
        (auto.len(), distinct.len()),
        (ADAPTERS.len(), ADAPTERS.len()),
        "a key of its own for every call"
    );
}

/// What a server saw of each request: when its head came, and the keys in it.
type Heads = Arc<Mutex<Vec<(Instant, Vec<String>)>>>;

/// Reads the head of every request; then resets the connection, the body unread, or after `resets` of those answers.
async fn resets_before_the_body(resets: usize) -> (String, Heads) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (url, heads) = (format!("http://{}/charges", listener.local_addr().unwrap()), Heads::default());
    let log = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let log = Arc::clone(&log);
            tokio::spawn(async move { reset_or_answer(stream, resets, &log).await });
        }
    });
    (url, heads)
}

async fn reset_or_answer(mut stream: TcpStream, resets: usize, log: &Mutex<Vec<(Instant, Vec<String>)>>) {
    let mut seen = String::new();
    while !seen.contains("\r\n\r\n") {
        // A byte at a time, so that the body stays unread.
        let Ok(byte) = stream.read_u8().await else { return };
        seen.push(char::from(byte));
    }
    let key = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("idempotency-key").then(|| value.trim().to_owned())
    };
    let nth = {
        let mut log = log.lock().unwrap();
        log.push((Instant::now(), seen.lines().filter_map(key).collect()));
        log.len()
    };
    if nth <= resets {
        stream.set_zero_linger().unwrap();
        return;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{\"charge\": 1}").await.unwrap();
    // What is left unread when a connection is closed resets it.
    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reset_before_the_body_was_read_is_retried_under_the_same_key() {
    for (resets, arrive) in [(2, 3), (usize::MAX, 4)] {
        for adapter in ADAPTERS {
            let (url, heads) = resets_before_the_body(resets).await;
            let case = case("reset-before-body", &[], arrive, End::Status(200));
            let got = run(adapter, url, &case).await;
            let heads = heads.lock().unwrap().clone();
            let what = format!("{adapter:?}, {resets} resets: {got:?}, {heads:?}");
            assert_eq!((heads.len(), got.attempts as usize), (arrive, arrive), "{what}");
            assert!(heads.iter().all(|(_, keys)| keys.len() == 1 && keys == &heads[0].1), "one key; {what}");
            assert_eq!(got.key.as_ref().unwrap().as_str(), heads[0].1[0], "{what}");
            for (pair, (least, most)) in heads.windows(2).zip(&case.apart) {
                let (apart, most) = (pair[1].0 - pair[0].0, Duration::from_millis(*most) + LATE);
                assert!(apart >= Duration::from_millis(*least) && apart <= most, "{apart:?} apart; {what}");
            }
            match resets {
                2 => assert_eq!((got.status, got.kind), (Some(200), None), "{what}"),
                _ => assert_eq!(
                    (got.kind, got.effect),
                    (Some(Kind::Exhausted), Some(Effect::Unknown)),
                    "{what}"
                ),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reset_before_the_body_of_an_undeclared_host_is_sent_once() {
    for adapter in ADAPTERS {
        let (url, heads) = resets_before_the_body(1).await;
        let case = Case { trusted: false, ..case("reset-before-body", &[], 1, End::Fails(Kind::Unknown)) };
        let got = run(adapter, url, &case).await;
        assert_eq!((got.kind, got.effect), (Some(Kind::Unknown), Some(Effect::Unknown)), "{adapter:?}");
        assert_eq!((heads.lock().unwrap().len(), got.attempts), (1, 1), "{adapter:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_never_sent_is_called_so_and_may_be_sent_again_to_any_host() {
    for adapter in ADAPTERS {
        let nobody = Reserved::new().unwrap();
        let case = Case { trusted: false, ..case("refused", &[], 0, End::Fails(Kind::NotSent)) };
        let got = run(adapter, format!("{}/charges", nobody.url()), &case).await;
        assert_eq!((got.kind, got.attempts), (Some(Kind::NotSent), 4), "{adapter:?}");
        assert_eq!(got.effect, Some(Effect::None), "{adapter:?}");
        assert!(got.key.is_some(), "{adapter:?}");
    }
}

/// A call that is lost, and resumed: how it failed, how many were resumed and with which status, how many are left.
macro_rules! lost_and_resumed {
    ($once:expr, $client:expr) => {{
        let client = $client.base_url("http://127.0.0.1:1").build().unwrap();
        let lost = client.post(&$once.1).json(&4000).idempotency_key("order-42").send().unwrap_err();
        let resumed = client.resume().unwrap();
        let statuses: Vec<_> =
            resumed.iter().map(|one| one.outcome.as_ref().unwrap().status().as_u16()).collect();
        (lost.kind(), statuses, $once.0.unfinished().unwrap().len())
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_finish_what_was_left_in_the_journal_under_its_old_key() {
    for over_ureq in [false, true] {
        let server = Upstream::scripted(|arrived| async move {
            if arrived.nth == 1 { Reply::Reset } else { arrived.charge() }
        });
        let once = (once(true).retries(0).journal(MemoryJournal::new()), server.url());
        let sending = move || match over_ureq {
            false => {
                let transport = adapter::blocking::Reqwest::new().unwrap();
                lost_and_resumed!(once, adapter::blocking::Client::builder(once.0.clone(), transport))
            }
            true => {
                let transport = adapter::ureq::Ureq::default();
                lost_and_resumed!(once, adapter::ureq::Client::builder(once.0.clone(), transport))
            }
        };
        let got = tokio::task::spawn_blocking(sending).await.unwrap();
        assert_eq!(got, (Kind::Unknown, vec![201], 0), "over ureq: {over_ureq}");
        let entries = server.ledger().entries();
        assert_eq!((entries.len(), entries[0].key.as_deref()), (2, Some("order-42")));
        assert_eq!((&entries[0].key, &entries[0].digest), (&entries[1].key, &entries[1].digest));
    }
}
