//! The effect inside an axum program, with Semel's layer around it or nothing: what libraries are held against.
//!
//! It is the upstream as well: it keeps the ledger of its effects.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use bytes::Bytes;
use semel::engine::Limits;
use semel::event::Silent;
use semel::store::memory::MemoryStore;
use semel::{Engine, Store};
use semel_store_postgres::{PostgresConfig, PostgresStore};
use semel_store_redis::{RedisConfig, RedisStore};
use semel_tower::SemelLayer;
use tokio::net::TcpListener;

use super::upstream::{Book, answer_to};

type Shared = Arc<Mutex<Book>>;

/// Serves until it is killed; its first line of output is its port. `store` is `memory:` or a server's URL.
pub(super) async fn run(store: Option<String>) -> Result<(), Box<dyn Error>> {
    let mut app = Router::new().route("/charges", post(charge));
    if let Some(store) = store {
        app = app.layer(SemelLayer::new(Engine::with(
            open(&store).await?,
            Arc::new(Silent),
            Limits::default(),
        )));
    }
    let app = app.route("/ledger", get(ledger)).with_state(Shared::default());
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    Ok(axum::serve(listener.tap_io(|stream| _ = stream.set_nodelay(true)), app).await?)
}

async fn open(store: &str) -> Result<Arc<dyn Store>, Box<dyn Error>> {
    if store.starts_with("redis:") {
        return Ok(Arc::new(RedisStore::open(RedisConfig::from_url(store)?).await?));
    }
    if store.starts_with("postgres") {
        return Ok(Arc::new(PostgresStore::open(PostgresConfig::new(store).migrate(true)).await?));
    }
    Ok(Arc::new(MemoryStore::new()))
}

async fn charge(State(book): State<Shared>, headers: HeaderMap, _body: Bytes) -> impl IntoResponse {
    let key = headers.get("idempotency-key");
    let number = book.lock().unwrap_or_else(PoisonError::into_inner).note(key.map(AsRef::as_ref));
    if let Some(pause) = super::upstream::pause(&headers) {
        tokio::time::sleep(pause).await;
    }
    let key = key.map_or("none", |key| key.to_str().unwrap_or("odd"));
    let location = format!("/charges/{number}");
    let headers = [("content-type", "application/json".to_owned()), ("location", location)];
    (StatusCode::CREATED, headers, answer_to(key, number))
}

async fn ledger(State(book): State<Shared>) -> impl IntoResponse {
    Json(book.lock().unwrap_or_else(PoisonError::into_inner).ledger)
}
