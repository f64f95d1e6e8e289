//! What the adapters for reqwest share: what its errors mean, and where its URLs point.

use url::{Position, Url};

use crate::session::{Failure, Lost};

/// What an error of reqwest says about the attempt.
pub(crate) fn failure(error: reqwest::Error) -> Failure {
    let what = if error.is_builder() {
        Lost::Invalid
    } else if error.is_connect() {
        Lost::NotSent
    } else if error.is_timeout() {
        Lost::TimedOut
    } else if error.is_body() || error.is_decode() {
        Lost::Truncated
    } else {
        Lost::Broken
    };
    // The URL may have a secret in its query.
    Failure { what, source: error.without_url().into() }
}

/// The host with its port, as budgets and trust know it.
pub(crate) fn host(url: &Url) -> &str {
    &url[Position::BeforeHost..Position::AfterPort]
}

/// For `reqwest::ClientBuilder::redirect`: redirects are followed within the origin only, so that the key does not
/// leave it on a 301, 302 or 303 either. (On 307 and 308 it never does.)
#[cfg(feature = "reqwest-middleware")]
#[must_use]
pub fn redirects() -> reqwest::redirect::Policy {
    reqwest::redirect::Policy::custom(|attempt| {
        let within = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
        match within && attempt.previous().len() <= 5 {
            true => attempt.follow(),
            false => attempt.stop(),
        }
    })
}
