//! The asynchronous client, over reqwest.

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;

use crate::adapter::reqwest::failure;
use crate::api::{Api, ApiBuilder, Hands, Resumed, decode, outcome};
use crate::drive::{Send1, drive};
use crate::error::{BoxError, Error};
use crate::once::Once;
use crate::session::{Failure, Lost, Stamp};

/// Sends calls and reads their answers, so that an answer that breaks off in the middle is asked for again, with the
/// same key. Cheap to clone.
///
/// ```no_run
/// # async fn deploy() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use semel_client::{Client, Once};
/// use serde_json::{Value, json};
///
/// let client = Client::builder(Once::for_hosts(["api.example.com"]))
///     .base_url("https://api.example.com/v1")
///     .bearer("token")
///     .build()?;
/// let deployments = client.resource("deployments");
/// let made: Value = deployments.create(&json!({"replicas": 3})).idempotency_key("deploy-v1").send_json().await?;
/// # Ok(()) }
/// ```
pub type Client = Api<reqwest::Client>;

/// A call in the making.
pub type Call<'a> = crate::api::Call<'a, reqwest::Client>;

/// A collection of an API.
pub type Resource<'a> = crate::api::Resource<'a, reqwest::Client>;

impl Client {
    /// A client with an HTTP client of its own.
    ///
    /// # Errors
    /// When the TLS backend cannot be started.
    pub fn new(once: Once) -> Result<Self, BoxError> {
        Self::builder(once).build()
    }

    /// A client for one API: base URL, credentials, user agent.
    #[must_use]
    pub fn builder(once: Once) -> ApiBuilder<Option<reqwest::Client>> {
        ApiBuilder::new(once, None)
    }

    /// Finishes, one after the other, the calls in the journal that have no final answer, under their old keys.
    /// Credentials are not in the journal; those of the builder are used.
    ///
    /// # Errors
    /// [`crate::Kind::Journal`] when the journal cannot be read. What becomes of each call is in its [`Resumed`].
    pub async fn resume(&self) -> Result<Vec<Resumed>, Error> {
        let mut resumed = Vec::new();
        for unfinished in self.once().unfinished()? {
            let key = unfinished.saved.key.clone();
            let outcome = self.again(unfinished).send().await;
            resumed.push(Resumed { key, outcome });
        }
        Ok(resumed)
    }
}

impl ApiBuilder<Option<reqwest::Client>> {
    /// Uses this HTTP client. It must have been built with `redirect(reqwest::redirect::Policy::none())`: which
    /// redirects are followed is decided here.
    #[must_use]
    pub fn http(self, http: reqwest::Client) -> Self {
        self.with(Some(http))
    }

    /// The client.
    ///
    /// # Errors
    /// When something that was set cannot be sent, or the TLS backend cannot be started.
    pub fn build(self) -> Result<Client, BoxError> {
        self.finish(|http| match http {
            Some(http) => Ok(http),
            None => Ok(reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?),
        })
    }
}

impl Call<'_> {
    /// Sends it until it has its answer.
    ///
    /// # Errors
    /// [`Error`] for everything but a success, by what is known about it. Dropped while it runs, the call may or may
    /// not have been sent; with a journal it is unfinished.
    pub async fn send(self) -> Result<Response<Bytes>, Error> {
        let (mut session, mut exchange) = self.begin()?;
        let landed = drive(&mut session, &mut exchange).await;
        outcome(landed, &session)
    }

    /// As [`Self::send`], and reads the answer as JSON.
    ///
    /// # Errors
    /// As [`Self::send`], and [`crate::Kind::Decode`].
    pub async fn send_json<T: DeserializeOwned>(self) -> Result<T, Error> {
        decode(self.send().await?)
    }
}

impl Send1 for Hands<'_, reqwest::Client> {
    async fn send(&mut self, stamp: Stamp, _keyed: bool) -> Result<Response<Bytes>, Failure> {
        let request = self.attempt(stamp).try_into().map_err(failure)?;
        let answer = self.transport().execute(request).await.map_err(failure)?;
        let (head, body) = Response::<reqwest::Body>::from(answer).into_parts();
        match body.collect().await {
            Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
            Err(error) => Err(Failure { what: Lost::Truncated, source: error.into() }),
        }
    }
}
