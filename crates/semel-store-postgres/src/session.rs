//! One connection, and how it is made: to a primary only, with settings of its own, and never to one that was left
//! behind by a failover.
//!
//! Not what is asked over it. Next: [`crate::settings`].

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use semel::store::Durability;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_postgres::error::Severity;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::address::{Address, chain};
use crate::config::{OpenError, OpenErrorKind, PostgresConfig};
use crate::fault::Failure;
use crate::settings::{self, Server};
use crate::tls;

/// Sent with each connection. The plans are fixed: every statement finds its rows by an index, however little the
/// server knows of the table yet. `semel.session` shows whether what was sent has arrived.
const OPTIONS: &str = "-c semel.session=kept -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off \
    -c enable_bitmapscan=off -c plan_cache_mode=force_generic_plan -c jit=off -c lock_timeout=500 \
    -c statement_timeout=3000 -c idle_in_transaction_session_timeout=10000 \
    -c default_transaction_isolation=read\\ committed -c client_min_messages=warning";
/// For one host, with what is asked of a new connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(4);

/// Makes connections.
pub(crate) struct Dialer {
    address: Address,
    connector: MakeRustlsConnect,
    durability: Durability,
    server: Mutex<Option<Arc<Server>>>,
    /// Which host was used last, and is tried first.
    good_host: AtomicUsize,
    doubts: Arc<Doubts>,
}

impl Dialer {
    /// Whether the address asks for migration.
    pub(crate) fn migrates(&self) -> bool {
        self.address.migrate
    }

    pub(crate) fn new(config: &PostgresConfig) -> Result<Self, OpenError> {
        let refuse = |message| OpenError::new(OpenErrorKind::Address, message);
        let mut address = Address::parse(&config.address).map_err(refuse)?;
        for host in &mut address.hosts {
            let theirs = host.get_options().unwrap_or_default().to_owned();
            host.options(format!("{OPTIONS} {theirs}"));
        }
        let connector = tls::connector(&address.tls).map_err(refuse)?;
        Ok(Self {
            address,
            connector,
            durability: config.durability,
            server: Mutex::new(None),
            good_host: AtomicUsize::new(0),
            doubts: Arc::default(),
        })
    }

    /// A connection to a server that keeps what was asked for. What others tell their listeners goes to `heard`.
    pub(crate) async fn dial(
        self: &Arc<Self>,
        heard: Option<mpsc::UnboundedSender<String>>,
    ) -> Result<Session, OpenError> {
        let hosts = self.address.hosts.len();
        let first = self.good_host.load(Ordering::Relaxed);
        let mut refused = None::<OpenError>;
        for host in (0..hosts).map(|at| (first + at) % hosts) {
            match tokio::time::timeout(DIAL_TIMEOUT, self.dial_host(host, heard.clone())).await {
                Ok(Ok(session)) => {
                    self.good_host.store(host, Ordering::Relaxed);
                    return Ok(session);
                }
                // What can be mended is worth more to know than what cannot be reached.
                Ok(Err(error)) if refused.as_ref().is_none_or(OpenError::is_unreachable) => {
                    refused = Some(error)
                }
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Err(refused.unwrap_or_else(|| {
            OpenError::new(
                OpenErrorKind::Unreachable,
                format!("PostgreSQL did not answer within {DIAL_TIMEOUT:?}"),
            )
        }))
    }

    async fn dial_host(
        &self,
        host: usize,
        heard: Option<mpsc::UnboundedSender<String>>,
    ) -> Result<Session, OpenError> {
        let connected = self.address.hosts[host].connect(self.connector.clone()).await;
        let (client, mut connection) = connected.map_err(|error| settings::refused_connection(&error))?;
        let warned = Arc::new(AtomicBool::new(false));
        let warning = Arc::clone(&warned);
        let task = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                match message {
                    AsyncMessage::Notice(notice) if notice.parsed_severity() == Some(Severity::Warning) => {
                        tracing::warn!(target: "semel", "PostgreSQL: {}", notice.message());
                        warning.store(true, Ordering::SeqCst);
                    }
                    AsyncMessage::Notification(note) => {
                        if let Some(heard) = &heard {
                            let _ = heard.send(note.payload().to_owned());
                        }
                    }
                    _ => {}
                }
            }
        });
        let session = Session {
            client,
            warned,
            statements: Mutex::default(),
            task: task.abort_handle(),
            broken: AtomicBool::new(false),
            connector: self.connector.clone(),
            doubts: Arc::clone(&self.doubts),
        };
        let server = Server::read(&session).await?;
        server.admit(self.durability)?;
        if server.raises_commit() {
            let raise = session.client.batch_execute("SET synchronous_commit = on").await;
            raise.map_err(|error| OpenError::new(OpenErrorKind::Unreachable, chain(&error)))?;
        }
        self.remember(server)?;
        Ok(session)
    }

    /// A server of an older timeline is one that a standby has taken over from.
    fn remember(&self, server: Server) -> Result<(), OpenError> {
        let mut newest = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(newest) = newest.as_ref().filter(|newest| newest.timeline > server.timeline) {
            return Err(OpenError::new(
                OpenErrorKind::Unreachable,
                format!(
                    "this PostgreSQL is on timeline {}, behind {}: another server has taken over from it",
                    server.timeline, newest.timeline
                ),
            ));
        }
        *newest = Some(Arc::new(server));
        Ok(())
    }

    /// Notes that a commit may have been made without waiting for the standby, as when its connection was ended.
    pub(crate) fn suspect(&self) {
        self.doubts.raise();
    }

    /// What the server said of itself on the newest connection.
    pub(crate) fn server(&self) -> Option<Arc<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Commits whose wait for the standby was ended, counted over all connections.
#[derive(Default)]
struct Doubts {
    raised: AtomicU64,
    settled: AtomicU64,
}

impl Doubts {
    fn raise(&self) {
        self.raised.fetch_add(1, Ordering::SeqCst);
    }

    fn open(&self) -> bool {
        self.raised.load(Ordering::SeqCst) > self.settled.load(Ordering::SeqCst)
    }
}

/// One connection.
pub(crate) struct Session {
    pub(crate) client: Client,
    warned: Arc<AtomicBool>,
    statements: Mutex<HashMap<&'static str, Statement>>,
    task: AbortHandle,
    broken: AtomicBool,
    connector: MakeRustlsConnect,
    doubts: Arc<Doubts>,
}

impl Session {
    /// Runs a statement, prepared once for this connection.
    pub(crate) async fn rows(
        &self,
        sql: &'static str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        let known = self.statements.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let statement = self.client.prepare(sql).await?;
                let mut statements = self.statements.lock().unwrap_or_else(PoisonError::into_inner);
                statements.insert(sql, statement.clone());
                statement
            }
        };
        Ok(self.client.query(&statement, params).await?)
    }

    pub(crate) fn is_usable(&self) -> bool {
        !self.client.is_closed() && !self.broken.load(Ordering::SeqCst)
    }

    /// Whether the server has warned since this was asked last: a commit whose wait for the standby was ended warns,
    /// and is otherwise answered like any other.
    pub(crate) fn take_warning(&self) -> bool {
        self.warned.swap(false, Ordering::SeqCst)
    }

    /// Notes that there is a commit on the primary which its standby may not have: until a later commit has waited for
    /// it, what is read may be lost with the primary.
    pub(crate) fn suspect(&self) {
        self.doubts.raise();
    }

    /// Before a read: sees to it that what is read will be kept.
    pub(crate) async fn settle_doubts(&self) -> Result<(), Failure> {
        if self.doubts.open() { self.catch_up().await } else { Ok(()) }
    }

    /// Makes a commit that waits for the standby, and so for everything before it.
    pub(crate) async fn catch_up(&self) -> Result<(), Failure> {
        let raised = self.doubts.raised.load(Ordering::SeqCst);
        self.rows("SELECT pg_logical_emit_message(true, 'semel', '')", &[]).await?;
        if self.take_warning() {
            return Err(Failure::Unknown(
                "the standby has not confirmed what the primary committed".to_owned(),
            ));
        }
        self.doubts.settled.fetch_max(raised, Ordering::SeqCst);
        Ok(())
    }

    /// Gives the connection up while a statement may be running on it, and asks the server to end that.
    pub(crate) fn abandon(&self) {
        if self.broken.swap(true, Ordering::SeqCst) {
            return;
        }
        let (token, connector, task) =
            (self.client.cancel_token(), self.connector.clone(), self.task.clone());
        tokio::spawn(async move {
            let _ = tokio::time::timeout(Duration::from_secs(1), token.cancel_query(connector)).await;
            task.abort();
        });
    }
}
