//! The settings of a route, as written in the file, and how they lie over others.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use semel::Operation;
use semel::fingerprint::PayloadParts;
use semel::policy::{OnDoubt, OnDuplicate, OnMismatch};
use semel_tower::Route;
use semel_tower::route::{KeySource, Missing, On5xx, OnStoreDown};
use semel_tower::tenant::{TenantPart, TenantRule};
use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use toml::Spanned;

use super::ProfileName;
use super::text::{Human, Parsed, Status};
use crate::hooks::{HookUrl, Parts};

/// One `[[routes]]` entry, or `[defaults]`. What is left out is taken from the layer below.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteConfig {
    /// Matched whole, or as a prefix when it ends in `*`.
    pub path: Option<Spanned<String>>,
    /// Covered methods; an empty list covers nothing.
    pub methods: Option<Spanned<Vec<Parsed<Method>>>>,
    /// The profile to start from.
    pub profile: Option<Parsed<ProfileName>>,
    /// What keys are used for.
    pub operation: Option<String>,
    /// The header that carries the key.
    pub key_header: Option<Parsed<HeaderName>>,
    /// A JSON pointer to the key in the body.
    pub key_body: Option<Spanned<String>>,
    /// What happens without a key.
    pub missing: Option<MissingName>,
    /// How long a derived key is kept.
    pub derive_window: Option<Human>,
    /// Whose the key is.
    pub tenant: Option<Spanned<TenantConfig>>,
    /// What a duplicate gets.
    pub on_duplicate: Option<OnDuplicateName>,
    /// What happens to doubts.
    pub on_doubt: Option<Spanned<OnDoubtName>>,
    /// What happens to another payload.
    pub on_mismatch: Option<OnMismatchName>,
    /// How long a claim is believed alive.
    pub lease: Option<Spanned<Human>>,
    /// How long a lease is renewed.
    pub max_execution: Option<Spanned<Human>>,
    /// How long outcomes are kept.
    pub retention: Option<Spanned<Human>>,
    /// How long doubts are kept.
    pub doubt_retention: Option<Human>,
    /// How long duplicates wait.
    pub wait_timeout: Option<Human>,
    /// How long storing an outcome is tried.
    pub complete_timeout: Option<Human>,
    /// `"raw"`, `"json"`, or a list of JSON pointers.
    pub payload: Option<PayloadConfig>,
    /// What happens when the store is down.
    pub on_store_down: Option<OnStoreDownName>,
    /// Statuses after which the key may run again.
    pub released: Option<Vec<Status>>,
    /// What a 5xx means.
    pub on_5xx: Option<On5xxName>,
    /// Whether `Set-Cookie` is stored.
    pub store_set_cookie: Option<bool>,
    /// Whether `WWW-Authenticate` is stored.
    pub store_www_authenticate: Option<bool>,
    /// The largest covered request.
    pub request_max_bytes: Option<usize>,
    /// How long a covered request's body may take.
    pub request_timeout: Option<Human>,
    /// The largest answer that is kept whole.
    pub response_max_bytes: Option<Spanned<usize>>,
    /// How long an answer's body is gathered.
    pub buffer_timeout: Option<Human>,
    /// Whether answers tell when their record expires.
    pub tell_expiry: Option<bool>,
    /// Asked, with the caller's credentials, before every replay.
    pub authorize_url: Option<Parsed<HookUrl>>,
    /// Asked about doubts, with `{key}` in it.
    pub probe_url: Option<Spanned<String>>,
}

/// Makes an enum that is written as lower-case words, and turns into one of the layer's.
macro_rules! names {
    ($(#[$doc:meta])* $name:ident => $target:ident { $($word:ident),+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
        #[serde(rename_all = "lowercase")]
        #[allow(missing_docs, reason = "each word is documented on the enum it names")]
        pub enum $name { $($word),+ }

        impl From<$name> for $target {
            fn from(name: $name) -> Self {
                match name { $($name::$word => Self::$word),+ }
            }
        }
    };
}

names!(
    /// A [`Missing`] by name.
    MissingName => Missing { Pass, Require, Generate, Derive }
);
names!(
    /// An [`OnDuplicate`] by name.
    OnDuplicateName => OnDuplicate { Wait, Conflict }
);
names!(
    /// An [`OnDoubt`] by name.
    OnDoubtName => OnDoubt { Hold, Retry, Probe }
);
names!(
    /// An [`OnMismatch`] by name.
    OnMismatchName => OnMismatch { Reject, Replay, Distinct }
);
names!(
    /// An [`OnStoreDown`] by name.
    OnStoreDownName => OnStoreDown { Refuse, Run }
);
names!(
    /// An [`On5xx`] by name.
    On5xxName => On5xx { Doubt, Release, Store }
);

/// `"raw"`, `"json"`, or a list of JSON pointers.
#[derive(Clone, Debug)]
pub struct PayloadConfig(PayloadParts);

/// `"shared"`, or a list of parts.
#[derive(Clone, Debug)]
pub enum TenantConfig {
    /// All callers share their keys.
    Shared,
    /// These parts, in this order.
    Parts(Vec<TenantPartConfig>),
}

/// One part of a tenant's name; exactly one of the first five is given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantPartConfig {
    /// The value of this header.
    pub header: Option<Parsed<HeaderName>>,
    /// The first `chars` characters of this header.
    pub key_prefix: Option<Parsed<HeaderName>>,
    /// With `key_prefix`.
    pub chars: Option<usize>,
    /// A digest of `Authorization`.
    pub authorization: Option<bool>,
    /// The subject of the client certificate.
    pub certificate: Option<bool>,
    /// A claim of the bearer token.
    pub claim: Option<String>,
    /// With `claim`: file or URL of the key set that signatures are verified with.
    pub jwks: Option<String>,
    /// With `claim`: who must have issued the token.
    pub issuer: Option<String>,
    /// With `claim`: whom the token must be for.
    pub audience: Option<String>,
}

/// Reads a text or a list, saying what is wrong at the place where it is wrong.
struct TextOr<T, F>(&'static str, F, std::marker::PhantomData<T>);

impl<'de, T, I, F> Visitor<'de> for TextOr<I, F>
where
    F: FnOnce(Result<&str, Vec<I>>) -> Result<T, String>,
    I: Deserialize<'de>,
{
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.1)(Ok(text)).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<T, A::Error> {
        let items = Vec::<I>::deserialize(SeqAccessDeserializer::new(items))?;
        (self.1)(Err(items)).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for PayloadConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "\"raw\", \"json\", or a list of JSON pointers";
        let read = |value: Result<&str, Vec<String>>| match value {
            Ok("raw") => Ok(Self(PayloadParts::Raw)),
            Ok("json") => Ok(Self(PayloadParts::Json)),
            Ok(other) => Err(format!("`{other}` is not {EXPECTED}")),
            Err(pointers)
                if pointers.iter().all(|pointer| pointer.starts_with('/')) && !pointers.is_empty() =>
            {
                Ok(Self(PayloadParts::Pointers(pointers)))
            }
            Err(_) => Err("a JSON pointer starts with `/`, and the list has at least one".to_owned()),
        };
        deserializer.deserialize_any(TextOr(EXPECTED, read, std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for TenantConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "\"shared\", or a list of parts such as [{ header = \"x-org\" }]";
        let read = |value: Result<&str, Vec<TenantPartConfig>>| match value {
            Ok("shared") => Ok(Self::Shared),
            Ok(other) => Err(format!("`{other}` is not {EXPECTED}")),
            Err(parts) if parts.is_empty() => Err(format!("an empty list; write {EXPECTED}")),
            Err(parts) => Ok(Self::Parts(parts)),
        };
        deserializer.deserialize_any(TextOr(EXPECTED, read, std::marker::PhantomData))
    }
}

/// A setting that cannot work, and where it stands in the text.
pub(super) struct Refused {
    pub(super) at: usize,
    pub(super) what: String,
}

const RETENTION: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 60 * 60);
const RESPONSE_MAX_BYTES: usize = 64 << 20;

impl RouteConfig {
    /// Every setting that can be read and cannot work.
    pub(super) fn refusals(&self) -> Vec<Refused> {
        let mut refused = Vec::new();
        let mut refuse = |at: usize, what: &str| refused.push(Refused { at, what: what.to_owned() });
        if let Some(retention) = &self.retention
            && !RETENTION.contains(&retention.get_ref().0)
        {
            refuse(retention.span().start, "retention is between 1 second and 1 year");
        }
        if let Some(lease) = &self.lease
            && lease.get_ref().0 < Duration::from_secs(1)
        {
            refuse(
                lease.span().start,
                "a lease is at least 1 second; it is renewed for as long as the effect runs",
            );
        }
        if let Some(max_execution) = &self.max_execution
            && max_execution.get_ref().0 < Duration::from_secs(1)
        {
            refuse(max_execution.span().start, "max_execution is at least 1 second");
        }
        if let Some(max_bytes) = &self.response_max_bytes
            && *max_bytes.get_ref() > RESPONSE_MAX_BYTES
        {
            refuse(max_bytes.span().start, "response_max_bytes is at most 67108864 (64 MiB)");
        }
        if let Some(pointer) = &self.key_body
            && !pointer.get_ref().starts_with('/')
        {
            refuse(pointer.span().start, "key_body is a JSON pointer and starts with `/`");
        }
        if let Some(on_doubt) = &self.on_doubt
            && *on_doubt.get_ref() == OnDoubtName::Probe
            && self.probe_url.is_none()
        {
            refuse(on_doubt.span().start, "on_doubt = \"probe\" needs probe_url in the same table");
        }
        if let Some(url) = &self.probe_url
            && !url.get_ref().contains("{key}")
        {
            refuse(url.span().start, "probe_url has no {key} in it");
        }
        if let Some(tenant) = &self.tenant
            && let TenantConfig::Parts(parts) = tenant.get_ref()
        {
            for what in parts.iter().filter_map(TenantPartConfig::refusal) {
                refuse(tenant.span().start, what);
            }
        }
        refused
    }

    /// Listed routes have a path.
    pub(super) fn pathless(&self) -> Option<Refused> {
        let at = self.methods.as_ref().map_or(0, |methods| methods.span().start);
        self.path.is_none().then(|| Refused { at, what: "a [[routes]] entry has no `path`".to_owned() })
    }

    /// The defaults are for every path.
    pub(super) fn pathful(&self) -> Option<Refused> {
        let what = "`path` belongs into a [[routes]] entry; the defaults are for every path".to_owned();
        self.path.as_ref().map(|path| Refused { at: path.span().start, what })
    }

    /// These settings over those of `route`.
    pub(super) fn over(&self, mut route: Route, parts: &mut Parts) -> Route {
        let mut policy = (*route.policy).clone();
        set(&mut policy.on_duplicate, self.on_duplicate.map(Into::into));
        set(&mut policy.on_doubt, self.on_doubt.as_ref().map(|name| (*name.get_ref()).into()));
        set(&mut policy.on_mismatch, self.on_mismatch.map(Into::into));
        set(&mut policy.lease, self.lease.as_ref().map(|lease| lease.get_ref().0));
        set(&mut policy.max_execution, self.max_execution.as_ref().map(|time| time.get_ref().0));
        set(&mut policy.retention, self.retention.as_ref().map(|time| time.get_ref().0));
        set(&mut policy.doubt_retention, self.doubt_retention.map(|time| time.0));
        set(&mut policy.wait_timeout, self.wait_timeout.map(|time| time.0));
        set(&mut policy.complete_timeout, self.complete_timeout.map(|time| time.0));
        route.policy = Arc::new(policy);
        let methods = self.methods.as_ref();
        set(
            &mut route.methods,
            methods.map(|list| list.get_ref().iter().map(|method| method.0.clone()).collect()),
        );
        set(&mut route.operation, self.operation.as_deref().map(Operation::new));
        set(&mut route.key, self.key_header.as_ref().map(|name| KeySource::Header(name.0.clone())));
        set(&mut route.key, self.key_body.as_ref().map(|pointer| KeySource::Body(pointer.get_ref().clone())));
        set(&mut route.missing, self.missing.map(Into::into));
        set(&mut route.derive_window, self.derive_window.map(|time| time.0));
        set(&mut route.tenant, self.tenant.as_ref().map(|tenant| tenant.get_ref().rule(parts)));
        set(&mut route.payload, self.payload.as_ref().map(|payload| payload.0.clone()));
        set(&mut route.on_store_down, self.on_store_down.map(Into::into));
        set(
            &mut route.released,
            self.released.as_ref().map(|list| list.iter().map(|status| status.0).collect()),
        );
        set(&mut route.on_5xx, self.on_5xx.map(Into::into));
        set(&mut route.store_set_cookie, self.store_set_cookie);
        set(&mut route.store_www_authenticate, self.store_www_authenticate);
        set(&mut route.request_max_bytes, self.request_max_bytes);
        set(&mut route.request_timeout, self.request_timeout.map(|time| time.0));
        set(&mut route.response_max_bytes, self.response_max_bytes.as_ref().map(|bytes| *bytes.get_ref()));
        set(&mut route.buffer_timeout, self.buffer_timeout.map(|time| time.0));
        set(&mut route.tell_expiry, self.tell_expiry);
        if let Some(url) = &self.authorize_url {
            route.authorize = Some(parts.authorize(&url.0));
        }
        if let Some(url) = &self.probe_url {
            route.probe = Some(parts.probe(url.get_ref()));
        }
        route
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

impl TenantConfig {
    fn rule(&self, parts: &mut Parts) -> TenantRule {
        match self {
            Self::Shared => TenantRule::Shared,
            Self::Parts(list) => TenantRule::Parts(list.iter().map(|part| part.part(parts)).collect()),
        }
    }
}

impl TenantPartConfig {
    fn refusal(&self) -> Option<&'static str> {
        let kinds = usize::from(self.header.is_some())
            + usize::from(self.key_prefix.is_some())
            + usize::from(self.authorization == Some(true))
            + usize::from(self.certificate == Some(true))
            + usize::from(self.claim.is_some());
        if kinds != 1 {
            return Some(
                "each part of `tenant` has exactly one of header, key_prefix, authorization, certificate, claim",
            );
        }
        if self.key_prefix.is_some() != self.chars.is_some() {
            return Some("`key_prefix` and `chars` go together");
        }
        if self.claim.is_some() != self.jwks.is_some() {
            return Some(
                "`claim` and `jwks` go together: a claim counts only when its signature was verified",
            );
        }
        None
    }

    fn part(&self, parts: &mut Parts) -> TenantPart {
        if let Some(header) = &self.header {
            return TenantPart::Header(header.0.clone());
        }
        if let (Some(header), Some(chars)) = (&self.key_prefix, self.chars) {
            return TenantPart::KeyPrefix { header: header.0.clone(), chars };
        }
        if let (Some(name), Some(jwks)) = (&self.claim, &self.jwks) {
            return TenantPart::Claim(semel_tower::tenant::TokenClaim {
                name: name.clone(),
                issuer: self.issuer.clone(),
                audience: self.audience.clone(),
                keys: parts.key_set(jwks),
            });
        }
        if self.certificate == Some(true) { TenantPart::Certificate } else { TenantPart::Authorization }
    }
}
