//! The configuration: one TOML file, each setting optional but `upstream`. Unknown fields are refused with line and
//! column, and so is everything that cannot work.
//!
//! Layers, later over earlier: the profile, `[defaults]`, the route. Next: [`crate::promise`], which says what a
//! configuration promises.

mod encryption;
mod route;
mod text;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use semel::store::Durability;
use semel_tower::{Route, Routes};
use serde::Deserialize;

use crate::hooks::Parts;

pub use encryption::EncryptionConfig;
pub use route::{RouteConfig, TenantConfig, TenantPartConfig};
pub use text::{FromText, Human, ListenAddr, Parsed};

/// A gateway's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where requests go: `http://host:port`, `https://…`, or `h2c://…` for HTTP/2 without TLS.
    pub upstream: Option<Parsed<Uri>>,
    /// Where the gateway listens. Default 127.0.0.1:8787.
    pub listen: SocketAddr,
    /// Where the read-only admin listener is, or `off`. Default 127.0.0.1:8788.
    pub admin: ListenAddr,
    /// A store's URL, such as `embedded:PATH` or `redis://HOST:PORT`. Default a file in the user's state directory.
    pub store: Option<String>,
    /// What an acknowledgement of the embedded store survives: `power` or `process`. Default power. With `none`, a store
    /// on a server is used even when the server may lose everything.
    pub durability: DurabilityName,
    /// How long a finished record of a store on a server is replayed without asking it again, which is also how long a
    /// purge by name elsewhere may go unnoticed; `"0s"` for never. Default 1 s.
    pub near: Human,
    /// `ietf`, `stripe`, `audit-log`, `control-plane` or `form`. Default ietf.
    pub profile: Parsed<ProfileName>,
    /// Settings of every route.
    pub defaults: RouteConfig,
    /// Settings of single routes; the first whose path matches decides.
    pub routes: Vec<RouteConfig>,
    /// Caps.
    pub limits: LimitsConfig,
    /// How long things may take.
    pub timeouts: TimeoutsConfig,
    /// TLS towards clients.
    pub tls: Option<TlsConfig>,
    /// TLS towards the upstream.
    pub upstream_tls: UpstreamTlsConfig,
    /// What `Host` the upstream gets: the client's, or its own. Default the client's for `http://` upstreams, which
    /// are near, and their own for the others, whose certificates and virtual hosts go by it.
    pub host: Option<HostName>,
    /// Whether logs show a digest instead of the key. Default no.
    pub hash_keys_in_logs: bool,
    /// Encryption of what is stored. Default none.
    pub encryption: Option<EncryptionConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            upstream: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 8787)),
            admin: ListenAddr(Some(SocketAddr::from(([127, 0, 0, 1], 8788)))),
            store: None,
            durability: DurabilityName::Power,
            near: Human(Duration::from_secs(1)),
            profile: Parsed(ProfileName("ietf")),
            defaults: RouteConfig::default(),
            routes: Vec::new(),
            limits: LimitsConfig::default(),
            timeouts: TimeoutsConfig::default(),
            tls: None,
            upstream_tls: UpstreamTlsConfig::default(),
            host: None,
            hash_keys_in_logs: false,
            encryption: None,
        }
    }
}

const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(10_000).expect("it is not zero");

/// Caps that keep one caller from exhausting what all share.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Claims that one tenant may hold at once. Default 10,000.
    pub in_flight_per_tenant: usize,
    /// Callers that may wait for one record. Default 1,000.
    pub waiters_per_record: usize,
    /// Connections from clients; more wait to be accepted. Default 10,000.
    pub connections: NonZeroUsize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { in_flight_per_tenant: 10_000, waiters_per_record: 1_000, connections: CONNECTIONS }
    }
}

/// How long things may take, as `"10s"`, `"500ms"`, `"24h"`.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsConfig {
    /// A request's head, from the first byte or from the answer before. Default 30 s.
    pub header: Human,
    /// Connecting to the upstream. Default 5 s.
    pub connect: Human,
    /// The upstream's answer to a covered request, up to its head. Default 60 s.
    pub upstream: Human,
    /// How long an idle connection to the upstream is kept. Default 4 s.
    pub upstream_idle: Human,
    /// How long an answer of the store is awaited. Default 5 s.
    pub store: Human,
    /// How long work in flight may take after SIGTERM. Default 30 s.
    pub drain: Human,
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            header: Human(Duration::from_secs(30)),
            connect: Human(Duration::from_secs(5)),
            upstream: Human(Duration::from_secs(60)),
            upstream_idle: Human(Duration::from_secs(4)),
            store: Human(Duration::from_secs(5)),
            drain: Human(Duration::from_secs(30)),
        }
    }
}

/// Certificates of the gateway itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate and its chain.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub private_key: PathBuf,
    /// PEM file with the authorities of client certificates; with it, clients must show one.
    pub client_ca: Option<PathBuf>,
}

/// Whom the gateway trusts as upstream.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTlsConfig {
    /// PEM file with the authorities to trust instead of the system's.
    pub ca: Option<PathBuf>,
}

/// Which `Host` the upstream gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostName {
    /// The one the client sent.
    Client,
    /// The upstream's own.
    Upstream,
}

/// The durability that is wanted, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DurabilityName {
    /// Acknowledged after fsync.
    Power,
    /// Acknowledged when the operating system has it.
    Process,
    /// Losing everything is accepted.
    None,
}

impl From<DurabilityName> for Durability {
    fn from(name: DurabilityName) -> Self {
        match name {
            DurabilityName::Power => Self::Power,
            DurabilityName::Process => Self::Process,
            DurabilityName::None => Self::None,
        }
    }
}

/// The name of a profile that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProfileName(pub(crate) &'static str);

/// What is wrong with a configuration, a line each: `semel.toml:3:9: …`.
#[derive(Debug)]
pub struct ConfigError {
    refusals: Vec<String>,
}

impl ConfigError {
    pub(crate) fn new(refusals: Vec<String>) -> Self {
        Self { refusals }
    }

    /// Every refusal.
    #[must_use]
    pub fn refusals(&self) -> &[String] {
        &self.refusals
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.refusals.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the text of a configuration file called `name`.
    ///
    /// # Errors
    /// [`ConfigError`] with a line and column for what cannot be read, and every setting that cannot work.
    pub fn from_toml(text: &str, name: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let (line, column) = text::position(text, error.span().map_or(0, |span| span.start));
            ConfigError::new(vec![format!("{name}:{line}:{column}: {}", error.message().replace('\n', "; "))])
        })?;
        let refusals: Vec<String> = std::iter::once(&config.defaults)
            .chain(&config.routes)
            .flat_map(RouteConfig::refusals)
            .chain(config.routes.iter().filter_map(RouteConfig::pathless))
            .chain(config.defaults.pathful())
            .map(|refusal| {
                let (line, column) = text::position(text, refusal.at);
                format!("{name}:{line}:{column}: {}", refusal.what)
            })
            .collect();
        if refusals.is_empty() { Ok(config) } else { Err(ConfigError::new(refusals)) }
    }

    /// The layer's routes. `parts` makes what a route needs from outside: key sets and hooks.
    pub(crate) fn routes(&self, parts: &mut Parts) -> Routes {
        let profile = self.defaults.profile.unwrap_or(self.profile);
        let start = |profile: Parsed<ProfileName>| Route::profile(profile.0.0).unwrap_or_default();
        let base = self.defaults.over(start(profile), parts);
        self.routes.iter().fold(Routes::new(base.clone()), |routes, listed| {
            let below = match listed.profile {
                Some(profile) => self.defaults.over(start(profile), parts),
                None => base.clone(),
            };
            routes.route(
                listed.path.as_ref().map_or("*", |path| path.get_ref().as_str()),
                listed.over(below, parts),
            )
        })
    }
}
