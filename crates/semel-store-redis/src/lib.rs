//! Semel's Redis store: records on one Redis server or a Redis Cluster, shared by any number of processes.
//!
//! A record is one key, and each step is made by one script at that key, so that it is atomic and never crosses
//! slots. **What an acknowledged write survives is the server's choice, not this crate's**: opening a store reads the
//! settings that decide it, refuses those that may lose everything, and names what the others lose.
//!
//! ```no_run
//! use semel::Store;
//! use semel_store_redis::{RedisConfig, RedisStore};
//! # async fn open() -> Result<(), semel_store_redis::OpenError> {
//! let store = RedisStore::open(RedisConfig::from_url("redis://localhost?prefix=shop")?).await?;
//! println!("{}", store.tier());
//! # Ok(()) }
//! ```
//!
//! In reading order: [`config`] (what can be chosen, and the URL), `open` and `server` (what servers are refused, and
//! what the others lose), [`store`] (the trait), `claim` (what the script is given and answers), `gather` (many callers
//! in one call), `script` and the folder `scripts` (the transitions), `codec` (record to value and back), `link`
//! (connections and their errors), `scan` (listing), `watch` (who is told of a change), `upkeep` (servers that change
//! while they are used).

mod claim;
mod codec;
pub mod config;
mod gather;
mod link;
mod open;
mod scan;
mod script;
mod server;
pub mod store;
mod upkeep;
mod watch;

#[cfg(any(test, fuzzing))]
pub use codec::fuzz;
pub use config::{Fsync, OpenError, OpenErrorKind, RedisConfig};
pub use store::RedisStore;
