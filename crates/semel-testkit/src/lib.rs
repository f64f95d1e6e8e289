//! What tests share: the conformance suite that every store must pass, stores and wires that fail by script, and,
//! with the feature `http`, everything around a gateway that runs: upstreams that count their effects, clients that
//! hide nothing, the program itself. With the feature `servers` there are real servers for stores.
//!
//! Only ever a dev-dependency. Start at [`conformance`] for a store, at `gateway` for the program.

pub mod check;
pub mod conformance;
#[cfg(feature = "net")]
pub mod fault_proxy;
pub mod faulty_store;
pub mod figures;
pub mod fuzz;
pub mod seeded;

#[cfg(feature = "http")]
pub mod certificates;
#[cfg(feature = "http")]
pub mod client;
#[cfg(feature = "http")]
pub mod gateway;
#[cfg(feature = "http")]
pub mod ledger;
#[cfg(feature = "model")]
pub mod model;
#[cfg(feature = "servers")]
pub mod network;
pub mod port;
#[cfg(feature = "http")]
pub mod repeat;
#[cfg(feature = "servers")]
pub mod server;
#[cfg(feature = "servers")]
pub mod shim;
#[cfg(feature = "http")]
pub mod tokens;
#[cfg(feature = "http")]
pub mod upstream;
#[cfg(feature = "servers")]
pub mod volume;
