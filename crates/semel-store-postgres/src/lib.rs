//! Semel's PostgreSQL store: records in one table that any number of processes share.
//!
//! Steps of callers who are waiting at one moment become one statement with one commit, and every transition is
//! decided inside its statement, under the row's lock and on the server's clock.
//!
//! ```no_run
//! use semel_store_postgres::{PostgresConfig, PostgresStore};
//! # async fn open() -> Result<(), semel_store_postgres::OpenError> {
//! let config = PostgresConfig::new("postgres://shop@db.example.net/shop?sslmode=verify-full").migrate(true);
//! let store = PostgresStore::open(config).await?;
//! # Ok(()) }
//! ```
//!
//! In reading order: [`config`] (what can be chosen), [`store`] (the trait), `writer` (many callers' steps in one
//! statement, and what is done when the server does not answer), `claim` and `write` (the transitions in SQL), `reader`,
//! `codec` (record to row and back), `schema`, `session` (one connection), `settings` (what the server's own settings
//! are worth), `address` and `tls`, `watch` and `bell` (waking those who wait). Apart from all that: [`transaction`], for
//! callers who keep their own data in PostgreSQL and want effect and record to commit together.

mod address;
mod bell;
mod claim;
mod codec;
pub mod config;
mod fault;
mod open;
mod reader;
mod schema;
mod session;
mod settings;
pub mod store;
mod tls;
pub mod transaction;
mod watch;
mod write;
mod writer;

pub use config::{OpenError, OpenErrorKind, PostgresConfig};
pub use store::PostgresStore;
