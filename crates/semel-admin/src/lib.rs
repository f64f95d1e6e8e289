//! Operations: what an operator sees of a running Semel and may change about its records.
//!
//! Reads are served on two sides: over TCP, which only ever reads, and over an owner-only Unix socket, which also
//! releases, resolves and purges records. Nothing here decides about requests; that is [`semel::Engine`].
//!
//! Modules in reading order: [`inspect`] (the operations, on any store), [`view`] (their JSON), [`api`] (the same
//! over HTTP, with health and metrics), [`socket`] (the owner-only listener), [`client`] (the other end of it),
//! [`metrics`] (the series), [`problem`] (what is refused, and why).

pub mod api;
pub mod client;
pub mod inspect;
pub mod metrics;
pub mod problem;
pub mod socket;
mod tcp;
pub mod view;

pub use api::Admin;
pub use client::{Client, ClientError};
pub use metrics::{Coverage, Metrics};
pub use problem::Problem;
pub use socket::{Socket, SocketError};
