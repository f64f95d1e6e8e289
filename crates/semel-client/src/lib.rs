//! Makes a call take effect once, however often it has to be sent.
//!
//! **A POST is sent again only when it has a key and its host honours keys**, because a request whose answer was lost
//! may have taken effect, and only the host can tell the second from the first. So every POST, PUT and PATCH gets an
//! `Idempotency-Key`, made once and kept over all attempts, and the program declares which hosts honour it (Semel's
//! gateway and layer do, as do many APIs: their documentation says so). To every other host a POST is sent a second
//! time only if not a byte of the first was sent; what else fails is reported, with its key, as *unknown*. GET, HEAD,
//! PUT and DELETE may always be sent again.
//!
//! In a program that uses reqwest 0.13:
//!
//! ```toml
//! semel-client = "0.1"
//! ```
//!
//! ```
//! # #[cfg(feature = "reqwest-middleware")] {
//! use semel_client::{Once, reqwest_middleware::ClientBuilder};
//!
//! let client = ClientBuilder::new(reqwest::Client::new()).with(Once::for_hosts(["api.example.com"])).build();
//! # let _ = client; }
//! ```
//!
//! Calls are made as before, and answers come out as before. Where the program names types, a `reqwest::Client` is now
//! a `ClientWithMiddleware`, and `send()` fails with a `reqwest_middleware::Error`:
//!
//! ```
//! # #[cfg(feature = "reqwest-middleware")] {
//! use semel_client::reqwest_middleware::{ClientWithMiddleware, Error};
//! use semel_client::{Idempotency, Key};
//!
//! async fn charge(client: &ClientWithMiddleware, order: &str) -> Result<String, Error> {
//!     let call = client.post("https://api.example.com/charges").json(&4000);
//!     // A key of your own; left out, the call gets a new one. `Idempotency::off()` is none.
//!     let answer = call.with_extension(Key::explicit(order)).send().await?;
//!     Ok(answer.error_for_status()?.text().await?)
//! }
//! # let _ = (charge, Idempotency::off()); }
//! ```
//!
//! What became of a call is in its answer's extensions, as a [`Report`]; what has no answer is an error in which
//! [`adapter::middleware::error`] finds this crate's [`Error`]. Delays, `Retry-After`, a retry budget per host and
//! deadlines have defaults that fit most; see [`Policy`](crate::core::call::Policy).
//!
//! Other clients: [`Client`] reads answers inside the loop and types its errors, and is the kit for SDKs; the modules of
//! [`adapter`] have a tower layer and clients for threads. [`journal`] makes keys outlive the process. What decides is
//! [`crate::core`], without any I/O.
//!
//! Features: `client` and `reqwest-middleware` (both by default), `tower`, `blocking-reqwest`, `blocking-ureq`,
//! `journal-sqlite`. TLS is switched on by the features of the program's own reqwest or ureq.

#![cfg_attr(
    not(all(feature = "client", feature = "reqwest-middleware", feature = "blocking-reqwest")),
    allow(dead_code, reason = "each adapter uses its part")
)]

pub mod core;

pub mod adapter;
#[cfg(any(feature = "client", feature = "blocking-reqwest", feature = "blocking-ureq"))]
pub mod api;
mod clock;
mod drive;
mod error;
mod idempotency;
pub mod journal;
mod observe;
mod once;
mod session;

pub use crate::core::key::{business, composite, hashed};
pub use clock::System;
pub use error::{BoxError, Error, Kind};
pub use idempotency::Idempotency;
pub use observe::{Event, What};
pub use once::Once;
pub use semel::Key;
pub use session::Report;

/// The version that [`Once`] is a middleware of.
#[cfg(feature = "reqwest-middleware")]
pub use reqwest_middleware;

#[cfg(feature = "client")]
pub use adapter::client;
#[cfg(feature = "client")]
pub use adapter::client::Client;
