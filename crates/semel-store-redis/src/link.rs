//! The connections: one multiplexed connection to one server, or one to each node of a Cluster. Commands of all
//! callers share them, in one stream, and what a caller no longer waits for is carried out all the same.
//!
//! Also which error of the driver means what for a step. Next: `store`.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline, ProtocolVersion,
    PushInfo, RedisError, RedisResult, TlsCertificates, Value,
};
use semel::store::{StoreError, StoreErrorKind};
use tokio::sync::Semaphore;

use crate::config::{Node, RedisConfig};
use crate::watch::Watchers;

const LANES: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to the servers.
#[derive(Clone)]
pub(crate) enum Link {
    One(ConnectionManager),
    Cluster(ClusterConnection),
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_cluster() { "Cluster" } else { "One" })
    }
}

fn connection_info(
    config: &RedisConfig,
    node: &Node,
    protocol: ProtocolVersion,
) -> RedisResult<ConnectionInfo> {
    let info = node.url.as_str().into_connection_info()?;
    let settings = info.redis_settings().clone().set_protocol(protocol);
    // A connection whose peer is gone without a word ends after as long again as an answer may take.
    let tcp = TcpSettings::default().set_nodelay(true).set_user_timeout(config.timeout * 2);
    Ok(info.set_redis_settings(settings).set_tcp_settings(tcp))
}

fn certificates(config: &RedisConfig) -> RedisResult<Option<TlsCertificates>> {
    let Some(path) = &config.ca else { return Ok(None) };
    let root_cert = fs::read(path).map_err(|error| {
        RedisError::from(std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    })?;
    Ok(Some(TlsCertificates { client_tls: None, root_cert: Some(root_cert) }))
}

fn client(config: &RedisConfig, node: &Node, protocol: ProtocolVersion) -> RedisResult<Client> {
    let info = connection_info(config, node, protocol)?;
    match certificates(config)? {
        Some(certificates) => Client::build_with_tls(info, certificates),
        None => Client::open(info),
    }
}

/// A connection of its own to one server, for questions about the server itself.
pub(crate) async fn visit(config: &RedisConfig, node: &Node) -> RedisResult<MultiplexedConnection> {
    let settings = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(config.timeout));
    client(config, node, ProtocolVersion::RESP2)?
        .get_multiplexed_async_connection_with_config(&settings)
        .await
}

impl Link {
    /// Connects; what is published arrives at `watchers`.
    pub(crate) async fn connect(config: &RedisConfig, watchers: Arc<Watchers>) -> RedisResult<Self> {
        let push = move |info: PushInfo| {
            watchers.hear(&info);
            Ok::<_, redis::aio::SendError>(())
        };
        if !config.cluster {
            let settings = ConnectionManagerConfig::new()
                .set_connection_timeout(Some(CONNECT_TIMEOUT))
                .set_response_timeout(Some(config.timeout))
                .set_min_delay(Duration::from_millis(50))
                .set_number_of_retries(1)
                .set_push_sender(push)
                .set_automatic_resubscription();
            let client = client(config, &config.nodes[0], ProtocolVersion::RESP3)?;
            return client.get_connection_manager_with_config(settings).await.map(Self::One);
        }
        let nodes = config.nodes.iter().map(|node| connection_info(config, node, ProtocolVersion::RESP3));
        let mut builder = ClusterClientBuilder::new(nodes.collect::<RedisResult<Vec<_>>>()?)
            .use_protocol(ProtocolVersion::RESP3)
            .tcp_settings(TcpSettings::default().set_nodelay(true).set_user_timeout(config.timeout * 2))
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(config.timeout)
            .overall_response_timeout(Some(config.timeout))
            .retries(16)
            .min_retry_wait(10)
            .max_retry_wait(300)
            .push_sender(push);
        if let Some(certificates) = certificates(config)? {
            builder = builder.certs(certificates);
        }
        builder.build()?.get_async_connection().await.map(Self::Cluster)
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// Sends a command to where its key is.
    pub(crate) async fn send(&self, cmd: &Cmd) -> RedisResult<Value> {
        let answer = match self {
            Self::One(manager) => manager.clone().send_packed_command(cmd).await,
            Self::Cluster(cluster) => cluster.clone().req_packed_command(cmd).await,
        };
        answer?.extract_error()
    }

    /// Sends commands about one key on one connection, and returns all answers, errors among them.
    pub(crate) async fn send_all(&self, commands: &Pipeline) -> RedisResult<Vec<Value>> {
        let count = commands.len();
        match self {
            Self::One(manager) => manager.clone().send_packed_commands(commands, 0, count).await,
            Self::Cluster(cluster) => cluster.clone().req_packed_commands(commands, 0, count).await,
        }
    }

    /// Sends a command to the node at `addr`; without a Cluster there is only one.
    pub(crate) async fn send_to(&self, addr: &str, cmd: Cmd) -> RedisResult<Value> {
        let answer = match self {
            Self::One(manager) => manager.clone().send_packed_command(&cmd).await,
            Self::Cluster(cluster) => {
                cluster.clone().route_command(cmd, RoutingInfo::SingleNode(route(addr))).await
            }
        };
        answer?.extract_error()
    }

    /// The same with several commands, each about a key that is there.
    pub(crate) async fn send_all_to(&self, addr: &str, commands: Pipeline) -> RedisResult<Vec<Value>> {
        let count = commands.len();
        match self {
            Self::One(manager) => manager.clone().send_packed_commands(&commands, 0, count).await,
            Self::Cluster(cluster) => cluster.clone().route_pipeline(commands, 0, count, route(addr)).await,
        }
    }

    pub(crate) async fn subscribe(&self, channel: &[u8]) -> RedisResult<()> {
        match self {
            Self::One(manager) => manager.clone().subscribe(channel).await,
            Self::Cluster(cluster) => cluster.clone().ssubscribe(channel).await.map(|_| ()),
        }
    }

    pub(crate) async fn unsubscribe(&self, channel: &[u8]) -> RedisResult<()> {
        match self {
            Self::One(manager) => manager.clone().unsubscribe(channel).await,
            Self::Cluster(cluster) => cluster.clone().sunsubscribe(channel).await.map(|_| ()),
        }
    }

    /// What a caller is told when a write ended in `error`. Where the driver has sent more than once, the last error
    /// says nothing about the first sending.
    pub(crate) fn write_error(&self, error: RedisError) -> StoreError {
        let kind = match kind(&error) {
            StoreErrorKind::Corrupt => StoreErrorKind::Corrupt,
            _ if self.is_cluster() => StoreErrorKind::Unknown,
            kind => kind,
        };
        StoreError::new(kind, error)
    }
}

fn route(addr: &str) -> SingleNodeRoutingInfo {
    let (host, port) = addr.rsplit_once(':').unwrap_or((addr, ""));
    SingleNodeRoutingInfo::ByAddress { host: host.to_owned(), port: port.parse().unwrap_or_default() }
}

/// Connections for writes that wait for replicas, beside the one for everything else: while the server waits, it does
/// nothing else on that connection.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) link: Link,
    /// One write at a time: what waits here was not sent, and is not carried out once nobody waits for it.
    pub(crate) free: Semaphore,
}

impl Lane {
    /// None when no replicas are waited for.
    pub(crate) async fn connect(config: &RedisConfig) -> RedisResult<Vec<Self>> {
        let mut lanes = Vec::new();
        for _ in 0..if config.wait_replicas > 0 { LANES } else { 0 } {
            let link = Link::connect(config, Arc::default()).await?;
            lanes.push(Self { link, free: Semaphore::new(1) });
        }
        Ok(lanes)
    }
}

/// What a caller is told when a read ended in `error`.
pub(crate) fn read_error(error: RedisError) -> StoreError {
    let kind = match kind(&error) {
        StoreErrorKind::Corrupt => StoreErrorKind::Corrupt,
        _ => StoreErrorKind::Unavailable,
    };
    StoreError::new(kind, error)
}

/// What an error says about a command that was sent once. A script that the server stops at a write, it stops at its
/// first: nothing was changed.
fn kind(error: &RedisError) -> StoreErrorKind {
    match error.code() {
        Some("WRONGTYPE") => StoreErrorKind::Corrupt,
        Some("OOM" | "MISCONF") => StoreErrorKind::Full,
        Some(
            "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "MOVED" | "ASK" | "BUSY"
            | "NOREPLICAS" | "NOAUTH" | "NOPERM" | "NOSCRIPT",
        ) => StoreErrorKind::Unavailable,
        _ if error.is_connection_refusal() => StoreErrorKind::Unavailable,
        _ => StoreErrorKind::Unknown,
    }
}
