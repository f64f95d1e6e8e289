//! Would this SDK charge a customer twice? A client in any language is pointed at a server that fails by script; what it
//! does is judged from the server's own log, by 24 checks.
//!
//! In reading order: [`scenario`] is what a client is asked to do and what was seen of it, made of [`attempt`]s;
//! [`checks`] judge that, and [`report`] is what they come to. [`plan`] lists the scenarios, a [`script`] each says how
//! the [`server`] fails, whose [`ledger`] counts the payments; [`api`] is what it stands for. [`drive`] makes the client
//! act, [`sdk`] installs and starts one of many that are known, and [`audit`](mod@audit) puts it all together.
//!
//! [`mirror`] is the other side: an API that claims to honour keys is asked, and judged.
//!
//! Not a client and not a proxy: but for the mirror nothing here sends a request.

pub mod api;
pub mod attempt;
pub mod audit;
pub mod checks;
mod clock;
pub mod drive;
pub mod ledger;
mod millis;
pub mod mirror;
pub mod plan;
pub mod report;
pub mod scenario;
pub mod script;
pub mod sdk;
pub mod server;

pub use audit::audit;
