//! The example, used as its reader would use it.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use axum::body::Body;
use axum::http::Request;
use axum_orders::{Orders, app};
use http_body_util::BodyExt;
use semel::Engine;
use semel_store_embedded::{EmbeddedConfig, EmbeddedStore};
use tower::ServiceExt;

async fn order(app: &axum::Router, key: &str) -> (u16, String, bool) {
    let request = Request::post("/orders")
        .header("idempotency-key", key)
        .header("content-type", "application/json")
        .body(Body::from(r#"{"item": "pen", "count": 3}"#))
        .unwrap();
    let answer = app.clone().oneshot(request).await.unwrap();
    let replayed = answer.headers().contains_key("idempotency-replayed");
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let status = answer.status().as_u16();
    answer.into_body().collect().await.unwrap();
    (status, location, replayed)
}

#[tokio::test]
async fn an_order_sent_twice_is_taken_once_also_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let open =
        || Engine::new(EmbeddedStore::open(EmbeddedConfig::new(folder.path().join("o.sqlite"))).unwrap());
    let orders = Orders::default();
    let first = app(open(), orders.clone());
    assert_eq!(order(&first, "order-42").await, (201, "/orders/1".to_owned(), false));
    assert_eq!(order(&first, "order-42").await, (201, "/orders/1".to_owned(), true));
    drop(first);
    let second = app(open(), orders.clone());
    assert_eq!(order(&second, "order-42").await, (201, "/orders/1".to_owned(), true));
    assert_eq!(order(&second, "order-43").await, (201, "/orders/2".to_owned(), false));
    assert_eq!(orders.lock().unwrap().len(), 2);
}
