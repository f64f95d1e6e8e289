//! The layer around an axum handler that takes a body and answers with one of the same length.

use axum::Router;
use axum::body::Body;
use axum::routing::post;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use semel::Engine;
use semel_tower::SemelLayer;
use tokio::runtime::Builder;
use tower::Service;

use crate::case::{Call, RECORDS, key};

/// Which keys requests have.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Keys {
    None,
    Fresh,
    Same,
}

fn app(engine: Option<fn() -> Engine>) -> Router {
    let app = Router::new().route("/charges", post(|body: Bytes| async { (StatusCode::CREATED, body) }));
    match engine {
        Some(engine) => app.layer(SemelLayer::new(engine())),
        None => app,
    }
}

pub(crate) fn call(engine: Option<fn() -> Engine>, keys: Keys, bytes: usize) -> Call {
    let runtime = Builder::new_current_thread().enable_time().build().expect("a runtime of one thread");
    let (body, mut app, mut number) = (Bytes::from(vec![b'x'; bytes]), self::app(engine), 0);
    Box::new(move || {
        number += 1;
        if keys == Keys::Fresh && number % RECORDS == 0 {
            app = self::app(engine);
        }
        let mut request = Request::post("/charges").header("content-type", "application/json");
        match keys {
            Keys::None => {}
            Keys::Fresh => request = request.header("idempotency-key", key(number)),
            Keys::Same => request = request.header("idempotency-key", key(0)),
        }
        let request = request.body(Body::from(body.clone())).expect("the parts are valid");
        runtime.block_on(async {
            let answer = app.call(request).await.expect("a router never fails");
            assert_eq!(answer.status(), StatusCode::CREATED);
            let answer = answer.into_body().collect().await.expect("the body is whole").to_bytes();
            assert_eq!(answer.len(), bytes);
        });
    })
}
