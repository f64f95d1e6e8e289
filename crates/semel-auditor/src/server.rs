//! A server that fails by script: one for each run of a scenario, with a port of its own and another one for redirects
//! to another origin.
//!
//! HTTP/1.1 and HTTP/2, over TLS too. What arrives is in `server/log.rs`, what is done about it in `server/answer.rs`,
//! and how a connection breaks in `server/wire.rs`.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::api::Api;
use crate::attempt::{Attempt, Origin};
use crate::script::Script;

mod answer;
mod bytes;
mod log;
pub mod tls;
mod wire;

use answer::answer;
use bytes::ByteLog;
pub(crate) use log::Log;
use tls::Tls;
use wire::{Line, Tap, Wire};

/// As many connections may wait to be accepted as a scenario makes calls at a time.
const BACKLOG: u32 = 1024;

/// What a server does.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How it fails.
    pub script: Script,
    /// How the other port fails.
    pub other: Script,
    /// What a success is, and where keys are.
    pub api: Api,
    /// How many calls to expect.
    pub calls: u32,
    /// The number of the call, where there is one only.
    pub first_call: u32,
    /// TLS, where it is wanted.
    pub tls: Option<Arc<Tls>>,
    /// Where every byte is written down.
    pub bytes: Option<PathBuf>,
    /// The main port; a free one where there is none.
    pub port: Option<u16>,
}

impl Setup {
    /// One call, no TLS, the default API, and an other port that answers.
    #[must_use]
    pub fn new(script: Script) -> Self {
        let always = "200".parse().unwrap_or_else(|_| script.clone());
        Self {
            script,
            other: always,
            api: Api::default(),
            calls: 1,
            first_call: 0,
            tls: None,
            bytes: None,
            port: None,
        }
    }
}

/// A server under way. It ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    url: String,
    log: Arc<Log>,
    tasks: JoinSet<()>,
}

impl Server {
    /// Begins to serve.
    ///
    /// # Errors
    /// When there is no free port, or the file for the bytes cannot be made.
    pub fn start(setup: Setup) -> io::Result<Self> {
        let (main, main_addr) = reserve(setup.port.unwrap_or(0))?;
        let (other, other_addr) = reserve(0)?;
        let url = |addr: SocketAddr| match setup.tls {
            // Certificates for addresses are refused by some clients.
            Some(_) => format!("https://localhost:{}", addr.port()),
            None => format!("http://{addr}"),
        };
        let urls = [url(main_addr), url(other_addr)];
        let bytes = setup.bytes.as_deref().map(ByteLog::create).transpose()?.map(Arc::new);
        let refuses = setup.script.refuses();
        let tls = setup.tls.clone();
        let log = Arc::new(Log::new(setup, urls.clone()));
        let mut tasks = JoinSet::new();
        for (socket, origin, refuses) in [(main, Origin::Main, refuses), (other, Origin::Other, None)] {
            let port = Port { log: Arc::clone(&log), origin, tls: tls.clone(), bytes: bytes.clone() };
            // Without a refusal it listens before anybody knows its address.
            let listener =
                if refuses.is_none() { Listen::Now(socket.listen(BACKLOG)?) } else { Listen::Later(socket) };
            tasks.spawn(port.serve(listener, refuses.unwrap_or_default()));
        }
        let [url, _] = urls;
        Ok(Self { url, log, tasks })
    }

    /// Where to send to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What arrived so far.
    #[must_use]
    pub fn attempts(&self) -> Vec<Attempt> {
        self.log.attempts()
    }

    /// Resolves once a call has been attempted so often.
    pub async fn attempted(&self, times: usize) {
        self.log.attempted(times).await;
    }

    /// Resolves once so many calls have been answered with a success, and when nothing came in for so long after at
    /// least one request.
    pub(crate) async fn quiet(&self, calls: u32, quiet: Duration) {
        self.log.quiet(calls, quiet).await;
    }

    /// How long it has been running.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.log.elapsed()
    }

    /// Stops and says what arrived. Its ports are free afterwards.
    pub async fn finish(mut self) -> Vec<Attempt> {
        let attempts = self.log.attempts();
        self.tasks.shutdown().await;
        attempts
    }
}

enum Listen {
    Now(TcpListener),
    Later(TcpSocket),
}

fn reserve(port: u16) -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = TcpSocket::new_v4()?;
    if port != 0 {
        // The scenario before had it.
        socket.set_reuseaddr(true)?;
    }
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    let addr = socket.local_addr()?;
    Ok((socket, addr))
}

/// One of the two ports.
#[derive(Clone)]
struct Port {
    log: Arc<Log>,
    origin: Origin,
    tls: Option<Arc<Tls>>,
    bytes: Option<Arc<ByteLog>>,
}

impl Port {
    async fn serve(self, listen: Listen, refuses: Duration) {
        let listener = match listen {
            Listen::Now(listener) => listener,
            Listen::Later(socket) => {
                tokio::time::sleep(refuses).await;
                let Ok(listener) = socket.listen(BACKLOG) else { return };
                listener
            }
        };
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let port = self.clone();
            connections.spawn(async move {
                // What a client does to its connection is not the server's failure.
                let _ = port.connection(stream).await;
            });
            while connections.try_join_next().is_some() {}
        }
    }

    async fn connection(self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let line = Arc::new(Line::new(self.log.connection()));
        let wire = Wire::new(stream, Arc::clone(&line));
        match self.tls.clone() {
            None => self.speak(wire, line).await,
            Some(tls) => {
                let wire = tls.accept(wire).await?;
                self.speak(wire, line).await
            }
        }
        Ok(())
    }

    async fn speak<S: AsyncRead + AsyncWrite + Unpin + 'static>(self, stream: S, line: Arc<Line>) {
        let tap = Tap::new(stream, Arc::clone(&line), self.bytes.clone());
        let (log, origin, own) = (Arc::clone(&self.log), self.origin, Arc::clone(&line));
        let service = service_fn(move |request| answer(request, origin, Arc::clone(&log), Arc::clone(&own)));
        let builder = auto::Builder::new(TokioExecutor::new());
        let speaking = pin!(builder.serve_connection(TokioIo::new(tap), service));
        // Dropped, the connection ends as its line says.
        tokio::select! {
            _ = speaking => {}
            () = line.broken() => {}
        }
    }
}
