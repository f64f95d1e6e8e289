//! The front door: accepts connections within bounds, refuses what is ambiguous, and hands the rest to the layer.
//!
//! The accept loop is our own because a head that never ends must not hold a connection for ever, whichever
//! protocol it began. Next: [`crate::upstream`].

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use semel::error::error_chain;
use semel::{Code, Engine};
use semel_tower::problem::Problem;
use semel_tower::profile::Profile;
use semel_tower::service::Answer;
use semel_tower::tenant::CertificateSubject;
use semel_tower::{Body, Decisions, SemelLayer, SemelService, replay};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tower::{Layer, Service};
use tracing::Instrument;

use crate::config::Config;
use crate::connections::Connector;
use crate::hooks::{HookClient, Parts};
use crate::listen::{Accepted, Listen};
use crate::self_test::self_test;
use crate::shutdown::{Drain, Drained, Ending};
use crate::upstream::Upstream;
use crate::{tls, upstream};

/// A gateway that listens, on TCP and with an upstream over TCP or TLS unless something else was said.
#[derive(Debug)]
pub struct Gateway<L = TcpListener> {
    listener: L,
    door: Arc<Door>,
    engine: Engine,
    drain: Drain,
    drain_timeout: Duration,
}

/// What every connection needs.
#[derive(Debug)]
struct Door {
    service: SemelService<Upstream>,
    tls: Option<TlsAcceptorOf>,
    header_timeout: Duration,
}

#[derive(Clone)]
struct TlsAcceptorOf(TlsAcceptor);

impl fmt::Debug for TlsAcceptorOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsAcceptor")
    }
}

/// Why a gateway cannot start.
#[derive(Debug)]
pub struct GatewayError {
    kind: GatewayErrorKind,
    text: String,
}

/// The kinds of [`GatewayError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GatewayErrorKind {
    /// The configuration, or a file that it names, is refused.
    Config,
    /// An address cannot be listened on.
    Listen,
    /// Something that it needs from elsewhere does not answer.
    Unreachable,
    /// The store does not find again what it has taken.
    Store,
}

impl GatewayError {
    pub(crate) fn new(kind: GatewayErrorKind, text: impl fmt::Display) -> Self {
        Self { kind, text: text.to_string() }
    }

    /// What stood in the way.
    #[must_use]
    pub fn kind(&self) -> GatewayErrorKind {
        self.kind
    }
}

impl fmt::Display for GatewayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl std::error::Error for GatewayError {}

pub(crate) fn hook_client(config: &Config) -> io::Result<HookClient> {
    let connector = upstream::connector(tls::client(&config.upstream_tls)?, config.timeouts.connect.0);
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

impl Gateway {
    /// Listens, and is ready to serve once [`Gateway::run`] is called.
    ///
    /// # Errors
    /// [`GatewayError`] says which address, file or key set cannot be used, or that the store does not find again what
    /// it has taken.
    pub async fn bind(
        config: Config,
        engine: Engine,
        decisions: Arc<dyn Decisions>,
    ) -> Result<Self, GatewayError> {
        let refused = |error: io::Error| GatewayError::new(GatewayErrorKind::Config, error);
        if config.upstream.is_none() {
            let text = "no upstream: give --upstream http://127.0.0.1:3000 or `upstream` in the file";
            return Err(GatewayError::new(GatewayErrorKind::Config, text));
        }
        let mut parts = Parts::new(hook_client(&config).map_err(refused)?);
        let routes = config.routes(&mut parts);
        parts.load_key_sets().await?;
        let connector = upstream::connector(
            tls::client(&config.upstream_tls).map_err(refused)?,
            config.timeouts.connect.0,
        );
        let layer = SemelLayer::with_routes(engine.clone(), routes).observed_by(decisions);
        match self_test(&**engine.store()).await {
            Ok(None) => {}
            Ok(Some(wrong)) => return Err(GatewayError::new(GatewayErrorKind::Store, wrong)),
            Err(error) => tracing::warn!(error = %error_chain(&error), "the store could not be tested"),
        }
        let tls = config.tls.as_ref().map(tls::server).transpose().map_err(refused)?;
        let listener = TcpListener::bind(config.listen).await.map_err(|error| {
            GatewayError::new(
                GatewayErrorKind::Listen,
                format!("cannot listen on {}: {error}", config.listen),
            )
        })?;
        let tls = tls.map(|config| TlsAcceptorOf(TlsAcceptor::from(config)));
        Self::serving(&config, engine, &layer, listener, connector, tls)
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl<L: Listen> Gateway<L> {
    /// As [`Gateway::bind`], on another network than the operating system's and without TLS: what a simulation runs.
    /// Of `config`, the upstream, the timeouts and the number of connections are used.
    ///
    /// # Errors
    /// [`GatewayErrorKind::Config`] when no upstream is named.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn over(
        config: &Config,
        engine: Engine,
        layer: &SemelLayer,
        listener: L,
        connector: impl Connector,
    ) -> Result<Self, GatewayError> {
        Self::serving(config, engine, layer, listener, connector, None)
    }

    fn serving(
        config: &Config,
        engine: Engine,
        layer: &SemelLayer,
        listener: L,
        connector: impl Connector,
        tls: Option<TlsAcceptorOf>,
    ) -> Result<Self, GatewayError> {
        let upstream = Upstream::over(config, connector).ok_or_else(|| {
            let named = config.upstream.as_ref().map(|uri| uri.0.to_string()).unwrap_or_default();
            GatewayError::new(GatewayErrorKind::Config, format!("{named} names no host"))
        })?;
        let header_timeout = config.timeouts.header.0;
        let door = Arc::new(Door { service: layer.layer(upstream), tls, header_timeout });
        let drain = Drain::new(config.limits.connections.get());
        Ok(Self { listener, door, engine, drain, drain_timeout: config.timeouts.drain.0 })
    }

    /// Serves until `shutdown` resolves, then drains.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Drained {
        let mut shutdown = pin!(shutdown);
        loop {
            let places = self.drain.connections();
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => break,
                accepted = accept(&self.listener, places) => accepted,
            };
            let Some((stream, peer, place)) = accepted else { continue };
            let (door, drain) = (Arc::clone(&self.door), self.drain.signal());
            tokio::spawn(async move {
                if let Err(error) = door.serve(stream, peer, drain).await {
                    tracing::debug!(%peer, error = %error, "a connection ended");
                }
                drop(place);
            });
        }
        drop(self.listener);
        self.drain.finish(&self.engine, self.drain_timeout).await
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// One connection, once there is a place for it.
async fn accept<L: Listen>(
    listener: &L,
    places: Arc<tokio::sync::Semaphore>,
) -> Option<(L::Stream, SocketAddr, Place)> {
    let place = places.acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            // Out of file descriptors: going on at once would spin.
            tracing::error!(%error, "cannot accept a connection");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

type ServeError = Box<dyn std::error::Error + Send + Sync>;

/// Who is at the other end of a connection, in the words in which the upstream is told.
struct Peer {
    address: SocketAddr,
    subject: Option<CertificateSubject>,
    proto: HeaderValue,
    forwarded_for: HeaderValue,
    /// An element of `Forwarded` for a request that names no host.
    forwarded: HeaderValue,
    /// The last host that it named: most likely the next one too.
    named: Mutex<Option<Arc<Named>>>,
}

/// A host that a request names, and is one.
struct Named {
    host: HeaderValue,
    authority: Authority,
    /// An element of `Forwarded`.
    forwarded: HeaderValue,
}

impl Peer {
    fn new(address: SocketAddr, secure: bool, subject: Option<CertificateSubject>) -> Arc<Self> {
        let proto = if secure { "https" } else { "http" };
        let ip = address.ip();
        let forwarded = match ip {
            IpAddr::V4(ip) => format!("for={ip};proto={proto}"),
            IpAddr::V6(ip) => format!("for=\"[{ip}]\";proto={proto}"),
        };
        let forwarded_for = HeaderValue::try_from(ip.to_string()).expect("an address is printable");
        let forwarded = HeaderValue::try_from(forwarded).expect("an address is printable");
        let (proto, named) = (HeaderValue::from_static(proto), Mutex::default());
        Arc::new(Self { address, subject, proto, forwarded_for, forwarded, named })
    }

    /// `None` when it is not a host.
    fn named(&self, host: &[u8]) -> Option<Arc<Named>> {
        let mut last = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(named) = last.as_ref().filter(|named| named.host.as_bytes() == host) {
            return Some(Arc::clone(named));
        }
        let authority = Authority::try_from(host).ok().filter(|host| !host.as_str().contains('@'))?;
        let forwarded = [self.forwarded.as_bytes(), b";host=\"", host, b"\""].concat();
        let named = Arc::new(Named {
            host: HeaderValue::from_bytes(host).ok()?,
            authority,
            forwarded: HeaderValue::try_from(forwarded).ok()?,
        });
        *last = Some(Arc::clone(&named));
        Some(named)
    }
}

impl Door {
    async fn serve(
        self: Arc<Self>,
        stream: impl Accepted,
        address: SocketAddr,
        drain: Arc<Ending>,
    ) -> Result<(), ServeError> {
        let Some(TlsAcceptorOf(acceptor)) = self.tls.clone() else {
            let http2 = self.opened(stream.speaks_http2(), &drain).await?;
            return self.speak(stream, http2, Peer::new(address, false, None), drain).await;
        };
        let stream = self.opened(acceptor.accept(stream), &drain).await?;
        let (_, session) = stream.get_ref();
        let http2 = session.alpn_protocol() == Some(b"h2");
        let subject = tls::subject(session.peer_certificates());
        self.speak(stream, http2, Peer::new(address, true, subject), drain).await
    }

    /// What comes before the first request: bounded in time, and ended with nothing lost when the drain begins.
    async fn opened<T>(
        &self,
        opening: impl Future<Output = io::Result<T>>,
        drain: &Ending,
    ) -> Result<T, ServeError> {
        tokio::select! {
            biased;
            opened = tokio::time::timeout(self.header_timeout, opening) => Ok(opened??),
            () = drain.begun() => Err("it had sent nothing when the drain began".into()),
        }
    }

    async fn speak(
        self: Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        http2: bool,
        peer: Arc<Peer>,
        drain: Arc<Ending>,
    ) -> Result<(), ServeError> {
        let header_timeout = self.header_timeout;
        let service = service_fn(move |request| {
            let (door, peer) = (Arc::clone(&self), Arc::clone(&peer));
            async move { Ok::<_, Infallible>(door.answer(request, &peer).await) }
        });
        let stream = TokioIo::new(stream);
        if http2 {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(header_timeout).max_concurrent_streams(250);
            let mut connection = pin!(builder.serve_connection(stream, service));
            tokio::select! {
                biased;
                ended = connection.as_mut() => return Ok(ended?),
                () = drain.begun() => connection.as_mut().graceful_shutdown(),
            }
            return Ok(connection.await?);
        }
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(header_timeout).half_close(true);
        let mut connection = pin!(builder.serve_connection(stream, service).with_upgrades());
        tokio::select! {
            biased;
            ended = connection.as_mut() => return Ok(ended?),
            () = drain.begun() => connection.as_mut().graceful_shutdown(),
        }
        Ok(connection.await?)
    }

    async fn answer(&self, mut request: Request<Incoming>, peer: &Peer) -> Answer<Body<Incoming>> {
        let named = match refuse_ambiguous(&mut request, peer) {
            Ok(named) => named,
            Err(detail) => {
                tracing::info!(peer = %peer.address, detail, "an ambiguous request was refused");
                let mut refusal = Problem::new(Code::BadRequest, detail).answer(&Profile::ietf());
                // Where this request ends is what is not certain: what follows it is not looked at.
                refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                return refusal;
            }
        };
        leave_connection(&mut request);
        let id = request_id(request.headers_mut());
        forwarded(request.headers_mut(), peer, named.as_deref());
        if let Some(subject) = &peer.subject {
            request.extensions_mut().insert(subject.clone());
        }
        let mut service = self.service.clone();
        let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());
        let answered = service.call(request).instrument(span).await;
        let mut answer: Response<_> = answered.unwrap_or_else(|never: Infallible| match never {});
        answer.headers_mut().entry(REQUEST_ID).or_insert(id);
        answer
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Two parsers must not be able to read one request in two ways. What hyper refuses by itself (two lengths, a length
/// that is no number, folded lines) is not looked at again. Gives the host that is named.
fn refuse_ambiguous(
    request: &mut Request<Incoming>,
    peer: &Peer,
) -> Result<Option<Arc<Named>>, &'static str> {
    if request.method() == Method::CONNECT {
        return Err("CONNECT is not served here. Nothing was sent on.");
    }
    // CGI and what came after it read underscores as hyphens, and would find another end of the body.
    if request.headers().keys().any(|name| matches!(name.as_str(), "content_length" | "transfer_encoding")) {
        return Err(
            "Content-Length or Transfer-Encoding is spelled with an underscore. Nothing was sent on.",
        );
    }
    let coding = request.headers().get_all(header::TRANSFER_ENCODING);
    if coding.iter().count() > 1
        || coding.iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err("Transfer-Encoding is something else than one `chunked`. Nothing was sent on.");
    }
    let named = named(request, peer)?;
    if has_dot_segment(request.uri().path()) {
        return Err(
            "The path has a `.` or `..` in it, which servers read in different ways. Nothing was sent on.",
        );
    }
    join_cookies(request.headers_mut());
    Ok(named)
}

/// The one host that a request names, in its Host header afterwards; only HTTP/1.0 may name none.
fn named(request: &mut Request<Incoming>, peer: &Peer) -> Result<Option<Arc<Named>>, &'static str> {
    let authority = request.uri().authority();
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, authority) = match (hosts.next(), hosts.next(), authority) {
        (Some(host), None, authority) => (host, authority),
        (None, None, Some(authority)) => {
            let named = peer
                .named(authority.as_str().as_bytes())
                .ok_or("The request's authority is not a host. Nothing was sent on.")?;
            request.headers_mut().insert(header::HOST, named.host.clone());
            return Ok(Some(named));
        }
        (None, None, None) if request.version() == Version::HTTP_10 => return Ok(None),
        _ => return Err("The request has not exactly one Host header. Nothing was sent on."),
    };
    let named = peer.named(host.as_bytes()).ok_or("The Host header is not a host. Nothing was sent on.")?;
    if authority.is_some_and(|authority| !same_authority(authority, &named.authority)) {
        return Err("The request's target and its Host header name different hosts. Nothing was sent on.");
    }
    Ok(Some(named))
}

/// Whether some server may read the path as another one than is written: routes are decided by what is written.
fn has_dot_segment(path: &str) -> bool {
    if !path.contains(['.', '%']) {
        return false;
    }
    let path = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    path.split(['/', '\\']).any(|segment| matches!(segment.split(';').next(), Some("." | "..")))
}

/// Takes away what belongs to the client's connection, before anything is added that a `Connection` header could
/// name. What is left of it: that trailers are welcome, and the protocol to change to.
fn leave_connection(request: &mut Request<Incoming>) {
    let wants_trailers = request.headers().get(header::TE).is_some_and(|te| te == "trailers");
    let upgrade = request
        .headers()
        .get(header::UPGRADE)
        .filter(|_| request.extensions().get::<hyper::upgrade::OnUpgrade>().is_some())
        .filter(|protocol| !carries_requests(protocol))
        .cloned();
    let headers = request.headers_mut();
    replay::strip_hop_by_hop(headers);
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
}

/// Whether an upgrade would be to a protocol whose requests then pass the gateway by.
fn carries_requests(protocols: &HeaderValue) -> bool {
    let protocols = protocols.as_bytes().to_ascii_lowercase();
    protocols
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .any(|protocol| [&b"h2"[..], b"http/", b"tls/"].iter().any(|name| protocol.starts_with(name)))
}

fn same_authority(one: &Authority, two: &Authority) -> bool {
    one.host().eq_ignore_ascii_case(two.host()) && one.port_u16() == two.port_u16()
}

/// HTTP/2 may split a cookie over several fields; HTTP/1 has one.
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return };
    let crumbs: Vec<&[u8]> = [first, second].into_iter().chain(crumbs).collect();
    if let Ok(cookie) = HeaderValue::try_from(crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, cookie);
    }
}

/// The caller's id for this request, or a fresh one; it goes to the upstream and into the log.
fn request_id(headers: &mut HeaderMap) -> HeaderValue {
    if let Some(id) = headers.get(&REQUEST_ID).filter(|id| id.len() <= 128 && id.to_str().is_ok()) {
        return id.clone();
    }
    let mut text = [0; uuid::fmt::Simple::LENGTH];
    let id = HeaderValue::from_str(uuid::Uuid::now_v7().simple().encode_lower(&mut text))
        .expect("a UUID is printable");
    headers.insert(REQUEST_ID, id.clone());
    id
}

/// Tells the upstream who asked: appended to what a proxy in front has said.
fn forwarded(headers: &mut HeaderMap, peer: &Peer, named: Option<&Named>) {
    append(headers, FORWARDED_FOR, &peer.forwarded_for);
    headers.entry(FORWARDED_PROTO).or_insert_with(|| peer.proto.clone());
    if let Some(named) = named {
        headers.entry(FORWARDED_HOST).or_insert_with(|| named.host.clone());
    }
    append(headers, header::FORWARDED, named.map_or(&peer.forwarded, |named| &named.forwarded));
}

fn append(headers: &mut HeaderMap, name: HeaderName, element: &HeaderValue) {
    let mut said = match headers.entry(name) {
        Entry::Vacant(place) => {
            place.insert(element.clone());
            return;
        }
        Entry::Occupied(said) => said,
    };
    let list: Vec<&[u8]> = said
        .iter()
        .chain([element])
        .filter(|value| value.to_str().is_ok())
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(value) = HeaderValue::try_from(list.join(&b", "[..])) {
        said.insert(value);
    }
}
