//! The example, as it is run.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use semel_testkit::server::redis::RedisCluster;
use two_gateways::{Summary, charge_once};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_brought_to_two_gateways_on_a_cluster_is_charged_for_once() {
    let cluster = RedisCluster::start(3, 0);
    let summary = charge_once(&cluster.url(), 50).await.unwrap();
    assert_eq!(summary, Summary { charges: 1, executed: 1, replayed: 99 });
}
