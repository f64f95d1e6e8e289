//! `semel gateway`: puts the parts together and runs them until a signal. What the gateway does with a request is in
//! [`semel_gateway`].

use std::io;
use std::net::SocketAddr;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use http::Uri;
use semel::Engine;
use semel::engine::Limits;
use semel::store::Durability;
use semel::store::near::NearStore;
use semel_admin::{Admin, Coverage, Metrics, Socket};
use semel_gateway::config::{ListenAddr, Parsed};
use semel_gateway::{Config, Decided, Decisions, Drained, Gateway, GatewayErrorKind};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::check;
use crate::exit::{Exit, Failure};
use crate::logs::LogArgs;
use crate::store_url::{StoreArgs, StoreUrl};

const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How long the admin listeners may take to finish what they answer, once the gateway has drained.
const ADMIN_STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Put an HTTP API behind idempotency keys
#[derive(Args, Debug)]
#[command(
    after_help = "A flag wins over its variable, and both over the configuration file. SIGTERM and SIGINT finish \
    what is in flight; a second one ends at once.\n\nExamples:\n  semel gateway --upstream http://127.0.0.1:3000\n  \
    semel gateway --upstream https://api.internal --listen 0.0.0.0:8787 \\\n      \
    --store embedded:/var/lib/semel/keys.sqlite\n  \
    semel gateway --config semel.toml --log-format json"
)]
pub(crate) struct GatewayArgs {
    #[command(flatten)]
    settings: Settings,

    #[command(flatten)]
    log: LogArgs,
}

/// The configuration file, and what is said over it.
#[derive(Args, Debug)]
pub(crate) struct Settings {
    /// Where requests go: `http://HOST:PORT`, `https://HOST`, or `h2c://HOST:PORT` for HTTP/2 without TLS
    #[arg(long, env = "SEMEL_UPSTREAM", value_name = "URL")]
    upstream: Option<Parsed<Uri>>,

    /// Where the gateway listens [default: 127.0.0.1:8787]
    #[arg(long, env = "SEMEL_LISTEN", value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Where health, metrics and a read-only view of the keys are, or `off` [default: 127.0.0.1:8788]
    #[arg(long, env = "SEMEL_ADMIN", value_name = "ADDRESS")]
    admin: Option<ListenAddr>,

    #[command(flatten)]
    store: StoreArgs,
}

impl Settings {
    /// The configuration that results, and the store that is meant.
    pub(crate) fn read(self) -> Result<(Config, StoreUrl), Failure> {
        let mut config = self.store.config()?;
        config.upstream = self.upstream.or(config.upstream);
        config.listen = self.listen.unwrap_or(config.listen);
        config.admin = self.admin.unwrap_or(config.admin);
        if config.upstream.is_none() {
            let text =
                "no upstream: give --upstream http://127.0.0.1:3000, or `upstream` in the configuration";
            return Err(Failure::new(Exit::Usage, text));
        }
        let url = self.store.url(&config)?;
        Ok((config, url))
    }
}

/// Serves until a signal.
pub(crate) fn run(args: GatewayArgs) -> Result<(), Failure> {
    let (config, url) = args.settings.read()?;
    let _logs = args.log.start();
    let drained = runtime()?.block_on(serve(config, &url))?;
    let Drained { claims_left, connections_left } = drained;
    if claims_left > 0 || connections_left > 0 {
        tracing::warn!(claims_left, connections_left, "time was up; what held a claim is in doubt");
    }
    Ok(())
}

/// On a single core, threads that hand work to each other only cost. And of hundreds of connections with news few are
/// looked at together, so that what belongs to them is still in the core's cache when their upstream answers.
fn runtime() -> io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    if cores > 1 {
        return Builder::new_multi_thread().enable_all().build();
    }
    Builder::new_current_thread().max_io_events_per_tick(16).enable_all().build()
}

async fn serve(config: Config, url: &StoreUrl) -> Result<Drained, Failure> {
    let mut signals = Signals::listen()?;
    let mut store = url.open(&config).await?;
    if store.capabilities().shared && !config.near.0.is_zero() {
        store = Arc::new(NearStore::new(store, config.near.0));
    }
    let tier = store.tier();
    let metrics = Arc::new(Metrics::new());
    let limits = Limits {
        in_flight_per_tenant: config.limits.in_flight_per_tenant,
        waiters_per_record: config.limits.waiters_per_record,
        store_timeout: config.timeouts.store.0,
    };
    let engine = Engine::with(store, metrics.clone(), limits);
    let admin = Admin::new(engine.clone(), metrics.clone(), semel_tower::replay::outcome);
    let (stop, stopped) = watch::channel(false);
    let listeners = listen_admin(&admin, config.admin, url, &stopped).await?;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let behind = behind(&config, url, &engine);
    let warnings: Vec<_> = tier.warnings.iter().cloned().chain(warnings(&config, url)?).collect();
    let decisions = Arc::new(Tally { metrics, hash_keys: config.hash_keys_in_logs });
    let gateway =
        Gateway::bind(config, engine.clone(), decisions).await.map_err(|error| match error.kind() {
            GatewayErrorKind::Config => Failure::new(Exit::Usage, error),
            _ => Failure::new(Exit::Failed, error),
        })?;
    anstream::eprintln!("semel gateway listening on {scheme}://{}, {behind}", gateway.local_addr()?);
    let name = engine.store().capabilities().name;
    tracing::info!(store = name, server = tier.server, survives = %tier, "what is acknowledged is kept");
    for warning in warnings {
        anstream::eprintln!("warning: {warning}");
    }
    engine.sweep_in_background(SWEEP_EVERY);
    let drained = gateway
        .run(async {
            signals.comes().await;
            tracing::info!("finishing what is in flight; a second signal ends at once");
            admin.drain();
            tokio::spawn(async move {
                signals.comes().await;
                std::process::exit(Exit::Failed as i32);
            });
        })
        .await;
    stop.send_replace(true);
    // A listener that does not finish is dropped with its connections.
    let _ = tokio::time::timeout(ADMIN_STOP_TIMEOUT, listeners.join_all()).await;
    Ok(drained)
}

/// The operator's socket, and the reader where it is not off.
async fn listen_admin(
    admin: &Arc<Admin>,
    address: ListenAddr,
    url: &StoreUrl,
    stopped: &watch::Receiver<bool>,
) -> Result<JoinSet<io::Result<()>>, Failure> {
    let stop = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is a stop as well.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let mut listeners = JoinSet::new();
    if let Some(path) = url.socket() {
        let socket = Socket::bind(&path).map_err(|error| Failure::caused(Exit::Failed, &error))?;
        listeners.spawn(Arc::clone(admin).serve_socket(socket, stop(stopped.clone())));
    }
    if let ListenAddr(Some(address)) = address {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let text = format!("cannot listen on {address} for --admin: {error}; `--admin off` does without");
            Failure::new(Exit::Failed, text)
        })?;
        let (admin, stop) = (Arc::clone(admin), stop(stopped.clone()));
        listeners.spawn(async move {
            admin.serve_tcp(listener, stop).await;
            Ok(())
        });
    }
    Ok(listeners)
}

/// What is behind this gateway, in its first line.
fn behind(config: &Config, url: &StoreUrl, engine: &Engine) -> String {
    let upstream = config.upstream.as_ref().map(ToString::to_string).unwrap_or_default();
    let durability = engine.store().capabilities().durability.as_str();
    format!("upstream {}, store {url} (durability {durability})", upstream.trim_end_matches('/'))
}

fn warnings(config: &Config, url: &StoreUrl) -> Result<Vec<String>, Failure> {
    let mut warnings = Vec::new();
    if *url == StoreUrl::Memory {
        warnings.push(format!("memory store: {}", check::kept(Durability::None)));
    }
    for promise in config.promises().map_err(|error| Failure::caused(Exit::Usage, &error))? {
        warnings.extend(promise.warnings.iter().map(|warning| format!("route {}: {warning}", promise.path)));
    }
    Ok(warnings)
}

/// Counts and logs each request.
#[derive(Debug)]
struct Tally {
    metrics: Arc<Metrics>,
    hash_keys: bool,
}

impl Decisions for Tally {
    fn decided(&self, decided: &Decided<'_>) {
        let coverage = match (decided.covered, decided.id) {
            (false, _) => Coverage::Uncovered,
            (true, None) => Coverage::Unkeyed,
            (true, Some(_)) => Coverage::Keyed,
        };
        self.metrics.request(decided.status, coverage);
        let duration_ms = u64::try_from(decided.took.as_millis()).unwrap_or(u64::MAX);
        let Some(status) = decided.status else {
            tracing::debug!(
                decision = "passed",
                method = %decided.method,
                path = decided.path,
                http_status = decided.http_status,
                duration_ms,
            );
            return;
        };
        let key = decided.id.map(|id| {
            if self.hash_keys { format!("digest:{}", id.digest()) } else { id.key().as_str().to_owned() }
        });
        tracing::info!(
            decision = status.as_str(),
            key,
            tenant = decided.id.map(|id| id.tenant().as_str()),
            code = decided.code.map(semel::Code::as_str),
            generation = decided.generation,
            method = %decided.method,
            path = decided.path,
            http_status = decided.http_status,
            duration_ms,
        );
    }
}

/// The signals that end the gateway.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn comes(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
