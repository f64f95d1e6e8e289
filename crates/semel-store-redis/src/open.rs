//! Opening: every server is asked what it is and how it is set, one that may lose everything is refused, and what is
//! left gives the tier.
//!
//! Also the markers: keys that are written when a store is begun, so that a server that lost its data is noticed.
//! Next: `server`, which judges, and [`crate::store`].

use std::sync::Arc;

use redis::{ErrorKind, RedisError, Value};
use semel::store::Durability;
use semel::{Key, Operation, RecordId, Tenant};
use tokio::task::JoinSet;

use crate::config::{Node, OpenError, OpenErrorKind, RedisConfig};
use crate::link::{self, Link};
use crate::script::Scripts;
use crate::server::Server;
use crate::store::RedisStore;
use crate::watch::Watchers;

/// Enough that each of up to some ten shards has several.
const CLUSTER_MARKERS: usize = 64;

pub(crate) async fn open(config: RedisConfig) -> Result<RedisStore, OpenError> {
    let servers = survey(&config).await?;
    for server in &servers {
        server.refuse_settings(&config)?;
        server.refuse_state(&config)?;
    }
    let shown = config.shown();
    let watchers = Arc::new(Watchers::default());
    let link = Link::connect(&config, Arc::clone(&watchers)).await.map_err(|error| explain(&shown, &error))?;
    let scripts = Scripts::new(config.cluster, config.wait_replicas > 0);
    let mut store = RedisStore {
        link,
        scripts,
        watchers,
        durability: servers.iter().map(|server| server.durability(&config)).min().unwrap_or(Durability::None),
        tier: crate::server::tier(&servers, &config),
        hears: false,
        prefix: config.prefix,
        wait_replicas: config.wait_replicas,
        timeout: config.timeout,
        clock: config.clock,
    };
    store.try_out(&shown).await?;
    store.mark(&shown).await?;
    for warning in &store.tier.warnings {
        tracing::warn!(store = %shown, "{warning}");
    }
    Ok(store)
}

/// Asks every server about itself: of a Cluster all masters and replicas that can be reached.
async fn survey(config: &RedisConfig) -> Result<Vec<Server>, OpenError> {
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
            Err(error) if error.kind() == OpenErrorKind::Unreachable && !masters.contains(&addr) => {
                tracing::warn!(%error, "a replica cannot be reached");
            }
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

impl RedisStore {
    /// Uses once what every claim will use, so that a missing command or right shows now.
    async fn try_out(&mut self, shown: &str) -> Result<(), OpenError> {
        let key = Key::new("semel-tries-out").expect("it is printable");
        let id = RecordId::new(Tenant::public(), Operation::new("semel"), key);
        semel::Store::get(self, &id).await.map_err(|error| {
            let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref());
            source.map_or_else(
                || OpenError::new(OpenErrorKind::Commands, shown, error.to_string()),
                |error| explain(shown, error),
            )
        })?;
        let channel = self.key(&id);
        self.hears = self.link.subscribe(&channel).await.is_ok();
        if self.hears {
            // What stays subscribed is never published to.
            let _ = self.link.unsubscribe(&channel).await;
        } else {
            self.tier.warnings.push(format!(
                "this user may not subscribe to the channels {}:*: who waits for another gateway polls",
                self.prefix
            ));
        }
        Ok(())
    }

    /// Leaves a marker at every part of the store, or finds the one that is there.
    async fn mark(&mut self, shown: &str) -> Result<(), OpenError> {
        let markers = if self.link.is_cluster() { CLUSTER_MARKERS } else { 1 };
        let mut new = 0;
        for n in 0..markers {
            let key = format!("{}:store:{n}", self.prefix);
            let mut cmd = redis::cmd("SET");
            cmd.arg(key).arg(format!("semel 1 {}", uuid::Uuid::new_v4())).arg("NX");
            let written = self.link.send(&cmd).await.map_err(|error| explain(shown, &error))?;
            new += usize::from(written != Value::Nil);
        }
        match new {
            0 => tracing::info!(store = %shown, prefix = self.prefix, "found the records of an earlier start"),
            _ if new == markers => self.tier.warnings.push(format!(
                "nothing under the prefix {}: this is the first start with it, or its data is gone, and then keys \
                 that were answered run again",
                self.prefix
            )),
            _ => self.tier.warnings.push(format!(
                "{new} of {markers} parts of the prefix {} were empty: a shard has lost its data, and keys that were \
                 answered there run again",
                self.prefix
            )),
        }
        Ok(())
    }
}

/// What an error of the driver means to whoever opens a store.
fn explain(server: &str, error: &RedisError) -> OpenError {
    let said = error.to_string();
    let has = |code: &str| error.code() == Some(code) || said.contains(code);
    let (kind, why) = if has("NOAUTH") || has("WRONGPASS") || error.kind() == ErrorKind::AuthenticationFailed {
        (OpenErrorKind::NotLetIn, "it wants another user or password: redis://user:password@host".to_owned())
    } else if has("DENIED") {
        let why = "it runs in protected mode and lets nobody in from other machines: give it a password, or set \
                   protected-mode to no";
        (OpenErrorKind::NotLetIn, why.to_owned())
    } else if has("NOPERM") {
        let why = format!("this user may not do what semel needs ({said}); see docs/guides/redis.md for an ACL");
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
