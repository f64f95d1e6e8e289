//! What only some adapters have: layers around and beneath, bodies that cannot be sent twice, journals, the kit, and
//! what is told to logs and metrics.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use semel::backoff::Backoff;
use semel_client::adapter::{middleware, redirects};
use semel_client::core::call::Policy;
use semel_client::core::classify::{Effect, Finding};
use semel_client::journal::EntryId;
use semel_client::journal::memory::MemoryJournal;
use semel_client::journal::sqlite::SqliteJournal;
use semel_client::{Client, Idempotency, Key, Kind, Once, Report, What};
use semel_testkit::ledger::eventually;
use semel_testkit::upstream::{Reply, Reserved, Upstream};

fn quick() -> Once {
    let backoff = Backoff { base: Duration::from_millis(5), cap: Duration::from_millis(20) };
    Once::for_hosts(["127.0.0.1"]).policy(Policy { backoff, ..Policy::default() })
}

fn wrapped(http: reqwest::Client, once: Once) -> ClientWithMiddleware {
    ClientBuilder::new(http).with(once).build()
}

fn status(status: u16) -> Reply {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    Reply::Answer(answer)
}

fn moved(status: u16, to: &str) -> Reply {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer.headers_mut().insert(header::LOCATION, HeaderValue::from_str(to).unwrap());
    Reply::Answer(answer)
}

#[tokio::test]
async fn three_lines_make_the_posts_of_a_program_take_effect_once() {
    let server = Upstream::scripted(|arrived| async move {
        if arrived.nth == 1 { Reply::Reset } else { arrived.charge() }
    });
    let client = wrapped(reqwest::Client::new(), quick());
    let answer =
        client.post(server.url()).body("a").with_extension(Key::explicit("order-42")).send().await.unwrap();
    let report = answer.extensions().get::<Report>().unwrap();
    assert_eq!((report.key.as_ref().unwrap().as_str(), report.attempts), ("order-42", 2));
    assert_eq!(answer.url().as_str(), format!("{}/", server.url()), "it still knows where it came from");
    assert_eq!(server.ledger().effects("order-42"), 2, "both reached the server under the one key");
    client.post(server.url()).body("b").with_extension(Idempotency::auto()).send().await.unwrap();
    assert_eq!(server.ledger().per_key().len(), 2);
}

#[tokio::test]
async fn the_key_and_the_credentials_never_leave_the_origin_on_307_and_308() {
    for code in [307, 308] {
        let elsewhere = Upstream::charging();
        let to = elsewhere.url();
        let server = Upstream::scripted(move |_| {
            let reply = moved(code, &to);
            async move { reply }
        });
        // A client that would follow redirects by itself.
        let client = wrapped(reqwest::Client::new(), quick());
        for body in [Some("a"), Some(""), None] {
            let request = client.post(server.url()).bearer_auth("secret");
            let request = match body {
                Some(body) => request.body(body),
                None => request,
            };
            let error = request.send().await.unwrap_err();
            let error = middleware::error(&error).unwrap();
            assert_eq!((error.kind(), error.attempts(), error.is_retryable()), (Kind::Redirected, 1, false));
            assert_eq!(error.answer().unwrap().status().as_u16(), code);
        }
        assert_eq!(elsewhere.connections(), 0, "not even a connection was made");
    }
}

#[tokio::test]
async fn with_its_redirects_a_302_away_from_the_origin_is_not_followed_either() {
    let elsewhere = Upstream::charging();
    let to = elsewhere.url();
    let server = Upstream::scripted(move |arrived| {
        let reply = match arrived.path() {
            "/away" => moved(302, &to),
            "/here" => moved(302, "/result"),
            _ => status(200),
        };
        async move { reply }
    });
    let client = wrapped(reqwest::Client::builder().redirect(redirects()).build().unwrap(), quick());
    let error = client.post(format!("{}/away", server.url())).body("a").send().await.unwrap_err();
    assert_eq!(middleware::error(&error).unwrap().kind(), Kind::Redirected);
    assert_eq!(elsewhere.connections(), 0);
    let answer = client.post(format!("{}/here", server.url())).body("a").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.url().path()), (200, "/result"));
}

#[tokio::test]
async fn a_body_that_can_be_read_once_is_sent_once_and_its_loss_is_told() {
    let server = Upstream::scripted(|_| async { Reply::Reset });
    let client = wrapped(reqwest::Client::new(), quick());
    let stream = || reqwest::Body::wrap(http_body_util::Full::new(Bytes::from_static(b"stream")));
    let error = client.post(server.url()).body(stream()).send().await.unwrap_err();
    let error = middleware::error(&error).unwrap();
    assert_eq!((error.kind(), error.attempts(), error.effect()), (Kind::Unknown, 1, Effect::Unknown));
    assert_eq!(server.ledger().effects(error.key().unwrap().as_str()), 1);
    let unsent = client.post(Reserved::new().unwrap().url()).body(stream()).send().await.unwrap_err();
    let unsent = middleware::error(&unsent).unwrap();
    assert_eq!((unsent.kind(), unsent.attempts(), unsent.effect()), (Kind::NotSent, 1, Effect::None));
}

#[tokio::test]
async fn a_retry_layer_around_is_noticed_and_changes_no_key() {
    let server = Upstream::scripted(|_| async { status(503) });
    let told = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&told);
    let once =
        quick().retries(2).observe(move |event| noted.lock().unwrap().push((event.what, event.attempt)));
    let around = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(1), Duration::from_millis(2))
        .build_with_max_retries(2);
    let around = RetryTransientMiddleware::new_with_policy(around);
    let client = ClientBuilder::new(reqwest::Client::new()).with(around).with(once).build();
    let answer = client.post(server.url()).body("a").send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 503);
    // Three of ours, and one for each time that the layer around came again: they add up and do not multiply.
    let per_key = server.ledger().per_key();
    assert_eq!(per_key.values().copied().collect::<Vec<_>>(), [5], "one key for all: {per_key:?}");
    let told = told.lock().unwrap();
    assert_eq!(told.iter().filter(|(what, _)| *what == What::ForeignRetry).count(), 2, "{told:?}");
}

#[tokio::test]
async fn two_keys_in_one_request_are_refused_before_anything_is_sent() {
    let server = Upstream::charging();
    let client = wrapped(reqwest::Client::new(), quick());
    let request = client.post(server.url()).header("idempotency-key", "a").header("idempotency-key", "b");
    let error = request.send().await.unwrap_err();
    assert_eq!(middleware::error(&error).unwrap().kind(), Kind::Invalid);
    assert_eq!(server.ledger().total(), 0);
    // Said in both places, what was said for this call wins, and one is sent.
    let request =
        client.post(server.url()).header("idempotency-key", "a").with_extension(Idempotency::from("b"));
    request.send().await.unwrap();
    assert_eq!(server.ledger().per_key().into_iter().collect::<Vec<_>>(), [("b".to_owned(), 1)]);
}

#[tokio::test]
async fn another_name_for_the_key_header_is_used() {
    let names = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&names);
    let server = Upstream::scripted(move |arrived| {
        let value = arrived.head.headers.get("x-once").map(|value| value.to_str().unwrap().to_owned());
        seen.lock().unwrap().push((value, arrived.key().map(str::to_owned)));
        async { status(200) }
    });
    let client = wrapped(reqwest::Client::new(), quick().key_header("x-once".parse().unwrap()));
    client.post(server.url()).with_extension(Key::explicit("k")).send().await.unwrap();
    assert_eq!(*names.lock().unwrap(), [(Some("k".to_owned()), None)]);
}

/// A subscriber that keeps what it is told.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn logs_say_key_attempt_delay_reason_and_request_id_and_never_a_credential() {
    let server = Upstream::scripted(|arrived| async move {
        let mut answer = Response::new(Bytes::new());
        if arrived.nth == 1 {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        answer.headers_mut().insert("x-request-id", HeaderValue::from_static("req-7"));
        answer.headers_mut().insert("set-cookie", HeaderValue::from_static("session=cookie-secret"));
        Reply::Answer(answer)
    });
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let client = Client::builder(quick()).base_url(&server.url()).bearer("bearer-secret").build().unwrap();
    let call = client.post("/charges?token=query-secret").header("cookie", "a=cookie-secret");
    call.body("text/plain", "body-secret").idempotency_key("order-42").send().await.unwrap();
    drop(guard);
    let said = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("semel_client")).collect();
    assert_eq!(ours.len(), 2, "{said}");
    for word in [
        "method=POST",
        "path=\"/charges\"",
        "key=\"order-42\"",
        "attempt=1",
        "delay=",
        "reason=Unavailable",
        "req-7",
    ] {
        assert!(ours[0].contains(word), "{word} in {}", ours[0]);
    }
    assert!(ours[1].contains("attempt=2") && ours[1].contains("call done"), "{}", ours[1]);
    for secret in ["bearer-secret", "cookie-secret", "query-secret", "body-secret"] {
        assert!(!ours.iter().any(|line| line.contains(secret)), "{secret} in {ours:?}");
    }
}

#[tokio::test]
async fn a_call_is_in_the_journal_before_its_first_byte_and_out_of_it_after_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let once = quick().journal(SqliteJournal::open(folder.path().join("calls.sqlite")).unwrap());
    let looks = Arc::new(Mutex::new(Vec::new()));
    let (seen, path) = (Arc::clone(&looks), folder.path().join("calls.sqlite-wal"));
    let server = Upstream::scripted(move |arrived| {
        // The file itself, as a crash at this moment would leave it.
        let wal = std::fs::read(&path).unwrap();
        let key = arrived.key().unwrap().as_bytes().to_vec();
        seen.lock().unwrap().push(wal.windows(key.len()).any(|bytes| bytes == key));
        async move { arrived.charge() }
    });
    let client = Client::builder(once.clone()).base_url(&server.url()).bearer("secret").build().unwrap();
    for n in 0..3 {
        client.post("/charges").json(&n).send().await.unwrap();
    }
    assert_eq!(*looks.lock().unwrap(), [true, true, true], "on disk when the request arrived");
    assert!(once.unfinished().unwrap().is_empty());
    let everything = std::fs::read(folder.path().join("calls.sqlite-wal")).unwrap();
    assert!(!everything.windows(6).any(|bytes| bytes == b"secret"), "no credential is on disk");
}

#[tokio::test]
async fn what_a_program_left_unfinished_is_finished_under_its_old_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.sqlite");
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let opens = Arc::clone(&gate);
    let server = Upstream::scripted(move |arrived| {
        let opens = Arc::clone(&opens);
        async move {
            if arrived.nth == 1 {
                opens.acquire().await.unwrap().forget();
            }
            arrived.charge()
        }
    });
    let authorized = format!("{}/charges?to=7", server.url());
    {
        let once = quick().journal(SqliteJournal::open(&path).unwrap());
        let client = Client::builder(once).base_url(&server.url()).bearer("secret").build().unwrap();
        let call = client.post(&authorized).json(&"body").idempotency_key("order-42");
        // The program dies while the server works on it.
        let dropped = tokio::time::timeout(Duration::from_millis(200), call.send()).await;
        assert!(dropped.is_err());
    }
    let once = quick().journal(SqliteJournal::open(&path).unwrap());
    let open = once.unfinished().unwrap();
    assert_eq!(
        (open.len(), open[0].saved.key.as_str(), open[0].saved.url.as_str()),
        (1, "order-42", &*authorized)
    );
    let client = Client::builder(once.clone()).base_url(&server.url()).bearer("secret").build().unwrap();
    let resumed = client.resume().await.unwrap();
    assert_eq!((resumed.len(), resumed[0].key.as_str()), (1, "order-42"));
    assert_eq!(resumed[0].outcome.as_ref().unwrap().status().as_u16(), 201);
    assert!(once.unfinished().unwrap().is_empty() && client.resume().await.unwrap().is_empty());
    let entries = server.ledger().entries();
    assert_eq!(entries.len(), 2);
    assert_eq!(
        (&entries[0].key, &entries[0].digest, &entries[0].target),
        (&entries[1].key, &entries[1].digest, &entries[1].target)
    );
}

#[tokio::test]
async fn a_journal_keeps_what_ended_without_a_final_answer_and_lets_go_of_refusals() {
    let answers = Arc::new(Mutex::new(vec![400_u16, 409, 500]));
    let next = Arc::clone(&answers);
    let server = Upstream::scripted(move |_| {
        let reply = status(next.lock().unwrap().pop().unwrap_or(201));
        async { reply }
    });
    let once = quick().retries(0).journal(MemoryJournal::new());
    let client = Client::builder(once.clone()).base_url(&server.url()).build().unwrap();
    let unknown = client.post("/a").idempotency_key("lost").send().await.unwrap_err();
    assert_eq!((unknown.kind(), unknown.is_retryable()), (Kind::Unknown, true));
    for _ in 0..2 {
        assert_eq!(client.post("/a").send().await.unwrap_err().kind(), Kind::Rejected);
    }
    let open = once.unfinished().unwrap();
    assert_eq!(open.iter().map(|one| one.saved.key.as_str()).collect::<Vec<_>>(), ["lost"]);
    assert!(client.resume().await.unwrap()[0].outcome.is_ok());
    assert!(once.unfinished().unwrap().is_empty());
}

#[tokio::test]
async fn a_doubt_stays_in_the_journal_until_the_program_lets_go_of_it() {
    let server = Upstream::scripted(|_| async {
        let mut answer = Response::new(Bytes::new());
        *answer.status_mut() = StatusCode::CONFLICT;
        answer.headers_mut().insert("idempotency-status", HeaderValue::from_static("in-doubt"));
        Reply::Answer(answer)
    });
    let folder = tempfile::tempdir().unwrap();
    let once = quick().journal(SqliteJournal::open(folder.path().join("calls.sqlite")).unwrap());
    let client = Client::builder(once.clone()).base_url(&server.url()).build().unwrap();
    client.post("/a").idempotency_key("k").send().await.unwrap_err();
    for _ in 0..2 {
        let resumed = client.resume().await.unwrap();
        assert_eq!(resumed[0].outcome.as_ref().unwrap_err().last(), Some(Finding::InDoubt));
    }
    once.forget(once.unfinished().unwrap()[0].id).unwrap();
    assert!(once.unfinished().unwrap().is_empty() && client.resume().await.unwrap().is_empty());
    assert_eq!(server.ledger().effects("k"), 3);
}

#[tokio::test]
async fn a_call_that_still_runs_is_not_resumed_beside_itself() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let opens = Arc::clone(&gate);
    let server = Upstream::scripted(move |arrived| {
        let opens = Arc::clone(&opens);
        async move {
            opens.acquire().await.unwrap().forget();
            arrived.charge()
        }
    });
    let once = quick().journal(MemoryJournal::new());
    let client = Client::builder(once.clone()).base_url(&server.url()).build().unwrap();
    let (running, ledger) = (client.clone(), server.ledger().clone());
    let call = tokio::spawn(async move { running.post("/a").send().await });
    eventually("the request at the server", || ledger.total() == 1).await;
    assert!(client.resume().await.unwrap().is_empty());
    assert_eq!(once.forget(EntryId(1)).unwrap_err().kind(), Kind::Journal, "nor forgotten");
    gate.add_permits(1);
    call.await.unwrap().unwrap();
    assert_eq!(server.ledger().total(), 1);
}

#[tokio::test]
async fn a_second_process_is_refused_the_journal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.sqlite");
    let first = SqliteJournal::open(&path).unwrap();
    assert!(SqliteJournal::open(&path).is_err(), "one owner at a time");
    drop(first);
    SqliteJournal::open(&path).unwrap();
}

#[tokio::test]
async fn a_journal_that_cannot_write_stops_the_call_before_it_is_sent() {
    #[derive(Debug)]
    struct Full;
    impl semel_client::journal::Journal for Full {
        fn begin(
            &self,
            _: &semel_client::journal::Saved,
        ) -> Result<semel_client::journal::EntryId, semel_client::BoxError> {
            Err("no space left on device".into())
        }
        fn settle(&self, _: semel_client::journal::EntryId) -> Result<(), semel_client::BoxError> {
            Ok(())
        }
        fn open(&self) -> Result<Vec<semel_client::journal::Unfinished>, semel_client::BoxError> {
            Ok(Vec::new())
        }
    }
    let server = Upstream::charging();
    let client = Client::builder(quick().journal(Full)).base_url(&server.url()).build().unwrap();
    let error = client.post("/a").idempotency_key("k").send().await.unwrap_err();
    assert_eq!((error.kind(), error.key().unwrap().as_str(), error.attempts()), (Kind::Journal, "k", 0));
    assert_eq!(server.connections(), 0);
    // A call without a key needs no journal.
    client.get("/a").send().await.unwrap();
}

#[tokio::test]
async fn an_old_call_is_not_sent_again_to_a_host_that_was_not_declared() {
    let server = Upstream::charging();
    let journal = Arc::new(MemoryJournal::new());
    #[derive(Debug)]
    struct Shared(Arc<MemoryJournal>);
    impl semel_client::journal::Journal for Shared {
        fn begin(
            &self,
            call: &semel_client::journal::Saved,
        ) -> Result<semel_client::journal::EntryId, semel_client::BoxError> {
            self.0.begin(call)
        }
        fn settle(&self, id: semel_client::journal::EntryId) -> Result<(), semel_client::BoxError> {
            self.0.settle(id)
        }
        fn open(&self) -> Result<Vec<semel_client::journal::Unfinished>, semel_client::BoxError> {
            self.0.open()
        }
    }
    let lost = Upstream::scripted(|_| async { Reply::Reset });
    let client = Client::new(quick().retries(0).journal(Shared(Arc::clone(&journal)))).unwrap();
    client.post(&lost.url()).send().await.unwrap_err();
    let careful = Client::new(Once::new().journal(Shared(journal))).unwrap();
    let resumed = careful.resume().await.unwrap();
    assert_eq!(resumed[0].outcome.as_ref().unwrap_err().kind(), Kind::Unknown);
    assert_eq!((lost.ledger().total(), server.ledger().total()), (1, 0));
}

/// Method, target, credentials and key of a request.
type Seen = (String, String, Option<String>, Option<String>);

#[tokio::test]
async fn resources_send_their_headers_to_their_own_origin_only() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = |seen: &Arc<Mutex<Vec<Seen>>>| {
        let seen = Arc::clone(seen);
        move |arrived: semel_testkit::upstream::Arrived| {
            let text =
                |name: &str| arrived.head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            let line = (
                arrived.head.method.to_string(),
                arrived.head.uri.to_string(),
                text("authorization"),
                text("idempotency-key"),
            );
            seen.lock().unwrap().push(line);
            async move { arrived.charge() }
        }
    };
    let (server, other) = (Upstream::scripted(log(&seen)), Upstream::scripted(log(&seen)));
    let client = Client::builder(quick())
        .base_url(&format!("{}/v1/", server.url()))
        .bearer("secret")
        .user_agent("acme/1.0")
        .build()
        .unwrap();
    let things = client.resource("things");
    things.create(&1).idempotency_key("make").send().await.unwrap();
    things.get("a/b ?").send().await.unwrap();
    things.append("7", "events", &2).idempotency_key(Idempotency::off()).send().await.unwrap();
    things.update("7", &3).send().await.unwrap();
    things.replace("7", &4).send().await.unwrap();
    things.delete("7").send().await.unwrap();
    client.get("/list?page=2").send().await.unwrap();
    client.post(&other.url()).send().await.unwrap();
    assert_eq!(things.get("..").send().await.unwrap_err().kind(), Kind::Invalid);
    let seen = seen.lock().unwrap();
    let line = |nth: usize| {
        (seen[nth].0.as_str(), seen[nth].1.as_str(), seen[nth].2.is_some(), seen[nth].3.is_some())
    };
    assert_eq!(seen.len(), 8);
    assert_eq!((line(0), seen[0].3.as_deref()), (("POST", "/v1/things", true, true), Some("make")));
    assert_eq!(line(1), ("GET", "/v1/things/a%2Fb%20%3F", true, false));
    assert_eq!(line(2), ("POST", "/v1/things/7/events", true, false));
    assert_eq!(line(3), ("PATCH", "/v1/things/7", true, true));
    assert_eq!(line(4), ("PUT", "/v1/things/7", true, true));
    assert_eq!(line(5), ("DELETE", "/v1/things/7", true, false));
    assert_eq!(line(6), ("GET", "/v1/list?page=2", true, false));
    assert_eq!(line(7), ("POST", "/", false, true), "credentials are no other origin's business");
}

#[tokio::test]
async fn problems_are_read_into_the_error_in_both_shapes() {
    let server = Upstream::scripted(|arrived| async move {
        let (status, kind, body) = match arrived.path() {
            "/semel" => (
                422,
                "application/problem+json",
                r#"{"type":"urn:semel:error:mismatch","title":"Used","detail":"another","code":"SEMEL-0004"}"#,
            ),
            _ => (
                402,
                "application/json",
                r#"{"error":{"type":"card_error","code":"card_declined","message":"no funds"}}"#,
            ),
        };
        let answer = Response::builder().status(status).header("content-type", kind);
        Reply::Answer(answer.body(Bytes::from_static(body.as_bytes())).unwrap())
    });
    let client = Client::builder(quick()).base_url(&server.url()).build().unwrap();
    let error = client.post("/semel").send().await.unwrap_err();
    let problem = error.problem().unwrap();
    assert_eq!(
        (error.kind(), problem.code.as_deref(), problem.detail.as_deref()),
        (Kind::KeyReused, Some("SEMEL-0004"), Some("another"))
    );
    let error = client.post("/stripe").idempotency_key("k").send().await.unwrap_err();
    let problem = error.problem().unwrap();
    assert_eq!(
        (error.kind(), problem.code.as_deref(), problem.detail.as_deref()),
        (Kind::Rejected, Some("card_declined"), Some("no funds"))
    );
    assert_eq!(error.to_string(), "the host refused it, status 402, attempts 1, key k");
    assert_eq!(client.post("/x").send_json::<u8>().await.unwrap_err().kind(), Kind::Rejected);
}
