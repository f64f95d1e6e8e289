//! The control plane: an axum API that knows nothing of keys, and creates one thing for every create that reaches it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use semel_gateway::{Decided, Decisions, Gateway, GatewayError};
use serde_json::{Value, json};

/// What was created, by path.
pub type Things = Arc<Mutex<BTreeMap<String, Vec<Value>>>>;

/// The API, on what it has so far.
pub fn app(things: Things) -> Router {
    Router::new()
        .route("/{collection}", get(list).post(create))
        .route("/{collection}/{id}", get(one))
        .route("/{collection}/{id}/{below}", get(list_below).post(create_below))
        .with_state(things)
}

async fn create(
    State(things): State<Things>,
    Path(path): Path<String>,
    body: Json<Value>,
) -> impl IntoResponse {
    add(&things, path, body.0)
}

async fn create_below(
    State(things): State<Things>,
    Path((collection, id, below)): Path<(String, String, String)>,
    body: Json<Value>,
) -> impl IntoResponse {
    add(&things, format!("{collection}/{id}/{below}"), body.0)
}

fn add(things: &Things, path: String, mut thing: Value) -> impl IntoResponse + use<> {
    let mut things = things.lock().unwrap_or_else(PoisonError::into_inner);
    let own = things.entry(path).or_default();
    thing["id"] = json!((own.len() + 1).to_string());
    own.push(thing.clone());
    (StatusCode::CREATED, Json(thing))
}

async fn list(State(things): State<Things>, Path(path): Path<String>) -> Json<Vec<Value>> {
    Json(all(&things, &path))
}

async fn list_below(
    State(things): State<Things>,
    Path((collection, id, below)): Path<(String, String, String)>,
) -> Json<Vec<Value>> {
    Json(all(&things, &format!("{collection}/{id}/{below}")))
}

async fn one(
    State(things): State<Things>,
    Path((collection, id)): Path<(String, String)>,
) -> Result<Json<Value>, StatusCode> {
    let found = all(&things, &collection).into_iter().find(|thing| thing["id"] == id.as_str());
    found.map(Json).ok_or(StatusCode::NOT_FOUND)
}

fn all(things: &Things, path: &str) -> Vec<Value> {
    things.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned().unwrap_or_default()
}

#[derive(Debug)]
struct Unheard;

impl Decisions for Unheard {
    fn decided(&self, _: &Decided<'_>) {}
}

/// The gateway in front of the API at `upstream`, on any free port: a second create under one key gets the first one's
/// answer, for two days. Its records are in memory, which is enough for an example.
///
/// # Errors
/// When it cannot listen.
pub async fn gateway(upstream: &str) -> Result<Gateway, Box<dyn std::error::Error>> {
    let settings =
        format!("listen = \"127.0.0.1:0\"\nupstream = \"{upstream}\"\nprofile = \"control-plane\"\n");
    let config = semel_gateway::Config::from_toml(&settings, "example")?;
    let engine = semel::Engine::new(semel::store::memory::MemoryStore::new());
    Gateway::bind(config, engine, Arc::new(Unheard)).await.map_err(|error: GatewayError| error.into())
}
