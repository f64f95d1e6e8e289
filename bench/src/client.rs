//! What the client costs when all goes well, and how a crowd of them behaves when nothing does.

use std::hint::black_box;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cpu_time::ProcessTime;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use semel::clock::{Clock, SystemClock};
use semel_client::adapter::layer::OnceLayer;
use semel_client::core::budget::{Budgets, Share};
use semel_client::core::call::{Call, Plan, Policy, Step};
use semel_client::core::classify::{Answer, Outcome};
use semel_client::core::key::on_the_wire;
use semel_client::{Client, Key, Once, System};
use semel_testkit::upstream::{Reply, Upstream};
use tower::{Layer, Service, ServiceExt};

const ROUNDS: usize = 9;
const CALLS: u32 = 100_000;
/// Who call the failing host at once.
const CALLERS: usize = 64;

/// How large the crowds are.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Clients that are told to come back at one moment.
    #[arg(long, default_value_t = 1_000)]
    herd: usize,
    /// Calls to a host that always fails.
    #[arg(long, default_value_t = 10_000)]
    failing: usize,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    println!("core, key to answer: {} ns CPU a call (median of {ROUNDS} x {CALLS})", core_ns());
    let (bare, layered) = layer_ns().await?;
    println!(
        "tower layer around a service that answers at once: {layered} ns CPU a call, {bare} ns without the layer"
    );
    for retry_after in [None, Some("2")] {
        herd(arguments.herd, retry_after).await?;
    }
    failing(arguments.failing).await
}

fn median(mut figures: Vec<u128>) -> u128 {
    figures.sort_unstable();
    figures[figures.len() / 2]
}

fn core_ns() -> u128 {
    let (policy, budgets) = (Policy::default(), Budgets::new(Some(Share::default())));
    let (name, answer) = (HeaderName::from_static("idempotency-key"), HeaderMap::new());
    let mut headers = HeaderMap::with_capacity(8);
    let round = |_| {
        let began = ProcessTime::now();
        for _ in 0..CALLS {
            let (key, budget) = (Key::auto(), budgets.of("api.example.com"));
            let plan =
                Plan { method: Method::POST, keyed: true, trusted: true, body_again: true, follows: false };
            let mut call = Call::begin(plan, &budget, &System);
            headers.insert(name.clone(), on_the_wire(&key));
            let answer = Answer { status: StatusCode::CREATED, headers: &answer, body: b"" };
            let step = call.after(&policy, &budget, &Outcome::Answer(answer), || None, &System);
            assert_eq!(black_box(step), Step::Done);
        }
        began.elapsed().as_nanos() / u128::from(CALLS)
    };
    median((0..ROUNDS).map(round).collect())
}

async fn layer_ns() -> Result<(u128, u128), Box<dyn std::error::Error>> {
    let answers = tower::service_fn(|request: Request<Full<Bytes>>| async move {
        black_box(request);
        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
    });
    let layered = OnceLayer::new(Once::for_hosts(["api.example.com"])).layer(answers);
    Ok((time(answers).await?, time(layered).await?))
}

async fn time<S, R>(mut service: S) -> Result<u128, Box<dyn std::error::Error>>
where
    S: Service<Request<Full<Bytes>>, Response = Response<R>>,
    S::Error: std::error::Error + 'static,
{
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let began = ProcessTime::now();
        for _ in 0..CALLS {
            let mut request = Request::new(Full::new(Bytes::from_static(b"{\"cents\":4000}")));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = http::Uri::from_static("https://api.example.com/charges");
            request.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
            black_box(service.ready().await?.call(request).await?);
        }
        rounds.push(began.elapsed().as_nanos() / u128::from(CALLS));
    }
    Ok(median(rounds))
}

fn unavailable(retry_after: Option<&'static str>) -> Reply {
    let mut answer = Response::new(Bytes::new());
    *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    if let Some(value) = retry_after {
        answer.headers_mut().insert("retry-after", HeaderValue::from_static(value));
    }
    Reply::Answer(answer)
}

/// All are refused at one moment, when the last of them has arrived; then each comes back when it likes.
async fn herd(clients: usize, retry_after: Option<&'static str>) -> Result<(), Box<dyn std::error::Error>> {
    let clock = Arc::new(SystemClock::new());
    let (arrivals, all_here) =
        (Arc::new(Mutex::new(Vec::new())), Arc::new(tokio::sync::Barrier::new(clients)));
    let (noted, here, now) = (Arc::clone(&arrivals), Arc::clone(&all_here), Arc::clone(&clock));
    let server = Upstream::scripted(move |arrived| {
        let (noted, here, now) = (Arc::clone(&noted), Arc::clone(&here), Arc::clone(&now));
        async move {
            if arrived.nth_of_key == 1 {
                here.wait().await;
                return unavailable(retry_after);
            }
            noted.lock().unwrap_or_else(PoisonError::into_inner).push(now.now());
            arrived.charge()
        }
    });
    let client =
        Client::new(Once::for_hosts(["127.0.0.1"]).budget(None)).map_err(|error| error.to_string())?;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (client, url) = (client.clone(), server.url());
        calls.spawn(async move { client.post(&url).send().await.map(drop) });
    }
    while let Some(call) = calls.join_next().await {
        call??;
    }
    let mut arrivals = arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone();
    arrivals.sort_unstable();
    let within = |from: usize| {
        let end = arrivals[from].plus(Duration::from_millis(50));
        arrivals[from..].partition_point(|at| *at <= end)
    };
    let crowd = (0..arrivals.len()).map(within).max().unwrap_or_default();
    println!(
        "{clients} clients refused at once, Retry-After {retry_after:?}: at most {crowd} of their first retries in any 50 ms"
    );
    Ok(())
}

async fn failing(wanted: usize) -> Result<(), Box<dyn std::error::Error>> {
    let server = Upstream::scripted(|_| async { unavailable(None) });
    let client = Client::new(Once::for_hosts(["127.0.0.1"])).map_err(|error| error.to_string())?;
    let mut calls = tokio::task::JoinSet::new();
    for nth in 0..CALLERS {
        let share = wanted / CALLERS + usize::from(nth < wanted % CALLERS);
        let (client, url) = (client.clone(), server.url());
        calls.spawn(async move {
            for _ in 0..share {
                // That it fails is what is wanted.
                let _ = client.post(&url).send().await;
            }
        });
    }
    calls.join_all().await;
    let arrived = server.ledger().total();
    println!(
        "{wanted} calls to a host that always fails: {arrived} requests, {:.3} a call",
        arrived as f64 / wanted as f64
    );
    Ok(())
}
