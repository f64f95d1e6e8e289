//! What the gateway asks over HTTP, apart from the effect itself: may this caller still see an outcome, did this
//! key's effect happen, which keys sign tokens.
//!
//! Each question takes at most 5 s and reads at most 1 MiB; a question without an answer is answered carefully: not
//! allowed, unknown, the keys of before.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{Request, StatusCode, Uri, request};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use jsonwebtoken::jwk::JwkSet;
use semel::Key;
use semel_tower::Route;
use semel_tower::route::{Authorize, HookFuture, Probe, Probed};

use crate::config::FromText;
use crate::proxy::{GatewayError, GatewayErrorKind};

const TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_MAX_BYTES: usize = 1 << 20;
const REFRESH_KEYS_EVERY: Duration = Duration::from_secs(300);
/// How often a file with keys is looked at for a change.
const LOOK_AT_KEYS_EVERY: Duration = Duration::from_secs(2);

pub(crate) type HookClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// The address of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookUrl(pub Uri);

impl FromText for HookUrl {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.parse::<Uri>() {
            Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() => {
                Ok(Self(uri))
            }
            _ => Err(format!("`{text}` is not a URL; write \"http://host/path\"")),
        }
    }
}

/// Makes what routes need from outside. Key sets named twice are one.
#[derive(Debug)]
pub(crate) struct Parts {
    client: HookClient,
    key_sets: HashMap<String, Arc<RwLock<JwkSet>>>,
}

impl Parts {
    pub(crate) fn new(client: HookClient) -> Self {
        Self { client, key_sets: HashMap::new() }
    }

    pub(crate) fn key_set(&mut self, source: &str) -> Arc<RwLock<JwkSet>> {
        let empty = || Arc::new(RwLock::new(JwkSet { keys: Vec::new() }));
        Arc::clone(self.key_sets.entry(source.to_owned()).or_insert_with(empty))
    }

    pub(crate) fn authorize(&self, url: &HookUrl) -> Arc<dyn Authorize> {
        Arc::new(AuthorizeUrl { client: self.client.clone(), url: url.0.clone() })
    }

    pub(crate) fn probe(&self, template: &str) -> Arc<dyn Probe> {
        Arc::new(ProbeUrl { client: self.client.clone(), template: template.to_owned() })
    }

    /// Reads every key set once, so that a wrong one is told at the start; those behind URLs are read again every
    /// five minutes, files when they have changed.
    pub(crate) async fn load_key_sets(&self) -> Result<(), GatewayError> {
        for (source, keys) in &self.key_sets {
            let set = read_key_set(&self.client, source).await.map_err(|error| {
                let is_url = source.contains("://");
                let kind = if is_url { GatewayErrorKind::Unreachable } else { GatewayErrorKind::Config };
                GatewayError::new(kind, error)
            })?;
            *keys.write().unwrap_or_else(PoisonError::into_inner) = set;
            tokio::spawn(refresh_key_set(self.client.clone(), source.clone(), Arc::downgrade(keys)));
        }
        Ok(())
    }
}

async fn refresh_key_set(client: HookClient, source: String, keys: std::sync::Weak<RwLock<JwkSet>>) {
    let is_url = source.contains("://");
    // What changed since the start may have been read or not, so the first look reads it again.
    let mut seen = None;
    loop {
        tokio::time::sleep(if is_url { REFRESH_KEYS_EVERY } else { LOOK_AT_KEYS_EVERY }).await;
        let Some(keys) = keys.upgrade() else { return };
        let now = changed_at(&source);
        if !is_url && now == seen {
            continue;
        }
        seen = now;
        match read_key_set(&client, &source).await {
            Ok(set) => *keys.write().unwrap_or_else(PoisonError::into_inner) = set,
            Err(error) => tracing::warn!(error, "the key set was not refreshed; the one of before stays"),
        }
    }
}

/// When a file changed and how long it is; `None` when it cannot be told, as for a URL.
fn changed_at(source: &str) -> Option<(SystemTime, u64)> {
    let file = std::fs::metadata(source).ok()?;
    Some((file.modified().ok()?, file.len()))
}

async fn read_key_set(client: &HookClient, source: &str) -> Result<JwkSet, String> {
    let text = if source.contains("://") {
        let url = HookUrl::from_text(source)?;
        let question = Request::get(url.0).body(Empty::new()).map_err(|error| error.to_string())?;
        let (status, _, body) = ask(client, question).await.map_err(|error| format!("{source}: {error}"))?;
        if !status.is_success() {
            return Err(format!("{source}: answered {status}"));
        }
        body.to_vec()
    } else {
        std::fs::read(source).map_err(|error| format!("{source}: {error}"))?
    };
    serde_json::from_slice(&text).map_err(|error| format!("{source} is not a JSON Web Key Set: {error}"))
}

type AskError = Box<dyn std::error::Error + Send + Sync>;

async fn ask(
    client: &HookClient,
    question: Request<Empty<Bytes>>,
) -> Result<(StatusCode, http::HeaderMap, Bytes), AskError> {
    tokio::time::timeout(TIMEOUT, async {
        let (head, body) = client.request(question).await?.into_parts();
        let body = Limited::new(body, ANSWER_MAX_BYTES).collect().await?.to_bytes();
        Ok((head.status, head.headers, body))
    })
    .await?
}

/// A question with the caller's own credentials.
fn on_behalf(url: Uri, request: &request::Parts) -> Option<Request<Empty<Bytes>>> {
    let mut question = Request::get(url);
    for name in [header::AUTHORIZATION, header::COOKIE, HeaderName::from_static("x-api-key")] {
        for value in request.headers.get_all(&name) {
            question = question.header(&name, value);
        }
    }
    question
        .header("x-original-method", request.method.as_str())
        .header("x-original-uri", request.uri.path_and_query().map_or("/", |path| path.as_str()))
        .body(Empty::new())
        .ok()
}

#[derive(Debug)]
struct AuthorizeUrl {
    client: HookClient,
    url: Uri,
}

impl Authorize for AuthorizeUrl {
    fn may_see<'a>(&'a self, request: &'a request::Parts) -> HookFuture<'a, bool> {
        Box::pin(async move {
            let Some(question) = on_behalf(self.url.clone(), request) else { return false };
            match ask(&self.client, question).await {
                Ok((status, ..)) => status.is_success(),
                Err(error) => {
                    tracing::warn!(%error, "authorize_url gave no answer; the replay is refused");
                    false
                }
            }
        })
    }
}

#[derive(Debug)]
struct ProbeUrl {
    client: HookClient,
    template: String,
}

impl Probe for ProbeUrl {
    fn ask<'a>(&'a self, key: &'a Key, request: &'a request::Parts) -> HookFuture<'a, Probed> {
        Box::pin(async move {
            let encoded =
                percent_encoding::utf8_percent_encode(key.as_str(), percent_encoding::NON_ALPHANUMERIC);
            let url = self.template.replace("{key}", &encoded.to_string()).parse().ok();
            let Some(question) = url.and_then(|url| on_behalf(url, request)) else { return Probed::Unknown };
            match ask(&self.client, question).await {
                Ok((StatusCode::NOT_FOUND, ..)) => Probed::NotHappened,
                Ok((status, headers, body)) if status.is_success() => {
                    let route = Route::default();
                    Probed::Happened(semel_tower::replay::store(status, &headers, Some(body), None, &route))
                }
                Ok((status, ..)) => {
                    tracing::warn!(%status, "probe_url cannot say; the record stays in doubt");
                    Probed::Unknown
                }
                Err(error) => {
                    tracing::warn!(%error, "probe_url gave no answer; the record stays in doubt");
                    Probed::Unknown
                }
            }
        })
    }
}
