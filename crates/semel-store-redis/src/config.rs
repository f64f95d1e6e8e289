//! What can be chosen about a Redis store, the URL that says it, and why a store could not be opened.
//!
//! Next: `open`, which asks the servers whether they can keep what is promised.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use semel::clock::Clock;

/// Where the servers are and how they are used.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    pub(crate) nodes: Vec<Node>,
    pub(crate) cluster: bool,
    pub(crate) prefix: String,
    pub(crate) lossy: bool,
    pub(crate) wait_replicas: usize,
    pub(crate) appendfsync: Option<Fsync>,
    pub(crate) timeout: Duration,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

/// A server's URL, and what of it may be shown.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) url: String,
    pub(crate) addr: String,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.addr)
    }
}

/// When the append-only file is written through to the disk: the server's `appendfsync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fsync {
    /// When the operating system likes.
    No,
    /// Every second.
    Everysec,
    /// Before every answer.
    Always,
}

impl Fsync {
    /// As in redis.conf.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Everysec => "everysec",
            Self::Always => "always",
        }
    }

    pub(crate) fn from_text(text: &str) -> Option<Self> {
        [Self::No, Self::Everysec, Self::Always].into_iter().find(|fsync| fsync.as_str() == text)
    }
}

/// The schemes of a URL: name, whether a Cluster, whether TLS.
const SCHEMES: [(&str, bool, bool); 4] = [
    ("redis", false, false),
    ("rediss", false, true),
    ("redis-cluster", true, false),
    ("rediss-cluster", true, true),
];

impl RedisConfig {
    /// What `url` says: `redis://[[user]:password@]host[:port][/database]`, or `redis-cluster://` with several
    /// `host:port` and commas between; `rediss` and `rediss-cluster` speak TLS. After a question mark, joined by
    /// ampersands, may stand `prefix`, `durability`, `wait_replicas`, `appendfsync`, `timeout_ms` and `ca` (a PEM
    /// file), each as the method of its name.
    ///
    /// # Errors
    /// [`OpenErrorKind::Url`], with what is wrong.
    pub fn from_url(url: &str) -> Result<Self, OpenError> {
        let wrong = |why: String| OpenError::new(OpenErrorKind::Url, "the store's URL", why);
        let (whole, query) = url.split_once('?').unwrap_or((url, ""));
        let (scheme, rest) = whole.split_once("://").unwrap_or((whole, ""));
        let (_, cluster, tls) = SCHEMES.into_iter().find(|(name, ..)| *name == scheme).ok_or_else(|| {
            wrong(format!("`{scheme}` is none of redis, rediss, redis-cluster, rediss-cluster"))
        })?;
        let (credentials, rest) = rest.rsplit_once('@').map_or(("", rest), |(before, after)| (before, after));
        let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
        if cluster && !database.is_empty() {
            return Err(wrong("a Cluster has no databases: take the number after the slash away".to_owned()));
        }
        if hosts.is_empty() || hosts.split(',').any(str::is_empty) || (!cluster && hosts.contains(',')) {
            return Err(wrong(format!(
                "`{hosts}` does not name {}",
                if cluster { "hosts" } else { "one host" }
            )));
        }
        let nodes = hosts.split(',').map(|host| {
            let at = if credentials.is_empty() { String::new() } else { format!("{credentials}@") };
            let scheme = if tls { "rediss" } else { "redis" };
            Node { url: format!("{scheme}://{at}{host}/{database}"), addr: host.to_owned() }
        });
        let mut config = Self {
            nodes: nodes.collect(),
            cluster,
            prefix: "semel".to_owned(),
            lossy: false,
            wait_replicas: 0,
            appendfsync: None,
            timeout: Duration::from_secs(2),
            ca: None,
            clock: None,
        };
        for (name, value) in query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| part.split_once('=').unwrap_or((part, "")))
        {
            config.choose(name, value).map_err(wrong)?;
        }
        Ok(config)
    }

    fn choose(&mut self, name: &str, value: &str) -> Result<(), String> {
        let wrong = |wanted: &str| format!("{name} is {wanted}, not `{value}`");
        match name {
            "prefix" => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
                if value.is_empty() || value.len() > 64 || !value.bytes().all(plain) {
                    return Err(wrong("1 to 64 of letters, digits and - _ . :"));
                }
                value.clone_into(&mut self.prefix);
            }
            "durability" => match value {
                "none" => self.lossy = true,
                _ => return Err(wrong("left out, or `none` for a server that may lose everything")),
            },
            "wait_replicas" => {
                self.wait_replicas = value.parse().map_err(|_| wrong("a number of replicas"))?;
            }
            "appendfsync" => {
                let fsync = Fsync::from_text(value).ok_or_else(|| wrong("`always`, `everysec` or `no`"))?;
                self.appendfsync = Some(fsync);
            }
            "timeout_ms" => {
                let ms = value.parse().ok().filter(|ms| (10..=60_000).contains(ms));
                self.timeout = Duration::from_millis(ms.ok_or_else(|| wrong("10 to 60000"))?);
            }
            "ca" => self.ca = Some(value.into()),
            _ => {
                return Err(format!(
                    "`{name}` is not known; there are prefix, durability, wait_replicas, appendfsync, timeout_ms, ca"
                ));
            }
        }
        Ok(())
    }

    /// What the names of all keys begin with, so that several stores can live on one server: 1 to 64 of letters,
    /// digits and `- _ . :`. Default `semel`.
    ///
    /// # Errors
    /// [`OpenErrorKind::Url`] for other characters.
    pub fn prefix(mut self, prefix: &str) -> Result<Self, OpenError> {
        let chosen = self.choose("prefix", prefix);
        chosen.map(|()| self).map_err(|why| OpenError::new(OpenErrorKind::Url, "the store's prefix", why))
    }

    /// Accepts a server that may lose every record: one that evicts, or has no append-only file.
    #[must_use]
    pub fn accept_loss(mut self) -> Self {
        self.lossy = true;
        self
    }

    /// By how many replicas a write must be confirmed before it counts. Default 0. A claim that is not confirmed in
    /// time is withdrawn; an outcome that is not is tried again, and said to be unknown in the end.
    #[must_use]
    pub fn wait_replicas(mut self, replicas: usize) -> Self {
        self.wait_replicas = replicas;
        self
    }

    /// What `appendfsync` is, for servers that do not let it be read (`CONFIG` forbidden, as at many hosters).
    #[must_use]
    pub fn appendfsync(mut self, fsync: Fsync) -> Self {
        self.appendfsync = Some(fsync);
        self
    }

    /// How long an answer is awaited; after that it is not known whether a step was made. 10 ms to 60 s, default 2 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The clock that decides leases, retention and tokens, instead of the server's: for tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The servers, without credentials.
    pub(crate) fn shown(&self) -> String {
        let addresses: Vec<&str> = self.nodes.iter().map(|node| node.addr.as_str()).collect();
        addresses.join(",")
    }
}

/// Why a store could not be opened. No record was changed.
#[derive(Debug)]
pub struct OpenError {
    kind: OpenErrorKind,
    server: String,
    why: String,
}

/// The kinds of [`OpenError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenErrorKind {
    /// The URL, or something chosen in it, makes no sense.
    Url,
    /// The server cannot be reached, or does not answer in time.
    Unreachable,
    /// The server wants other credentials, or lets nobody in from here.
    NotLetIn,
    /// The user may not do what the store needs.
    Forbidden,
    /// The server is still reading its data, or the Cluster does not serve all of its slots.
    NotReady,
    /// It is a replica, which does not take writes.
    Replica,
    /// It is a Cluster and was named as one server, or the other way round.
    Mode,
    /// It is too old.
    TooOld,
    /// It lacks a command, or has it under another name.
    Commands,
    /// It evicts records when its memory is full.
    Evicts,
    /// It keeps nothing on disk.
    NotPersistent,
    /// Its settings cannot be read, so that nobody knows what would be lost.
    SettingsUnreadable,
    /// There are fewer replicas than must confirm a write.
    TooFewReplicas,
    /// It does not take writes at present.
    RefusesWrites,
}

impl OpenError {
    pub(crate) fn new(kind: OpenErrorKind, server: &str, why: impl Into<String>) -> Self {
        Self { kind, server: server.to_owned(), why: why.into() }
    }

    /// What stood in the way.
    #[must_use]
    pub fn kind(&self) -> OpenErrorKind {
        self.kind
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.server, self.why)
    }
}

impl std::error::Error for OpenError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        let error = RedisConfig::from_url(url).unwrap_err();
        assert_eq!(error.kind(), OpenErrorKind::Url);
        error.to_string()
    }

    #[test]
    fn a_url_says_servers_and_choices() {
        let config = RedisConfig::from_url(
            "redis-cluster://user:p@ss@a:1,b:2?prefix=shop:1&wait_replicas=1&appendfsync=always&timeout_ms=500",
        )
        .unwrap();
        assert!(config.cluster);
        assert_eq!(config.nodes[1].url, "redis://user:p@ss@b:2/");
        assert_eq!((config.prefix.as_str(), config.wait_replicas), ("shop:1", 1));
        assert_eq!(config.appendfsync, Some(Fsync::Always));
        assert_eq!(config.timeout, Duration::from_millis(500));
        assert!(!format!("{config:?}").contains("p@ss"));
        assert_eq!(RedisConfig::from_url("rediss://h/3").unwrap().nodes[0].url, "rediss://h/3");
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_says_why() {
        assert!(refused("http://h").contains("none of redis"));
        assert!(refused("redis://").contains("one host"));
        assert!(refused("redis://a,b").contains("one host"));
        assert!(refused("redis-cluster://a,,b").contains("hosts"));
        assert!(refused("redis-cluster://a,b/1").contains("no databases"));
        assert!(refused("redis://h?durability=power").contains("left out, or `none`"));
        assert!(refused("redis://h?prefix={a}").contains("letters"));
        assert!(refused("redis://h?timeout_ms=1").contains("10 to 60000"));
        assert!(refused("redis://h?tls=1").contains("not known"));
    }
}
