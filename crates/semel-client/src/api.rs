//! The kit: clients for one API, calls in the making, and resources, for programs and for those who write SDKs. The same
//! for tasks and threads; only the sending differs, and is in [`crate::adapter`].

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use semel::Key;
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::{Position, Url};

use crate::core::call::Ending;
use crate::core::classify::Answer;
use crate::drive::Exchange;
use crate::error::{BoxError, Error, Kind};
use crate::idempotency::Idempotency;
use crate::journal::Unfinished;
use crate::once::Once;
use crate::session::{Asked, Place, Report, Seen, Session, Stamp};

/// A client of an API. `T` is what sends: see [`crate::adapter`].
#[derive(Clone, Debug)]
pub struct Api<T> {
    transport: T,
    once: Once,
    base: Option<Url>,
    headers: HeaderMap,
}

/// What a client is made of.
#[derive(Debug)]
pub struct ApiBuilder<T> {
    transport: T,
    once: Once,
    base: Result<Option<Url>, BoxError>,
    headers: Result<HeaderMap, BoxError>,
}

impl<T> ApiBuilder<T> {
    pub(crate) fn new(once: Once, transport: T) -> Self {
        Self { transport, once, base: Ok(None), headers: Ok(HeaderMap::new()) }
    }

    pub(crate) fn with<U>(self, transport: U) -> ApiBuilder<U> {
        ApiBuilder { transport, once: self.once, base: self.base, headers: self.headers }
    }

    /// What paths are below of, for instance `https://api.example.com/v1`. The headers below go to its origin and to
    /// no other.
    #[must_use]
    pub fn base_url(mut self, url: &str) -> Self {
        self.base = Url::parse(url).map(Some).map_err(Into::into);
        self
    }

    /// `Authorization: Bearer …`. Never logged and never written into a journal.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.secret_header("authorization", &format!("Bearer {token}"))
    }

    /// A header for every call, with a value that is never logged and never written into a journal.
    #[must_use]
    pub fn secret_header(self, name: &str, value: &str) -> Self {
        self.put(name, value, true)
    }

    /// A header for every call.
    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.put(name, value, false)
    }

    /// `User-Agent` for every call.
    #[must_use]
    pub fn user_agent(self, agent: &str) -> Self {
        self.put("user-agent", agent, false)
    }

    fn put(mut self, name: &str, value: &str, sensitive: bool) -> Self {
        self.headers = self.headers.and_then(|mut headers| {
            let mut value = HeaderValue::from_str(value)?;
            value.set_sensitive(sensitive);
            headers.insert(HeaderName::from_bytes(name.as_bytes())?, value);
            Ok(headers)
        });
        self
    }

    pub(crate) fn finish<U>(self, make: impl FnOnce(T) -> Result<U, BoxError>) -> Result<Api<U>, BoxError> {
        Ok(Api {
            transport: make(self.transport)?,
            once: self.once,
            base: self.base?,
            headers: self.headers?,
        })
    }
}

impl<T> Api<T> {
    /// What was decided about its calls.
    #[must_use]
    pub fn once(&self) -> &Once {
        &self.once
    }

    /// A GET of `url`: a whole one, or a path below the base URL.
    pub fn get(&self, url: &str) -> Call<'_, T> {
        self.call(Method::GET, url)
    }

    /// A POST.
    pub fn post(&self, url: &str) -> Call<'_, T> {
        self.call(Method::POST, url)
    }

    /// A PUT.
    pub fn put(&self, url: &str) -> Call<'_, T> {
        self.call(Method::PUT, url)
    }

    /// A PATCH.
    pub fn patch(&self, url: &str) -> Call<'_, T> {
        self.call(Method::PATCH, url)
    }

    /// A DELETE.
    pub fn delete(&self, url: &str) -> Call<'_, T> {
        self.call(Method::DELETE, url)
    }

    /// Any method.
    pub fn call(&self, method: Method, url: &str) -> Call<'_, T> {
        let whole = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let target = match (whole, &self.base) {
            (Some(url), _) => Ok(url),
            (None, Some(base)) => {
                let (path, query) =
                    url.split_once('?').map_or((url, None), |(path, query)| (path, Some(query)));
                below(base, path.split('/')).map(|mut url| {
                    url.set_query(query);
                    url
                })
            }
            (None, None) => Err(unsendable("a path needs a base URL")),
        };
        Call::new(self, method, target)
    }

    /// A collection of the API, for instance `deployments`, or `events` below `audit`: `audit/events`.
    pub fn resource(&self, path: &str) -> Resource<'_, T> {
        let base = self.base.as_ref().ok_or_else(|| unsendable("a resource needs a base URL"));
        Resource { api: self, url: base.and_then(|base| below(base, path.split('/'))) }
    }

    #[cfg(any(feature = "client", feature = "blocking-reqwest", feature = "blocking-ureq"))]
    pub(crate) fn again(&self, unfinished: Unfinished) -> Call<'_, T> {
        let idempotency = unfinished.idempotency();
        let saved = unfinished.saved;
        let mut call = Call::new(self, saved.method, Ok(saved.url));
        for (name, value) in &saved.headers {
            call.headers.insert(name, value.clone());
        }
        call.body = saved.body;
        call.said = Some(idempotency);
        call
    }
}

fn unsendable(why: &str) -> Error {
    Error::unsent(Kind::Invalid, None, why)
}

/// `base` with more segments, each of which stays one whatever is in it.
fn below<'s>(base: &Url, segments: impl Iterator<Item = &'s str>) -> Result<Url, Error> {
    let mut url = base.clone();
    match url.path_segments_mut() {
        Ok(mut path) => {
            path.pop_if_empty().extend(segments.filter(|segment| !segment.is_empty()));
        }
        Err(()) => return Err(unsendable("the base URL cannot have paths below it")),
    }
    Ok(url)
}

/// A collection of an API.
#[derive(Debug)]
pub struct Resource<'a, T> {
    api: &'a Api<T>,
    url: Result<Url, Error>,
}

impl<'a, T> Resource<'a, T> {
    /// Makes one: a POST to the collection.
    pub fn create(&self, body: &(impl Serialize + ?Sized)) -> Call<'a, T> {
        Call::new(self.api, Method::POST, self.url.clone()).json(body)
    }

    /// Reads one.
    pub fn get(&self, id: &str) -> Call<'a, T> {
        Call::new(self.api, Method::GET, self.one(id))
    }

    /// Reads the collection.
    pub fn list(&self) -> Call<'a, T> {
        Call::new(self.api, Method::GET, self.url.clone())
    }

    /// Adds to a collection that one of these has: `append("42", "events", …)` is a POST to `…/42/events`.
    pub fn append(&self, id: &str, collection: &str, body: &(impl Serialize + ?Sized)) -> Call<'a, T> {
        let url = self.one(id).and_then(|one| below(&one, collection.split('/')));
        Call::new(self.api, Method::POST, url).json(body)
    }

    /// Changes one: a PATCH.
    pub fn update(&self, id: &str, body: &(impl Serialize + ?Sized)) -> Call<'a, T> {
        Call::new(self.api, Method::PATCH, self.one(id)).json(body)
    }

    /// Puts one in the place of another: a PUT.
    pub fn replace(&self, id: &str, body: &(impl Serialize + ?Sized)) -> Call<'a, T> {
        Call::new(self.api, Method::PUT, self.one(id)).json(body)
    }

    /// Removes one.
    pub fn delete(&self, id: &str) -> Call<'a, T> {
        Call::new(self.api, Method::DELETE, self.one(id))
    }

    fn one(&self, id: &str) -> Result<Url, Error> {
        match id {
            "" | "." | ".." => Err(unsendable("this is no id")),
            id => below(self.url.as_ref().map_err(Clone::clone)?, std::iter::once(id)),
        }
    }
}

/// A call in the making. Nothing is sent before `send`.
#[derive(Debug)]
#[must_use = "nothing is sent before `send`"]
pub struct Call<'a, T> {
    api: &'a Api<T>,
    method: Method,
    url: Result<Url, Error>,
    headers: HeaderMap,
    body: Bytes,
    said: Option<Idempotency>,
}

impl<'a, T> Call<'a, T> {
    fn new(api: &'a Api<T>, method: Method, url: Result<Url, Error>) -> Self {
        let ours = |url: &Url| api.base.as_ref().is_some_and(|base| base.origin() == url.origin());
        let headers = match &url {
            Ok(url) if ours(url) => api.headers.clone(),
            // What identifies the program to one API is no other's business.
            _ => HeaderMap::new(),
        };
        Self { api, method, url, headers, body: Bytes::new(), said: None }
    }

    /// The key: text of your own, a [`Key`], `"auto"`, or [`Idempotency::off`]. Left out, a POST, PUT and PATCH have a
    /// new one each.
    pub fn idempotency_key(mut self, key: impl Into<Idempotency>) -> Self {
        self.said = Some(key.into());
        self
    }

    /// A body of JSON.
    pub fn json(mut self, body: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => self.body = body.into(),
            Err(error) => self.url = Err(Error::unsent(Kind::Invalid, None, error)),
        }
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self
    }

    /// A body of any kind.
    pub fn body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.body = body.into();
        self
    }

    /// A header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => {
                self.headers.insert(name, value);
            }
            (Err(error), _) => self.url = Err(Error::unsent(Kind::Invalid, None, error)),
            (_, Err(error)) => self.url = Err(Error::unsent(Kind::Invalid, None, error)),
        }
        self
    }

    pub(crate) fn begin(self) -> Result<(Session, Hands<'a, T>), Error> {
        let Self { api, method, url, headers, body, said } = self;
        let hands = Hands { api, method, url: url?, headers, body };
        let asked = Asked {
            method: &hands.method,
            headers: &hands.headers,
            said: said.as_ref(),
            body_again: true,
            follows: true,
        };
        Ok((Session::begin(&api.once, &asked, &hands)?, hands))
    }
}

/// One call on its way.
pub(crate) struct Hands<'a, T> {
    api: &'a Api<T>,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
}

impl<T> Hands<'_, T> {
    pub(crate) fn transport(&self) -> &T {
        &self.api.transport
    }

    /// The request of one attempt.
    pub(crate) fn attempt(&self, stamp: Stamp) -> Request<Bytes> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        // A URL that is no URI is refused by the transport.
        *request.uri_mut() = self.url.as_str().parse().unwrap_or_default();
        *request.headers_mut() = self.headers.clone();
        stamp.put(request.headers_mut());
        request
    }
}

impl<T> Place for Hands<'_, T> {
    fn host(&self) -> &str {
        &self.url[Position::BeforeHost..Position::AfterPort]
    }

    fn path(&self) -> &str {
        self.url.path()
    }

    fn url(&self) -> Option<Url> {
        Some(self.url.clone())
    }
}

impl<T> Exchange for Hands<'_, T> {
    type Answer = Response<Bytes>;

    fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    fn body(&self) -> Option<Bytes> {
        Some(self.body.clone())
    }

    fn follow(&mut self, url: Url, method: &Method) {
        self.url = url;
        if self.method != *method {
            self.method = method.clone();
            self.body = Bytes::new();
            self.headers.remove(header::CONTENT_TYPE);
        }
    }
}

impl Seen for Response<Bytes> {
    fn seen(&self) -> Answer<'_> {
        Answer { status: self.status(), headers: self.headers(), body: self.body() }
    }

    fn kept(&self) -> Option<Response<Bytes>> {
        Some(self.clone())
    }

    fn attach(&mut self, report: Report) {
        self.extensions_mut().insert(report);
    }
}

/// A call that was resumed, and what became of it.
#[derive(Debug)]
pub struct Resumed {
    /// Its key.
    pub key: Key,
    /// Its answer, or why there is none; it is still in the journal if the error is retryable or the effect unknown.
    pub outcome: Result<Response<Bytes>, Error>,
}

/// For the clients everything but a success is an error.
pub(crate) fn outcome(
    landed: Result<(Response<Bytes>, Option<Ending>), Error>,
    session: &Session,
) -> Result<Response<Bytes>, Error> {
    match landed? {
        (answer, None) => Ok(answer),
        (answer, Some(ending)) => Err(session.error(&ending, Some(answer), None)),
    }
}

pub(crate) fn decode<D: DeserializeOwned>(answer: Response<Bytes>) -> Result<D, Error> {
    serde_json::from_slice(answer.body()).map_err(|why| {
        let report = answer.extensions().get::<Report>().cloned();
        let (key, attempts) = report.map_or((None, 1), |report| (report.key, report.attempts));
        Error::undecodable(key, attempts, answer, why)
    })
}
