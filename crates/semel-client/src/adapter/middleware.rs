//! [`Once`] as a middleware of reqwest-middleware.
//!
//! The answers come out as they came in, whatever their status, with a [`Report`] in their extensions; what has no
//! answer is an [`Error`], which [`error`] finds again.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderValue, Method, Response, header};
use http_body_util::BodyExt;
use reqwest::{Body, Request, ResponseBuilderExt};
use reqwest_middleware::{Middleware, Next};
use url::Url;

use crate::adapter::reqwest::{failure, host};
use crate::core::classify::{Answer, must_be_read};
use crate::drive::{Exchange, Send1, drive};
use crate::error::Error;
use crate::idempotency::{Idempotency, said};
use crate::once::Once;
use crate::session::{Asked, Failure, Lost, Place, Report, Seen, Session, Stamp};

/// What [`Once`] said about a call that failed; `None` when the error is another middleware's.
#[must_use]
pub fn error(error: &reqwest_middleware::Error) -> Option<&Error> {
    match error {
        reqwest_middleware::Error::Middleware(error) => error.downcast_ref(),
        reqwest_middleware::Error::Reqwest(_) => None,
    }
}

#[async_trait]
impl Middleware for Once {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        // Left in the extensions, it is seen again when a layer around sends the call again.
        let said = said(extensions).unwrap_or_else(Idempotency::unsaid);
        extensions.insert(said.clone());
        let asked = Asked {
            method: request.method(),
            headers: request.headers(),
            said: Some(&said),
            body_again: request.body().is_none_or(|body| body.as_bytes().is_some()),
            follows: false,
        };
        let session = Session::begin(self, &asked, &At(request.url()));
        let mut session = session.map_err(reqwest_middleware::Error::middleware)?;
        let read_max_bytes = self.read_max_bytes;
        let mut exchange =
            Hands { url: request.url().clone(), request: Some(request), extensions, next, read_max_bytes };
        let landed = drive(&mut session, &mut exchange).await;
        landed.map(|(answer, _)| answer.0).map_err(reqwest_middleware::Error::middleware)
    }
}

struct At<'a>(&'a Url);

impl Place for At<'_> {
    fn host(&self) -> &str {
        host(self.0)
    }

    fn path(&self) -> &str {
        self.0.path()
    }

    fn url(&self) -> Option<Url> {
        Some(self.0.clone())
    }
}

struct Hands<'a, 'n> {
    url: Url,
    /// Gone once a body that cannot be sent again was sent.
    request: Option<Request>,
    extensions: &'a mut Extensions,
    next: Next<'n>,
    read_max_bytes: u64,
}

impl Place for Hands<'_, '_> {
    fn host(&self) -> &str {
        host(&self.url)
    }

    fn path(&self) -> &str {
        self.url.path()
    }

    fn url(&self) -> Option<Url> {
        Some(self.url.clone())
    }
}

impl Exchange for Hands<'_, '_> {
    type Answer = Whole;

    fn headers(&self) -> &HeaderMap {
        static NONE: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);
        self.request.as_ref().map_or(&NONE, Request::headers)
    }

    fn body(&self) -> Option<Bytes> {
        match self.request.as_ref()?.body() {
            None => Some(Bytes::new()),
            Some(body) => body.as_bytes().map(Bytes::copy_from_slice),
        }
    }

    fn follow(&mut self, url: Url, method: &Method) {
        self.url = url.clone();
        if let Some(request) = &mut self.request {
            *request.url_mut() = url;
            if request.method() != method {
                *request.method_mut() = method.clone();
                *request.body_mut() = None;
                request.headers_mut().remove(header::CONTENT_TYPE);
                request.headers_mut().remove(header::CONTENT_LENGTH);
            }
        }
    }
}

impl Send1 for Hands<'_, '_> {
    async fn send(&mut self, stamp: Stamp, keyed: bool) -> Result<Whole, Failure> {
        let again = self.request.as_ref().and_then(Request::try_clone);
        let Some(mut request) = again.or_else(|| self.request.take()) else {
            return Err(Failure { what: Lost::Invalid, source: "the body was sent already".into() });
        };
        stamp.put(request.headers_mut());
        if keyed {
            // With a body that it cannot send again, reqwest neither follows a 307 or 308 nor resends by itself.
            match request
                .body_mut()
                .take()
                .filter(|body| body.as_bytes().is_none_or(|bytes| !bytes.is_empty()))
            {
                Some(body) => *request.body_mut() = Some(Body::wrap(body)),
                None => {
                    *request.body_mut() = Some(Body::wrap(Nothing));
                    request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
                }
            }
        }
        let answer = self.next.clone().run(request, self.extensions).await.map_err(|error| match error {
            reqwest_middleware::Error::Reqwest(error) => failure(error),
            reqwest_middleware::Error::Middleware(error) => {
                Failure { what: Lost::Broken, source: error.into() }
            }
        })?;
        let read = keyed && (must_be_read(answer.status()) || small(answer.headers(), self.read_max_bytes));
        match read {
            true => whole(answer).await,
            false => Ok(Whole(answer, None)),
        }
    }
}

/// An empty body that does not say so beforehand: of one that does, reqwest makes a second by itself.
struct Nothing;

impl http_body::Body for Nothing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }
}

/// Whether an answer is read before it is handed out.
fn small(headers: &HeaderMap, max_bytes: u64) -> bool {
    let length =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|length| length <= max_bytes)
}

/// An answer, and its body when it was read.
pub(crate) struct Whole(reqwest::Response, Option<Bytes>);

async fn whole(answer: reqwest::Response) -> Result<Whole, Failure> {
    let url = answer.url().clone();
    let (mut head, body) = Response::<Body>::from(answer).into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return Err(Failure { what: Lost::Truncated, source: error.into() }),
    };
    // The only way to tell a response of reqwest where it came from.
    if let Ok(marked) = Response::builder().url(url).body(()) {
        head.extensions.extend(marked.into_parts().0.extensions);
    }
    Ok(Whole(Response::from_parts(head, body.clone()).into(), Some(body)))
}

impl Seen for Whole {
    fn seen(&self) -> Answer<'_> {
        let body = self.1.as_deref().unwrap_or_default();
        Answer { status: self.0.status(), headers: self.0.headers(), body }
    }

    fn kept(&self) -> Option<Response<Bytes>> {
        let mut kept = Response::new(self.1.clone()?);
        *kept.status_mut() = self.0.status();
        *kept.headers_mut() = self.0.headers().clone();
        Some(kept)
    }

    fn attach(&mut self, report: Report) {
        self.0.extensions_mut().insert(report);
    }
}
