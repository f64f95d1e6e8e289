//! The clients: programs that make calls through `semel-client`'s tower layer, in all the ways that programs do.
//!
//! What they were told is written down in [`Heard`]; [`crate::judge`] reads it.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use semel::{Key, wire};
use semel_client::adapter::layer::{OnceLayer, OnceService};
use semel_client::core::call::World;
use semel_client::journal::memory::MemoryJournal;
use semel_client::journal::{Journal, Saved};
use semel_client::{BoxError, Error, Idempotency, Kind, Once};
use tower::{Layer, Service};
use url::Url;

use crate::chance::Chance;
use crate::fault::{self, Fault};
use crate::network::{Host, Network};
use crate::options::Options;
use crate::sim::{Life, Sim, lock};
use crate::upstream::ENTRY;

/// What a call is: brought again, it is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whose.
    pub tenant: String,
    /// Its key.
    pub key: String,
    /// Where to.
    pub path: &'static str,
    /// With which body.
    pub payload: String,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The status.
    pub status: u16,
    /// `Idempotency-Status`.
    pub said: String,
    /// Which entry of the upstream's books it is about.
    pub entry: Option<usize>,
    /// The problem's type, when it is one.
    pub problem: Option<String>,
    /// The body; `None` when it broke off.
    pub body: Option<Bytes>,
}

/// What a caller was told.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Who.
    pub caller: String,
    /// What it had asked.
    pub asked: Ask,
    /// The answer, or what the client's error is.
    pub told: Result<Told, Kind>,
    /// Whether nothing struck any more when it asked.
    pub calm: bool,
}

/// All clients.
#[derive(Debug)]
pub struct Clients {
    network: Arc<Network>,
    once: Once,
    /// What everybody was told, in order.
    heard: Mutex<Vec<Heard>>,
}

/// The simulation's time and chance.
#[derive(Debug)]
struct Here(Arc<Sim>, Mutex<Chance>);

impl World for Here {
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.0.elapsed()
    }

    fn random(&self) -> u16 {
        u16::try_from(lock(&self.1).below(1 << 16)).unwrap_or(0)
    }
}

impl Clients {
    /// Clients that have not asked anything.
    #[must_use]
    pub fn new(network: Arc<Network>) -> Arc<Self> {
        let sim = Arc::clone(network.sim());
        let dice = Mutex::new(sim.dice("clients"));
        let once = Once::new().trust_keys().attempt_timeout(Duration::from_secs(20)).world(Here(sim, dice));
        Arc::new(Self { network, once, heard: Mutex::default() })
    }

    fn sim(&self) -> &Arc<Sim> {
        self.network.sim()
    }

    /// What everybody was told.
    pub fn heard(&self) -> Vec<Heard> {
        lock(&self.heard).clone()
    }

    /// Asks until there is an answer, and writes down what came of it.
    pub async fn ask(&self, caller: &str, asked: &Ask, key: Idempotency) -> Result<Told, Kind> {
        let mut service = self.service(caller);
        let mut request = http_request(caller, asked);
        request.extensions_mut().insert(key);
        let calm = self.sim().is_calm();
        let told = match service.call(request).await {
            Ok(answer) => Ok(read(answer).await),
            Err(error) => Err(Error::kind(&error)),
        };
        let line = match &told {
            Ok(told) => format!(
                "{} -> {} {} {}",
                asked.key,
                told.status,
                told.said,
                told.entry.map_or_else(String::new, |entry| format!("entry {entry}"))
            ),
            Err(kind) => format!("{} -> {kind:?}", asked.key),
        };
        self.sim().say(caller, &line);
        let heard = Heard { caller: caller.to_owned(), asked: asked.clone(), told: told.clone(), calm };
        lock(&self.heard).push(heard);
        told
    }

    /// As [`Clients::ask`], with the call's own key.
    pub async fn ask_plainly(&self, caller: &str, asked: &Ask) -> Result<Told, Kind> {
        self.ask(caller, asked, Idempotency::key(asked.key.as_str())).await
    }

    fn service(&self, caller: &str) -> OnceService<Browser, Full<Bytes>> {
        let dice = Arc::new(Mutex::new(self.sim().dice(&format!("browser {caller}"))));
        let browser = Browser { network: Arc::clone(&self.network), life: Life::begin(), dice };
        OnceLayer::new(self.once.clone()).layer(browser)
    }

    /// One logical call, made as the seed says, with all its repetitions.
    pub async fn make_call(self: Arc<Self>, number: usize, mut dice: Chance) {
        let caller = format!("call {number}");
        let seed = self.sim().options.seed;
        let tenant = format!("tenant {}", dice.below(2));
        let asked = Ask {
            payload: format!("amount {number} of {tenant}"),
            tenant,
            key: format!("s{seed}k{number}"),
            path: "/charges",
        };
        let strikes = manners(&self.sim().options, &mut dice);
        let mut others = Vec::new();
        for fault in &strikes {
            others.extend(self.accompany(*fault, &caller, &asked, &mut dice));
        }
        let mut told = self.begin(&strikes, &caller, &asked, &mut dice).await;
        for repetition in 0..2 {
            if told.as_ref().is_some_and(|told| told.as_ref().is_ok_and(|told| told.status < 300)) {
                break;
            }
            tokio::time::sleep(dice.millis(500, 15_000)).await;
            told = Some(self.ask_plainly(&format!("{caller} again {repetition}"), &asked).await);
        }
        if strikes.contains(&Fault::RetryAfterRetention) {
            tokio::time::sleep(self.sim().options.retention + dice.millis(0, 2_000)).await;
            self.sim().struck(Fault::RetryAfterRetention, &caller);
            let _ = self.ask_plainly(&format!("{caller} late"), &asked).await;
        }
        for other in others {
            let _ = other.await;
        }
    }

    /// The first time that the call is made. `None` when its caller did not wait for what came of it.
    async fn begin(
        &self,
        strikes: &[Fault],
        caller: &str,
        asked: &Ask,
        dice: &mut Chance,
    ) -> Option<Result<Told, Kind>> {
        let patience = dice.millis(1, 400);
        if strikes.contains(&Fault::ClientCrash) {
            return self.crash(caller, asked, patience, dice).await;
        }
        if strikes.contains(&Fault::HangUp) {
            let told = tokio::time::timeout(patience, self.ask_plainly(caller, asked)).await.ok();
            if told.is_none() {
                self.sim().struck(Fault::HangUp, caller);
            }
            return told;
        }
        Some(self.ask_plainly(caller, asked).await)
    }

    /// Dies in the middle of the call, and goes on from its journal.
    async fn crash(
        &self,
        caller: &str,
        asked: &Ask,
        patience: Duration,
        dice: &mut Chance,
    ) -> Option<Result<Told, Kind>> {
        let journal = MemoryJournal::new();
        let id = journal.begin(&saved(asked)?).ok()?;
        let told = tokio::time::timeout(patience, self.ask_plainly(caller, asked)).await.ok();
        if told.is_some() {
            let _ = journal.settle(id);
            return told;
        }
        self.sim().struck(Fault::ClientCrash, caller);
        tokio::time::sleep(dice.millis(10, 5_000)).await;
        let mut told = None;
        for unfinished in journal.open().ok()? {
            let resumed = self.ask(&format!("{caller} resumed"), asked, unfinished.idempotency()).await;
            if resumed.is_ok() {
                let _ = journal.settle(unfinished.id);
            }
            told = Some(resumed);
        }
        told
    }

    /// Others who bring the same key.
    fn accompany(
        self: &Arc<Self>,
        fault: Fault,
        caller: &str,
        asked: &Ask,
        dice: &mut Chance,
    ) -> Vec<tokio::task::JoinHandle<()>> {
        let mut asked = asked.clone();
        let count = match fault {
            Fault::Duplicates => 1 + dice.below(4),
            Fault::OtherPayload => {
                asked.payload.push_str(", changed");
                1
            }
            Fault::OtherTarget => {
                asked.path = "/refunds";
                1
            }
            Fault::OtherTenant => {
                asked.tenant = "tenant 9".to_owned();
                1
            }
            _ => 0,
        };
        let latest = if fault == Fault::Duplicates && dice.below(2) == 0 { 3 } else { 5_000 };
        let others = (0..count).map(|number| {
            let (clients, asked, after) = (Arc::clone(self), asked.clone(), dice.millis(0, latest));
            let name = format!("{caller} {fault} {number}");
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                clients.sim().struck(fault, &name);
                let _ = clients.ask_plainly(&name, &asked).await;
            })
        });
        others.collect()
    }
}

/// What a program does with one call.
fn manners(options: &Options, dice: &mut Chance) -> Vec<Fault> {
    let kinds = Fault::ALL.iter().filter(|fault| fault.kind() == fault::Kind::Caller);
    kinds.copied().filter(|fault| dice.permille(options.rate(*fault))).collect()
}

fn saved(asked: &Ask) -> Option<Saved> {
    Some(Saved {
        key: Key::new(&asked.key).ok()?,
        method: Method::POST,
        url: Url::parse(&format!("http://gateway{}", asked.path)).ok()?,
        headers: HeaderMap::new(),
        body: Bytes::from(asked.payload.clone()),
    })
}

fn http_request(caller: &str, asked: &Ask) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(Bytes::from(asked.payload.clone())));
    *request.method_mut() = Method::POST;
    if let Ok(uri) = format!("http://gateway{}", asked.path).parse() {
        *request.uri_mut() = uri;
    }
    let headers =
        [(header::AUTHORIZATION, asked.tenant.as_str()), (HeaderName::from_static("x-caller"), caller)];
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            request.headers_mut().insert(name, value);
        }
    }
    request
}

/// Reads an answer whole.
async fn read<B>(answer: Response<B>) -> Told
where
    B: http_body::Body<Data = Bytes>,
{
    let (head, body) = answer.into_parts();
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let gathered = tokio::time::timeout(Duration::from_secs(30), body.collect()).await;
    let body = gathered.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes);
    let is_problem = text("content-type").is_some_and(|kind| kind.contains("problem"));
    let problem = body.as_ref().filter(|_| is_problem).and_then(|body| {
        let text = String::from_utf8_lossy(body).into_owned();
        let (_, from) = text.split_once(wire::PROBLEM)?;
        Some(from.split('"').next()?.to_owned())
    });
    Told {
        status: head.status.as_u16(),
        said: text(wire::STATUS).unwrap_or_default(),
        entry: text(ENTRY).and_then(|number| number.parse().ok()),
        problem,
        body,
    }
}

/// Sends one attempt over a connection of its own, to a gateway of its choice.
#[derive(Clone, Debug)]
struct Browser {
    network: Arc<Network>,
    life: Arc<Life>,
    dice: Arc<Mutex<Chance>>,
}

impl Service<Request<Full<Bytes>>> for Browser {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Full<Bytes>>) -> Self::Future {
        let Self { network, life, dice } = self.clone();
        Box::pin(async move {
            let gateway = lock(&dice).below(network.sim().options.gateways);
            let stream = network.connect(&life, Host::Gateway(gateway)).await?;
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            request.headers_mut().insert(header::HOST, HeaderValue::from_static("gateway"));
            let path = request.uri().path().parse()?;
            *request.uri_mut() = path;
            Ok(sender.ready().await.map(|()| sender)?.send_request(request).await?)
        })
    }
}
