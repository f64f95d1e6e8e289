//! A gRPC service made with tonic, called by a client made with tonic: behind the gateway, and with the layer inside
//! its own server. Both must look the same to the client.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use semel::store::memory::MemoryStore;
use semel::{Engine, Policy};
use semel_tower::{Route, Routes, SemelLayer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tower::service_fn;

use semel_testkit::gateway::Gateway;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
const CHARGE: &str = "/pay.Api/Charge";
const STATEMENT: &str = "/pay.Api/Statement";

/// Messages as bytes.
#[derive(Clone, Copy, Default)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// A service that counts its effects. What the message says decides how it answers.
#[derive(Clone)]
struct Charges {
    effects: Arc<AtomicUsize>,
    /// Calls that say `slow` wait for a permit.
    gate: Arc<Semaphore>,
}

impl Charges {
    fn new() -> Self {
        Self { effects: Arc::default(), gate: Arc::new(Semaphore::new(0)) }
    }

    async fn charge(self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        let nth = self.effects.fetch_add(1, Ordering::SeqCst) + 1;
        let said = request.into_inner();
        match &said[..] {
            b"declined" => {
                let mut status =
                    Status::with_details(Code::FailedPrecondition, "no money: 0 %", "why".into());
                status.metadata_mut().insert("x-nth", nth.to_string().parse().unwrap());
                return Err(status);
            }
            b"busy" => return Err(Status::unavailable("later")),
            b"broken" => return Err(Status::internal("who knows")),
            b"slow" => self.gate.acquire().await.unwrap().forget(),
            _ => {}
        }
        let mut answer = Response::new(Bytes::from(format!("charge {nth} of {}", said.len())));
        answer.metadata_mut().insert("x-nth", nth.to_string().parse().unwrap());
        Ok(answer)
    }

    fn statement(self) -> Response<impl tokio_stream::Stream<Item = Result<Bytes, Status>>> {
        let nth = self.effects.fetch_add(1, Ordering::SeqCst) + 1;
        let lines = (1..=3).map(move |line| Ok(Bytes::from(format!("line {line} of {nth}"))));
        Response::new(tokio_stream::iter(lines))
    }
}

impl tonic::server::NamedService for Charges {
    const NAME: &'static str = "pay.Api";
}

impl tower::Service<http::Request<tonic::body::Body>> for Charges {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let charges = self.clone();
        Box::pin(async move {
            let mut server = tonic::server::Grpc::new(Plain);
            Ok(match request.uri().path() {
                CHARGE => server.unary(service_fn(move |asked| charges.clone().charge(asked)), request).await,
                STATEMENT => {
                    let statement = service_fn(move |_: Request<Bytes>| {
                        std::future::ready(Ok::<_, Status>(charges.clone().statement()))
                    });
                    server.server_streaming(statement, request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// A service that is protected in one of two ways, and a channel to it.
struct Scene {
    charges: Charges,
    channel: Channel,
    _gateway: Option<Gateway>,
}

impl Scene {
    async fn behind_the_gateway() -> Self {
        let charges = Charges::new();
        let (listener, addr) = listener().await;
        let server = Server::builder().add_service(charges.clone());
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        let config = "[defaults]\nwait_timeout = \"300ms\"\n";
        let gateway = Gateway::start_with(SEMEL, &format!("h2c://{addr}"), config).await;
        let channel = channel(gateway.addr()).await;
        Self { charges, channel, _gateway: Some(gateway) }
    }

    async fn with_the_layer() -> Self {
        let charges = Charges::new();
        let (listener, addr) = listener().await;
        let policy = Policy { wait_timeout: Duration::from_millis(300), ..Policy::default() };
        let routes = Routes::new(Route { policy: Arc::new(policy), ..Route::default() });
        let layer = SemelLayer::with_routes(Engine::new(MemoryStore::new()), routes);
        let server = Server::builder().layer(layer).add_service(charges.clone());
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Self { charges, channel: channel(addr).await, _gateway: None }
    }

    fn effects(&self) -> usize {
        self.charges.effects.load(Ordering::SeqCst)
    }

    async fn charge(&self, key: &str, message: &'static str) -> Result<Response<Bytes>, Status> {
        let mut client = self.client().await;
        client.unary(keyed(key, message), PathAndQuery::from_static(CHARGE), Plain).await
    }

    async fn statement(&self, key: &str) -> (MetadataMap, Vec<Bytes>, Option<MetadataMap>) {
        let mut client = self.client().await;
        let path = PathAndQuery::from_static(STATEMENT);
        let answer = client.server_streaming(keyed(key, "all"), path, Plain).await.unwrap();
        let head = answer.metadata().clone();
        let mut messages = answer.into_inner();
        let mut lines = Vec::new();
        while let Some(line) = messages.message().await.unwrap() {
            lines.push(line);
        }
        (head, lines, messages.trailers().await.unwrap())
    }

    async fn client(&self) -> tonic::client::Grpc<Channel> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        client
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

async fn channel(addr: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap()
}

fn keyed(key: &str, message: &'static str) -> Request<Bytes> {
    let mut request = Request::new(Bytes::from_static(message.as_bytes()));
    if !key.is_empty() {
        request.metadata_mut().insert("idempotency-key", key.parse().unwrap());
    }
    request
}

fn standing(metadata: &MetadataMap) -> &str {
    metadata.get("idempotency-status").map_or("", |value| value.to_str().unwrap())
}

/// Runs `scenario` both ways.
async fn both_ways(scenario: impl AsyncFn(Scene)) {
    scenario(Scene::with_the_layer().await).await;
    scenario(Scene::behind_the_gateway().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_executed_once_and_replayed_with_their_metadata() {
    both_ways(async |scene| {
        let first = scene.charge("k", "100").await.unwrap();
        assert_eq!(
            (standing(first.metadata()), first.get_ref().as_ref()),
            ("executed", &b"charge 1 of 3"[..])
        );
        for _ in 0..3 {
            let again = scene.charge("k", "100").await.unwrap();
            assert_eq!((standing(again.metadata()), again.get_ref()), ("replayed", first.get_ref()));
            assert_eq!(again.metadata().get("x-nth"), first.metadata().get("x-nth"));
            assert_eq!(again.metadata().get("idempotency-replayed").unwrap(), "true");
        }
        let other = scene.charge("other", "100").await.unwrap();
        assert_eq!((standing(other.metadata()), scene.effects()), ("executed", 2));
        scene.charge("", "100").await.unwrap();
        scene.charge("", "100").await.unwrap();
        assert_eq!(scene.effects(), 4, "calls without a key pass");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_answers_are_replayed_with_their_trailers() {
    both_ways(async |scene| {
        let (head, lines, trailers) = scene.statement("k").await;
        assert_eq!((standing(&head), lines.len()), ("executed", 3));
        assert_eq!(lines[2], "line 3 of 1");
        let (head, again, trailers_again) = scene.statement("k").await;
        assert_eq!((standing(&head), &again), ("replayed", &lines));
        assert_eq!(format!("{trailers_again:?}"), format!("{trailers:?}"));
        assert_eq!(scene.effects(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_service_is_an_outcome_like_any_other() {
    both_ways(async |scene| {
        let first = scene.charge("k", "declined").await.unwrap_err();
        assert_eq!((standing(first.metadata()), first.code()), ("executed", Code::FailedPrecondition));
        let again = scene.charge("k", "declined").await.unwrap_err();
        assert_eq!((standing(again.metadata()), again.code()), ("replayed", Code::FailedPrecondition));
        assert_eq!((again.message(), again.details()), ("no money: 0 %", &b"why"[..]));
        assert_eq!(again.metadata().get("x-nth").unwrap(), "1");
        assert_eq!(scene.effects(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_did_nothing_frees_the_key_and_one_that_failed_does_not() {
    both_ways(async |scene| {
        for nth in 1..=2 {
            let busy = scene.charge("busy", "busy").await.unwrap_err();
            assert_eq!((busy.code(), scene.effects()), (Code::Unavailable, nth));
        }
        let broken = scene.charge("broken", "broken").await.unwrap_err();
        assert_eq!((standing(broken.metadata()), broken.code()), ("in-doubt", Code::Internal));
        let held = scene.charge("broken", "broken").await.unwrap_err();
        assert_eq!((standing(held.metadata()), held.code()), ("in-doubt", Code::FailedPrecondition));
        assert!(held.message().starts_with("SEMEL-0006"), "{held:?}");
        assert_eq!(scene.effects(), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_is_aborted_with_a_time_to_come_back() {
    both_ways(async |scene| {
        let mut client = scene.client().await;
        let first = tokio::spawn(async move {
            client.unary(keyed("k", "slow"), PathAndQuery::from_static(CHARGE), Plain).await
        });
        while scene.effects() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let duplicate = scene.charge("k", "slow").await.unwrap_err();
        assert_eq!((standing(duplicate.metadata()), duplicate.code()), ("in-progress", Code::Aborted));
        let details = String::from_utf8_lossy(duplicate.details()).into_owned();
        assert!(details.contains("type.googleapis.com/google.rpc.RetryInfo"), "{details:?}");
        scene.charges.gate.add_permits(1);
        let first: Response<Bytes> = first.await.unwrap().unwrap();
        let again = scene.charge("k", "slow").await.unwrap();
        assert_eq!((standing(again.metadata()), again.get_ref()), ("replayed", first.get_ref()));
        assert_eq!(scene.effects(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_statuses_that_say_what_to_do() {
    both_ways(async |scene| {
        scene.charge("k", "100").await.unwrap();
        let changed = scene.charge("k", "900").await.unwrap_err();
        assert_eq!((standing(changed.metadata()), changed.code()), ("refused", Code::FailedPrecondition));
        assert!(
            changed.message().starts_with("SEMEL-0004") && changed.message().contains("new key"),
            "{changed:?}"
        );
        let long = "k".repeat(256);
        let invalid = scene.charge(&long, "100").await.unwrap_err();
        assert_eq!((standing(invalid.metadata()), invalid.code()), ("refused", Code::InvalidArgument));
        let mut twice = keyed("a", "100");
        twice.metadata_mut().append("idempotency-key", "b".parse().unwrap());
        let path = PathAndQuery::from_static(CHARGE);
        let repeated: Result<Response<Bytes>, _> = scene.client().await.unary(twice, path, Plain).await;
        assert_eq!(repeated.unwrap_err().code(), Code::InvalidArgument);
        assert_eq!(scene.effects(), 1);
    })
    .await;
}
