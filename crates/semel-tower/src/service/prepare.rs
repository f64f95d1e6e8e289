//! From a request to a question for the engine: key, tenant, body, fingerprint, in this order. Nothing is stored
//! and nothing is run here. Next: [`super`], which asks.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{Request, request};
use http_body::Body as HttpBody;
use semel::fingerprint::{self, Fingerprint};
use semel::{Ask, Code, Key, Policy};

use crate::body::Body;
use crate::capture::{self, Captured};
use crate::path;
use crate::problem::Problem;
use crate::route::{KeySource, Missing, Route};

#[expect(clippy::large_enum_variant, reason = "the common request passes and is not worth an allocation")]
pub(super) enum Prepared<Q> {
    /// No key, and the route lets it pass.
    Pass(Request<Body<Q>>),
    /// Refused, under the key if it could be read.
    Refused(Problem, Option<Key>),
    Ready(Box<Ready>),
}

/// A request that was read whole, and what to ask the engine.
pub(super) struct Ready {
    pub(super) ask: Ask,
    pub(super) parts: request::Parts,
    pub(super) bytes: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

const EARLY_DATA: HeaderName = HeaderName::from_static("early-data");

pub(super) async fn prepare<Q>(route: &Route, request: Request<Q>) -> Prepared<Q>
where
    Q: HttpBody<Data = Bytes>,
    Q::Error: std::fmt::Display,
{
    let mut key = match &route.key {
        KeySource::Header(name) => match in_header(request.headers(), name) {
            Ok(key) => key,
            Err(problem) => return Prepared::Refused(problem, None),
        },
        KeySource::Body(_) => None,
    };
    let in_body = matches!(route.key, KeySource::Body(_));
    if key.is_none() && !in_body {
        match route.missing {
            Missing::Pass => return Prepared::Pass(request.map(Body::stream)),
            Missing::Require => return Prepared::Refused(missing(route), None),
            Missing::Generate | Missing::Derive => {}
        }
    }
    if request.headers().get(EARLY_DATA).is_some_and(|value| value == "1") {
        let detail = "Nothing was run. Send the same request again once the TLS handshake is complete.";
        return Prepared::Refused(Problem::new(Code::EarlyData, detail), key);
    }
    let (parts, body) = request.into_parts();
    let tenant = match route.tenant.derive(&parts) {
        Ok(tenant) => tenant,
        Err(code) => return Prepared::Refused(tenant_problem(code), key),
    };
    let (bytes, trailers) = match capture::capture(body, route.request_max_bytes, route.request_timeout).await
    {
        Captured::Whole { bytes, trailers } => (bytes, trailers),
        incomplete => return Prepared::Refused(incomplete_problem(&incomplete, route), key),
    };
    if let KeySource::Body(pointer) = &route.key {
        key = match in_body_at(pointer, &parts.headers, &bytes) {
            Ok(key) => key,
            Err(problem) => return Prepared::Refused(problem, None),
        };
    }
    let fingerprint = Fingerprint {
        target: fingerprint::target(
            parts.method.as_str(),
            &path::normal(parts.uri.path()),
            parts.uri.query().map(path::normal).as_deref(),
        ),
        payload: fingerprint::payload(&bytes, &route.payload),
    };
    let mut policy = Arc::clone(&route.policy);
    let key = match (key, route.missing) {
        (Some(key), _) => key,
        (None, Missing::Pass) => {
            let body = Body::Whole { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()), trailers };
            return Prepared::Pass(Request::from_parts(parts, body));
        }
        (None, Missing::Generate) => Key::generated(fingerprint.payload),
        (None, Missing::Derive) => {
            let (retention, doubt_retention) = (route.derive_window, route.derive_window);
            policy = Arc::new(Policy { retention, doubt_retention, ..(*policy).clone() });
            Key::derived(&tenant, fingerprint.target, fingerprint.payload)
        }
        (None, Missing::Require) => return Prepared::Refused(missing(route), None),
    };
    let ask = Ask::new(tenant, route.operation.clone(), key, fingerprint, policy);
    Prepared::Ready(Box::new(Ready { ask, parts, bytes, trailers }))
}

fn in_header(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Key>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        let detail = format!("The header {name} is there more than once. Nothing was run. Send one key.");
        return Err(Problem::new(Code::KeyRepeated, detail));
    }
    Key::from_header(value.as_bytes()).map(Some).map_err(|error| {
        let detail = format!(
            "In the header {name}, {error}. Nothing was run. Send 1 to 255 printable ASCII characters, raw or as \
             one quoted string."
        );
        Problem::new(Code::KeyInvalid, detail)
    })
}

/// A string in a JSON body, or a field of a form.
fn in_body_at(pointer: &str, headers: &HeaderMap, body: &[u8]) -> Result<Option<Key>, Problem> {
    let form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    let found: Vec<String> = if form {
        let name = pointer.rsplit('/').next().unwrap_or_default();
        form_urlencoded::parse(body)
            .filter(|(field, _)| field == name)
            .map(|(_, text)| text.into_owned())
            .collect()
    } else {
        let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        match value.as_ref().and_then(|value| value.pointer(pointer)) {
            None | Some(serde_json::Value::Null) => Vec::new(),
            Some(serde_json::Value::String(text)) => vec![text.clone()],
            Some(_) => {
                let detail = format!("The key at {pointer} in the body is not a string. Nothing was run.");
                return Err(Problem::new(Code::KeyInvalid, detail));
            }
        }
    };
    match found.as_slice() {
        [] => Ok(None),
        [text] => Key::new(text).map(Some).map_err(|error| {
            Problem::new(Code::KeyInvalid, format!("At {pointer} in the body, {error}. Nothing was run."))
        }),
        _ => {
            let detail = format!("The form has several fields for {pointer}. Nothing was run. Send one key.");
            Err(Problem::new(Code::KeyRepeated, detail))
        }
    }
}

fn missing(route: &Route) -> Problem {
    let place = match &route.key {
        KeySource::Header(name) => format!("in the header {name}"),
        KeySource::Body(pointer) => format!("at {pointer} in the body"),
    };
    let detail = format!(
        "Nothing was run. Send the request with a key {place}: 1 to 255 printable ASCII characters, new for each \
         operation and the same for each retry of it."
    );
    Problem::new(Code::KeyMissing, detail)
}

fn tenant_problem(code: Code) -> Problem {
    let detail = match code {
        Code::TenantNotConfigured => {
            "The only credential is a cookie, and the operator has not said what of it names the caller. Nothing \
             was run. The setting is `tenant`; see `semel gateway --help`."
        }
        _ => {
            "The request has credentials, and the caller cannot be told from them. Nothing was run. Send the \
             credentials this API documents."
        }
    };
    Problem::new(code, detail)
}

fn incomplete_problem<B>(incomplete: &Captured<B>, route: &Route) -> Problem {
    let (code, detail) = match incomplete {
        Captured::Late(_) => (
            Code::RequestTimeout,
            format!(
                "The body did not arrive within {} s. Nothing was run. Send it again with the same key.",
                route.request_timeout.as_secs()
            ),
        ),
        Captured::Broken(_) => (
            Code::BadRequest,
            "The body broke off. Nothing was run. Send it again with the same key.".to_owned(),
        ),
        Captured::Large(_) | Captured::Whole { .. } => (
            Code::TooLarge,
            format!(
                "Requests with a key may have at most {} bytes here. Nothing was run.",
                route.request_max_bytes
            ),
        ),
    };
    Problem::new(code, detail)
}
