//! Would this SDK charge a customer twice? A client in any language is pointed at a server that fails by script; what it
//! does is judged from the server's own log, by 24 checks.
//!
//! In reading order: [`scenario`] is what a client is asked to do and what was seen of it, made of [`attempt`]s;
//! [`report`] is what that comes to; [`drive`] makes the client act; [`api`] is what the server stands for.
//!
//! Not a client and not a proxy: nothing here sends a request. Not for judging an API either: what is judged is who
//! calls it.

pub mod api;
pub mod attempt;
mod clock;
pub mod drive;
mod millis;
pub mod report;
pub mod scenario;
