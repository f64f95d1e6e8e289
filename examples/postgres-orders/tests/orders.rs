//! The example, used as its reader would use it.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use postgres_orders::{app, database};
use semel_testkit::server::postgres::PostgresServer;
use tokio::task::JoinSet;
use tower::ServiceExt;

/// Status, location and body.
async fn order(app: axum::Router, key: &str, order: &str) -> (u16, Option<String>, Vec<u8>) {
    let request =
        Request::post("/orders").header("idempotency-key", key).body(Body::from(order.to_owned())).unwrap();
    let answer = app.oneshot(request).await.unwrap();
    let location = answer.headers().get("location").map(|value| value.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    (status, location, answer.into_body().collect().await.unwrap().to_bytes().to_vec())
}

const PENS: &str = r#"{"item": "pen", "count": 3}"#;

async fn shop() -> (PostgresServer, axum::Router) {
    let server = PostgresServer::start_with(&[]);
    let app = app(database(&server.url("postgres")).await.unwrap());
    (server, app)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_callers_with_one_key_place_one_order_and_get_one_answer() {
    let (server, app) = shop().await;
    let mut callers = JoinSet::new();
    for _ in 0..50 {
        let app = app.clone();
        callers.spawn(async move { order(app, "order-42", PENS).await });
    }
    let answers = callers.join_all().await;
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!((answers[0].0, answers[0].1.as_deref()), (201, Some("/orders/1")));
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM orders"), "1");
    assert_eq!(order(app, "order-43", PENS).await.1.as_deref(), Some("/orders/2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_order_under_the_same_key_is_refused() {
    let (server, app) = shop().await;
    order(app.clone(), "order-42", PENS).await;
    let refused = order(app.clone(), "order-42", r#"{"item": "pen", "count": 4}"#).await;
    assert_eq!((refused.0, refused.1), (422, None));
    let same = order(app, "order-42", r#"{"count": 3, "item": "pen"}"#).await;
    assert_eq!(same.0, 201, "the order of members does not count");
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM orders"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_failed_leaves_its_key_free() {
    let (server, app) = shop().await;
    assert_eq!(order(app.clone(), "order-42", r#"{"item": "pen", "count": 0}"#).await.0, 503);
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM semel_records"), "0");
    assert_eq!(order(app, "order-42", PENS).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_replayed_after_the_database_was_killed() {
    let (mut server, app) = shop().await;
    let first = order(app.clone(), "order-42", PENS).await;
    server.kill();
    assert_eq!(order(app.clone(), "order-42", PENS).await.0, 503);
    server.start_again();
    assert_eq!(order(app, "order-42", PENS).await, first);
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM orders"), "1");
}
