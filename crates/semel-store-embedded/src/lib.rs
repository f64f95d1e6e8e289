//! Semel's embedded store: records in one SQLite file that one process owns.
//!
//! Steps of all callers who are waiting at one moment become one transaction and one fsync. People can read the
//! file: `sqlite3 FILE 'SELECT * FROM records'`.
//!
//! ```no_run
//! use semel_store_embedded::{EmbeddedConfig, EmbeddedStore};
//! # fn main() -> Result<(), semel_store_embedded::OpenError> {
//! let store = EmbeddedStore::open(EmbeddedConfig::new("semel.db"))?;
//! # Ok(()) }
//! ```
//!
//! In reading order: [`config`] (what can be chosen), [`store`] (the trait, and which thread does what), `writer`
//! (group commit), `claim` (the transitions inside the transaction), `index` and `segment` (where a record is),
//! `upkeep` (sealing and dropping segments), `reader`, `codec` (record to row and back), `schema`, `owner` (one
//! process per file), `checkpoint`, `watch`. Apart from all that: [`transaction`], for callers who keep their own
//! data in SQLite and want effect and record to commit together.

mod checkpoint;
mod claim;
mod codec;
pub mod config;
mod entry;
mod fault;
mod filter;
mod fold;
mod index;
mod log;
mod open;
mod owner;
mod reader;
mod schema;
mod segment;
pub mod store;
pub mod transaction;
mod upkeep;
mod watch;
mod writer;

pub use config::{EmbeddedConfig, OpenError, OpenErrorKind};
pub use store::EmbeddedStore;
