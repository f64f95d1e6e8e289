//! A gateway as a process: the real service on the simulated network, killed, frozen, drained and started again.
//!
//! Next: [`crate::world`], which decides when.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use semel::clock::Clock;
use semel::engine::Limits;
use semel::event::Silent;
use semel::store::Store;
use semel::{Engine, Key, Policy};
use semel_gateway::config::{Human, Parsed, TimeoutsConfig};
use semel_gateway::{Config, Drained, Gateway, GatewayError};
use semel_testkit::check::Recorder;
use semel_tower::route::{HookFuture, Probe, Probed};
use semel_tower::{Route, Routes, SemelLayer, replay};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::fault::Fault;
use crate::gate::{Gate, Service, StepClock};
use crate::network::{Connector, Host, Network};
use crate::options::{Mode, Options};
use crate::plant::{Plant, Planted};
use crate::sim::{Life, Sim};
use crate::upstream::{ANSWER_MAX_BYTES, BUFFER_TIMEOUT};

/// What all gateways are made of.
#[derive(Debug)]
pub struct Shared {
    /// The network.
    pub network: Arc<Network>,
    /// The store itself, which forgets nothing.
    pub store: Arc<dyn Store>,
    /// Its clock.
    pub clock: Arc<StepClock>,
    /// What the gateways see of it.
    pub service: Arc<Service>,
    /// Who writes down what they ask of it.
    pub recorder: Recorder,
}

/// One life of a gateway.
#[derive(Debug)]
pub struct Process {
    /// Which.
    pub number: usize,
    /// Whether it lives.
    pub life: Arc<Life>,
    /// Its engine.
    pub engine: Engine,
    shutdown: Arc<Notify>,
    running: JoinHandle<Drained>,
}

impl Process {
    /// Starts the gateway of this number, for the `times`th time.
    ///
    /// # Errors
    /// When its configuration is refused.
    pub fn start(parts: &Shared, number: usize, times: usize) -> Result<Self, GatewayError> {
        let network = &parts.network;
        let sim = network.sim();
        let life = Life::begin();
        let name = format!("gateway {number}.{times}");
        let gate = Gate::new(
            Arc::clone(&parts.store),
            Arc::clone(&parts.service),
            Arc::clone(sim),
            Arc::clone(&life),
            name.clone(),
        );
        let store: Arc<dyn Store> = Arc::new(parts.recorder.continued(Arc::new(gate)));
        let clock: Arc<dyn Clock> = Arc::clone(&parts.clock) as _;
        let store = match sim.options.plant {
            Some(plant) => Arc::new(Planted::new(store, clock, plant)),
            None => store,
        };
        let limits = Limits { store_timeout: sim.options.store_timeout, ..Limits::default() };
        let engine = Engine::with(store, Arc::new(Silent), limits);
        if let Some(event) = sim.options.events.iter().find(|event| event.fault == Fault::PurgeRuns) {
            engine.sweep_in_background(event.lasting);
        }
        let config = config(sim);
        let connector = Connector {
            network: Arc::clone(network),
            life: Arc::clone(&life),
            timeout: Duration::from_secs(2),
        };
        let route = route(&sim.options, &connector);
        let layer = SemelLayer::with_routes(engine.clone(), Routes::new(route));
        let listener = network.listen(Host::Gateway(number), &life);
        let gateway = Gateway::over(&config, engine.clone(), &layer, listener, connector)?;
        let shutdown = Arc::new(Notify::new());
        let asked = Arc::clone(&shutdown);
        let running = tokio::spawn(gateway.run(async move { asked.notified().await }));
        sim.say(&name, "starts");
        Ok(Self { number, life, engine, shutdown, running })
    }

    /// Drains it, as SIGTERM does; then the process ends.
    pub async fn drain(self, network: &Network) {
        self.shutdown.notify_one();
        // A process that is killed while it drains never says that it has drained.
        let drained = tokio::time::timeout(Duration::from_secs(60), self.running).await;
        let said = match drained {
            Ok(Ok(drained)) => format!("drained, {} claims left", drained.claims_left),
            _ => "did not drain".to_owned(),
        };
        network.sim().say(&format!("gateway {}", self.number), &said);
        network.kill(&self.life);
    }
}

fn config(sim: &Sim) -> Config {
    let timeouts = TimeoutsConfig {
        upstream: Human(sim.options.upstream_timeout),
        drain: Human(Duration::from_secs(5)),
        ..TimeoutsConfig::default()
    };
    let upstream = Some(Parsed(http::Uri::from_static("http://upstream:80")));
    let mut config = Config { upstream, timeouts, ..Config::default() };
    config.limits.connections = NonZeroUsize::new(200).unwrap_or(NonZeroUsize::MIN);
    config
}

fn route(options: &Options, connector: &Connector) -> Route {
    let mut policy = Policy {
        on_duplicate: options.on_duplicate,
        on_doubt: options.on_doubt(),
        lease: options.lease,
        retention: options.retention,
        wait_timeout: options.wait,
        ..Policy::default()
    };
    if options.plant == Some(Plant::CompletionNotRetried) {
        policy.complete_timeout = Duration::from_millis(25);
    }
    let probe = (options.mode == Mode::Probe)
        .then(|| Arc::new(AskUpstream { connector: connector.clone() }) as Arc<dyn Probe>);
    Route {
        policy: Arc::new(policy),
        response_max_bytes: ANSWER_MAX_BYTES,
        buffer_timeout: BUFFER_TIMEOUT,
        probe,
        ..Route::default()
    }
}

/// Asks the upstream about a key, over the same network.
#[derive(Debug)]
struct AskUpstream {
    connector: Connector,
}

impl AskUpstream {
    async fn ask(&self, key: &Key, request: &Parts) -> Option<Probed> {
        let Connector { network, life, .. } = &self.connector;
        let stream = network.connect(life, Host::Upstream).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let mut question = Request::get(format!("/probe/{key}")).header("host", "upstream");
        if let Some(credential) = request.headers.get("authorization") {
            question = question.header("authorization", credential);
        }
        let answer = sender.send_request(question.body(Empty::<Bytes>::new()).ok()?).await.ok()?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        Some(match head.status {
            StatusCode::NOT_FOUND => Probed::NotHappened,
            status if status == StatusCode::CREATED || status == StatusCode::UNPROCESSABLE_ENTITY => {
                let route = Route::default();
                Probed::Happened(replay::store(status, &head.headers, Some(body), None, &route))
            }
            _ => Probed::Unknown,
        })
    }
}

impl Probe for AskUpstream {
    fn ask<'a>(&'a self, key: &'a Key, request: &'a Parts) -> HookFuture<'a, Probed> {
        Box::pin(async move {
            let asking = self.ask(key, request);
            match tokio::time::timeout(Duration::from_secs(5), asking).await {
                Ok(Some(probed)) => probed,
                Ok(None) | Err(_) => Probed::Unknown,
            }
        })
    }
}
