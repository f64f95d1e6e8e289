//! The hands: each sends one attempt in one HTTP client's way and says what came of it. None decides anything.

#[cfg(feature = "blocking-reqwest")]
pub mod blocking;
#[cfg(feature = "client")]
pub mod client;
#[cfg(any(feature = "tower", feature = "blocking-ureq"))]
mod io;
#[cfg(feature = "tower")]
pub mod layer;
#[cfg(feature = "reqwest-middleware")]
pub mod middleware;
#[cfg(any(feature = "client", feature = "reqwest-middleware", feature = "blocking-reqwest"))]
pub(crate) mod reqwest;
#[cfg(any(feature = "blocking-reqwest", feature = "blocking-ureq"))]
pub mod transport;
#[cfg(feature = "blocking-ureq")]
pub mod ureq;

#[cfg(feature = "reqwest-middleware")]
pub use reqwest::redirects;
