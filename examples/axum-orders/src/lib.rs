//! An API that takes orders, with the layer around it: three lines make its POSTs take effect once.
//!
//! **An order whose handler dies half-way is in doubt and answers 409 until somebody resolves it.** The orders here
//! live in memory; an API whose orders live in a database keeps them there.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use semel::Engine;
use semel_tower::SemelLayer;
use serde::{Deserialize, Serialize};

/// What a customer wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// What.
    pub item: String,
    /// How many.
    pub count: u32,
}

/// The orders that were taken.
pub type Orders = Arc<Mutex<Vec<Order>>>;

/// The API, with its records in the store of `engine`.
pub fn app(engine: Engine, orders: Orders) -> Router {
    Router::new().route("/orders", get(list).post(take)).with_state(orders).layer(SemelLayer::new(engine))
}

async fn take(State(orders): State<Orders>, Json(order): Json<Order>) -> impl IntoResponse {
    let mut orders = orders.lock().unwrap_or_else(PoisonError::into_inner);
    orders.push(order.clone());
    (StatusCode::CREATED, [(header::LOCATION, format!("/orders/{}", orders.len()))], Json(order))
}

async fn list(State(orders): State<Orders>) -> Json<Vec<Order>> {
    Json(orders.lock().unwrap_or_else(PoisonError::into_inner).clone())
}
