//! Connections to the upstream, and one exchange over one of them: a request is sent at most once.
//!
//! Over `http` the upstream speaks HTTP/1, and idle connections lie in one list, the last used on top. Over `https`
//! and `h2c` hyper's client negotiates the version. It would do for `http` too, at the price of a sixth of the
//! gateway's instructions, because it looks for connections by their destination, which here is one.

use std::error::Error;
use std::future::{Ready, poll_fn, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::Connection;
use hyper_util::client::legacy::{self, Client};
use hyper_util::client::pool::cache;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use semel_tower::Body;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::{Service, service_fn};

type BoxError = Box<dyn Error + Send + Sync>;

/// Makes connections: what hyper's client takes as a connector.
pub trait Connector:
    Service<
        Uri,
        Response: Read + Write + Connection + Unpin + Send + 'static,
        Error: Into<BoxError>,
        Future: Unpin + Send,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<C, S> Connector for C
where
    C: Service<Uri, Response = S, Error: Into<BoxError>, Future: Unpin + Send>
        + Clone
        + Send
        + Sync
        + 'static,
    S: Read + Write + Connection + Unpin + Send + 'static,
{
}

/// Why an exchange ended without an answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was sent, and nothing will be.
    NotSent(BoxError),
    /// The request's own body ended badly; what came before may have been sent.
    BrokenOff(BoxError),
    /// It was sent, in part or whole.
    NoAnswer(BoxError),
}

type Exchanging = Pin<Box<dyn Future<Output = Result<Response<Incoming>, Failure>> + Send>>;

/// Sends a request to the upstream that it was made for. Its target is in the form that the version needs.
pub(crate) type Exchange = Box<dyn Fn(Request<Body<Incoming>>) -> Exchanging + Send + Sync>;

/// Over connections whose HTTP version is negotiated; the target is absolute.
pub(crate) fn negotiated<C: Connector>(connector: C, http2_only: bool, idle: Duration) -> Exchange {
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(idle)
        .retry_canceled_requests(false)
        .http2_only(http2_only)
        .set_host(false)
        .build(connector);
    Box::new(move |request| {
        let sending = client.request(request);
        Box::pin(async move { sending.await.map_err(failure) })
    })
}

fn failure(error: legacy::Error) -> Failure {
    if error.is_connect() {
        return Failure::NotSent(error.into());
    }
    let http2 = error.connect_info().is_some_and(legacy::connect::Connected::is_negotiated_h2);
    match error.source().and_then(|source| source.downcast_ref::<hyper::Error>()) {
        // Over HTTP/2 a cancelled stream may have been sent.
        Some(source) if source.is_canceled() && !http2 => Failure::NotSent(error.into()),
        Some(source) if source.is_user() => Failure::BrokenOff(error.into()),
        _ => Failure::NoAnswer(error.into()),
    }
}

/// Over HTTP/1 connections to one destination; the target is its path and query. A connection that has been idle for
/// `idle` is used no more, and closed within as long again.
pub(crate) fn kept<C: Connector>(connector: C, destination: Uri, idle: Duration) -> Exchange {
    let connect = service_fn(move |destination| Box::pin(connect(connector.clone(), destination, idle)));
    let pool = cache::builder().executor(TokioExecutor::new()).build(connect);
    let mut idling = pool.clone();
    let mut closing = JoinSet::new();
    closing.spawn(async move {
        loop {
            tokio::time::sleep(idle.max(Duration::from_millis(100))).await;
            idling.retain(|kept: &mut Kept| kept.is_usable());
        }
    });
    Box::new(move |request| {
        // Captured, so that it ends with the last exchange.
        let _ = &closing;
        let (mut pool, destination) = (pool.clone(), destination.clone());
        Box::pin(async move {
            let asked = Instant::now();
            let mut kept = loop {
                poll_fn(|context| pool.poll_ready(context)).await.map_err(Failure::NotSent)?;
                let mut kept = pool.call(destination.clone()).await.map_err(Failure::NotSent)?;
                let is_new = !kept.inner().used && kept.inner().since >= asked;
                if is_new || poll_fn(|context| kept.poll_ready(context)).await.is_ok() {
                    break kept;
                }
            };
            kept.inner_mut().used = true;
            let answer = kept.inner_mut().sender.try_send_request(request).await;
            if kept.inner().sender.is_ready() {
                kept.inner_mut().since = Instant::now();
            } else {
                tokio::spawn(async move {
                    // Its answer is still being read, or it is closed, and `poll_ready` says so to the pool.
                    let _ = kept.inner_mut().sender.ready().await;
                    kept.inner_mut().since = Instant::now();
                    let _ = poll_fn(|context| kept.poll_ready(context)).await;
                });
            }
            answer.map_err(unanswered)
        })
    })
}

fn unanswered(mut error: TrySendError<Request<Body<Incoming>>>) -> Failure {
    match (error.take_message(), error.into_error()) {
        (Some(_), error) => Failure::NotSent(error.into()),
        (None, error) if error.is_user() => Failure::BrokenOff(error.into()),
        (None, error) => Failure::NoAnswer(error.into()),
    }
}

async fn connect<C: Connector>(mut connector: C, destination: Uri, idle: Duration) -> Result<Kept, BoxError> {
    poll_fn(|context| connector.poll_ready(context)).await.map_err(Into::into)?;
    let stream = connector.call(destination).await.map_err(Into::into)?;
    let (sender, connection) = http1::handshake(stream).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to the upstream ended");
        }
    });
    Ok(Kept { sender, used: false, since: Instant::now(), idle })
}

/// A connection of the list. As a service it does nothing but tell the list whether it is worth keeping.
struct Kept {
    sender: http1::SendRequest<Body<Incoming>>,
    used: bool,
    /// When it was made, or was given its last answer.
    since: Instant,
    idle: Duration,
}

struct Unusable;

impl Kept {
    /// Also false for one whose exchange was given up: its answer is still to come.
    fn is_usable(&self) -> bool {
        self.sender.is_ready() && self.since.elapsed() < self.idle
    }
}

impl Service<()> for Kept {
    type Response = ();
    type Error = Unusable;
    type Future = Ready<Result<(), Unusable>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unusable>> {
        Poll::Ready(if self.is_usable() { Ok(()) } else { Err(Unusable) })
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Notify;

    use super::*;

    /// Connects at the first and the third time; the second time it goes on for ever.
    fn connector(addr: SocketAddr) -> impl Connector {
        let times = Arc::new(AtomicUsize::new(0));
        service_fn(move |_: Uri| {
            let hangs = times.fetch_add(1, Ordering::SeqCst) == 1;
            Box::pin(async move {
                if hangs {
                    pending::<()>().await;
                }
                TcpStream::connect(addr).await.map(TokioIo::new)
            })
        })
    }

    /// Reads all that comes; answers no request on its first connection and each one on the others.
    async fn upstream(listener: TcpListener, arrived: Arc<Notify>) {
        for nth in 0.. {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let arrived = Arc::clone(&arrived);
            tokio::spawn(async move {
                let mut read = [0; 1024];
                while stream.read(&mut read).await.is_ok_and(|bytes| bytes > 0) {
                    arrived.notify_one();
                    if nth > 0 {
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                        stream.write_all(answer).await.expect("somebody reads");
                    }
                }
            });
        }
    }

    #[tokio::test]
    async fn who_waits_for_a_connection_is_not_given_one_on_which_an_answer_is_due() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let arrived = Arc::new(Notify::new());
        tokio::spawn(upstream(listener, Arc::clone(&arrived)));
        let destination = Uri::from_static("http://upstream/");
        let exchange = kept(connector(addr), destination, Duration::from_secs(4));
        let request = || Request::post("/").header("host", "h").body(Body::whole("")).expect("a request");
        let (mut given_up, mut waiting) = (exchange(request()), exchange(request()));
        for begun in [&mut given_up, &mut waiting] {
            let polled = poll_fn(|context| Poll::Ready(begun.as_mut().poll(context)));
            assert!(polled.await.is_pending());
        }
        tokio::select! {
            biased;
            _ = &mut given_up => panic!("it has no answer"),
            () = arrived.notified() => {}
        }
        drop(given_up);
        let answer = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("it goes on");
        assert_eq!(answer.expect("another connection is made").status(), 200);
    }
}
