//! A charge in an axum program under the crate `idempotent`: claim, effect, complete, as its documentation shows it.
//!
//! It is the upstream as well and keeps the ledger of its effects. Built outside of the workspace, by `install`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use idempotent::entry::ExistingEntry;
use idempotent::fingerprint::{DefaultFingerprintStrategy, FingerprintStrategy};
use idempotent::store::memory::MemoryStore;
use idempotent::store::valkey::ValkeyStore;
use idempotent::store::{IdempotencyStore, InsertResult};
use idempotent::{CachedResponse, IdempotencyEntry, IdempotencyKey, Metadata};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Shop<S> {
    store: S,
    effects: Mutex<(u64, HashMap<String, u32>)>,
}

#[tokio::main]
async fn main() {
    let port = std::env::var("PORT").expect("PORT");
    match std::env::var("STORE_URL").ok().filter(|url| !url.is_empty()) {
        Some(url) => {
            let client = redis::Client::open(url).expect("a Redis URL");
            serve(ValkeyStore::new(client).await.expect("the server is there"), &port).await;
        }
        None => serve(MemoryStore::new(1024, Duration::from_secs(60)), &port).await,
    }
}

async fn serve<S: IdempotencyStore>(store: S, port: &str) {
    let shop = Arc::new(Shop { store, effects: Mutex::default() });
    let app = Router::new()
        .route("/charges", post(charge::<S>))
        .route("/ledger", get(ledger::<S>))
        .with_state(shop);
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.expect("the port is free");
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| _ = stream.set_nodelay(true));
    axum::serve(listener, app).await.expect("it serves until it is killed");
}

async fn charge<S: IdempotencyStore>(
    State(shop): State<Arc<Shop<S>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = headers.get("idempotency-key").and_then(|key| key.to_str().ok()).unwrap_or("none").to_owned();
    let key = IdempotencyKey::new(text.clone()).expect("a key");
    let fingerprint = DefaultFingerprintStrategy.compute("POST /charges", &body);
    let entry = IdempotencyEntry::new(fingerprint, DAY);
    match shop.store.try_insert(&key, entry.clone()).await {
        Ok(InsertResult::Claimed { fencing_token }) => {
            let body = effect(&shop, &text, &headers).await;
            let response = CachedResponse { status_code: 201, metadata: Metadata::default(), body: body.clone() };
            match shop.store.complete(&key, entry.complete(response), fencing_token).await {
                Ok(()) => answer(body),
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }
        Ok(InsertResult::Exists(ExistingEntry::Completed(entry))) if entry.fingerprint_matches(fingerprint) => {
            answer(entry.into_response().body)
        }
        Ok(InsertResult::Exists(ExistingEntry::Completed(_))) => StatusCode::UNPROCESSABLE_ENTITY.into_response(),
        Ok(InsertResult::Exists(ExistingEntry::Processing(_))) => StatusCode::CONFLICT.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn answer(body: Bytes) -> Response {
    (StatusCode::CREATED, [("content-type", "application/json")], body).into_response()
}

async fn effect<S>(shop: &Shop<S>, key: &str, headers: &HeaderMap) -> Bytes {
    let number = {
        let mut effects = shop.effects.lock().expect("nobody panics");
        effects.0 += 1;
        *effects.1.entry(key.to_owned()).or_default() += 1;
        effects.0
    };
    if let Some(pause) = headers.get("x-pause-ms").and_then(|value| value.to_str().ok()?.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    let mut text = format!(r#"{{"key":"{key}","number":{number:012},"filling":""#);
    text.extend(std::iter::repeat_n('x', 1024 - text.len() - 2));
    text.push_str("\"}");
    text.into()
}

async fn ledger<S: IdempotencyStore>(State(shop): State<Arc<Shop<S>>>) -> String {
    let effects = shop.effects.lock().expect("nobody panics");
    let doubled = effects.1.values().filter(|times| **times > 1).count();
    format!(r#"{{"effects":{},"doubled":{doubled}}}"#, effects.0)
}
