//! A tower layer that makes retried HTTP and gRPC requests take effect once.
//!
//! **By default a request whose handler died, or answered 5xx, is in doubt: its key is answered with 409 until
//! somebody resolves it.** The layer cannot know whether the effect happened; a route that would rather run it
//! again sets [`OnDoubt::Retry`](semel::policy::OnDoubt::Retry), and then two effects are possible.
//!
//! ```
//! use axum::{Router, routing::post};
//! use semel::{Engine, store::memory::MemoryStore};
//! use semel_tower::SemelLayer;
//!
//! let engine = Engine::new(MemoryStore::new());
//! let app: Router = Router::new()
//!     .route("/orders", post(|| async { (http::StatusCode::CREATED, "order 1") }))
//!     .layer(SemelLayer::new(engine));
//! ```
//!
//! A request goes through these modules in order: [`layer`] and [`service`] (the decision), [`route`] (which
//! settings apply), [`capture`] (bodies within bounds), [`tenant`] (whose key it is), then the engine; back through
//! [`replay`] (what is stored and given again) and [`problem`] (refusals). [`profile`] has the named bundles of
//! settings, [`body`] the body that is either whole or a stream.

pub mod body;
pub mod capture;
mod grpc;
pub mod layer;
mod path;
pub mod problem;
pub mod profile;
pub mod replay;
pub mod route;
pub mod service;
pub mod tenant;

pub use body::Body;
pub use layer::SemelLayer;
pub use route::{Route, Routes};
pub use service::{Decided, Decisions, EffectReport, SemelService};
pub use tenant::TenantRule;
