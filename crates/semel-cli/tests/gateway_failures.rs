//! What goes wrong on either side of the gateway, and what the retry then gets. Each test counts the effects.

use std::sync::Arc;
use std::time::Duration;

use http::{Response, StatusCode};
use semel_testkit::client::{Answer, Call, Connection, Raw};
use semel_testkit::gateway::Gateway;
use semel_testkit::ledger::eventually;
use semel_testkit::upstream::{Arrived, Reply, Reserved, Upstream};
use tokio::sync::Semaphore;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");

fn charge(key: &str) -> Call {
    Call::post("/charges", r#"{"amount":500}"#).key(key)
}

/// Answers the first request of each key with `first`, and charges for the others.
fn first_then_charges(first: impl Fn(&Arrived) -> Reply + Send + Sync + 'static) -> Upstream {
    Upstream::scripted(move |arrived| {
        let reply = if arrived.nth_of_key == 1 { first(&arrived) } else { arrived.charge() };
        async move { reply }
    })
}

fn status(status: StatusCode, body: &'static str) -> Response<bytes::Bytes> {
    let mut answer = Response::new(bytes::Bytes::from(body));
    *answer.status_mut() = status;
    answer
}

fn assert_held(answer: &Answer) {
    assert_eq!((answer.status, answer.standing()), (409, Some("in-doubt")), "{answer:?}");
    assert_eq!(answer.problem().as_deref(), Some("outcome-unknown"));
    assert_eq!(answer.json()["resend"], "unknown");
    assert!(!answer.is_replay());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_changes_nothing_and_the_retry_gets_the_answer() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let upstream = Upstream::scripted(move |arrived| {
        let held = Arc::clone(&held);
        async move {
            held.acquire().await.expect("the gate is never closed").forget();
            arrived.charge()
        }
    });
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    for (nth, way) in ["closed", "reset", "http2"].into_iter().enumerate() {
        hang_up(way, &gateway, &upstream).await;
        gate.add_permits(1);
        let retry = charge(way).answer(gateway.addr()).await;
        assert_eq!((retry.status, retry.standing()), (201, Some("replayed")), "{way}: {retry:?}");
        assert_eq!(upstream.ledger().effects(way), 1);
        assert_eq!(upstream.ledger().total(), nth + 1);
    }
}

/// Sends a request under a key that is named like the `way`, and goes away when the upstream has it.
async fn hang_up(way: &str, gateway: &Gateway, upstream: &Upstream) {
    let count = upstream.ledger().total() + 1;
    if way == "reset" {
        let mut raw = Raw::open(gateway.addr()).await;
        let request = b"POST /charges HTTP/1.1\r\nHost: api\r\nIdempotency-Key: reset\r\n\
                        Content-Length: 14\r\n\r\n{\"amount\":500}";
        assert!(raw.write(request).await);
        upstream.ledger().reaches(count).await;
        raw.reset();
    } else {
        let mut connection = match way {
            "http2" => Connection::open_http2(gateway.addr()).await,
            _ => Connection::open(gateway.addr()).await,
        }
        .expect("the gateway listens");
        let call = charge(way);
        tokio::select! {
            answer = connection.send(&call) => panic!("answered while the upstream waits: {answer:?}"),
            () = upstream.ledger().reaches(count) => {}
        }
        drop(connection);
    }
    let addr = gateway.addr();
    eventually("the connection to be gone", || semel_testkit::gateway::connections_to(addr) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_releases_the_key_and_the_retry_runs() {
    let reserved = Reserved::new().expect("a free port");
    let gateway = Gateway::start(SEMEL, &reserved.url()).await;
    for _ in 0..2 {
        let refused = charge("refused").answer(gateway.addr()).await;
        assert_eq!((refused.status, refused.standing()), (502, Some("refused")), "{refused:?}");
        assert_eq!(refused.problem().as_deref(), Some("upstream-unreachable"));
        assert_eq!(refused.json()["resend"], "same-key");
    }
    assert_eq!(gateway.keys(&["list"]).await.documents, Vec::<serde_json::Value>::new());
    let upstream = reserved.scripted(|arrived| async move { arrived.charge() }).expect("the port is ours");
    let retry = charge("refused").answer(gateway.addr()).await;
    assert_eq!((retry.status, retry.standing()), (201, Some("executed")), "{retry:?}");
    assert_eq!(upstream.ledger().effects("refused"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_after_the_request_was_sent_is_held_until_an_operator_says_that_it_happened() {
    let upstream = first_then_charges(|_| Reply::Reset);
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let lost = charge("lost").answer(gateway.addr()).await;
    assert_eq!((lost.status, lost.standing()), (502, Some("in-doubt")), "{lost:?}");
    assert_eq!(lost.problem().as_deref(), Some("upstream-failed"));
    for _ in 0..3 {
        assert_held(&charge("lost").answer(gateway.addr()).await);
    }
    let listed = gateway.keys(&["list", "--state", "in-doubt"]).await;
    assert_eq!(listed.documents.len(), 1, "{listed:?}");
    assert_eq!(listed.documents[0]["key"], "lost");
    assert_eq!(listed.documents[0]["state"], "in-doubt");
    let (body, location) = (r#"{"charge":9}"#, "Location: /charges/9");
    let resolve = ["resolve", "lost", "--completed", "--status", "201", "--body", body, "--header", location];
    let resolved = gateway.keys(&resolve).await;
    assert_eq!(resolved.code, Some(0), "{resolved:?}");
    let retry = charge("lost").answer(gateway.addr()).await;
    assert_eq!((retry.status, retry.standing()), (201, Some("replayed")), "{retry:?}");
    assert_eq!(retry.body, body);
    assert_eq!(retry.header("location"), Some("/charges/9"));
    assert_eq!(upstream.ledger().total(), 1, "nothing ran again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_an_operator_says_did_not_happen_runs_again_with_a_higher_token() {
    let upstream = first_then_charges(|_| Reply::Reset);
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    assert_eq!(charge("again").answer(gateway.addr()).await.status, 502);
    assert_held(&charge("again").answer(gateway.addr()).await);
    let resolved = gateway.keys(&["resolve", "again", "--not-happened"]).await;
    assert_eq!(resolved.code, Some(0), "{resolved:?}");
    let retry = charge("again").answer(gateway.addr()).await;
    assert_eq!((retry.status, retry.standing()), (201, Some("executed")), "{retry:?}");
    let entries = upstream.ledger().entries();
    assert_eq!(entries.len(), 2, "the one that was declared not to have happened, and this one");
    assert!(entries[0].token < entries[1].token, "{entries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_before_the_body_was_read_is_in_doubt_too() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let call = Call::post("/reset-at-head", vec![b'x'; 900_000]).key("early");
    let lost = call.answer(gateway.addr()).await;
    assert_eq!((lost.status, lost.standing()), (502, Some("in-doubt")), "{lost:?}");
    assert_held(&call.answer(gateway.addr()).await);
    assert_eq!(upstream.ledger().total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_is_no_answer_and_the_key_is_held() {
    let upstream = first_then_charges(|arrived| match arrived.charge() {
        Reply::Answer(answer) => Reply::Half(answer),
        other => other,
    });
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let lost = charge("half").answer(gateway.addr()).await;
    assert_eq!((lost.status, lost.standing()), (502, Some("in-doubt")), "{lost:?}");
    assert_eq!(lost.problem().as_deref(), Some("upstream-failed"));
    assert_held(&charge("half").answer(gateway.addr()).await);
    assert_eq!(upstream.ledger().effects("half"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_error_reaches_its_caller_and_the_retry_is_held() {
    let upstream =
        first_then_charges(|_| Reply::Answer(status(StatusCode::INTERNAL_SERVER_ERROR, "no disk")));
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let failed = charge("failed").answer(gateway.addr()).await;
    assert_eq!((failed.status, failed.standing()), (500, Some("in-doubt")), "{failed:?}");
    assert_eq!(failed.body, "no disk");
    assert_held(&charge("failed").answer(gateway.addr()).await);
    assert_eq!(upstream.ledger().effects("failed"), 1);
    let doubts = gateway.keys_in("in-doubt").await;
    assert_eq!(doubts.into_iter().collect::<Vec<_>>(), ["failed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_turns_a_request_away_may_be_asked_again() {
    let upstream =
        first_then_charges(|_| Reply::Answer(status(StatusCode::SERVICE_UNAVAILABLE, "come back later")));
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let away = charge("away").answer(gateway.addr()).await;
    assert_eq!((away.status, away.standing()), (503, Some("refused")), "{away:?}");
    assert_eq!(away.body, "come back later");
    let retry = charge("away").answer(gateway.addr()).await;
    assert_eq!((retry.status, retry.standing()), (201, Some("executed")), "{retry:?}");
    assert_eq!(charge("away").answer(gateway.addr()).await.standing(), Some("replayed"));
    assert_eq!(upstream.ledger().effects("away"), 2, "turned away, then charged");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_answer_in_time_is_in_doubt() {
    let upstream = Upstream::scripted(|_| std::future::pending());
    let config = "[timeouts]\nupstream = \"300ms\"\n";
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), config).await;
    let late = charge("late").answer(gateway.addr()).await;
    assert_eq!((late.status, late.standing()), (504, Some("in-doubt")), "{late:?}");
    assert_eq!(late.problem().as_deref(), Some("upstream-timeout"));
    assert_held(&charge("late").answer(gateway.addr()).await);
    assert_eq!(upstream.ledger().effects("late"), 1);
}

/// The upstream closes each connection right after its answer without having said so, as a server does whose
/// keep-alive has just run out. A request that meets such a connection must not be sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn stale_kept_connections_never_double_an_effect() {
    const CALLS: usize = 300;
    let upstream = Upstream::scripted(|arrived| async move {
        match arrived.charge() {
            Reply::Answer(answer) => Reply::AnswerAndClose(answer),
            other => other,
        }
    });
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let mut connection = Connection::open(gateway.addr()).await.expect("the gateway listens");
    let (mut executed, mut unreached, mut doubted) = (0, 0, 0);
    for n in 0..CALLS {
        let key = format!("stale-{n}");
        let answer = connection.send(&charge(&key)).await.expect("the gateway answers");
        let effects = upstream.ledger().effects(&key);
        match answer.standing() {
            Some("executed") => {
                executed += 1;
                assert_eq!(effects, 1, "{answer:?}");
            }
            Some("refused") => {
                unreached += 1;
                assert_eq!(effects, 0, "a released key had an effect: {answer:?}");
            }
            Some("in-doubt") => doubted += 1,
            _ => panic!("{answer:?}"),
        }
    }
    println!(
        "{CALLS} calls over stale connections: {executed} executed, {unreached} released, {doubted} in doubt"
    );
    assert!(upstream.ledger().max_per_key() <= 1);
    assert_eq!(gateway.keys_in("in-doubt").await.len(), doubted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_upstream_that_closes_idle_connections_loses_no_request() {
    let folder = tempfile::tempdir().expect("there is room for temporary files");
    let upstream = Upstream::node(folder.path()).await;
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    assert_eq!(charge("before").answer(gateway.addr()).await.status, 201);
    // Node closes after 5 s without a request; the gateway must have let go of the connection before.
    let idle = std::cell::Cell::new(usize::MAX);
    eventually("the gateway to close its idle connection", || {
        idle.set(semel_testkit::gateway::connections_to(upstream.addr()));
        idle.get() == 0
    })
    .await;
    assert_eq!(charge("after").answer(gateway.addr()).await.standing(), Some("executed"));
    assert_eq!(upstream.ledger().total(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_the_upstream_is_used_again_until_it_was_idle_for_the_time_that_is_set() {
    let upstream = Upstream::scripted(|arrived| async move { arrived.charge() });
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), "[timeouts]\nupstream_idle = \"1s\"\n").await;
    for nth in 0..20 {
        charge(&format!("kept-{nth}")).answer(gateway.addr()).await;
    }
    // A connection that is still being put back is not waited for.
    let connections = upstream.connections();
    assert!(connections < 10, "{connections} connections for 20 requests one after another");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    charge("after").answer(gateway.addr()).await;
    assert_eq!(upstream.connections(), connections + 1, "the upstream may close an old one at any time");
    let addr = upstream.addr();
    eventually("idle connections to be closed", || semel_testkit::gateway::connections_to(addr) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_request_was_given_up_is_not_used_for_the_next() {
    let upstream = Upstream::scripted(|arrived| async move {
        match arrived.path() {
            "/never" => std::future::pending().await,
            _ => arrived.charge(),
        }
    });
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    for nth in 1..=5 {
        let mut connection = Connection::open_http2(gateway.addr()).await.expect("the gateway listens");
        let never = Call::post("/never", "{}");
        tokio::select! {
            answer = connection.send(&never) => panic!("answered: {answer:?}"),
            () = upstream.ledger().reaches(2 * nth - 1) => {}
        }
        drop(connection);
        let addr = upstream.addr();
        eventually("it to be closed", || semel_testkit::gateway::connections_to(addr) == 0).await;
        let next = Call::post("/charges", "{}").answer(gateway.addr()).await;
        assert_eq!(next.status, 201, "{next:?}");
    }
}
