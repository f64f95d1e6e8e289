//! SIGTERM: what is in flight is answered, nothing is lost, and a restart goes on from there.

use std::sync::Arc;
use std::time::Duration;

use semel_testkit::client::{Answer, Call, Connection, NoAnswer, Raw};
use semel_testkit::gateway::{Gateway, has_read_everything};
use semel_testkit::ledger::eventually;
use semel_testkit::upstream::Upstream;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");

/// Charges when the gate lets it.
fn gated() -> (Upstream, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let upstream = Upstream::scripted(move |arrived| {
        let held = Arc::clone(&held);
        async move {
            held.acquire().await.expect("the gate is never closed").forget();
            arrived.charge()
        }
    });
    (upstream, gate)
}

fn call(n: usize) -> Call {
    Call::post("/charges", format!("{{\"n\":{n}}}")).key(&format!("key-{n}"))
}

fn send(gateway: &Gateway, call: Call) -> JoinHandle<Result<Answer, NoAnswer>> {
    let addr = gateway.addr();
    tokio::spawn(async move { call.send(addr).await })
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_answers_everybody_in_flight_and_a_restart_replays() {
    const KEYS: usize = 40;
    const CALLERS_PER_KEY: usize = 5;
    let (upstream, gate) = gated();
    let mut gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let addr = gateway.addr();
    let mut callers: Vec<_> = (0..KEYS).map(|n| (n, send(&gateway, call(n)))).collect();
    upstream.ledger().reaches(KEYS).await;
    for n in 0..KEYS {
        callers.extend((1..CALLERS_PER_KEY).map(|_| (n, send(&gateway, call(n)))));
    }
    let open = KEYS * CALLERS_PER_KEY;
    eventually("all callers to be connected", || semel_testkit::gateway::connections_to(addr) == open).await;
    eventually("the gateway to have read their requests", || has_read_everything(addr)).await;
    gateway.terminate();
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert_eq!(upstream.ledger().total(), KEYS, "nothing new is begun");
    gate.add_permits(KEYS);
    let mut executed = vec![None; KEYS];
    let mut replays = Vec::new();
    for (n, caller) in callers {
        let answer =
            caller.await.expect("no panic").unwrap_or_else(|why| panic!("a caller of {n} was lost: {why}"));
        assert_eq!(answer.status, 201, "{answer:?}");
        if answer.standing() == Some("executed") {
            assert!(executed[n].replace(answer).is_none(), "{n} ran twice");
        } else {
            replays.push((n, answer));
        }
    }
    let ended = gateway.wait().await;
    println!("drained {open} callers in {:?}", ended.took);
    assert_eq!(ended.status.code(), Some(0), "{:?}", gateway.log());
    gateway.start_again().await;
    for (n, first) in executed.into_iter().enumerate() {
        let first = first.unwrap_or_else(|| panic!("nobody ran {n}"));
        let replay = call(n).answer(gateway.addr()).await;
        assert_eq!((replay.standing(), replay.essence()), (Some("replayed"), first.essence()));
        let own = replays.iter().filter(|(own, _)| *own == n);
        assert_eq!(own.clone().count(), CALLERS_PER_KEY - 1);
        own.for_each(|(_, replay)| assert_eq!(replay.essence(), first.essence()));
    }
    assert_eq!(upstream.ledger().total(), KEYS);
    assert!(gateway.keys_in("in-doubt").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_loses_no_effect() {
    let upstream = Upstream::charging();
    let mut gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let addr = gateway.addr();
    let workers: Vec<_> = (0..16)
        .map(|worker| {
            tokio::spawn(async move {
                let mut sent = Vec::new();
                let Ok(mut connection) = Connection::open(addr).await else { return sent };
                for n in 0.. {
                    let call = Call::post("/charges", "{}").key(&format!("{worker}-{n}"));
                    let answer = connection.send(&call).await;
                    let ended = answer.is_err();
                    sent.push((call, answer));
                    if ended && Connection::open(addr).await.map(|open| connection = open).is_err() {
                        break;
                    }
                }
                sent
            })
        })
        .collect();
    upstream.ledger().reaches(300).await;
    gateway.terminate();
    let ended = gateway.wait().await;
    assert_eq!(ended.status.code(), Some(0), "{:?}", gateway.log());
    gateway.start_again().await;
    assert!(gateway.keys_in("in-doubt").await.is_empty(), "a drain in time leaves no doubt");
    let mut unanswered = 0;
    for worker in workers {
        for (call, answer) in worker.await.expect("no panic in a worker") {
            let retry = call.answer(gateway.addr()).await;
            assert_eq!(retry.status, 201, "{retry:?}");
            match answer {
                Ok(first) => {
                    assert_eq!((retry.standing(), retry.essence()), (Some("replayed"), first.essence()));
                }
                Err(_) => unanswered += 1,
            }
        }
    }
    println!("{} effects, {unanswered} requests met a closing connection", upstream.ledger().total());
    assert_eq!(upstream.ledger().max_per_key(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_a_request_do_not_delay_the_end() {
    let upstream = Upstream::charging();
    let mut gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let mut idle = Vec::new();
    for begin in [&b""[..], b"P", b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"] {
        let mut raw = Raw::open(gateway.addr()).await;
        assert!(raw.write(begin).await);
        idle.push(raw);
    }
    let answer = idle[2].read_some(Duration::from_secs(20)).await.expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 201"), "{}", answer.escape_ascii());
    assert_ends_soon(&mut gateway).await;
}

async fn assert_ends_soon(gateway: &mut Gateway) {
    gateway.terminate();
    let ended = gateway.wait().await;
    println!("ended in {:?}", ended.took);
    assert_eq!(ended.status.code(), Some(0));
    assert!(ended.took < Duration::from_secs(5), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_head_delays_the_end_for_the_header_timeout_at_most() {
    let upstream = Upstream::charging();
    let mut gateway = Gateway::start_with(SEMEL, &upstream.url(), "[timeouts]\nheader = \"1s\"\n").await;
    let mut raw = Raw::open(gateway.addr()).await;
    assert!(raw.write(b"POST /charges HTTP/1.1\r\nHost").await);
    let addr = gateway.addr();
    eventually("the gateway to have read what was sent", || has_read_everything(addr)).await;
    assert_ends_soon(&mut gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_in_time_is_in_doubt_after_the_restart() {
    let (upstream, _gate) = gated();
    let config = "[timeouts]\ndrain = \"500ms\"\n";
    let mut gateway = Gateway::start_with(SEMEL, &upstream.url(), config).await;
    let hanging = send(&gateway, call(1));
    upstream.ledger().reaches(1).await;
    gateway.terminate();
    let ended = gateway.wait().await;
    assert!(ended.took < Duration::from_secs(10), "{ended:?}");
    assert_eq!(ended.status.code(), Some(0), "{:?}", gateway.log());
    hanging.await.expect("no panic").expect_err("there was no outcome to answer with");
    gateway.start_again().await;
    assert_eq!(gateway.keys_in("in-doubt").await.into_iter().collect::<Vec<_>>(), ["key-1"]);
    let retry = call(1).answer(gateway.addr()).await;
    assert_eq!((retry.status, retry.problem().as_deref()), (409, Some("outcome-unknown")), "{retry:?}");
    assert_eq!(upstream.ledger().total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_reach_the_records_with_and_without_a_running_gateway() {
    let upstream = Upstream::scripted(|arrived| async move {
        if arrived.nth == 1 { arrived.charge() } else { semel_testkit::upstream::Reply::Reset }
    });
    let mut gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let first = call(1).answer(gateway.addr()).await;
    assert_eq!(call(2).answer(gateway.addr()).await.status, 502);
    for runs in [true, false] {
        if !runs {
            gateway.terminate();
            assert_eq!(gateway.wait().await.status.code(), Some(0));
        }
        let completed: Vec<_> = gateway.keys_in("completed").await.into_iter().collect();
        let doubts: Vec<_> = gateway.keys_in("in-doubt").await.into_iter().collect();
        assert_eq!((completed, doubts), (vec!["key-1".to_owned()], vec!["key-2".to_owned()]), "runs: {runs}");
        let shown = gateway.keys(&["show", "key-1", "--body"]).await;
        assert_eq!(shown.code, Some(0), "{shown:?}");
        assert_eq!(shown.documents[0]["state"], "completed");
        assert_eq!(shown.documents[0]["code"], 201);
        let body = shown.documents[0]["outcome"]["body"]["text"].as_str().expect("the body is text");
        assert_eq!(body.as_bytes(), first.body);
        assert_eq!(gateway.keys(&["show", "no-such-key"]).await.code, Some(3));
        let in_doubt = gateway.keys(&["purge", "key-2"]).await;
        assert_ne!(in_doubt.code, Some(0), "a doubt is resolved, not purged");
    }
    let resolve = ["resolve", "key-2", "--completed", "--status", "200", "--body", "by hand"];
    assert_eq!(gateway.keys(&resolve).await.code, Some(0));
    assert_eq!(gateway.keys(&["purge", "key-1"]).await.code, Some(0));
    gateway.start_again().await;
    let by_hand = call(2).answer(gateway.addr()).await;
    assert_eq!(
        (by_hand.status, by_hand.standing(), &by_hand.body[..]),
        (200, Some("replayed"), &b"by hand"[..])
    );
    assert_eq!(upstream.ledger().total(), 2);
}
