//! The operations over HTTP: a reader for TCP, which never changes anything, and the operator's side, which is served
//! on the owner-only socket and nowhere else.
//!
//! | path | reader | operator |
//! | --- | --- | --- |
//! | `GET /healthz`, `/readyz`, `/metrics` | yes | yes |
//! | `GET /keys`, `/keys/one` | yes, without bodies | yes |
//! | `POST /keys/release`, `/keys/resolve`, `/keys/purge` | no | yes |
//!
//! Next: [`crate::inspect`], which does it; [`crate::view`], the JSON.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{StatusCode, header, uri::Authority};
use semel::{Engine, Key, Operation, RecordId, Tenant};
use tokio::net::TcpListener;

use crate::inspect::{self, MakeOutcome};
use crate::metrics::{self, Metrics};
use crate::problem::Problem;
use crate::socket::Socket;
use crate::tcp;
use crate::view::{Changed, ListAsk, Listing, PurgeAsk, Purged, ResolveAsk, Selector, ShowAsk, Shown};

const READY_TIMEOUT: Duration = Duration::from_secs(1);
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);
const IN_DOUBT_MAX_RECORDS: usize = 10_000;
/// Room for the largest body in base64, and the rest of the request.
const REQUEST_MAX_BYTES: usize = inspect::BODY_MAX_BYTES / 3 * 4 + (1 << 20);

/// What is served to operators and their monitoring.
#[derive(Debug)]
pub struct Admin {
    engine: Engine,
    metrics: Arc<Metrics>,
    make: MakeOutcome,
    draining: AtomicBool,
    /// One count of records in doubt at a time, however many scrape.
    scrape: tokio::sync::Mutex<()>,
}

type Shared = State<Arc<Admin>>;
type Answer<T> = Result<Json<T>, Problem>;

impl Admin {
    /// The operations on the store of `engine`. `make` turns an answer given by an operator into an outcome.
    #[must_use]
    pub fn new(engine: Engine, metrics: Arc<Metrics>, make: MakeOutcome) -> Arc<Self> {
        let (draining, scrape) = (AtomicBool::new(false), tokio::sync::Mutex::default());
        Arc::new(Self { engine, metrics, make, draining, scrape })
    }

    /// From now on `/readyz` says no.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// What only reads.
    pub fn reader(self: &Arc<Self>) -> Router {
        let keys = Router::new()
            .route("/keys", get(keys))
            .route("/keys/one", get(one_without_body))
            .layer(middleware::from_fn(known_by_address));
        self.health().merge(keys).with_state(Arc::clone(self))
    }

    /// What also changes records. For the owner-only socket.
    pub fn operator(self: &Arc<Self>) -> Router {
        self.health()
            .route("/keys", get(keys))
            .route("/keys/one", get(one))
            .route("/keys/release", post(release))
            .route("/keys/resolve", post(resolve))
            .route("/keys/purge", post(purge))
            .layer(DefaultBodyLimit::max(REQUEST_MAX_BYTES))
            .with_state(Arc::clone(self))
    }

    fn health(&self) -> Router<Arc<Self>> {
        Router::new()
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .fallback(async || {
                Problem::not_found("there is nothing at this path; see /healthz, /readyz, /metrics, /keys")
            })
            .method_not_allowed_fallback(not_allowed)
    }

    /// Serves the reader until `stop`.
    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        tcp::serve(listener, self.reader(), stop).await;
    }

    /// Serves the operator's side until `stop`.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve_socket(
        self: Arc<Self>,
        socket: Socket,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        axum::serve(socket, self.operator()).with_graceful_shutdown(stop).await
    }
}

async fn readyz(State(admin): Shared) -> Response {
    if admin.draining.load(Ordering::SeqCst) {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    let Ok(key) = Key::new("probe") else { unreachable!("this is a key") };
    let probe = RecordId::new(Tenant::from_text("semel"), Operation::new("readyz"), key);
    match tokio::time::timeout(READY_TIMEOUT, admin.engine.store().get(&probe)).await {
        Ok(Ok(_)) => "ready\n".into_response(),
        Ok(Err(error)) => Problem::from(error).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the store does not answer\n").into_response(),
    }
}

async fn metrics(State(admin): Shared) -> Response {
    let counting = async {
        let _alone = admin.scrape.lock().await;
        inspect::count_in_doubt(admin.engine.store().as_ref(), IN_DOUBT_MAX_RECORDS).await
    };
    let in_doubt = tokio::time::timeout(SCRAPE_TIMEOUT, counting).await.ok().and_then(Result::ok);
    let page = admin.metrics.render(admin.engine.live_claims(), in_doubt);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response()
}

async fn keys(State(admin): Shared, ask: Result<Query<ListAsk>, QueryRejection>) -> Answer<Listing> {
    inspect::list(admin.engine.store().as_ref(), understood(ask)?).await.map(Json)
}

async fn one(State(admin): Shared, ask: Result<Query<ShowAsk>, QueryRejection>) -> Answer<Shown> {
    inspect::show(admin.engine.store().as_ref(), understood(ask)?).await.map(Json)
}

async fn one_without_body(admin: Shared, ask: Result<Query<ShowAsk>, QueryRejection>) -> Answer<Shown> {
    if ask.as_ref().is_ok_and(|ask| ask.body) {
        return Err(Problem::forbidden(
            "bodies are shown over the owner-only socket: `semel keys show --body`",
        ));
    }
    one(admin, ask).await
}

async fn release(State(admin): Shared, ask: Result<Json<Selector>, JsonRejection>) -> Answer<Changed> {
    let changed = inspect::release(admin.engine.store().as_ref(), said(ask)?).await;
    audit("release", changed)
}

async fn resolve(State(admin): Shared, ask: Result<Json<ResolveAsk>, JsonRejection>) -> Answer<Changed> {
    let changed = inspect::resolve(admin.engine.store().as_ref(), said(ask)?, admin.make).await;
    audit("resolve", changed)
}

async fn purge(State(admin): Shared, ask: Result<Json<PurgeAsk>, JsonRejection>) -> Answer<Purged> {
    let purged = inspect::purge(admin.engine.store().as_ref(), said(ask)?).await?;
    tracing::info!(action = "purge", removed = purged.removed, "an operator removed records");
    Ok(Json(purged))
}

fn audit(action: &'static str, changed: Result<Changed, Problem>) -> Answer<Changed> {
    let changed = changed?;
    let now = changed.after.as_ref().map_or("absent", |record| &record.state);
    tracing::info!(
        action,
        record = changed.before.record,
        tenant = changed.before.tenant,
        was = changed.before.state,
        now,
        "an operator changed a record"
    );
    Ok(Json(changed))
}

fn understood<T>(ask: Result<Query<T>, QueryRejection>) -> Result<T, Problem> {
    ask.map(|Query(ask)| ask).map_err(|rejection| Problem::bad_request(rejection.body_text()))
}

fn said<T>(ask: Result<Json<T>, JsonRejection>) -> Result<T, Problem> {
    ask.map(|Json(ask)| ask).map_err(|rejection| Problem::bad_request(rejection.body_text()))
}

/// A page in somebody's browser can point a name of its own at this address and read what is served here; it cannot
/// make the browser send an address, or `localhost`, as the host.
async fn known_by_address(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = host.and_then(|host| host.parse::<Authority>().ok());
    let by_address = authority.is_some_and(|authority| {
        let host = authority.host();
        host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
    });
    if by_address {
        return next.run(request).await;
    }
    Problem::forbidden("keys are shown to those who ask by address, for instance 127.0.0.1").into_response()
}

async fn not_allowed() -> Response {
    let problem = Problem::bad_request(
        "this listener does not take that method here; records are changed by `semel keys`, over the owner-only socket",
    );
    Problem { status: StatusCode::METHOD_NOT_ALLOWED.as_u16(), ..problem }.into_response()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(self)).into_response()
    }
}
