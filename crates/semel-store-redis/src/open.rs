//! Opening: every server is asked what it is and how it is set, one that may lose everything is refused, and what is
//! left gives the tier.
//!
//! Next: `server`, which judges; `upkeep`, which looks again later.

use std::sync::{Arc, RwLock};

use redis::{ErrorKind, RedisError, RedisResult, Value};
use semel::store::Durability;
use semel::{Key, Operation, RecordId, Tenant};
use tokio::task::JoinSet;

use crate::claim::{Call, Step};
use crate::codec;
use crate::config::{Node, OpenError, OpenErrorKind, RedisConfig};
use crate::gather::Gather;
use crate::link::{self, Lane, Link};
use crate::script::{Kind, Script};
use crate::server::{self, Server};
use crate::store::RedisStore;
use crate::upkeep::{Markers, Upkeep};
use crate::watch::Watchers;

pub(crate) async fn open(config: RedisConfig) -> Result<RedisStore, OpenError> {
    let servers = survey(&config).await?;
    for server in &servers {
        server.refuse_settings(&config)?;
        server.refuse_state(&config)?;
    }
    let (shown, script) = (config.shown(), Arc::new(Script::new(config.cluster, config.wait_replicas > 0)));
    let watchers = Arc::new(Watchers::default());
    let link =
        Link::connect(&config, Arc::clone(&watchers)).await.map_err(|error| explain(&shown, &error))?;
    let lanes = Lane::connect(&config).await.map_err(|error| explain(&shown, &error))?;
    let mut tier = server::tier(&servers, &config);
    let markers = Markers { link: link.clone(), prefix: config.prefix.clone() };
    try_out(&link, &config, &script).await.map_err(|error| explain(&shown, &error))?;
    let deaf = try_channel(&link, &config).await.err().map(|why| {
        let prefix = &config.prefix;
        format!("this user may not subscribe to the channels {prefix}:* ({why}): who waits for another process polls")
    });
    tier.warnings.extend(deaf.clone());
    let missing = markers.write().await.map_err(|error| explain(&shown, &error))?;
    tier.warnings.extend(lost(missing, &markers));
    let tier = Arc::new(RwLock::new(tier));
    let hears = deaf.is_none();
    let upkeep = Upkeep::start(config.clone(), markers, deaf, Arc::clone(&tier));
    let alone = config.cluster || config.wait_replicas > 0;
    Ok(RedisStore {
        shared: (!alone).then(|| Gather::open(&link, &script, config.clock.as_ref())),
        link,
        lanes,
        script,
        watchers,
        durability: servers.iter().map(|server| server.durability(&config)).min().unwrap_or(Durability::None),
        tier,
        hears,
        prefix: config.prefix,
        wait_replicas: config.wait_replicas,
        timeout: config.timeout,
        clock: config.clock,
        _upkeep: upkeep,
    })
}

/// What to say of markers that were missing.
fn lost(missing: usize, markers: &Markers) -> Option<String> {
    let (all, prefix) = (markers.count(), &markers.prefix);
    match missing {
        0 => None,
        _ if missing == all => Some(format!(
            "there is nothing under the prefix {prefix}: this is its first start, or its data is gone, and then keys \
             that were answered run again"
        )),
        _ => Some(format!(
            "{missing} of {all} parts of the prefix {prefix} were empty: a shard has lost its data, and keys that \
             were answered there run again"
        )),
    }
}

/// Uses once what every step will use, so that a missing command or right shows now.
async fn try_out(link: &Link, config: &RedisConfig, script: &Script) -> RedisResult<()> {
    let key = Key::new("semel-tries-out").expect("it is printable");
    let id = RecordId::new(Tenant::public(), Operation::new("semel"), key);
    let key = format!("{}:{}", config.prefix, id.digest()).into_bytes();
    let step =
        Step { kind: Kind::Get, key, who: Vec::new(), terms: Vec::new(), rest: codec::identity(&id, 0) };
    Call::new(script, None, vec![&step]).send(link).await.map(|_| ())
}

/// The channel of the same key. What stays subscribed is never published to.
async fn try_channel(link: &Link, config: &RedisConfig) -> RedisResult<()> {
    let channel = format!("{}:try", config.prefix).into_bytes();
    link.subscribe(&channel).await?;
    link.unsubscribe(&channel).await
}

/// Asks every server about itself: of a Cluster all masters and replicas that can be reached.
pub(crate) async fn survey(config: &RedisConfig) -> Result<Vec<Server>, OpenError> {
    let mut last = None;
    for node in &config.nodes {
        let asked = visit(config, node).await;
        let (server, slots) = match asked {
            Ok(asked) => asked,
            // Another node of a Cluster may answer.
            Err(error) if error.kind() == OpenErrorKind::Unreachable => {
                last = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let Some(slots) = slots else { return Ok(vec![server]) };
        return whole_cluster(config, node, slots).await;
    }
    Err(last.unwrap_or_else(|| OpenError::new(OpenErrorKind::Url, "the store's URL", "names no server")))
}

/// One server, and where it is a Cluster's, what it says about the slots.
async fn visit(config: &RedisConfig, node: &Node) -> Result<(Server, Option<Value>), OpenError> {
    let explained = |error: RedisError| explain(&node.addr, &error);
    let mut connection = link::visit(config, node).await.map_err(explained)?;
    let server = Server::ask(&node.addr, &mut connection).await.map_err(explained)?;
    server.refuse_kind(config)?;
    if !config.cluster {
        return Ok((server, None));
    }
    let info: String =
        redis::cmd("CLUSTER").arg("INFO").query_async(&mut connection).await.map_err(explained)?;
    if !info.contains("cluster_state:ok") {
        return Err(OpenError::new(
            OpenErrorKind::NotReady,
            &node.addr,
            "the Cluster is down: not all of its slots are served; see CLUSTER INFO and CLUSTER NODES",
        ));
    }
    let slots = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await.map_err(explained)?;
    Ok((server, Some(slots)))
}

async fn whole_cluster(config: &RedisConfig, first: &Node, slots: Value) -> Result<Vec<Server>, OpenError> {
    let masters = masters(slots.clone());
    let mut asking = JoinSet::new();
    for addr in addresses(slots) {
        // The same credentials, at another address.
        let url = first.url.replacen(&first.addr, &addr, 1);
        let (config, node) = (config.clone(), Node { url, addr: addr.clone() });
        asking.spawn(async move { (addr, visit(&config, &node).await) });
    }
    let mut servers = Vec::new();
    for (addr, asked) in asking.join_all().await {
        match asked {
            Ok((server, _)) => servers.push(server),
            // A replica that is away keeps nothing; its master says how many it has.
            Err(error) if error.kind() == OpenErrorKind::Unreachable && !masters.contains(&addr) => {}
            Err(error) => return Err(error),
        }
    }
    servers.sort_by(|a, b| a.addr.cmp(&b.addr));
    Ok(servers)
}

/// The masters in the answer to CLUSTER SLOTS.
pub(crate) fn masters(slots: Value) -> Vec<String> {
    ranges(slots).into_iter().filter_map(|nodes| nodes.into_iter().next()).collect()
}

fn addresses(slots: Value) -> Vec<String> {
    let mut all: Vec<String> = ranges(slots).into_iter().flatten().collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// For each range of slots the addresses of its master and then of its replicas.
fn ranges(slots: Value) -> Vec<Vec<String>> {
    let Value::Array(ranges) = slots else { return Vec::new() };
    let nodes = |range| match range {
        Value::Array(parts) => parts.into_iter().skip(2).filter_map(address).collect(),
        _ => Vec::new(),
    };
    ranges.into_iter().map(nodes).collect()
}

fn address(node: Value) -> Option<String> {
    let Value::Array(parts) = node else { return None };
    let mut parts = parts.into_iter();
    let host: String = redis::from_redis_value(parts.next()?).ok()?;
    let port: u16 = redis::from_redis_value(parts.next()?).ok()?;
    Some(format!("{host}:{port}"))
}

/// What an error of the driver means to whoever opens a store.
fn explain(server: &str, error: &RedisError) -> OpenError {
    let said = error.to_string();
    let has = |code: &str| error.code() == Some(code) || said.contains(code);
    let (kind, why) = if has("NOAUTH") || has("WRONGPASS") || error.kind() == ErrorKind::AuthenticationFailed
    {
        (OpenErrorKind::NotLetIn, "it wants another user or password: redis://user:password@host".to_owned())
    } else if has("DENIED") {
        let why = "it runs in protected mode and lets nobody in from other machines: give it a password, or set \
                   protected-mode to no";
        (OpenErrorKind::NotLetIn, why.to_owned())
    } else if has("NOPERM") {
        let why =
            format!("this user may not do what semel needs ({said}); see docs/guides/redis.md for an ACL");
        (OpenErrorKind::Forbidden, why)
    } else if has("LOADING") {
        (OpenErrorKind::NotReady, "it is still reading its data; start again when it has".to_owned())
    } else if has("CLUSTERDOWN") {
        (OpenErrorKind::NotReady, "the Cluster is down: not all of its slots are served".to_owned())
    } else if has("unknown command") || has("Unknown Redis command") {
        (OpenErrorKind::Commands, format!("it lacks a command that semel needs, or has renamed it: {said}"))
    } else if has("OOM") || has("NOREPLICAS") || has("MISCONF") {
        (OpenErrorKind::RefusesWrites, format!("it refuses writes: {said}"))
    } else if has("READONLY") {
        (OpenErrorKind::Replica, "it is a read-only replica; name the master".to_owned())
    } else if error.is_timeout() {
        (OpenErrorKind::Unreachable, "it does not answer in time".to_owned())
    } else {
        (OpenErrorKind::Unreachable, format!("it cannot be reached: {said}"))
    };
    OpenError::new(kind, server, why)
}
