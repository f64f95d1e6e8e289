//! An upstream in this process whose every answer a test decides: whole, streamed, half, late, or a reset.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request as AxumRequest};
use axum::response::IntoResponse;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, request};
use http_body_util::channel::Channel;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::{Noted, Running, Upstream, charge};
use crate::ledger::{Entry, Ledger};

/// How much of a body is kept for the test to look at.
const KEPT_BYTES: usize = 1 << 20;

/// A request that reached the upstream whole, and is in its ledger.
#[derive(Debug)]
pub struct Arrived {
    /// How many requests had arrived then, this one included.
    pub nth: usize,
    /// How many had arrived with the same key, this one included.
    pub nth_of_key: usize,
    /// Method, target and headers.
    pub head: request::Parts,
    /// The first mebibyte of the body.
    pub body: Bytes,
    /// How long the body was.
    pub body_bytes: u64,
}

impl Arrived {
    /// The key it came with.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        text(&self.head.headers, "idempotency-key")
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// What this crate's upstreams answer when nothing else is wanted.
    #[must_use]
    pub fn charge(&self) -> Reply {
        Reply::Answer(charge(self.nth, self.key()))
    }
}

/// What the upstream does about a request.
#[derive(Debug)]
pub enum Reply {
    /// Answers whole.
    Answer(Response<Bytes>),
    /// Answers whole and closes the connection right after, without having said so.
    AnswerAndClose(Response<Bytes>),
    /// Answers with a body as it comes; an error in it breaks the connection.
    Stream(Response<UnsyncBoxBody<Bytes, io::Error>>),
    /// Promises this answer and breaks the connection in the middle of its body.
    Half(Response<Bytes>),
    /// Resets the connection without an answer.
    Reset,
}

type Handler = Arc<dyn Fn(Arrived) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// An address where nobody listens yet: connections to it are refused.
#[derive(Debug)]
pub struct Reserved {
    socket: TcpSocket,
    addr: SocketAddr,
}

impl Reserved {
    /// A free port on this machine.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn new() -> io::Result<Self> {
        Self::bind(TcpSocket::new_v4()?, 0)
    }

    /// This port of this machine, also when whoever had it before has just died.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn at(port: u16) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        Self::bind(socket, port)
    }

    fn bind(socket: TcpSocket, port: u16) -> io::Result<Self> {
        socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
        let addr = socket.local_addr()?;
        Ok(Self { socket, addr })
    }

    /// The address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Begins to listen there.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn scripted<F>(self, script: impl Fn(Arrived) -> F + Send + Sync + 'static) -> io::Result<Upstream>
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        Ok(serve(self.socket.listen(1024)?, self.addr, None, handler(script)))
    }
}

fn handler<F>(script: impl Fn(Arrived) -> F + Send + Sync + 'static) -> Handler
where
    F: Future<Output = Reply> + Send + 'static,
{
    Arc::new(move |arrived| Box::pin(script(arrived)))
}

impl Upstream {
    /// An upstream whose answers `script` decides, a request at a time. A request whose path begins with
    /// `/reset-at-head` is reset before its body is read, and is not in the ledger.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn scripted<F>(script: impl Fn(Arrived) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let listening = Reserved::new().and_then(|reserved| reserved.scripted(script));
        listening.unwrap_or_else(|error| panic!("the scripted upstream cannot listen: {error}"))
    }

    /// As [`Upstream::scripted`], behind TLS, and over HTTP/2 when that is agreed on.
    ///
    /// # Panics
    /// When it cannot listen.
    pub fn scripted_tls<F>(
        tls: Arc<rustls::ServerConfig>,
        script: impl Fn(Arrived) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let Reserved { socket, addr } =
            Reserved::new().unwrap_or_else(|error| panic!("no address for the upstream: {error}"));
        let listener = socket.listen(1024).unwrap_or_else(|error| panic!("cannot listen: {error}"));
        serve(listener, addr, Some(TlsAcceptor::from(tls)), handler(script))
    }

    /// An upstream that charges for every request at once.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn charging() -> Self {
        Self::scripted(|arrived| async move { arrived.charge() })
    }

    /// An axum application that charges for every request; `?delay_ms=300` says how long it takes.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn axum() -> Self {
        let Reserved { socket, addr } =
            Reserved::new().unwrap_or_else(|error| panic!("no address for the upstream: {error}"));
        let listener = socket.listen(1024).unwrap_or_else(|error| panic!("cannot listen: {error}"));
        let ledger = Ledger::in_memory();
        let counting = Arc::new(Counting::new(ledger.clone()));
        let app = Router::new().fallback(move |Query(wish): Query<Wish>, request: AxumRequest| async move {
            let (head, body) = request.into_parts();
            let Ok(arrived) = counting.read(head, body).await else {
                return http::StatusCode::BAD_REQUEST.into_response();
            };
            tokio::time::sleep(Duration::from_millis(wish.delay_ms)).await;
            charge(arrived.nth, arrived.key()).map(axum::body::Body::from)
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // Serving ends with the task, never by itself.
            let _ = axum::serve(listener, app).await;
        });
        Self { addr, ledger, noted: Noted::default(), _running: Running::Tasks(tasks) }
    }
}

#[derive(Deserialize)]
struct Wish {
    #[serde(default)]
    delay_ms: u64,
}

fn serve(listener: TcpListener, addr: SocketAddr, tls: Option<TlsAcceptor>, handler: Handler) -> Upstream {
    let (ledger, noted) = (Ledger::in_memory(), Noted::default());
    let counting = Arc::new(Counting::new(ledger.clone()));
    let mut tasks = JoinSet::new();
    let own = noted.clone();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (tls, handler, counting) = (tls.clone(), Arc::clone(&handler), Arc::clone(&counting));
            own.connections.fetch_add(1, Ordering::SeqCst);
            let state = Arc::new(Line { noted: own.clone(), ..Line::default() });
            connections.spawn(async move {
                // What a client does to its connection is the test's business.
                let _ = speak(stream, tls, state, handler, counting).await;
            });
            while connections.try_join_next().is_some() {}
        }
    });
    Upstream { addr, ledger, noted, _running: Running::Tasks(tasks) }
}

async fn speak(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    state: Arc<Line>,
    handler: Handler,
    counting: Arc<Counting>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let wire = Wire { stream, line: Arc::clone(&state) };
    let service = service_fn(move |request: Request<Incoming>| {
        let (state, handler, counting) = (Arc::clone(&state), Arc::clone(&handler), Arc::clone(&counting));
        async move { answer(request, &state, &handler, &counting).await }
    });
    let Some(acceptor) = tls else {
        let speaking = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(wire), service);
        return speaking.await.map_err(io::Error::other);
    };
    let wire = acceptor.accept(wire).await?;
    if wire.get_ref().1.alpn_protocol() == Some(b"h2") {
        let speaking =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(wire), service);
        return speaking.await.map_err(io::Error::other);
    }
    let speaking = http1::Builder::new().serve_connection(TokioIo::new(wire), service);
    speaking.await.map_err(io::Error::other)
}

async fn answer(
    request: Request<Incoming>,
    line: &Line,
    handler: &Handler,
    counting: &Counting,
) -> io::Result<Answer> {
    let reset = || -> io::Result<Answer> {
        line.reset.store(true, Ordering::SeqCst);
        Err(io::Error::new(io::ErrorKind::ConnectionReset, "reset as scripted"))
    };
    let (head, body) = request.into_parts();
    if head.uri.path().starts_with("/reset-at-head") {
        return reset();
    }
    let arrived = counting.read(head, body).await?;
    let key = arrived.key().map(str::to_owned);
    let reply = handler(arrived).await;
    *line.answering.lock().unwrap_or_else(PoisonError::into_inner) = key;
    match reply {
        Reply::Answer(answer) => Ok(whole(answer)),
        Reply::AnswerAndClose(answer) => {
            line.close.store(true, Ordering::SeqCst);
            Ok(whole(answer))
        }
        Reply::Stream(answer) => Ok(answer),
        Reply::Half(answer) => Ok(half(answer)),
        Reply::Reset => reset(),
    }
}

fn whole(answer: Response<Bytes>) -> Answer {
    answer.map(|body| Full::new(body).map_err(|never| match never {}).boxed_unsync())
}

/// Says how long the body is, sends half of it, and breaks.
fn half(answer: Response<Bytes>) -> Answer {
    let (mut head, body) = answer.into_parts();
    head.headers.insert(http::header::CONTENT_LENGTH, body.len().into());
    let (mut sender, rest) = Channel::new(1);
    // There is room for one frame.
    let _ = sender.try_send(Frame::data(body.slice(..body.len() / 2)));
    sender.abort(io::Error::new(io::ErrorKind::ConnectionReset, "half an answer as scripted"));
    Response::from_parts(head, rest.boxed_unsync())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Reads requests whole and writes them into the ledger.
#[derive(Debug)]
struct Counting {
    ledger: Ledger,
    arrived: AtomicUsize,
    keys: Mutex<std::collections::HashMap<String, usize>>,
}

impl Counting {
    fn new(ledger: Ledger) -> Self {
        Self { ledger, arrived: AtomicUsize::new(0), keys: Mutex::default() }
    }

    async fn read<B>(&self, head: request::Parts, body: B) -> io::Result<Arrived>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let (mut rest, mut kept) = (body, BytesMut::new());
        let (mut digest, mut body_bytes) = (blake3::Hasher::new(), 0_u64);
        while let Some(frame) = rest.frame().await {
            let Ok(data) = frame.map_err(|error| io::Error::other(error.to_string()))?.into_data() else {
                continue;
            };
            digest.update(&data);
            body_bytes += u64::try_from(data.len()).unwrap_or(u64::MAX);
            kept.extend_from_slice(&data[..data.len().min(KEPT_BYTES - kept.len())]);
        }
        let key = text(&head.headers, "idempotency-key").map(str::to_owned);
        let number = |name| text(&head.headers, name).and_then(|value| value.parse::<u64>().ok());
        let entry = Entry {
            key: key.clone(),
            attempt: number("idempotency-attempt").and_then(|attempt| u32::try_from(attempt).ok()),
            token: number("idempotency-token"),
            method: head.method.to_string(),
            target: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            body_bytes,
            digest: digest.finalize().to_hex().to_string(),
        };
        let nth_of_key = key.map_or(0, |key| {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            let count = keys.entry(key).or_default();
            *count += 1;
            *count
        });
        self.ledger.append(entry);
        let nth = self.arrived.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(Arrived { nth, nth_of_key, head, body: kept.freeze(), body_bytes })
    }
}

/// What a connection's wire and its requests tell each other.
#[derive(Debug, Default)]
struct Line {
    /// The connection is reset, not closed, when it is dropped.
    reset: AtomicBool,
    /// Nothing more is read.
    close: AtomicBool,
    /// The key whose answer the next bytes are.
    answering: Mutex<Option<String>>,
    noted: Noted,
}

/// A connection that notes when an answer was written, and can be reset.
#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    line: Arc<Line>,
}

impl Wire {
    fn wrote(&self) {
        let key = self.line.answering.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(key) = key {
            self.line.noted.answered.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.line.reset.load(Ordering::SeqCst) {
            // A connection that is closed already needs no reset.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.line.close.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes));
        if written.is_ok() {
            self.wrote();
        }
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices));
        if written.is_ok() {
            self.wrote();
        }
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.line.reset.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
