//! Everything that decides, and nothing that reads, writes, waits or looks at a clock.
//!
//! In reading order: [`call`] (the state of a call and its next step), [`classify`] (what an attempt came to),
//! [`problem`] (what error bodies say), [`retry_after`], [`budget`], [`redirect`], [`key`]. The files in `vectors/`
//! of the repository say the same in JSON, for clients in other languages.

pub mod budget;
pub mod call;
pub mod classify;
pub mod key;
pub mod problem;
pub mod redirect;
pub mod retry_after;
