//! Servers that are set so that records can be lost, or cannot be used at all: each is started so, and is refused or
//! named when a store is opened on it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use semel::Store;
use semel::store::{Durability, Survives};
use semel_store_redis::{OpenErrorKind, RedisConfig, RedisStore};
use semel_testkit::port::Port;
use semel_testkit::server::redis::{RedisCluster, RedisServer};
use tokio::time::Instant;

async fn open(url: &str) -> Result<RedisStore, semel_store_redis::OpenError> {
    RedisStore::open(RedisConfig::from_url(url).unwrap()).await
}

/// The store at `url` is refused as `kind`, and the error says `words`.
async fn assert_refused(url: &str, kind: OpenErrorKind, words: &[&str]) {
    let error = open(url).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` is not in: {error}");
    }
}

/// The store at `url` opens and warns with `words`.
async fn assert_named(url: &str, words: &str) -> RedisStore {
    let store = open(url).await.unwrap();
    let warnings = store.tier().warnings;
    assert!(warnings.iter().any(|warning| warning.contains(words)), "`{words}` is not in: {warnings:#?}");
    store
}

#[tokio::test]
async fn evicting_servers_are_refused_unless_the_loss_is_accepted() {
    for policy in ["allkeys-lru", "volatile-ttl", "allkeys-random", "volatile-lfu"] {
        let server = RedisServer::start_with(&[("maxmemory-policy", policy)]);
        assert_refused(&server.url(), OpenErrorKind::Evicts, &[policy, "noeviction", "durability=none"])
            .await;
        let url = format!("{}?durability=none", server.url());
        let store = assert_named(&url, &format!("maxmemory-policy is {policy}")).await;
        assert_eq!(store.capabilities().durability, Durability::None);
    }
}

#[tokio::test]
async fn a_server_without_append_only_file_is_refused_unless_the_loss_is_accepted() {
    let server = RedisServer::start_with(&[("appendonly", "no")]);
    let words = ["appendonly is no", "durability=none"];
    assert_refused(&server.url(), OpenErrorKind::NotPersistent, &words).await;
    let url = format!("{}?durability=none", server.url());
    let store = assert_named(&url, "every record is gone when the server ends").await;
    assert_eq!(
        (store.capabilities().durability, store.tier().process_kill),
        (Durability::None, Survives::No)
    );
}

#[tokio::test]
async fn appendfsync_decides_the_tier() {
    for (fsync, durability, words) in [
        ("always", Durability::Power, None),
        ("everysec", Durability::Process, Some("up to 2 s")),
        ("no", Durability::Process, Some("often 30 s")),
    ] {
        let server = RedisServer::start_with(&[("appendfsync", fsync)]);
        let store = open(&server.url()).await.unwrap();
        assert_eq!(store.capabilities().durability, durability, "{fsync}");
        let tier = store.tier();
        assert_eq!(tier.process_kill, Survives::Yes);
        assert_eq!(tier.power_cut == Survives::Yes, words.is_none());
        assert_eq!(tier.node_loss, Survives::No);
        assert!(tier.server.unwrap().starts_with("Redis "));
        if let Some(words) = words {
            assert!(tier.warnings.iter().any(|warning| warning.contains(words)), "{fsync}");
        }
    }
}

#[tokio::test]
async fn not_syncing_while_the_file_is_rewritten_lowers_the_tier() {
    let settings = [("appendfsync", "always"), ("no-appendfsync-on-rewrite", "yes")];
    let server = RedisServer::start_with(&settings);
    let store = assert_named(&server.url(), "no-appendfsync-on-rewrite is yes").await;
    assert_eq!(store.capabilities().durability, Durability::Process);
}

#[tokio::test]
async fn a_memory_limit_is_named_and_a_full_server_refused() {
    let server = RedisServer::start_with(&[("maxmemory", "64mb")]);
    assert_named(&server.url(), "maxmemory is 64 MiB").await;
    let full = RedisServer::start_with(&[("maxmemory", "1mb")]);
    assert_refused(&full.url(), OpenErrorKind::RefusesWrites, &["OOM"]).await;
}

#[tokio::test]
async fn a_replica_is_refused_and_names_its_master() {
    let master = RedisServer::start();
    let port = master.port().to_string();
    let replica = RedisServer::start_with(&[("replicaof", &format!("127.0.0.1 {port}"))]);
    let words = ["read-only replica", &port];
    assert_refused(&replica.url(), OpenErrorKind::Replica, &words).await;
}

#[tokio::test]
async fn replicas_that_must_confirm_and_are_not_there_are_missed() {
    let server = RedisServer::start();
    let url = format!("{}?wait_replicas=1", server.url());
    assert_refused(&url, OpenErrorKind::TooFewReplicas, &["wait_replicas is 1", "0 connected"]).await;
    let unwilling = RedisServer::start_with(&[("min-replicas-to-write", "1")]);
    assert_refused(&unwilling.url(), OpenErrorKind::RefusesWrites, &["NOREPLICAS"]).await;
}

#[tokio::test]
async fn a_server_whose_settings_are_hidden_needs_them_said() {
    let server = RedisServer::start_with(&[("user", "semel on >p ~* &* +@all -config")]);
    let url = server.url().replace("redis://", "redis://semel:p@");
    assert_refused(&url, OpenErrorKind::SettingsUnreadable, &["CONFIG GET", "appendfsync="]).await;
    let store = assert_named(&format!("{url}?appendfsync=everysec"), "CONFIG is forbidden").await;
    assert_eq!(store.capabilities().durability, Durability::Process);
    let renamed = RedisServer::start_with(&[("rename-command", "CONFIG \"\"")]);
    assert_refused(&renamed.url(), OpenErrorKind::SettingsUnreadable, &["appendfsync="]).await;
}

#[tokio::test]
async fn missing_and_wrong_credentials_are_told_apart_from_an_outage() {
    let server = RedisServer::start_with(&[("requirepass", "secret")]);
    for at in ["", ":wrong@", "nobody:secret@"] {
        let url = server.url().replace("redis://", &format!("redis://{at}"));
        assert_refused(&url, OpenErrorKind::NotLetIn, &["password"]).await;
    }
    open(&server.url().replace("redis://", "redis://:secret@")).await.unwrap();
}

#[tokio::test]
async fn a_user_who_may_not_reach_the_keys_or_scripts_is_refused() {
    let rights = ["~other:* &* +@all", "~* &* +@all -evalsha -eval", "~* &* +@all -set"];
    for rights in rights {
        let server = RedisServer::start_with(&[("user", &format!("semel on >p {rights}"))]);
        let url = server.url().replace("redis://", "redis://semel:p@");
        assert_refused(&url, OpenErrorKind::Forbidden, &["may not do", "ACL"]).await;
    }
}

#[tokio::test]
async fn the_user_of_the_guide_is_enough() {
    let guide = std::fs::read_to_string("../../docs/guides/redis.md").unwrap();
    let rights = guide.lines().find_map(|line| line.trim().strip_prefix("ACL SETUSER semel ")).unwrap();
    let server = RedisServer::start_with(&[("user", &format!("semel {}", rights.replace("SECRET", "p")))]);
    let store = open(&server.url().replace("redis://", "redis://semel:p@")).await.unwrap();
    assert!(store.capabilities().watches_elsewhere, "{:?}", store.tier().warnings);
    assert_eq!(
        store.scan(semel::store::ScanArgs { limit: 1, ..Default::default() }).await.unwrap().records,
        []
    );
}

#[tokio::test]
async fn a_user_without_channels_is_named() {
    let server = RedisServer::start_with(&[("user", "semel on >p ~* resetchannels +@all")]);
    let url = server.url().replace("redis://", "redis://semel:p@");
    let store = assert_named(&url, "may not subscribe").await;
    assert!(!store.capabilities().watches_elsewhere);
}

#[tokio::test]
async fn scripts_under_another_name_are_missed() {
    let server = RedisServer::start_with(&[("rename-command", "EVALSHA \"\"")]);
    assert_refused(&server.url(), OpenErrorKind::Commands, &["lacks a command"]).await;
    let server = RedisServer::start_with(&[("rename-command", "EVAL run")]);
    assert_refused(&server.url(), OpenErrorKind::Commands, &["lacks a command"]).await;
}

#[tokio::test]
async fn one_server_and_a_cluster_are_not_taken_for_each_other() {
    let node = RedisServer::start_with(&[("cluster-enabled", "yes")]);
    assert_refused(&node.url(), OpenErrorKind::Mode, &["redis-cluster://"]).await;
    let server = RedisServer::start();
    let url = server.url().replace("redis://", "redis-cluster://");
    assert_refused(&url, OpenErrorKind::Mode, &["redis://"]).await;
}

#[tokio::test]
async fn a_cluster_that_does_not_serve_all_slots_is_refused() {
    let node = RedisServer::start_with(&[("cluster-enabled", "yes")]);
    let url = node.url().replace("redis://", "redis-cluster://");
    assert_refused(&url, OpenErrorKind::NotReady, &["slots"]).await;
}

#[tokio::test]
async fn one_badly_set_node_of_a_cluster_is_found_and_named() {
    let cluster = RedisCluster::start_with(3, 0, &[("cluster-require-full-coverage", "no")]);
    let store = assert_named(&cluster.url(), "cluster-require-full-coverage is no").await;
    let tier = store.tier();
    assert!(tier.warnings.iter().any(|warning| warning.contains("it has no replica")), "{tier:?}");
    assert_eq!((tier.node_loss, tier.process_kill), (Survives::No, Survives::Yes));
    for bad in cluster.nodes() {
        let _ = bad.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
        assert_refused(&cluster.url(), OpenErrorKind::Evicts, &["allkeys-lru", &bad.addr()]).await;
        let _ = bad.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    }
}

#[tokio::test]
async fn a_setting_that_is_changed_while_the_store_is_used_shows_in_its_tier() {
    let server = RedisServer::start();
    let store = open(&server.url()).await.unwrap();
    let _ = server.ask(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.tier().process_kill != Survives::No {
        assert!(Instant::now() < deadline, "not noticed: {:?}", store.tier());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(store.tier().warnings.iter().any(|warning| warning.contains("allkeys-lru")));
}

#[tokio::test]
async fn a_server_that_is_loading_is_told_apart_from_an_outage() {
    let mut server = RedisServer::start_with(&[("enable-debug-command", "yes"), ("key-load-delay", "0")]);
    let _ = server.ask(&["DEBUG", "POPULATE", "20000", "filler", "10"]);
    let _ = server.ask(&["BGREWRITEAOF"]);
    while server.info("aof_rewrite_in_progress") == "1" || server.info("aof_rewrite_scheduled") == "1" {
        tokio::task::yield_now().await;
    }
    server.kill9();
    server.set("key-load-delay", "1000");
    server.set("loading-process-events-interval-bytes", "1024");
    server.start_again();
    assert_refused(&server.url(), OpenErrorKind::NotReady, &["reading its data"]).await;
}

#[tokio::test]
async fn nobody_listening_is_an_outage() {
    let nobody = Port::take();
    let addr = format!("127.0.0.1:{}", nobody.number());
    assert_refused(&format!("redis://{addr}"), OpenErrorKind::Unreachable, &["cannot be reached"]).await;
    assert_refused(&format!("redis-cluster://{addr}"), OpenErrorKind::Unreachable, &["cannot be reached"])
        .await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_an_outage() {
    let server = RedisServer::start();
    server.stop();
    let url = format!("{}?timeout_ms=200", server.url());
    assert_refused(&url, OpenErrorKind::Unreachable, &["does not answer in time"]).await;
}

#[tokio::test]
async fn tls_where_there_is_none_is_refused() {
    let server = RedisServer::start();
    let url = server.url().replace("redis://", "rediss://") + "?timeout_ms=500";
    assert!(matches!(open(&url).await.unwrap_err().kind(), OpenErrorKind::Unreachable));
}
