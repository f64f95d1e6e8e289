//! The gateway: a reverse proxy that puts [`semel_tower`]'s layer in front of any HTTP API.
//!
//! **By default a request whose upstream gave no answer, or 5xx, is in doubt and its key answers 409 until somebody
//! resolves it**; what each route promises is printed by `semel check`.
//!
//! Modules in the order of a request: [`config`] (the file), [`listen`] and [`proxy`] (accept, refuse what is ambiguous, hand to
//! the layer), [`upstream`] (send on, never twice), [`connections`] (over which), [`shutdown`] (drain). [`tls`] has certificates, [`hooks`] what
//! the gateway asks over HTTP before a replay or about a doubt; `self_test` asks the store before it listens.

pub mod config;
pub mod connections;
pub mod hooks;
pub mod listen;
pub mod promise;
pub mod proxy;
mod self_test;
pub mod shutdown;
pub mod tls;
pub mod upstream;

pub use config::{Config, ConfigError};
pub use listen::{Accepted, Listen};
pub use promise::Promise;
pub use proxy::{Gateway, GatewayError, GatewayErrorKind};
pub use semel_tower::{Decided, Decisions};
pub use shutdown::Drained;
