//! Store URLs: the only place that names every store.
//!
//! Also where the operator's socket of a store is, so that the gateway and `semel keys` agree without being told.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use semel::Store;
use semel::store::Durability;
use semel::store::memory::MemoryStore;
use semel::store::sealed::SealedStore;
use semel_gateway::Config;
use semel_store_embedded::{EmbeddedConfig, EmbeddedStore};
use semel_store_postgres::{PostgresConfig, PostgresStore};
use semel_store_redis::{RedisConfig, RedisStore};

use crate::exit::{Exit, Failure};

/// A path to a Unix socket must be shorter than this on every system.
const SOCKET_PATH_MAX_BYTES: usize = 103;

/// Which store.
#[derive(Args, Clone, Debug)]
pub(crate) struct StoreArgs {
    /// The store: `embedded:PATH` (a file that one process owns), `postgres://USER@HOST/DATABASE`,
    /// `redis://HOST:PORT` or `redis-cluster://HOST:PORT,HOST:PORT` (shared by several gateways; `rediss` and
    /// `rediss-cluster` with TLS), or `memory:` (forgotten when the process ends). Default: `embedded:` and `semel/gateway.sqlite` in `$XDG_STATE_HOME` or `~/.local/state`
    #[arg(long, env = "SEMEL_STORE", value_name = "URL", global = true, help_heading = "Store")]
    pub(crate) store: Option<StoreUrl>,

    /// The gateway's configuration file (TOML)
    #[arg(long, env = "SEMEL_CONFIG", value_name = "FILE", global = true, help_heading = "Store")]
    pub(crate) config: Option<PathBuf>,
}

impl StoreArgs {
    /// The configuration file, or the defaults.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        let Some(path) = &self.config else { return Ok(Config::default()) };
        let name = path.display();
        let text = fs::read_to_string(path)
            .map_err(|error| Failure::new(Exit::Usage, format!("{name} cannot be read: {error}")))?;
        Config::from_toml(&text, &name.to_string()).map_err(|error| Failure::new(Exit::Usage, error))
    }

    /// The store that is meant: the flag or its variable, the configuration, or the default.
    pub(crate) fn url(&self, config: &Config) -> Result<StoreUrl, Failure> {
        match (&self.store, &config.store) {
            (Some(url), _) => Ok(url.clone()),
            (None, Some(text)) => {
                text.parse().map_err(|refused| Failure::new(Exit::Usage, format!("store: {refused}")))
            }
            (None, None) => default_path().map(StoreUrl::Embedded).ok_or_else(|| {
                Failure::new(Exit::Usage, "neither XDG_STATE_HOME nor HOME is set: name a store with --store")
            }),
        }
    }
}

/// A store by its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreUrl {
    Embedded(PathBuf),
    Memory,
    Postgres(ServerUrl),
    Redis(ServerUrl),
}

/// The URL of a server, which may have a password in it that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ServerUrl(String);

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // PostgreSQL takes a password after the question mark too.
        let text = if self.0.starts_with("postgres") {
            self.0.split('?').next().unwrap_or_default()
        } else {
            &self.0
        };
        let shown =
            text.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1)));
        match shown {
            Some((scheme, rest)) => write!(f, "{scheme}://***@{rest}"),
            None => f.write_str(text),
        }
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StoreUrl {
    /// Opens the store, making it when it does not exist, and encrypts what is stored as the configuration says. With
    /// `durability = "none"` a server that may lose everything is accepted.
    pub(crate) async fn open(&self, config: &Config) -> Result<Arc<dyn Store>, Failure> {
        let Some(encryption) = &config.encryption else { return self.open_plain(config).await };
        let keyring = encryption.keyring().map_err(|refused| Failure::new(Exit::Usage, refused))?;
        Ok(Arc::new(SealedStore::new(self.open_plain(config).await?, keyring)))
    }

    async fn open_plain(&self, config: &Config) -> Result<Arc<dyn Store>, Failure> {
        let unreachable = |error: &dyn std::error::Error| Failure::caused(Exit::Unreachable, error);
        let durability = Durability::from(config.durability);
        match self {
            Self::Memory => Ok(Arc::new(MemoryStore::new())),
            Self::Postgres(_) => {
                let settings = self.postgres(config).unwrap_or_else(|| PostgresConfig::new(""));
                Ok(Arc::new(PostgresStore::open(settings).await.map_err(|error| unreachable(&error))?))
            }
            Self::Redis(url) => {
                let mut config = RedisConfig::from_url(&url.0).map_err(|error| unreachable(&error))?;
                if durability == Durability::None {
                    config = config.accept_loss();
                }
                Ok(Arc::new(RedisStore::open(config).await.map_err(|error| unreachable(&error))?))
            }
            Self::Embedded(path) => {
                if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                    // When it cannot be made, opening the file in it says why.
                    let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
                }
                let settings = EmbeddedConfig::new(path).durability(durability);
                Ok(Arc::new(EmbeddedStore::open(settings).map_err(|error| unreachable(&error))?))
            }
        }
    }

    /// Makes the tables of a database, or brings them up to date. Other stores do that when they are opened.
    pub(crate) async fn migrate(&self, config: &Config) -> Result<(), Failure> {
        let Some(settings) = self.postgres(config) else { return Ok(()) };
        PostgresStore::migrate(&settings).await.map_err(|error| Failure::caused(Exit::Unreachable, &error))
    }

    fn postgres(&self, config: &Config) -> Option<PostgresConfig> {
        let Self::Postgres(url) = self else { return None };
        Some(PostgresConfig::new(&url.0).durability(Durability::from(config.durability)))
    }

    /// Where the gateway that owns this store takes operators' commands. `None` where no other process can know.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        match self {
            Self::Memory | Self::Postgres(_) | Self::Redis(_) => None,
            Self::Embedded(path) => Some(socket_of(path)),
        }
    }
}

impl FromStr for StoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("embedded", path)) if !path.is_empty() => Ok(Self::Embedded(path.into())),
            Some(("postgres" | "postgresql", _)) => {
                PostgresConfig::new(text).check_address().map_err(|error| error.to_string())?;
                Ok(Self::Postgres(ServerUrl(text.to_owned())))
            }
            Some(("redis" | "rediss" | "redis-cluster" | "rediss-cluster", _)) => {
                RedisConfig::from_url(text).map_err(|error| error.to_string())?;
                Ok(Self::Redis(ServerUrl(text.to_owned())))
            }
            _ => Err(format!(
                "`{text}` is not a store; the stores are `embedded:PATH`, `postgres://HOST/DATABASE`, `redis://HOST:PORT`, \
                 `redis-cluster://HOST:PORT,HOST:PORT` and `memory:`"
            )),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(path) => write!(f, "embedded:{}", path.display()),
            Self::Memory => f.write_str("memory:"),
            Self::Postgres(url) | Self::Redis(url) => url.fmt(f),
        }
    }
}

fn default_path() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state =
        absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("semel/gateway.sqlite"))
}

/// Beside the file; when that path is too long for a socket, in a folder of the file's owner under `/tmp`. Both ends
/// of the socket look at whose process the other is, so it matters little who else may write there.
fn socket_of(path: &Path) -> PathBuf {
    let path = fs::canonicalize(path).or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.into());
    let mut beside = OsString::from(&path);
    beside.push(".socket");
    if beside.as_bytes().len() <= SOCKET_PATH_MAX_BYTES {
        return beside.into();
    }
    let owner = fs::metadata(&path).map_or(0, |file| file.uid());
    let name = blake3::hash(path.as_os_str().as_bytes()).to_hex();
    PathBuf::from(format!("/tmp/semel-{owner}/{}.socket", &name[..32]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_urls_are_read_and_printed_alike() {
        for text in [
            "memory:",
            "embedded:semel.sqlite",
            "embedded:/var/lib/a:b.sqlite",
            "postgres://db/shop",
            "redis://cache:6379/1",
            "rediss-cluster://a:1,b:2?wait_replicas=1",
        ] {
            assert_eq!(text.parse::<StoreUrl>().unwrap().to_string(), text);
        }
        for text in ["", "memory", "memory:x", "embedded:", "mysql://db", "semel.sqlite"] {
            assert!(text.parse::<StoreUrl>().unwrap_err().contains("`embedded:PATH`"), "{text}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let url: StoreUrl = "redis-cluster://me:s@cret@a:1,b:2".parse().unwrap();
        assert_eq!(url.to_string(), "redis-cluster://***@a:1,b:2");
        assert!(!format!("{url:?}").contains("cret"));
        for text in
            ["postgres://me:secret@db/shop?sslmode=require", "postgres://db/shop?user=me&password=secret"]
        {
            let url: StoreUrl = text.parse().unwrap();
            assert!(!url.to_string().contains("secret") && url.to_string().ends_with("db/shop"), "{url}");
        }
        assert!("redis://h?wait=1".parse::<StoreUrl>().unwrap_err().contains("not known"));
    }

    #[test]
    fn a_long_path_has_a_short_socket_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let socket = |name: &str| socket_of(&folder.path().join(name));
        assert_eq!(socket("s.sqlite").extension().unwrap(), "socket");
        let (one, two) = (socket(&format!("{}1", "x".repeat(150))), socket(&format!("{}2", "x".repeat(150))));
        assert!(one.as_os_str().len() <= SOCKET_PATH_MAX_BYTES && one.starts_with("/tmp"));
        assert_ne!(one, two);
    }
}
