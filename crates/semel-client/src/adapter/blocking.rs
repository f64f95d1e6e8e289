//! The client for threads, over reqwest's blocking client.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};

use crate::adapter::reqwest::failure;
use crate::adapter::transport::{Sender, Transport};
use crate::error::BoxError;
use crate::session::{Failure, Lost};

/// Sends calls from threads. Cheap to clone.
pub type Client = crate::api::Api<Sender<Reqwest>>;

/// reqwest's blocking client.
#[derive(Clone, Debug)]
pub struct Reqwest(reqwest::blocking::Client);

impl Reqwest {
    /// One that follows no redirects: which are followed is decided here.
    ///
    /// # Errors
    /// When the TLS backend cannot be started.
    pub fn new() -> Result<Self, BoxError> {
        Ok(Self(reqwest::blocking::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?))
    }

    /// This HTTP client. It must have been built with `redirect(reqwest::redirect::Policy::none())`.
    #[must_use]
    pub fn over(http: reqwest::blocking::Client) -> Self {
        Self(http)
    }
}

impl Transport for Reqwest {
    fn send(&self, request: Request<Bytes>, timeout: Duration) -> Result<Response<Bytes>, Failure> {
        let mut request: reqwest::blocking::Request = request.try_into().map_err(failure)?;
        *request.timeout_mut() = Some(timeout);
        let answer = self.0.execute(request).map_err(failure)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().map_err(|error| {
            let what = if error.is_timeout() { Lost::TimedOut } else { Lost::Truncated };
            Failure { what, source: error.without_url().into() }
        })?;
        let mut whole = Response::new(body);
        *whole.status_mut() = status;
        *whole.headers_mut() = headers;
        Ok(whole)
    }
}
