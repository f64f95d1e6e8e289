//! One request over a connection of its own, and what came of it. Nothing is sent twice and no redirect is followed, so
//! that what the server saw is what a case says.
//!
//! HTTP/1.1, with TLS by the system's certificates.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, SizeHint};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::cases::HangUp;
use super::plan::Outgoing;

const BODY_MAX_BYTES: usize = 1 << 20;
/// Between the last byte handed to the connection and the end of it: time for the bytes to leave.
const HANG_UP_AFTER: Duration = Duration::from_millis(5);
/// When a connection never asks for the body, for instance because there is none.
const HANG_UP_AT_LATEST: Duration = Duration::from_millis(100);

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Came {
    Answer(Answer),
    /// Nobody listens, or the certificate is not trusted: nothing was sent.
    NotConnected(String),
    /// It broke off, was not HTTP, or took too long.
    Broken(String),
    /// Hung up, as the case says.
    Left,
}

/// Where requests go.
#[derive(Clone)]
pub(super) struct Host {
    name: String,
    port: u16,
    authority: String,
    tls: Option<TlsConnector>,
    timeout: Duration,
}

impl Host {
    /// The host of an absolute URL.
    pub(super) fn of(uri: &Uri, timeout: Duration) -> Result<Self, String> {
        let authority = uri.authority().ok_or_else(|| format!("{uri} names no host"))?;
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => Some(connector()?),
            _ => return Err(format!("{uri} begins with neither http:// nor https://")),
        };
        let port = authority.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let host = authority.as_str().rsplit('@').next().unwrap_or_default();
        Ok(Self { name, port, authority: host.to_owned(), tls, timeout })
    }

    /// Opens a connection, ready for one request.
    pub(super) async fn open(&self) -> Result<Connection, Came> {
        let opening = tokio::time::timeout(self.timeout, self.connect());
        match opening.await {
            Ok(opened) => opened.map_err(Came::NotConnected),
            Err(_) => Err(Came::NotConnected(format!("no connection within {} s", self.timeout.as_secs()))),
        }
    }

    async fn connect(&self) -> Result<Connection, String> {
        let text = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect((self.name.as_str(), self.port)).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        let (authority, timeout) = (self.authority.clone(), self.timeout);
        let Some(tls) = &self.tls else { return Connection::over(stream, authority, timeout).await };
        let name = ServerName::try_from(self.name.clone()).map_err(|error| error.to_string())?;
        let stream = tls.connect(name, stream).await.map_err(text)?;
        Connection::over(stream, authority, timeout).await
    }

    /// Sends a request over a connection of its own.
    pub(super) async fn send(&self, request: &Outgoing, hang_up: Option<HangUp>) -> Came {
        match self.open().await {
            Ok(connection) => connection.send(request, hang_up).await,
            Err(came) => came,
        }
    }
}

fn connector() -> Result<TlsConnector, String> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(
            "the system has no trusted certificates; SSL_CERT_FILE can name a file of them".to_owned()
        );
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config =
        config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A connection that has carried nothing yet.
pub(super) struct Connection {
    sender: SendRequest<Sent>,
    /// Dropping it closes the connection.
    driver: JoinSet<()>,
    authority: String,
    timeout: Duration,
}

impl Connection {
    async fn over<S>(stream: S, authority: String, timeout: Duration) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let mut driver = JoinSet::new();
        // How it ended is told by the request that it carried.
        driver.spawn(async move { connection.await.unwrap_or_default() });
        Ok(Self { sender, driver, authority, timeout })
    }

    /// Sends its one request.
    pub(super) async fn send(mut self, request: &Outgoing, hang_up: Option<HangUp>) -> Came {
        let handed_over = Arc::new(Notify::new());
        let body = Sent {
            rest: Bytes::from(request.body.clone()),
            length: request.body.len(),
            half: hang_up == Some(HangUp::Half),
            handed_over: Arc::clone(&handed_over),
        };
        let outgoing = match self.head(request, body) {
            Ok(outgoing) => outgoing,
            Err(error) => return Came::Broken(error.to_string()),
        };
        let timeout = self.timeout;
        let answering = async move {
            let answer = self.sender.send_request(outgoing).await.map_err(|error| error.to_string())?;
            let (head, body) = answer.into_parts();
            let body =
                Limited::new(body, BODY_MAX_BYTES).collect().await.map_err(|error| error.to_string())?;
            drop(self.driver);
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
        };
        if hang_up.is_some() {
            let gone = async {
                // Either way the request is out, or as much of it as was meant to be.
                let _ = tokio::time::timeout(HANG_UP_AT_LATEST, handed_over.notified()).await;
                tokio::time::sleep(HANG_UP_AFTER).await;
            };
            let answered: Result<Result<Answer, String>, ()> =
                tokio::select! { answer = answering => Ok(answer), () = gone => Err(()) };
            return match answered {
                // It was quicker than the hanging up, which then is a caller that does not read.
                Ok(Ok(_)) | Err(()) => Came::Left,
                Ok(Err(why)) => Came::Broken(why),
            };
        }
        match tokio::time::timeout(timeout, answering).await {
            Ok(Ok(answer)) => Came::Answer(answer),
            Ok(Err(why)) => Came::Broken(why),
            Err(_) => Came::Broken(format!("no answer within {} s", timeout.as_secs())),
        }
    }

    fn head(&self, request: &Outgoing, body: Sent) -> Result<Request<Sent>, http::Error> {
        let mut outgoing = Request::builder().method(&request.method).uri(&request.target).body(body)?;
        for (name, value) in &request.headers {
            outgoing.headers_mut().append(name, value.clone());
        }
        if !outgoing.headers().contains_key(header::HOST) {
            outgoing.headers_mut().insert(header::HOST, HeaderValue::try_from(&self.authority)?);
        }
        Ok(outgoing)
    }
}

/// A body that tells when it was handed over, and that may stop half-way.
struct Sent {
    rest: Bytes,
    length: usize,
    half: bool,
    handed_over: Arc<Notify>,
}

impl Body for Sent {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let half = self.half;
        if half && self.rest.remaining() < self.length {
            // It never goes on: whoever sent it hangs up.
            self.handed_over.notify_one();
            return Poll::Pending;
        }
        let size = if half { self.length / 2 } else { self.length };
        let size = size.min(self.rest.len());
        let data = self.rest.split_to(size);
        if !half {
            self.handed_over.notify_one();
        }
        Poll::Ready((!data.is_empty()).then(|| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && !self.half
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.rest.len()).unwrap_or(u64::MAX))
    }
}
