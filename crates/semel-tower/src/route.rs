//! Routes: which settings apply to a request. The first route whose methods and path match decides.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName};
use http::{Method, StatusCode, request};
use semel::fingerprint::PayloadParts;
use semel::{Key, Operation, Outcome, Policy, wire};

use crate::path;
use crate::profile::Profile;
use crate::tenant::TenantRule;

/// Where the key of a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// In this header, raw or as an RFC 8941 string.
    Header(HeaderName),
    /// In the body: a JSON pointer (RFC 6901) to a string, or for forms the field named by its last part.
    Body(String),
}

/// What happens to a covered request without a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// It passes, unprotected and streaming.
    #[default]
    Pass,
    /// It is refused with 400.
    Require,
    /// A key is made for it and returned, so that the caller can retry with it.
    Generate,
    /// The key is a digest of tenant, target and payload, kept for [`Route::derive_window`]: a blind double submit
    /// takes effect once.
    Derive,
}

/// What an answer of 500 or above means for the record, unless its status is in [`Route::released`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum On5xx {
    /// The effect may have happened: in doubt.
    #[default]
    Doubt,
    /// It certainly did not happen: the key may run again. **A retry policy: two effects are possible** when the
    /// upstream fails after it acted.
    Release,
    /// It is an outcome like any other: stored and replayed.
    Store,
}

/// What happens to a covered request when the store cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStoreDown {
    /// 503 with `Retry-After`; the effect does not run.
    #[default]
    Refuse,
    /// The effect runs **unprotected**; the answer says `unrecorded`.
    Run,
}

/// A future that a hook returns.
pub type HookFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whether the caller may still see a stored outcome, asked before every replay.
pub trait Authorize: Send + Sync + fmt::Debug + 'static {
    /// Asks with the caller's own request.
    fn may_see<'a>(&'a self, request: &'a request::Parts) -> HookFuture<'a, bool>;
}

/// What an upstream says about a key whose outcome is unknown.
#[derive(Clone, Debug)]
pub enum Probed {
    /// The effect happened, with this outcome.
    Happened(Outcome),
    /// It did not happen, and no earlier attempt is still under way.
    NotHappened,
    /// It cannot say.
    Unknown,
}

/// Asks the upstream whether the effect of a key happened.
pub trait Probe: Send + Sync + fmt::Debug + 'static {
    /// Asks about `key`, which `request` brought again.
    fn ask<'a>(&'a self, key: &'a Key, request: &'a request::Parts) -> HookFuture<'a, Probed>;
}

/// The settings of one route. [`Route::default`] is the profile `ietf`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Covered methods. Default POST, PUT, PATCH, DELETE.
    pub methods: Vec<Method>,
    /// What the key is used for. Default `http`.
    pub operation: Operation,
    /// Where the key is. Default the header `Idempotency-Key`.
    pub key: KeySource,
    /// What happens without one. Default pass.
    pub missing: Missing,
    /// How long the record of a derived key is kept, also when it is in doubt. Default 10 s.
    pub derive_window: Duration,
    /// Whose the key is.
    pub tenant: TenantRule,
    /// How duplicates, doubt and mismatch are treated, and for how long outcomes are kept.
    pub policy: Arc<Policy>,
    /// What of the body counts in the fingerprint. Default every byte.
    pub payload: PayloadParts,
    /// Default refuse.
    pub on_store_down: OnStoreDown,
    /// Statuses after which the same key may run again. Default 401 403 407 408 409 423 425 429 503.
    pub released: Vec<StatusCode>,
    /// Default doubt.
    pub on_5xx: On5xx,
    /// Whether `Set-Cookie` is stored and replayed. Default no.
    pub store_set_cookie: bool,
    /// Whether `WWW-Authenticate` is stored and replayed. Default no.
    pub store_www_authenticate: bool,
    /// The largest covered request, in bytes. Default 1 MiB.
    pub request_max_bytes: usize,
    /// How long a covered request's body may take to arrive. Default 30 s.
    pub request_timeout: Duration,
    /// The largest answer that is stored whole, in bytes. Default 1 MiB, at most 64 MiB.
    pub response_max_bytes: usize,
    /// How long an answer's body is gathered before it is streamed and not kept. Default 5 s.
    pub buffer_timeout: Duration,
    /// Whether answers tell when their record expires. Default no.
    pub tell_expiry: bool,
    /// How refusals and replays are worded.
    pub profile: Profile,
    /// Asked before every replay. Default nobody.
    pub authorize: Option<Arc<dyn Authorize>>,
    /// Asked about records in doubt under [`OnDoubt::Probe`](semel::policy::OnDoubt::Probe).
    pub probe: Option<Arc<dyn Probe>>,
}

impl Default for Route {
    fn default() -> Self {
        Self {
            methods: vec![Method::POST, Method::PUT, Method::PATCH, Method::DELETE],
            operation: Operation::http(),
            key: KeySource::Header(HeaderName::from_static(wire::KEY)),
            missing: Missing::default(),
            derive_window: Duration::from_secs(10),
            tenant: TenantRule::default(),
            policy: Arc::default(),
            payload: PayloadParts::default(),
            on_store_down: OnStoreDown::default(),
            released: released_by_default(),
            on_5xx: On5xx::default(),
            store_set_cookie: false,
            store_www_authenticate: false,
            request_max_bytes: 1 << 20,
            request_timeout: Duration::from_secs(30),
            response_max_bytes: 1 << 20,
            buffer_timeout: Duration::from_secs(5),
            tell_expiry: false,
            profile: Profile::ietf(),
            authorize: None,
            probe: None,
        }
    }
}

/// 401 403 407 408 409 423 425 429 503.
#[must_use]
pub fn released_by_default() -> Vec<StatusCode> {
    [401, 403, 407, 408, 409, 423, 425, 429, 503]
        .into_iter()
        .filter_map(|status| StatusCode::from_u16(status).ok())
        .collect()
}

/// What an answer means for the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerClass {
    /// It is the outcome.
    Stored,
    /// The effect did not happen.
    Released,
    /// The effect may have happened.
    InDoubt,
}

impl Route {
    /// What an answer with `status` means for the record.
    #[must_use]
    pub fn classify(&self, status: StatusCode) -> AnswerClass {
        if self.released.contains(&status) {
            return AnswerClass::Released;
        }
        match (status.is_server_error(), self.on_5xx) {
            (true, On5xx::Doubt) => AnswerClass::InDoubt,
            (true, On5xx::Release) => AnswerClass::Released,
            (true, On5xx::Store) | (false, _) => AnswerClass::Stored,
        }
    }

    pub(crate) fn never_stored(&self, name: &HeaderName) -> bool {
        (*name == header::SET_COOKIE && !self.store_set_cookie)
            || (*name == header::WWW_AUTHENTICATE && !self.store_www_authenticate)
    }
}

/// Routes in order, and the settings of whatever none of them matches.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    listed: Vec<(String, Arc<Route>)>,
    default: Arc<Route>,
}

impl Routes {
    /// Only `default`, for every path.
    #[must_use]
    pub fn new(default: Route) -> Self {
        Self { listed: Vec::new(), default: Arc::new(default) }
    }

    /// Adds a route after the others. `path` is matched whole, or as a prefix when it ends in `*`; an encoded letter,
    /// digit, `-`, `.`, `_` or `~` is the same as itself.
    #[must_use]
    pub fn route(mut self, path: &str, route: Route) -> Self {
        self.listed.push((path::normal(path).into_owned(), Arc::new(route)));
        self
    }

    /// The settings for a request; `None` when it is not covered.
    #[must_use]
    pub fn find(&self, method: &Method, path: &str) -> Option<&Arc<Route>> {
        let path = path::normal(path);
        let matching = self.listed.iter().find(|(pattern, _)| match pattern.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => *pattern == path,
        });
        let route = matching.map_or(&self.default, |(_, route)| route);
        route.methods.contains(method).then_some(route)
    }

    /// Every route with its path; the default last, as `*`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<Route>)> {
        self.listed
            .iter()
            .map(|(path, route)| (path.as_str(), route))
            .chain(std::iter::once(("*", &self.default)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_path_decides_and_its_methods_cover() {
        let open = Route { methods: Vec::new(), ..Route::default() };
        let routes = Routes::new(Route::default()).route("/health", open).route("/pay/*", Route::default());
        assert!(routes.find(&Method::POST, "/health").is_none());
        assert!(routes.find(&Method::POST, "/pay/1").is_some());
        assert!(routes.find(&Method::GET, "/pay/1").is_none());
        assert!(routes.find(&Method::DELETE, "/elsewhere").is_some());
        assert!(routes.find(&Method::POST, "/%68ealth").is_none(), "another spelling is the same path");
        let spelled = Routes::new(Route { methods: Vec::new(), ..Route::default() });
        let spelled = spelled.route("/%70ay/caf%c3%a9/*", Route::default());
        assert!(spelled.find(&Method::POST, "/pay/caf%C3%A9/1").is_some());
    }

    #[test]
    fn answers_are_stored_released_or_in_doubt_by_status() {
        let route = Route::default();
        let class = |status| route.classify(StatusCode::from_u16(status).unwrap());
        for status in [200, 201, 204, 304, 400, 404, 422] {
            assert_eq!(class(status), AnswerClass::Stored, "{status}");
        }
        for status in [401, 403, 407, 408, 409, 423, 425, 429, 503] {
            assert_eq!(class(status), AnswerClass::Released, "{status}");
        }
        for status in [500, 501, 502, 504, 599] {
            assert_eq!(class(status), AnswerClass::InDoubt, "{status}");
        }
    }
}
