//! Real servers as child processes, each with a temporary folder and ports of its own, gone when dropped.
//!
//! A program that is missing is a panic, never a skip; `cargo xtask ci` installs what they need.

pub mod postgres;
pub mod redis;
