//! Semel: make a retried operation take effect once.
//!
//! *Claim a key, run the effect, keep the outcome; whoever brings the key again gets that outcome.*
//! This crate is the heart of it: keys, records and the engine, without HTTP, network, disk or driver.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use semel::{Engine, store::memory::MemoryStore};
//!
//! let engine = Engine::new(MemoryStore::new());
//! let receipt = engine.once("charge").key("order-42").run(|_claim| async { Ok("receipt 7".to_owned()) }).await?;
//! let again = engine.once("charge").key("order-42").run(|_claim| async { Ok("receipt 8".to_owned()) }).await?;
//! assert_eq!((receipt.value(), again.value()), (&"receipt 7".to_owned(), &"receipt 7".to_owned()));
//! assert!(again.is_replay());
//! # Ok(()) }
//! ```
//!
//! What that promises depends on the store and on [`policy::OnDoubt`]: the memory store above forgets everything
//! when the process ends, and an effect whose executor died is *in doubt*, never silently run again.
//!
//! Modules in reading order: [`engine`] (begin, complete, release, renew), [`once`] (the closure form),
//! [`record`] (states and every allowed transition, pure), [`store`] (the trait each store implements),
//! [`key`], [`scope`] and [`fingerprint`] (what names a record), [`policy`], [`event`], [`wire`], [`error`],
//! [`clock`], [`backoff`] and [`detached`].

pub mod backoff;
pub mod clock;
pub mod detached;
pub mod engine;
pub mod error;
pub mod event;
pub mod fingerprint;
pub mod key;
pub mod once;
pub mod policy;
pub mod record;
pub mod scope;
pub mod store;
pub mod wire;

pub mod digest;

pub use engine::{Ask, Begun, Claim, Completion, Engine, Refusal};
pub use error::{Code, Error};
pub use fingerprint::Fingerprint;
pub use key::Key;
pub use once::{Done, EffectError, OnceError};
pub use policy::Policy;
pub use record::{Outcome, Record, State, Token};
pub use scope::{Operation, RecordId, Tenant};
pub use store::Store;
