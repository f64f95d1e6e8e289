//! Clients that take their time, in crowds: heads that never end, bodies that trickle, connections that say nothing.
//! Meanwhile good requests are served, and what is half sent is closed in time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use semel_testkit::client::{Call, Load, Raw};
use semel_testkit::gateway::Gateway;
use semel_testkit::ledger::eventually;
use semel_testkit::upstream::Upstream;
use tokio::time::Instant;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
const CONFIG: &str = "[timeouts]\nheader = \"2s\"\n[defaults]\nrequest_timeout = \"2s\"\n";
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(4);

/// How the gateway ended a connection that took its time.
#[derive(Debug)]
struct Closed {
    after: Duration,
    said: Vec<u8>,
}

/// Sends `begin` at once and then a byte of `rest` each second, until the gateway closes.
async fn trickle(
    gateway: std::net::SocketAddr,
    begin: Vec<u8>,
    rest: &'static [u8],
    stop: Arc<AtomicBool>,
) -> Closed {
    let mut raw = Raw::open(gateway).await;
    let began = Instant::now();
    let mut said = Vec::new();
    raw.write(&begin).await;
    for byte in rest.iter().cycle() {
        match raw.read_some(Duration::from_secs(1)).await {
            Some(bytes) if bytes.is_empty() => break,
            Some(bytes) => said.extend(bytes),
            None if stop.load(Ordering::SeqCst) => break,
            None => {
                raw.write(&[*byte]).await;
            }
        }
    }
    Closed { after: began.elapsed(), said }
}

async fn good_requests(gateway: &Gateway, upstream: &Upstream, crowd: &str) {
    let calls: Vec<_> = (0..500).map(|n| Call::post("/charges", "{}").key(&format!("{crowd}-{n}"))).collect();
    let began = Instant::now();
    let answers = Load { addr: gateway.addr(), connections: 16 }.answers(calls).await;
    let took = began.elapsed();
    println!("500 good requests beside {crowd}: {took:?}");
    assert!(answers.iter().all(|answer| answer.status == 201 && answer.standing() == Some("executed")));
    assert_eq!(upstream.ledger().total(), 500);
    assert!(took < Duration::from_secs(10), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_never_end_harm_nobody_and_are_closed_in_time() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), CONFIG).await;
    let stop = Arc::new(AtomicBool::new(false));
    // Nothing, half a method, half of HTTP/2's first line, and a head without its end.
    let begins: [&[u8]; 4] =
        [b"", b"PO", b"PRI * HTTP/2.0\r\n", b"POST /charges HTTP/1.1\r\nHost: api\r\nX-Slow: "];
    let slow: Vec<_> = (0..200)
        .map(|n| tokio::spawn(trickle(gateway.addr(), begins[n % 4].to_vec(), b"a", Arc::clone(&stop))))
        .collect();
    good_requests(&gateway, &upstream, "slow-heads").await;
    for (n, slow) in slow.into_iter().enumerate() {
        let closed = tokio::time::timeout(HEADER_TIMEOUT + SLACK, slow).await;
        let closed = closed
            .unwrap_or_else(|_| panic!("{:?} was not closed", begins[n % 4].escape_ascii().to_string()));
        let closed = closed.expect("no panic in a slow client");
        assert!(closed.after <= HEADER_TIMEOUT + SLACK, "{closed:?}");
        assert!(
            closed.said.is_empty() || closed.said.starts_with(b"HTTP/1.1 4"),
            "{}",
            closed.said.escape_ascii()
        );
    }
    assert_eq!(upstream.ledger().total(), 500);
}

#[tokio::test(flavor = "multi_thread")]
async fn keyed_bodies_that_trickle_harm_nobody_and_are_refused_in_time() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), CONFIG).await;
    let stop = Arc::new(AtomicBool::new(false));
    let slow: Vec<_> = (0..200)
        .map(|n| {
            let begin = format!(
                "POST /charges HTTP/1.1\r\nHost: api\r\nIdempotency-Key: slow-{n}\r\nContent-Length: 1000\r\n\r\n"
            );
            tokio::spawn(trickle(gateway.addr(), begin.into_bytes(), b"x", Arc::clone(&stop)))
        })
        .collect();
    good_requests(&gateway, &upstream, "slow-bodies").await;
    for slow in slow {
        let closed = tokio::time::timeout(HEADER_TIMEOUT * 2 + SLACK, slow).await.expect("it was not closed");
        let closed = closed.expect("no panic in a slow client");
        assert!(closed.said.starts_with(b"HTTP/1.1 408 "), "{}", closed.said.escape_ascii());
        let said = closed.said.escape_ascii().to_string();
        assert!(said.contains("request-timeout") && said.contains("same-key"), "{said}");
    }
    assert_eq!(upstream.ledger().total(), 500);
    assert!(gateway.keys_in("in-flight").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_harm_nobody() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), "[timeouts]\nheader = \"60s\"\n").await;
    let mut idle = Vec::new();
    for n in 0..1_000 {
        let mut raw = Raw::open(gateway.addr()).await;
        // Half of them have asked once and keep their connection.
        if n % 2 == 0 {
            assert!(raw.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n").await);
            let answer = raw.read_some(Duration::from_secs(20)).await.expect("an answer");
            assert!(answer.starts_with(b"HTTP/1.1 201"), "{}", answer.escape_ascii());
        }
        idle.push(raw);
    }
    let asked = upstream.ledger().total();
    assert_eq!(asked, 500);
    let calls = (0..500).map(|n| Call::post("/charges", "{}").key(&format!("good-{n}")));
    let began = Instant::now();
    let answers = Load { addr: gateway.addr(), connections: 16 }.answers(calls.collect()).await;
    println!("500 good requests beside 1,000 idle connections: {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(answers.iter().all(|answer| answer.standing() == Some("executed")));
    assert_eq!(upstream.ledger().total(), asked + 500);
    let resident_bytes = gateway.resident_bytes();
    println!("resident with 1,000 idle connections: {} KiB", resident_bytes / 1024);
    assert!(resident_bytes < 128 << 20, "{resident_bytes}");
    assert_eq!(semel_testkit::gateway::connections_to(gateway.addr()), 1_000, "none was closed early");
    drop(idle);
    eventually("the idle connections to be gone", || {
        semel_testkit::gateway::connections_to(gateway.addr()) == 0
    })
    .await;
}
