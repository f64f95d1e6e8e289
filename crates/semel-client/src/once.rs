//! What a program decides about its calls: which hosts honour keys, how often and how long a call is tried, where it
//! is written down, and who is told.
//!
//! Not how one call goes (see [`crate::session`] in the source) and not the HTTP client beneath (see
//! [`crate::adapter`]).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderName, Method};
use semel::{Key, wire};

use crate::clock::System;
use crate::core::budget::{Budget, Budgets, Share};
use crate::core::call::{Policy, RETRIES_MAX, World};
use crate::error::{BoxError, Error, Kind};
use crate::journal::{EntryId, Journal, Journaled, Unfinished};
use crate::observe::{Event, Observer};

/// Keys, retries and everything around them. Clones share their retry budgets and their journal.
///
/// Every POST, PUT and PATCH gets a key. Sent again is a call only when that cannot double its effect: its method is
/// idempotent, nothing of it was sent, or it has a key and its host honours keys. No client can know the last from
/// outside, so the program says it, with [`Once::for_hosts`] or [`Once::trust_keys`].
#[derive(Clone, Debug)]
pub struct Once {
    pub(crate) policy: Policy,
    trusted: Trusted,
    budgets: Arc<Budgets>,
    pub(crate) key_header: HeaderName,
    mint: fn() -> Key,
    pub(crate) journal: Option<Journaled>,
    pub(crate) observer: Option<Observer>,
    pub(crate) read_max_bytes: u64,
    pub(crate) world: Surroundings,
}

/// Where time and chance come from.
#[derive(Clone)]
pub(crate) struct Surroundings(Arc<dyn World + Send + Sync>);

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Surroundings")
    }
}

impl World for Surroundings {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> SystemTime {
        self.0.wall()
    }

    fn random(&self) -> u16 {
        self.0.random()
    }
}

#[derive(Clone, Debug)]
enum Trusted {
    All,
    These(Arc<[Box<str>]>),
}

impl Default for Once {
    fn default() -> Self {
        Self::new()
    }
}

impl Once {
    /// Keys for every call that needs one, and no host trusted to honour them yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            policy: Policy::default(),
            trusted: Trusted::These(Arc::new([])),
            budgets: Arc::new(Budgets::new(Some(Share::default()))),
            key_header: HeaderName::from_static(wire::KEY),
            mint: Key::v7,
            journal: None,
            observer: None,
            read_max_bytes: 1 << 20,
            world: Surroundings(Arc::new(System)),
        }
    }

    /// These hosts honour keys: a call with a key that reaches one of them twice takes effect once. `api.example.com`
    /// means every port, `127.0.0.1:8787` one, and `*.example.com` all names below.
    #[must_use]
    pub fn for_hosts<H: AsRef<str>>(hosts: impl IntoIterator<Item = H>) -> Self {
        let hosts = hosts.into_iter().map(|host| host.as_ref().to_ascii_lowercase().into());
        Self { trusted: Trusted::These(hosts.collect()), ..Self::new() }
    }

    /// Every host honours keys. For a client that talks to nothing but a gateway or one API.
    #[must_use]
    pub fn trust_keys(mut self) -> Self {
        self.trusted = Trusted::All;
        self
    }

    /// How often and how long a call is tried.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How often a call is sent again: 0 to 10, 3 by default. More is taken as 10.
    #[must_use]
    pub fn retries(mut self, retries_max: u32) -> Self {
        self.policy.retries_max = retries_max.min(RETRIES_MAX);
        self
    }

    /// How long one attempt may take. 30 s by default.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.policy.attempt_timeout = timeout;
        self
    }

    /// How long a call may take with all its attempts and waits. 90 s by default.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.policy.deadline = deadline;
        self
    }

    /// The retry budget of each host; `None` is without one. 10 per cent and a burst of 100 by default.
    #[must_use]
    pub fn budget(mut self, share: Option<Share>) -> Self {
        self.budgets = Arc::new(Budgets::new(share));
        self
    }

    /// The header that carries the key, where the host has another name for it than `Idempotency-Key`.
    #[must_use]
    pub fn key_header(mut self, name: HeaderName) -> Self {
        self.key_header = name;
        self
    }

    /// UUIDv4 for minted keys, which do not tell when they were made. UUIDv7 by default, which sort by time.
    #[must_use]
    pub fn v4_keys(mut self) -> Self {
        self.mint = Key::v4;
        self
    }

    /// Every call with a key is written down before its first byte is sent, and struck out after its final answer. A
    /// body that can be read only once cannot be written down, and nor can any through the tower layer: such calls are
    /// refused with [`Kind::Journal`].
    #[must_use]
    pub fn journal(mut self, journal: impl Journal) -> Self {
        self.journal = Some(Journaled::new(Arc::new(journal)));
        self
    }

    /// Is told of every answer, retry and end, for metrics. Called where the call runs: it must not wait.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Some(Observer(Arc::new(observer)));
        self
    }

    /// How large an answer with a key may be to be read before it is handed out, so that one that breaks off is asked
    /// for again. 1 MiB by default. Larger ones are handed out as they come, and 0 hands out all of them so. Refusals
    /// are read all the same. For the middleware and the layer; the clients read every answer.
    #[must_use]
    pub fn read_answers_to(mut self, max_bytes: u64) -> Self {
        self.read_max_bytes = max_bytes;
        self
    }

    /// Another time and chance than the system's, for a simulation. The waits themselves are tokio's.
    #[must_use]
    pub fn world(mut self, world: impl World + Send + Sync + 'static) -> Self {
        self.world = Surroundings(Arc::new(world));
        self
    }

    /// Calls in the journal without a final answer, that nobody in this process works on. The clients' `resume`
    /// finishes them; through another adapter they are sent again with [`Unfinished::idempotency`].
    ///
    /// # Errors
    /// [`Kind::Journal`] when the journal cannot be read.
    pub fn unfinished(&self) -> Result<Vec<Unfinished>, Error> {
        let open = self.journal.as_ref().map_or(Ok(Vec::new()), Journaled::unfinished);
        open.map_err(|source: BoxError| Error::unsent(Kind::Journal, None, source))
    }

    /// Strikes a call out of the journal without an answer, for instance because a person has looked up what became of
    /// it. It is not sent again.
    ///
    /// # Errors
    /// [`Kind::Journal`] when it is being worked on, or the journal cannot be written.
    pub fn forget(&self, id: EntryId) -> Result<(), Error> {
        let forgotten = self.journal.as_ref().map_or(Ok(()), |journal| journal.forget(id));
        forgotten.map_err(|source: BoxError| Error::unsent(Kind::Journal, None, source))
    }

    pub(crate) fn mint(&self) -> Key {
        (self.mint)()
    }

    pub(crate) fn mints_for(method: &Method) -> bool {
        matches!(*method, Method::POST | Method::PUT | Method::PATCH)
    }

    /// Whether `host`, with its port where it has one, was said to honour keys.
    pub(crate) fn trusts(&self, host: &str) -> bool {
        let Trusted::These(hosts) = &self.trusted else { return true };
        let host = lower(host);
        let name = host.rsplit_once(':').map_or(&*host, |(name, port)| match port.parse::<u16>() {
            Ok(_) => name,
            // The end of an IPv6 address.
            Err(_) => &*host,
        });
        hosts.iter().any(|pattern| match pattern.strip_prefix('*') {
            Some(below) => name.len() > below.len() && name.ends_with(below) && below.starts_with('.'),
            None => **pattern == *host || **pattern == *name,
        })
    }

    pub(crate) fn budget_of(&self, host: &str) -> Arc<Budget> {
        self.budgets.of(&lower(host))
    }
}

fn lower(host: &str) -> Cow<'_, str> {
    match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => host.to_ascii_lowercase().into(),
        false => host.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_trusted_by_name_port_and_suffix() {
        let once = Once::for_hosts(["API.example.com", "127.0.0.1:8787", "*.shop.test", "[::1]"]);
        for host in
            ["api.example.com", "api.example.com:8443", "127.0.0.1:8787", "a.shop.test", "[::1]", "[::1]:80"]
        {
            assert!(once.trusts(host), "{host}");
        }
        for host in
            ["example.com", "evil-api.example.com", "127.0.0.1", "127.0.0.1:80", "shop.test", "xshop.test"]
        {
            assert!(!once.trusts(host), "{host}");
        }
        assert!(!Once::new().trusts("api.example.com"));
        assert!(Once::new().trust_keys().trusts("anything"));
    }
}
