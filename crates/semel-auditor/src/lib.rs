//! Would this SDK charge a customer twice? A client in any language is pointed at a server that fails by script; what it
//! does is judged from the server's own log, by 24 checks.
//!
//! In reading order: [`scenario`] is what a client is asked to do and what was seen of it, made of [`attempt`]s;
//! [`report`] is what that comes to; [`drive`] makes the client act; [`api`] is what the server stands for.
//!
//! [`mirror`] is the other side: an API that claims to honour keys is asked, and judged.
//!
//! Not a client and not a proxy: but for the mirror nothing here sends a request.

pub mod api;
pub mod attempt;
mod clock;
pub mod drive;
mod millis;
pub mod mirror;
pub mod report;
pub mod scenario;
