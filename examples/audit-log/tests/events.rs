//! The log over a network that loses answers.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use std::time::Duration;

use audit_log::{AuditLog, Event, Recorded, app};
use semel::Engine;
use semel::backoff::Backoff;
use semel::store::memory::MemoryStore;
use semel_client::Once;
use semel_client::core::call::Policy;
use semel_testkit::client::Call;
use semel_testkit::upstream::{Reply, Upstream};

fn event(action: &str) -> Event {
    Event { actor: "u1".to_owned(), action: action.to_owned(), at_ms: 7 }
}

/// The log behind a network that loses every second answer, after the event was recorded.
async fn log() -> (AuditLog, Recorded, Upstream) {
    let recorded = Recorded::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let log = listener.local_addr().unwrap();
    let served = app(Engine::new(MemoryStore::new()), recorded.clone());
    tokio::spawn(async move { axum::serve(listener, served).await });
    let network = Upstream::scripted(move |arrived| async move {
        let call = Call::post(arrived.path(), arrived.body.clone()).key(arrived.key().unwrap());
        let token = arrived.head.headers["authorization"].to_str().unwrap();
        let call = call.header("content-type", "application/json").header("authorization", token);
        let answer = call.answer(log).await;
        let mut passed = http::Response::new(answer.body);
        *passed.status_mut() = http::StatusCode::from_u16(answer.status).unwrap();
        if arrived.nth_of_key % 2 == 1 { Reply::Reset } else { Reply::Answer(passed) }
    });
    let backoff = Backoff { base: Duration::from_millis(2), cap: Duration::from_millis(20) };
    let once = Once::new().policy(Policy { backoff, ..Policy::default() });
    (AuditLog::new(once, &network.url(), "token").unwrap(), recorded, network)
}

#[tokio::test]
async fn an_event_whose_answer_was_lost_is_recorded_once() {
    let (log, recorded, network) = log().await;
    log.create_event(&event("login")).await.unwrap();
    assert_eq!(network.ledger().total(), 2, "it was sent twice");
    assert_eq!(*recorded.lock().unwrap(), [event("login")]);
}

#[tokio::test]
async fn like_events_that_both_happened_are_both_recorded() {
    let (log, recorded, _network) = log().await;
    for _ in 0..3 {
        log.create_event(&event("login")).await.unwrap();
    }
    assert_eq!(recorded.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn one_key_stands_for_an_import_and_each_of_its_events_is_recorded_once() {
    let (log, recorded, _network) = log().await;
    for _ in 0..3 {
        for action in ["login", "export", "logout"] {
            log.create_event_under("import-7", &event(action)).await.unwrap();
        }
    }
    assert_eq!(*recorded.lock().unwrap(), ["login", "export", "logout"].map(event));
}
