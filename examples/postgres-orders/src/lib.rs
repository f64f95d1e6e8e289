//! An API that takes orders into PostgreSQL, each exactly once: the order and the record of its key are committed in
//! one transaction, so that no crash comes between them.
//!
//! What is to be copied is [`take`], in `orders.rs`.

mod orders;

pub use orders::{Failure, Order, app, database, take};
