//! The simulated network: hosts that listen, connections between them, and partitions.
//!
//! Not TCP: no windows and no packets. Bytes arrive in order and late; a connection ends by a close or a reset, and each
//! has at most one fault, which strikes one of its exchanges. Next: [`crate::wire`], the connection.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use semel_gateway::{Accepted, Listen};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower::Service;

use crate::chance::Chance;
use crate::fault::{Fault, Kind};
use crate::sim::{Life, Sim, lock};
use crate::wire::{Connection, Plan, Stream};

/// Who can be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// The gateway of this number.
    Gateway(usize),
    /// The upstream.
    Upstream,
}

/// Which part of the network a connection crosses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Between clients and gateways.
    Front,
    /// Between gateways and the upstream.
    Back,
}

impl Host {
    fn side(self) -> Side {
        match self {
            Self::Gateway(_) => Side::Front,
            Self::Upstream => Side::Back,
        }
    }
}

type Listening = (Arc<Life>, mpsc::UnboundedSender<Stream>);

/// All of it.
#[derive(Debug)]
pub struct Network {
    sim: Arc<Sim>,
    listeners: Mutex<BTreeMap<Host, Listening>>,
    connections: Mutex<Vec<Weak<Mutex<Connection>>>>,
    partitions: [Mutex<Option<Instant>>; 2],
    count: AtomicU64,
}

impl Network {
    /// A network on which nobody listens.
    #[must_use]
    pub fn new(sim: Arc<Sim>) -> Arc<Self> {
        Arc::new(Self {
            sim,
            listeners: Mutex::default(),
            connections: Mutex::default(),
            partitions: [Mutex::default(), Mutex::default()],
            count: AtomicU64::new(0),
        })
    }

    /// What all hosts share.
    pub fn sim(&self) -> &Arc<Sim> {
        &self.sim
    }

    /// Listens as `host`, until `life` ends or another listens in its place.
    pub fn listen(&self, host: Host, life: &Arc<Life>) -> Listener {
        let (sender, streams) = mpsc::unbounded_channel();
        lock(&self.listeners).insert(host, (Arc::clone(life), sender));
        Listener { life: Arc::clone(life), streams: tokio::sync::Mutex::new(streams) }
    }

    /// Ends a process: its connections are reset at their other ends.
    pub fn kill(&self, life: &Arc<Life>) {
        life.kill();
        lock(&self.listeners).retain(|_, (listening, _)| !Arc::ptr_eq(listening, life));
        let standing: Vec<_> = lock(&self.connections).iter().filter_map(Weak::upgrade).collect();
        for connection in standing {
            lock(&connection).end_died(life);
        }
    }

    /// Nothing crosses `side` until then.
    pub fn part(&self, side: Side, until: Instant) {
        *lock(&self.partitions[side as usize]) = Some(until);
    }

    /// Until when nothing crosses `side`.
    pub fn parted(&self, side: Side) -> Option<Instant> {
        lock(&self.partitions[side as usize]).filter(|until| *until > Instant::now())
    }

    /// Connects a process to a host.
    ///
    /// # Errors
    /// When nobody listens, or the seed says so.
    pub async fn connect(self: &Arc<Self>, life: &Arc<Life>, to: Host) -> io::Result<Stream> {
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        let mut dice = self.sim.dice(&format!("connection {number}"));
        let latency = dice.millis(1, 20);
        tokio::time::sleep(latency).await;
        life.runs().await;
        let name = format!("wire {number}");
        let spared = self.sim.options.gentle && to.side() == Side::Back;
        let fault = self.sim.strike(Kind::Wire, &mut dice).filter(|_| !spared);
        match fault {
            Some(Fault::ConnectionRefused) => {
                self.sim.struck(Fault::ConnectionRefused, &name);
                return Err(ErrorKind::ConnectionRefused.into());
            }
            Some(Fault::ConnectHangs) => {
                self.sim.struck(Fault::ConnectHangs, &name);
                tokio::time::sleep(Duration::from_secs(120)).await;
                return Err(ErrorKind::TimedOut.into());
            }
            _ => {}
        }
        while let Some(until) = self.parted(to.side()) {
            tokio::time::sleep_until(until).await;
        }
        let plan = Plan::new(fault, &mut dice);
        self.open(life, to, name, plan, latency, dice)
    }

    fn open(
        self: &Arc<Self>,
        life: &Arc<Life>,
        to: Host,
        name: String,
        plan: Plan,
        latency: Duration,
        dice: Chance,
    ) -> io::Result<Stream> {
        let listeners = lock(&self.listeners);
        let (listening, sender) = listeners.get(&to).ok_or(ErrorKind::ConnectionRefused)?;
        let lives = [Arc::clone(life), Arc::clone(listening)];
        let connection = Connection::new(Arc::clone(self), to.side(), name, lives, plan, latency, dice);
        let connection = Arc::new(Mutex::new(connection));
        sender
            .send(Stream::new(&connection, 1))
            .map_err(|_| io::Error::from(ErrorKind::ConnectionRefused))?;
        let mut standing = lock(&self.connections);
        standing.retain(|connection| connection.strong_count() > 0);
        standing.push(Arc::downgrade(&connection));
        Ok(Stream::new(&connection, 0))
    }
}

/// Where a host's connections come in.
#[derive(Debug)]
pub struct Listener {
    life: Arc<Life>,
    streams: tokio::sync::Mutex<mpsc::UnboundedReceiver<Stream>>,
}

impl Listener {
    /// The next connection; never once the process is dead.
    pub async fn next(&self) -> Stream {
        let stream = self.streams.lock().await.recv().await;
        self.life.runs().await;
        match stream {
            Some(stream) => stream,
            None => std::future::pending().await,
        }
    }
}

impl Listen for Listener {
    type Stream = Stream;

    async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        Ok((self.next().await, SocketAddr::from((Ipv4Addr::LOCALHOST, 1))))
    }
}

impl Accepted for Stream {
    async fn speaks_http2(&self) -> io::Result<bool> {
        Ok(false)
    }
}

/// How a gateway connects to the upstream.
#[derive(Clone, Debug)]
pub struct Connector {
    /// Over this network.
    pub network: Arc<Network>,
    /// Which process.
    pub life: Arc<Life>,
    /// For how long at most.
    pub timeout: Duration,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { network, life, timeout } = self.clone();
        Box::pin(async move {
            let connecting = network.connect(&life, Host::Upstream);
            match tokio::time::timeout(timeout, connecting).await {
                Ok(stream) => stream.map(TokioIo::new),
                Err(_) => Err(ErrorKind::TimedOut.into()),
            }
        })
    }
}
