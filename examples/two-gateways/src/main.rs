//! Two gateways on one Redis Cluster: on the one that is named, or on six servers that are started for it.
//!
//! ```sh
//! cargo run -p two-gateways                                   # needs redis-server
//! cargo run -p two-gateways -- redis-cluster://a:6379,b:6379
//! ```

use semel_testkit::server::redis::RedisCluster;
use two_gateways::{Failure, charge_once};

const CALLERS_PER_GATEWAY: usize = 100;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let given = std::env::args().nth(1);
    let own = given.is_none().then(|| RedisCluster::start(3, 1));
    let store = own.as_ref().map(RedisCluster::url).or(given).unwrap_or_default();
    let summary = charge_once(&store, CALLERS_PER_GATEWAY).await?;
    println!("{} callers brought one key to two gateways on {store}", 2 * CALLERS_PER_GATEWAY);
    println!("the API was asked to charge {} time(s)", summary.charges);
    println!("{} caller(s) ran it, {} got that one's answer", summary.executed, summary.replayed);
    Ok(())
}
