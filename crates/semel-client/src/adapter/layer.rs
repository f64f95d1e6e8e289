//! [`OnceLayer`]: keys and retries around any tower service that sends HTTP requests.
//!
//! As in the middleware the answers come out as they came in, with a [`Report`] in their extensions. What has no
//! answer is an [`Error`]. Not a client: connections, pools and TLS are the service's.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Either, Full};
use tower::{Layer, Service, ServiceExt};
use url::Url;

use crate::adapter::io::never_connected;
use crate::core::classify::{Answer, must_be_read};
use crate::drive::{Exchange, Send1, drive};
use crate::error::{BoxError, Error};
use crate::idempotency::said;
use crate::once::Once;
use crate::session::{Asked, Failure, Lost, Place, Report, Seen, Session, Stamp};

/// Puts [`Once`] around a service. `B` is the body of its requests.
///
/// ```
/// # use bytes::Bytes;
/// # use http::{Request, Response};
/// # use http_body_util::Full;
/// # use tower::{Layer, Service, ServiceExt};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let service = tower::service_fn(|request: Request<Full<Bytes>>| async move {
/// #     assert!(request.headers().contains_key("idempotency-key"));
/// #     Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(b"done"))))
/// # });
/// use semel_client::{Once, adapter::layer::OnceLayer};
///
/// let mut service = OnceLayer::new(Once::for_hosts(["api.example.com"])).layer(service);
/// let request = Request::post("https://api.example.com/charges").body(Full::new(Bytes::from_static(b"4000")))?;
/// let answer = service.ready().await?.call(request).await?;
/// # assert_eq!(answer.status(), 200);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct OnceLayer<B> {
    once: Once,
    again: fn(&B) -> Option<B>,
    unsent: fn(&(dyn std::error::Error + 'static)) -> bool,
}

/// A service with [`Once`] around it.
#[derive(Debug)]
pub struct OnceService<S, B> {
    inner: S,
    layer: OnceLayer<B>,
}

/// The body of an answer: read already, or as it comes.
pub type OnceBody<R> = Either<Full<Bytes>, R>;

impl<B: Clone> OnceLayer<B> {
    /// For bodies that can be cloned.
    #[must_use]
    pub fn new(once: Once) -> Self {
        Self::with_bodies(once, |body| Some(body.clone()))
    }
}

impl<B> OnceLayer<B> {
    /// For bodies of which some can be sent again: `again` makes a second one. A call whose body cannot be sent again
    /// is sent once, and fails as what it is.
    #[must_use]
    pub fn with_bodies(once: Once, again: fn(&B) -> Option<B>) -> Self {
        Self { once, again, unsent: never_connected }
    }

    /// Says which errors of the service mean that not a byte was sent. Refused connections and unreachable hosts by
    /// default; an error that is wrongly called unsent makes a second effect.
    #[must_use]
    pub fn unsent_if(mut self, unsent: fn(&(dyn std::error::Error + 'static)) -> bool) -> Self {
        self.unsent = unsent;
        self
    }
}

impl<B> Clone for OnceLayer<B> {
    fn clone(&self) -> Self {
        Self { once: self.once.clone(), again: self.again, unsent: self.unsent }
    }
}

impl<S: Clone, B> Clone for OnceService<S, B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), layer: self.layer.clone() }
    }
}

impl<S, B> Layer<S> for OnceLayer<B> {
    type Service = OnceService<S, B>;

    fn layer(&self, inner: S) -> Self::Service {
        OnceService { inner, layer: self.clone() }
    }
}

impl<S, B, R> Service<Request<B>> for OnceService<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Default + Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<OnceBody<R>>;
    type Error = Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    /// Each attempt waits for the service by itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (inner, layer) = (self.inner.clone(), self.layer.clone());
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let said = said(&head.extensions);
            let spare = (layer.again)(&body);
            let mut hands =
                Hands { inner, layer, head, again: spare.is_some(), body: spare, first: Some(body) };
            let asked = Asked {
                method: &hands.head.method,
                headers: &hands.head.headers,
                said: said.as_ref(),
                body_again: hands.again,
                follows: false,
            };
            let mut session = Session::begin(&hands.layer.once, &asked, &hands)?;
            drive(&mut session, &mut hands).await.map(|(answer, _)| answer.0)
        })
    }
}

struct Hands<S, B> {
    inner: S,
    layer: OnceLayer<B>,
    head: http::request::Parts,
    first: Option<B>,
    /// To make further ones of.
    body: Option<B>,
    again: bool,
}

impl<S, B> Place for Hands<S, B> {
    fn host(&self) -> &str {
        let host = self.head.uri.authority().map(http::uri::Authority::as_str);
        let host = host.or_else(|| self.head.headers.get(header::HOST).and_then(|value| value.to_str().ok()));
        host.map_or("", |host| host.rsplit_once('@').map_or(host, |(_, host)| host))
    }

    fn path(&self) -> &str {
        self.head.uri.path()
    }

    fn url(&self) -> Option<Url> {
        Url::parse(&self.head.uri.to_string()).ok()
    }
}

impl<S, B, R> Exchange for Hands<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Answer = Whole<R>;

    fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// A body of any type cannot be written down: a journal refuses calls through a layer.
    fn body(&self) -> Option<Bytes> {
        None
    }

    fn follow(&mut self, url: Url, method: &Method) {
        if let Ok(uri) = url.as_str().parse() {
            self.head.uri = uri;
        }
        if self.head.method != *method {
            self.head.method = method.clone();
            self.again = false;
            self.head.headers.remove(header::CONTENT_TYPE);
            self.head.headers.remove(header::CONTENT_LENGTH);
        }
        if self.head.headers.contains_key(header::HOST)
            && let Ok(host) = HeaderValue::from_str(&url[url::Position::BeforeHost..url::Position::AfterPort])
        {
            self.head.headers.insert(header::HOST, host);
        }
    }
}

impl<S, B, R> Send1 for Hands<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Default + Send,
    R: Body<Data = Bytes> + Send,
    R::Error: Into<BoxError>,
{
    async fn send(&mut self, stamp: Stamp, keyed: bool) -> Result<Whole<R>, Failure> {
        let next = || self.body.as_ref().filter(|_| self.again).and_then(self.layer.again);
        let body = self.first.take().or_else(next).unwrap_or_default();
        // Before the copy is made: a copied map has no room for one more.
        stamp.put(&mut self.head.headers);
        let request = Request::from_parts(self.head.clone(), body);
        let broken = |error: S::Error| {
            let source: BoxError = error.into();
            let what = if (self.layer.unsent)(source.as_ref()) { Lost::NotSent } else { Lost::Broken };
            Failure { what, source }
        };
        let answer = self.inner.clone().oneshot(request).await.map_err(broken)?;
        let (head, body) = answer.into_parts();
        let small = body.size_hint().exact().is_some_and(|bytes| bytes <= self.layer.once.read_max_bytes);
        if !keyed || !(small || must_be_read(head.status)) {
            return Ok(Whole(Response::from_parts(head, Either::Right(body)), None));
        }
        match body.collect().await {
            Ok(body) => {
                let body = body.to_bytes();
                Ok(Whole(Response::from_parts(head, Either::Left(Full::new(body.clone()))), Some(body)))
            }
            Err(error) => Err(Failure { what: Lost::Truncated, source: error.into() }),
        }
    }
}

/// An answer, and its body when it was read.
struct Whole<R>(Response<OnceBody<R>>, Option<Bytes>);

impl<R> Seen for Whole<R> {
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
