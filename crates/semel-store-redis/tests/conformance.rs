//! The Redis store under the suite that every store must pass: on one server with a clock that can be moved, which
//! compares every step with the pure transitions; on one server's own time; and on a Cluster of three masters.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use semel::clock::ManualClock;
use semel_store_redis::{RedisConfig, RedisStore};
use semel_testkit::conformance::Subject;
use semel_testkit::server::redis::{RedisCluster, RedisServer};

async fn open(config: RedisConfig) -> Arc<RedisStore> {
    Arc::new(RedisStore::open(config).await.unwrap())
}

mod on_a_test_clock {
    use super::*;

    async fn make(clock: Arc<ManualClock>) -> Subject {
        let server = RedisServer::start();
        let store = open(RedisConfig::from_url(&server.url()).unwrap().clock(clock.clone())).await;
        Subject::on_clock(store, clock).purging_itself().keeping(server)
    }

    semel_testkit::conformance_suite!(make);
}

mod on_one_server {
    use super::*;

    async fn make(_: Arc<ManualClock>) -> Subject {
        let server = RedisServer::start();
        let store = open(RedisConfig::from_url(&server.url()).unwrap()).await;
        Subject::on_real_time(store).purging_itself().keeping(server)
    }

    semel_testkit::conformance_suite!(make);
}

mod on_a_cluster {
    use super::*;

    async fn make(_: Arc<ManualClock>) -> Subject {
        let cluster = RedisCluster::start(3, 0);
        let store = open(RedisConfig::from_url(&cluster.url()).unwrap()).await;
        Subject::on_real_time(store).purging_itself().keeping(cluster)
    }

    semel_testkit::conformance_suite!(make);
}
