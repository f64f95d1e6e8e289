//! An audit log: [`create_event`](AuditLog::create_event) is sent until it is recorded, and recorded once.
//!
//! **An event is sent again only because the log honours keys**, which [`AuditLog::new`] declares. The server hashes the
//! key together with the event (profile `audit-log`): one key may stand for a whole import, and each of its events is
//! recorded once; an event that was changed is another event. An event without a key gets one of its own, so that two
//! like events that both happened are both recorded.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use semel::Engine;
use semel_client::{BoxError, Client, Error, Idempotency, Once};
use semel_tower::{Route, Routes, SemelLayer};
use serde::{Deserialize, Serialize};

/// Something that somebody did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// When, in milliseconds since the Unix epoch, by the clock of whoever saw it.
    pub at_ms: u64,
}

/// The log, as its users see it.
#[derive(Clone, Debug)]
pub struct AuditLog {
    client: Client,
}

impl AuditLog {
    /// The log at `url`, with what was decided about its calls; every call goes to this one host, and it honours keys.
    ///
    /// # Errors
    /// When `url` is none, or the token cannot be sent.
    pub fn new(once: Once, url: &str, token: &str) -> Result<Self, BoxError> {
        Ok(Self { client: Client::builder(once.trust_keys()).base_url(url).bearer(token).build()? })
    }

    /// Records an event, once, under a key of its own.
    ///
    /// # Errors
    /// [`Error`], by what is known, with the key to try again under.
    pub async fn create_event(&self, event: &Event) -> Result<(), Error> {
        self.create_event_under("auto", event).await
    }

    /// Records an event, once for this key.
    ///
    /// # Errors
    /// As [`AuditLog::create_event`].
    pub async fn create_event_under(&self, key: impl Into<Idempotency>, event: &Event) -> Result<(), Error> {
        self.client.resource("events").create(event).idempotency_key(key).send().await.map(drop)
    }
}

/// What was recorded.
pub type Recorded = Arc<Mutex<Vec<Event>>>;

/// The server: two routes and the layer around them.
pub fn app(engine: Engine, recorded: Recorded) -> Router {
    let route = Route::profile("audit-log").unwrap_or_default();
    let layer = SemelLayer::with_routes(engine, Routes::new(route));
    Router::new().route("/events", get(list).post(record)).with_state(recorded).layer(layer)
}

async fn record(State(recorded): State<Recorded>, Json(event): Json<Event>) -> StatusCode {
    recorded.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    StatusCode::CREATED
}

async fn list(State(recorded): State<Recorded>) -> Json<Vec<Event>> {
    Json(recorded.lock().unwrap_or_else(PoisonError::into_inner).clone())
}
