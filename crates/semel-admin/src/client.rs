//! The other end of the operator's side, for the CLI: JSON over the socket of a running gateway, or the same handlers
//! in this process when it has the store to itself.
//!
//! Next: [`crate::api`], which answers.

use std::fmt;
use std::io;
use std::path::PathBuf;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tower::ServiceExt;

use crate::problem::Problem;
use crate::socket::is_trusted;
use crate::view::{Changed, ListAsk, Listing, PurgeAsk, Purged, ResolveAsk, Selector, ShowAsk, Shown};

/// Calls the operator's side.
#[derive(Debug)]
pub struct Client(Way);

#[derive(Debug)]
enum Way {
    Socket(PathBuf),
    Here(Router),
}

/// Why a call has no answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody answers at the socket; nothing was changed unless the connection broke midway.
    Unreachable(io::Error),
    /// It was refused.
    Refused(Box<Problem>),
    /// The answer is not one of this API: another version, or another service.
    Unreadable(String),
}

impl Client {
    /// Calls the process that serves the socket at `path`.
    #[must_use]
    pub fn at_socket(path: PathBuf) -> Self {
        Self(Way::Socket(path))
    }

    /// Calls `operator`, made by [`crate::Admin::operator`], in this process.
    #[must_use]
    pub fn in_process(operator: Router) -> Self {
        Self(Way::Here(operator))
    }

    /// A page of records.
    ///
    /// # Errors
    /// [`ClientError`], as of all calls.
    pub async fn list(&self, ask: &ListAsk) -> Result<Listing, ClientError> {
        self.get("/keys", ask).await
    }

    /// One record.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn show(&self, ask: &ShowAsk) -> Result<Shown, ClientError> {
        self.get("/keys/one", ask).await
    }

    /// Frees the key of an effect in doubt that did not happen.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn release(&self, ask: &Selector) -> Result<Changed, ClientError> {
        self.post("/keys/release", ask).await
    }

    /// Says what became of an effect in doubt.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn resolve(&self, ask: &ResolveAsk) -> Result<Changed, ClientError> {
        self.post("/keys/resolve", ask).await
    }

    /// Removes one finished record, or one batch.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn purge(&self, ask: &PurgeAsk) -> Result<Purged, ClientError> {
        self.post("/keys/purge", ask).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, ask: &impl Serialize) -> Result<T, ClientError> {
        let query = serde_urlencoded::to_string(ask).map_err(unreadable)?;
        self.call(Method::GET, &format!("{path}?{query}"), Bytes::new()).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, ask: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(ask).map_err(unreadable)?;
        self.call(Method::POST, path, body.into()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(unreadable)?;
        let answer = match &self.0 {
            Way::Socket(path) => over_socket(path, request).await?,
            Way::Here(router) => in_process(router.clone(), request).await?,
        };
        if answer.status() == StatusCode::OK {
            return serde_json::from_slice(answer.body()).map_err(unreadable);
        }
        let problem = serde_json::from_slice(answer.body()).map_err(unreadable)?;
        Err(ClientError::Refused(Box::new(problem)))
    }
}

async fn over_socket(path: &PathBuf, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, ClientError> {
    let stream = UnixStream::connect(path).await.map_err(ClientError::Unreachable)?;
    if !is_trusted(&stream) {
        let error = io::Error::new(io::ErrorKind::PermissionDenied, "another user's process serves it");
        return Err(ClientError::Unreachable(error));
    }
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let serving = tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    let body = body.collect().await.map_err(broken)?.to_bytes();
    serving.abort();
    Ok(Response::from_parts(head, body))
}

async fn in_process(router: Router, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, ClientError> {
    let Ok(answer) = router.oneshot(request.map(Body::new)).await;
    let (head, body) = answer.into_parts();
    let body = body.collect().await.map_err(unreadable)?.to_bytes();
    Ok(Response::from_parts(head, body))
}

fn broken(error: hyper::Error) -> ClientError {
    ClientError::Unreachable(io::Error::other(error))
}

fn unreadable(error: impl fmt::Display) -> ClientError {
    ClientError::Unreadable(error.to_string())
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(_) => write!(f, "the gateway does not answer at its socket"),
            Self::Refused(problem) => problem.fmt(f),
            Self::Unreadable(what) => write!(f, "the answer is not understood: {what}"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable(error) => Some(error),
            Self::Refused(_) | Self::Unreadable(_) => None,
        }
    }
}
