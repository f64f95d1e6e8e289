//! Two gateways that share a store, in front of one API: a key that is brought to both is charged for once.
//!
//! [`gateway`] is what a program of your own would do, or `semel gateway --store redis-cluster://…` on each machine.
//! The rest sends requests and counts.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;

use semel::Engine;
use semel_gateway::{Config, Decided, Decisions, Gateway};
use semel_store_redis::{RedisConfig, RedisStore};
use semel_testkit::client::{Call, Load};
use semel_testkit::upstream::Upstream;

/// Anything that goes wrong here.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What came of one key, brought many times to both gateways.
#[derive(Debug, PartialEq, Eq)]
pub struct Summary {
    /// How often the API behind the gateways was asked to charge.
    pub charges: usize,
    /// How many callers were the one that ran the effect.
    pub executed: usize,
    /// How many got the first one's answer.
    pub replayed: usize,
}

/// A gateway on the store at `store`, in front of `upstream`. It runs until the program ends.
///
/// # Errors
/// When the store is refused, or there is no port to listen on.
pub async fn gateway(store: &str, upstream: &str) -> Result<SocketAddr, Failure> {
    let store = RedisStore::open(RedisConfig::from_url(store)?).await?;
    let toml = format!("upstream = \"{upstream}\"\nlisten = \"127.0.0.1:0\"\n");
    let config = Config::from_toml(&toml, "example")?;
    let gateway = Gateway::bind(config, Engine::new(store), Arc::new(Untold)).await?;
    let addr = gateway.local_addr()?;
    tokio::spawn(gateway.run(std::future::pending()));
    Ok(addr)
}

/// A gateway of your own would count here what became of each request.
#[derive(Debug)]
struct Untold;

impl Decisions for Untold {
    fn decided(&self, _: &Decided<'_>) {}
}

/// Brings one key `callers` times to each of two gateways on the store at `store`.
///
/// # Errors
/// When a gateway does not start.
pub async fn charge_once(store: &str, callers: usize) -> Result<Summary, Failure> {
    let api = Upstream::charging();
    let gateways = [gateway(store, &api.url()).await?, gateway(store, &api.url()).await?];
    let call = Call::post("/charges", r#"{"amount":500}"#).key("order-42");
    let [one, two] =
        gateways.map(|addr| Load { addr, connections: callers }.answers(vec![call.clone(); callers]));
    let (one, two) = tokio::join!(one, two);
    let of = |standing| one.iter().chain(&two).filter(|answer| answer.standing() == Some(standing)).count();
    Ok(Summary { charges: api.ledger().total(), executed: of("executed"), replayed: of("replayed") })
}
