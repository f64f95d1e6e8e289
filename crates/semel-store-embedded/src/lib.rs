//! Semel's embedded store: records in one SQLite file that one process owns, and a log in front of it.
//!
//! Steps of all callers who are waiting at one moment become one frame of the log and one fsync; what has settled is
//! folded into the file a moment later. People can read the file: `sqlite3 FILE 'SELECT * FROM records'`.
//!
//! ```no_run
//! use semel_store_embedded::{EmbeddedConfig, EmbeddedStore};
//! # fn main() -> Result<(), semel_store_embedded::OpenError> {
//! let store = EmbeddedStore::open(EmbeddedConfig::new("semel.db"))?;
//! # Ok(()) }
//! ```
//!
//! In reading order: [`config`] (what can be chosen), [`store`] (the trait, and which thread does what), `writer`
//! (group commit), `claim` (the transitions of a batch), `log` and `entry` (what is synced), `index` and `segment`
//! (where a record is), `fold` (from the log to the tables), `upkeep` (sealing and dropping segments), `table` (one for
//! each segment), `reader`, `codec` (record to row and back), `schema`, `open` (what a crash left), `owner` (one process per
//! file), `watch`. Apart from all that: [`transaction`], for callers who keep their own data in SQLite and want effect and
//! record to commit together.

mod claim;
mod codec;
pub mod config;
mod entry;
mod fault;
mod filter;
mod fold;
mod index;
mod log;
mod near;
mod open;
mod owner;
mod reader;
mod schema;
mod segment;
pub mod store;
mod table;
pub mod transaction;
mod upkeep;
mod watch;
mod writer;

pub use config::{EmbeddedConfig, OpenError, OpenErrorKind};
#[cfg(any(test, fuzzing))]
pub use log::fuzz;
pub use store::EmbeddedStore;
