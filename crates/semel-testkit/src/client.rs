//! Clients that hide nothing: [`Call`] sends one request and hands over the answer or why there is none,
//! [`Load`] sends many over a few connections, [`Raw`] sends bytes that no client library would.
//!
//! None retries by itself. Next: [`crate::ledger`], which counts what the requests did.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::repeat::Repeat;

/// A request for any server.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Repeat,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAnswer {
    /// Nobody listens there: nothing was sent.
    NotConnected(String),
    /// The connection broke, or the answer was not HTTP.
    Broken(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConnected(why) => write!(f, "not connected: {why}"),
            Self::Broken(why) => write!(f, "broken: {why}"),
        }
    }
}

impl Call {
    /// A request without a body.
    #[must_use]
    pub fn new(method: Method, target: &str) -> Self {
        Self {
            method,
            target: target.to_owned(),
            headers: HeaderMap::new(),
            body: Repeat::new(Bytes::new(), 0),
        }
    }

    /// A POST of `body`.
    #[must_use]
    pub fn post(target: &str, body: impl Into<Bytes>) -> Self {
        Self::post_stream(target, Repeat::new(body, 1))
    }

    /// A POST of a body that is not in memory.
    #[must_use]
    pub fn post_stream(target: &str, body: Repeat) -> Self {
        Self { body, ..Self::new(Method::POST, target) }
    }

    /// With an idempotency key.
    #[must_use]
    pub fn key(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// With one more header.
    ///
    /// # Panics
    /// When it cannot be one.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).unwrap_or_else(|error| panic!("{name}: {error}"));
        let value = HeaderValue::try_from(value).unwrap_or_else(|error| panic!("{value}: {error}"));
        self.headers.append(name, value);
        self
    }

    /// Sends it over a connection of its own.
    ///
    /// # Errors
    /// [`NoAnswer`] says how far it came.
    pub async fn send(&self, addr: SocketAddr) -> Result<Answer, NoAnswer> {
        Connection::open(addr).await?.send(self).await
    }

    /// As [`Call::send`], where an answer must come.
    ///
    /// # Panics
    /// When none does.
    pub async fn answer(&self, addr: SocketAddr) -> Answer {
        self.send(addr)
            .await
            .unwrap_or_else(|why| panic!("no answer to {} {}: {why}", self.method, self.target))
    }

    fn request(&self, authority: &str) -> Request<Repeat> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() =
            self.target.parse().unwrap_or_else(|error| panic!("{} is no target: {error}", self.target));
        *request.headers_mut() = self.headers.clone();
        if !authority.is_empty() && !request.headers().contains_key(http::header::HOST) {
            let host =
                HeaderValue::from_str(authority).unwrap_or_else(|error| panic!("{authority}: {error}"));
            request.headers_mut().insert(http::header::HOST, host);
        }
        request
    }
}

impl Answer {
    /// A header, where it is there and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// `Idempotency-Status`.
    #[must_use]
    pub fn standing(&self) -> Option<&str> {
        self.header("idempotency-status")
    }

    /// Whether it is marked as a replay.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.headers.contains_key("idempotency-replayed")
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error}", self.body.escape_ascii()))
    }

    /// The last part of a problem's type: `outcome-unknown`.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let value: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(value["type"].as_str()?.strip_prefix("urn:semel:error:")?.to_owned())
    }

    /// What replays have in common with the first answer: all but `Date`, the marks, and what names the one request.
    #[must_use]
    pub fn essence(&self) -> (u16, Vec<(String, Vec<u8>)>, Bytes) {
        let headers = self.headers.iter().filter(|(name, _)| !is_own_of_each(name.as_str()));
        let mut headers: Vec<_> =
            headers.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        // The order of values under one name is kept by the sort, the order of names is not looked at here.
        headers.sort_by(|one, two| one.0.cmp(&two.0));
        (self.status, headers, self.body.clone())
    }
}

/// Headers that may differ between a first answer and its replays.
#[must_use]
pub fn is_own_of_each(name: &str) -> bool {
    const OWN: [&str; 7] = [
        "cache-control",
        "connection",
        "date",
        "idempotency-replayed",
        "idempotency-status",
        "set-cookie",
        "x-request-id",
    ];
    OWN.contains(&name.to_ascii_lowercase().as_str())
}

/// A connection that is kept alive.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    authority: String,
    /// Ended with the connection.
    #[expect(dead_code, reason = "dropping it ends them")]
    driver: Option<JoinSet<()>>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Repeat>),
    Http2(http2::SendRequest<Repeat>),
}

impl Connection {
    /// Opens one for HTTP/1.1.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn open(addr: SocketAddr) -> Result<Self, NoAnswer> {
        Self::http1(connect(addr).await?, addr.to_string()).await
    }

    /// Opens one for HTTP/2 without TLS, by prior knowledge.
    ///
    /// # Errors
    /// When nobody listens, or does not speak it.
    pub async fn open_http2(addr: SocketAddr) -> Result<Self, NoAnswer> {
        Self::http2(connect(addr).await?, format!("http://{addr}")).await
    }

    /// Opens one for whatever TLS agrees on.
    ///
    /// # Errors
    /// When nobody listens, or the certificate is not trusted.
    pub async fn open_tls(addr: SocketAddr, tls: Arc<rustls::ClientConfig>) -> Result<Self, NoAnswer> {
        let name = ServerName::try_from("localhost").expect("it is a name");
        let connecting = TlsConnector::from(tls).connect(name, connect(addr).await?);
        let stream = connecting.await.map_err(|error| NoAnswer::NotConnected(error.to_string()))?;
        let authority = format!("localhost:{}", addr.port());
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            return Self::http2(stream, format!("https://{authority}")).await;
        }
        Self::http1(stream, authority).await
    }

    async fn http1<S>(stream: S, authority: String) -> Result<Self, NoAnswer>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        Ok(Self { sender: Sender::Http1(sender), authority, driver: Some(drive(driver)) })
    }

    async fn http2<S>(stream: S, authority: String) -> Result<Self, NoAnswer>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, driver) = handshake.await.map_err(broken)?;
        Ok(Self { sender: Sender::Http2(sender), authority, driver: Some(drive(driver)) })
    }

    /// The same HTTP/2 connection for one more request at the same time; it lives as long as this one.
    ///
    /// # Panics
    /// When it is not HTTP/2.
    #[must_use]
    pub fn stream(&self) -> Self {
        let Sender::Http2(sender) = &self.sender else { panic!("HTTP/1 has one request at a time") };
        let sender = Sender::Http2(sender.clone());
        Self { sender, authority: self.authority.clone(), driver: None }
    }

    /// Whether it is HTTP/2.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// Sends `call` and reads its answer.
    ///
    /// # Errors
    /// When the connection breaks before the answer is whole.
    pub async fn send(&mut self, call: &Call) -> Result<Answer, NoAnswer> {
        let (head, body) = self.begin(call).await?.into_parts();
        let body = body.collect().await.map_err(broken)?.to_bytes();
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// Sends `call` and reads its answer's head; the body is still to come.
    ///
    /// # Errors
    /// When the connection breaks before.
    pub async fn begin(&mut self, call: &Call) -> Result<http::Response<Incoming>, NoAnswer> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(broken)?;
                sender.send_request(call.request(&self.authority)).await.map_err(broken)
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(broken)?;
                let mut request = call.request("");
                let target = format!("{}{}", self.authority, call.target);
                *request.uri_mut() = target.parse().unwrap_or_else(|error| panic!("{target}: {error}"));
                sender.send_request(request).await.map_err(broken)
            }
        }
    }
}

/// How a connection ended is told by the request that it carried.
fn drive(connection: impl Future<Output = Result<(), hyper::Error>> + Send + 'static) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { connection.await.unwrap_or_default() });
    tasks
}

async fn connect(addr: SocketAddr) -> Result<TcpStream, NoAnswer> {
    let stream = TcpStream::connect(addr).await.map_err(|error| NoAnswer::NotConnected(error.to_string()))?;
    stream.set_nodelay(true).map_err(|error| NoAnswer::NotConnected(error.to_string()))?;
    Ok(stream)
}

fn broken(error: hyper::Error) -> NoAnswer {
    let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
    NoAnswer::Broken(format!("{error}{cause}"))
}

/// Many requests over a few kept-alive connections.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Who is asked.
    pub addr: SocketAddr,
    /// Over how many connections at once.
    pub connections: usize,
}

impl Load {
    /// Sends all of `calls` and returns what came of each, in their order.
    ///
    /// # Panics
    /// When a worker does.
    pub async fn run(self, calls: Vec<Call>) -> Vec<Result<Answer, NoAnswer>> {
        let shares = calls.chunks(calls.len().div_ceil(self.connections).max(1));
        // All connections are open before the first request, so that racers race.
        let start = Arc::new(Barrier::new(shares.len()));
        let workers: Vec<_> =
            shares.map(|share| tokio::spawn(work(self.addr, share.to_vec(), Arc::clone(&start)))).collect();
        let mut answers = Vec::with_capacity(calls.len());
        for worker in workers {
            answers.extend(worker.await.unwrap_or_else(|error| panic!("a worker ended: {error}")));
        }
        answers
    }

    /// Sends all of `calls`, each of which must be answered.
    ///
    /// # Panics
    /// When one is not.
    pub async fn answers(self, calls: Vec<Call>) -> Vec<Answer> {
        let answers = self.run(calls).await.into_iter();
        answers.map(|answer| answer.unwrap_or_else(|why| panic!("no answer: {why}"))).collect()
    }
}

async fn work(addr: SocketAddr, calls: Vec<Call>, start: Arc<Barrier>) -> Vec<Result<Answer, NoAnswer>> {
    let mut opened = Some(Connection::open(addr).await);
    start.wait().await;
    let mut answers = Vec::with_capacity(calls.len());
    for call in &calls {
        let connection = match opened.take() {
            Some(connection) => connection,
            None => Connection::open(addr).await,
        };
        answers.push(match connection {
            Ok(mut connection) => {
                let answer = connection.send(call).await;
                opened = answer.is_ok().then_some(Ok(connection));
                answer
            }
            Err(why) => Err(why),
        });
    }
    answers
}

/// A connection for bytes that no client library would send.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// Opens one.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn open(addr: SocketAddr) -> Self {
        let stream = connect(addr).await.unwrap_or_else(|why| panic!("{why}"));
        Self { stream }
    }

    /// Sends `bytes`; whether they were taken.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Says that nothing more is sent.
    pub async fn finish(&mut self) {
        // The other side may have closed it already.
        let _ = self.stream.shutdown().await;
    }

    /// Breaks the connection off, as a process does that dies with unread bytes.
    pub fn reset(self) {
        // One that is closed already needs no reset.
        let _ = self.stream.set_zero_linger();
    }

    /// Everything until the other side closes; `None` when it has not within `patience`.
    pub async fn read_to_close(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        match tokio::time::timeout(patience, self.stream.read_to_end(&mut bytes)).await {
            // A reset ends it as well; what came before is kept.
            Ok(_) => Some(bytes),
            Err(_) => None,
        }
    }

    /// What has come so far, waiting for the first bytes for at most `patience`; `None` when nothing came and the
    /// connection is open.
    pub async fn read_some(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        match tokio::time::timeout(patience, self.stream.read_buf(&mut bytes)).await {
            Ok(_) => Some(bytes),
            Err(_) => None,
        }
    }
}

/// Reads a streamed body to its end and returns its length and digest, a chunk at a time.
///
/// # Errors
/// When the connection breaks before its end.
pub async fn drain(body: Incoming) -> Result<(u64, blake3::Hash), NoAnswer> {
    let (mut body, mut digest, mut length) = (body, blake3::Hasher::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        length += u64::try_from(data.len()).unwrap_or(u64::MAX);
        digest.update(&data);
    }
    Ok((length, digest.finalize()))
}
