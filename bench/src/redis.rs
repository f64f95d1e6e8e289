//! The Redis store beside the least that would do on the same server: `SET NX` to claim and `SET` to complete, through
//! the same driver on one connection that all callers share.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client, IntoConnectionInfo, ProtocolVersion};
use semel_store_redis::{RedisConfig, RedisStore};
use semel_testkit::server::redis::{RedisCluster, RedisServer};

use crate::driver::{self, Target};
use crate::results::Results;
use crate::store::{BODY_BYTES, IDENTITY_BYTES, Ours, RETENTION, Row, id, median, show};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Length of each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Callers at once.
    #[arg(long, value_delimiter = ',', default_value = "1,64,512")]
    callers: Vec<usize>,
    /// Interleaved rounds; medians are shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// `appendfsync` of the server.
    #[arg(long, default_value = "everysec")]
    appendfsync: String,
    /// Whether a Cluster of three masters with a replica each is measured too, with and without waiting for replicas.
    #[arg(long)]
    cluster: bool,
    /// Where the figures are written as JSON.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

/// Two commands, and nothing that a store needs.
struct Floor(ConnectionManager);

impl Floor {
    async fn connect(url: &str) -> redis::RedisResult<Arc<Self>> {
        let info = url.into_connection_info()?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let tcp = TcpSettings::default().set_nodelay(true);
        let client = Client::open(info.set_redis_settings(settings).set_tcp_settings(tcp))?;
        let config = ConnectionManagerConfig::new();
        Ok(Arc::new(Self(client.get_connection_manager_with_config(config).await?)))
    }

    async fn set(&self, key: &str, bytes: usize, new: bool) {
        let mut cmd = redis::cmd("SET");
        cmd.arg(key).arg(vec![b'x'; bytes]).arg("PX").arg(RETENTION.as_secs() * 1_000);
        if new {
            cmd.arg("NX");
        }
        cmd.exec_async(&mut self.0.clone()).await.expect("the server takes it");
    }
}

impl Target for Floor {
    fn pair(&self, number: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let key = format!("floor:{}", id(number).digest());
            self.set(&key, IDENTITY_BYTES, true).await;
            self.set(&key, IDENTITY_BYTES + BODY_BYTES, false).await;
        })
    }
}

async fn ours(url: &str) -> Result<Arc<Ours>, Box<dyn Error>> {
    let store = RedisStore::open(RedisConfig::from_url(url)?).await?;
    Ok(Ours::on(Arc::new(store), RETENTION))
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    // A rewrite of the append-only file falls into one round or another.
    let settings = [("appendfsync", arguments.appendfsync.as_str()), ("auto-aof-rewrite-percentage", "0")];
    let server = RedisServer::start_with(&settings);
    let cluster = arguments.cluster.then(|| RedisCluster::start_with(3, 1, &settings));
    let mut targets: Vec<(&str, Arc<dyn Target>)> =
        vec![("SET NX and SET", Floor::connect(&server.url()).await?), ("redis", ours(&server.url()).await?)];
    if let Some(cluster) = &cluster {
        targets.push(("redis cluster", ours(&cluster.url()).await?));
        targets.push(("redis cluster, WAIT 1", ours(&format!("{}?wait_replicas=1", cluster.url())).await?));
    }
    let nodes = cluster.iter().flat_map(RedisCluster::nodes);
    let (one, all) = (vec![server.info("process_id")], nodes.map(|node| node.info("process_id")).collect());
    let mut rows = Vec::new();
    let numbers: Vec<AtomicU64> = (0..targets.len()).map(|_| AtomicU64::new(0)).collect();
    for (nth, number) in numbers.iter().enumerate() {
        // The two on the Cluster share their keys' prefix.
        number.store(u64::try_from(nth)? << 40, std::sync::atomic::Ordering::Relaxed);
    }
    let time = Duration::from_secs(arguments.seconds);
    for callers in &arguments.callers {
        let mut rounds = vec![Vec::new(); targets.len()];
        for _ in 0..arguments.rounds {
            for (nth, (_, target)) in targets.iter().enumerate() {
                let target = Arc::clone(target);
                let roots = if nth < 2 { &one } else { &all };
                let made = driver::closed_beside(roots, target, *callers, time, &numbers[nth]);
                rounds[nth].push(made.await);
            }
        }
        for (nth, (what, _)) in targets.iter().enumerate() {
            let (figures, ratio) = median(&rounds[nth], Some(&rounds[0]));
            show(&mut rows, Row::new(&arguments.appendfsync, what, *callers, (figures, ratio)));
        }
    }
    Results::new(&std::env::temp_dir(), rows)?.write(arguments.json.as_deref())
}
