//! What the clients for threads have in common: everything but the one attempt, which is the [`Transport`]'s.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use serde::de::DeserializeOwned;

use crate::api::{Api, ApiBuilder, Call, Hands, Resumed, decode, outcome};
use crate::drive::{SendBlocking, drive_blocking};
use crate::error::{BoxError, Error};
use crate::once::Once;
use crate::session::{Failure, Stamp};

/// Sends one attempt, reads all of its answer, and follows no redirect.
pub(crate) trait Transport {
    fn send(&self, request: Request<Bytes>, timeout: Duration) -> Result<Response<Bytes>, Failure>;
}

/// What sends from a thread.
#[derive(Clone, Debug)]
pub struct Sender<T>(pub(crate) T);

#[expect(private_bounds, reason = "the transports are those of this crate")]
impl<T: Transport> Api<Sender<T>> {
    /// A client for one API: base URL, credentials, user agent.
    #[must_use]
    pub fn builder(once: Once, transport: T) -> ApiBuilder<Sender<T>> {
        ApiBuilder::new(once, Sender(transport))
    }

    /// Finishes, one after the other, the calls in the journal that have no final answer, under their old keys.
    /// Credentials are not in the journal; those of the builder are used.
    ///
    /// # Errors
    /// [`crate::Kind::Journal`] when the journal cannot be read. What becomes of each call is in its [`Resumed`].
    pub fn resume(&self) -> Result<Vec<Resumed>, Error> {
        let unfinished = self.once().unfinished()?.into_iter();
        let resumed = unfinished.map(|unfinished| {
            let key = unfinished.saved.key.clone();
            Resumed { key, outcome: self.again(unfinished).send() }
        });
        Ok(resumed.collect())
    }
}

#[expect(private_bounds, reason = "the transports are those of this crate")]
impl<T: Transport> ApiBuilder<Sender<T>> {
    /// The client.
    ///
    /// # Errors
    /// When something that was set cannot be sent.
    pub fn build(self) -> Result<Api<Sender<T>>, BoxError> {
        self.finish(Ok)
    }
}

#[expect(private_bounds, reason = "the transports are those of this crate")]
impl<T: Transport> Call<'_, Sender<T>> {
    /// Sends it until it has its answer.
    ///
    /// # Errors
    /// [`Error`] for everything but a success, by what is known about it.
    pub fn send(self) -> Result<Response<Bytes>, Error> {
        let (mut session, mut exchange) = self.begin()?;
        let landed = drive_blocking(&mut session, &mut exchange);
        outcome(landed, &session)
    }

    /// As [`Self::send`], and reads the answer as JSON.
    ///
    /// # Errors
    /// As [`Self::send`], and [`crate::Kind::Decode`].
    pub fn send_json<D: DeserializeOwned>(self) -> Result<D, Error> {
        decode(self.send()?)
    }
}

impl<T: Transport> SendBlocking for Hands<'_, Sender<T>> {
    fn send(&mut self, stamp: Stamp, timeout: Duration) -> Result<Response<Bytes>, Failure> {
        self.transport().0.send(self.attempt(stamp), timeout)
    }
}
