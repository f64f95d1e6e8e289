//! A TCP proxy that does to a connection what networks do: delay it, hold it, cut it after so many bytes or before
//! the reply, reset it, swallow it. The fault can be changed while connections live.
//!
//! Knows no protocol. Next: `faulty_store`, which does the same to calls instead of bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What happens to the bytes of every connection, and to new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// They pass.
    Open,
    /// They pass after so long, in both directions.
    Delay(Duration),
    /// They wait, in both directions, until the wire is another.
    Hold,
    /// Requests pass; replies wait until the wire is another.
    HoldReplies,
    /// Requests pass; the first byte of a reply closes the connection instead of being passed on.
    LoseReply,
    /// Once so many bytes of requests have passed from now on, in all connections together, each one that sends more
    /// is closed.
    CutAfter(u64),
    /// They are read and forgotten, in both directions.
    Blackhole,
    /// Every connection is reset, and every new one.
    Reset,
}

/// See the module. Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    wire: watch::Sender<Wire>,
    /// Bytes of requests that passed since the wire was set.
    passed: AtomicU64,
    connections: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Requests,
    Replies,
}

impl FaultProxy {
    /// Listens on a free port of this machine and passes everything to `upstream`.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            wire: watch::Sender::new(Wire::Open),
            passed: AtomicU64::new(0),
            connections: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self { addr, shared, accepting }
    }

    /// Where clients connect to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// From now on, for connections that live and for new ones.
    pub fn set(&self, wire: Wire) {
        self.shared.passed.store(0, Ordering::SeqCst);
        self.shared.wire.send_replace(wire);
    }

    /// How many bytes of requests reached the server since the wire was set.
    #[must_use]
    pub fn passed_bytes(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// How many connections were accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.wire.send_replace(Wire::Reset);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        shared.connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(carry(client, Arc::clone(&shared)));
    }
}

/// How a connection ends before both its sides have closed it.
enum End {
    Closed,
    Reset,
}

async fn carry(mut client: TcpStream, shared: Arc<Shared>) {
    let Ok(mut server) = TcpStream::connect(shared.upstream).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = client.set_nodelay(true).and(server.set_nodelay(true));
    let ended = {
        let (client_in, client_out) = client.split();
        let (server_in, server_out) = server.split();
        let requests = pass(client_in, server_out, Side::Requests, &shared);
        tokio::try_join!(requests, pass(server_in, client_out, Side::Replies, &shared))
    };
    if let Err(End::Reset) = ended {
        let _ = client.set_zero_linger().and(server.set_zero_linger());
    }
}

/// Passes one direction until its end, which is passed on too, or until the wire ends both.
async fn pass(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, side: Side, shared: &Shared) -> Result<(), End> {
    let mut wires = shared.wire.subscribe();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = until_reset(&mut wires) => return Err(End::Reset),
        };
        let bytes = match read {
            Ok(0) => return to.shutdown().await.map_err(|_| End::Closed),
            Ok(read) => &buffer[..read],
            Err(_) => return Err(End::Reset),
        };
        let passing = match admit(side, bytes.len(), &mut wires, shared).await {
            Verdict::Pass(passing) => passing,
            Verdict::Forget => continue,
            Verdict::End(end) => return Err(end),
        };
        to.write_all(&bytes[..passing]).await.map_err(|_| End::Closed)?;
        if side == Side::Requests {
            shared.passed.fetch_add(u64::try_from(passing).unwrap(), Ordering::SeqCst);
        }
        if passing < bytes.len() {
            return Err(End::Closed);
        }
    }
}

enum Verdict {
    /// So many of them pass; when not all, the connection ends after them.
    Pass(usize),
    Forget,
    End(End),
}

async fn admit(side: Side, bytes: usize, wires: &mut watch::Receiver<Wire>, shared: &Shared) -> Verdict {
    loop {
        let wire = *wires.borrow_and_update();
        match (wire, side) {
            (Wire::Open, _) | (Wire::HoldReplies | Wire::LoseReply, Side::Requests) => {
                return Verdict::Pass(bytes);
            }
            (Wire::CutAfter(_), Side::Replies) => return Verdict::Pass(bytes),
            (Wire::CutAfter(limit), Side::Requests) => {
                let left = limit.saturating_sub(shared.passed.load(Ordering::SeqCst));
                return Verdict::Pass(bytes.min(usize::try_from(left).unwrap()));
            }
            (Wire::Delay(duration), _) => {
                tokio::time::sleep(duration).await;
                return Verdict::Pass(bytes);
            }
            (Wire::Hold, _) | (Wire::HoldReplies, Side::Replies) => {
                if wires.changed().await.is_err() {
                    return Verdict::End(End::Closed);
                }
            }
            (Wire::LoseReply, Side::Replies) => return Verdict::End(End::Closed),
            (Wire::Blackhole, _) => return Verdict::Forget,
            (Wire::Reset, _) => return Verdict::End(End::Reset),
        }
    }
}

async fn until_reset(wires: &mut watch::Receiver<Wire>) {
    if wires.wait_for(|wire| *wire == Wire::Reset).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each byte with the same byte.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        addr
    }

    async fn connect() -> (FaultProxy, TcpStream) {
        let proxy = FaultProxy::start(echo().await).await;
        let client = TcpStream::connect(proxy.addr()).await.unwrap();
        (proxy, client)
    }

    async fn reply(client: &mut TcpStream, bytes: usize) -> Option<std::io::Result<Vec<u8>>> {
        let mut buffer = vec![0; bytes];
        let read =
            tokio::time::timeout(Duration::from_millis(100), client.read_exact(&mut buffer)).await.ok()?;
        Some(read.map(|_| buffer))
    }

    async fn passes(client: &mut TcpStream) {
        client.write_all(b"hello").await.unwrap();
        let mut echoed = [0; 5];
        client.read_exact(&mut echoed).await.unwrap();
        assert_eq!(&echoed, b"hello");
    }

    #[tokio::test]
    async fn what_is_held_passes_once_the_wire_is_open_again() {
        let (proxy, mut client) = connect().await;
        passes(&mut client).await;
        for wire in [Wire::Hold, Wire::HoldReplies] {
            proxy.set(wire);
            client.write_all(b"a").await.unwrap();
            assert!(reply(&mut client, 1).await.is_none());
            assert_eq!(proxy.passed_bytes(), u64::from(wire == Wire::HoldReplies));
            proxy.set(Wire::Open);
            let mut echoed = [0; 1];
            client.read_exact(&mut echoed).await.unwrap();
        }
        passes(&mut client).await;
    }

    #[tokio::test]
    async fn a_delay_is_there_in_both_directions() {
        let (proxy, mut client) = connect().await;
        proxy.set(Wire::Delay(Duration::from_millis(30)));
        let began = tokio::time::Instant::now();
        passes(&mut client).await;
        assert!(began.elapsed() >= Duration::from_millis(60));
    }

    #[tokio::test]
    async fn a_cut_passes_so_many_bytes_and_ends_the_connection() {
        let (proxy, mut client) = connect().await;
        passes(&mut client).await;
        proxy.set(Wire::CutAfter(3));
        client.write_all(b"hello").await.unwrap();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        assert!(b"hel".starts_with(&rest));
        assert_eq!(proxy.passed_bytes(), 3);
    }

    #[tokio::test]
    async fn a_lost_reply_reached_the_server_and_ends_the_connection() {
        let (proxy, mut client) = connect().await;
        proxy.set(Wire::LoseReply);
        client.write_all(b"hello").await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!((rest.len(), proxy.passed_bytes()), (0, 5));
    }

    #[tokio::test]
    async fn a_black_hole_answers_nothing_and_forgets() {
        let (proxy, mut client) = connect().await;
        proxy.set(Wire::Blackhole);
        client.write_all(b"lost").await.unwrap();
        assert!(reply(&mut client, 1).await.is_none());
        proxy.set(Wire::Open);
        passes(&mut client).await;
    }

    #[tokio::test]
    async fn a_reset_is_a_reset_for_old_connections_and_new_ones() {
        let (proxy, mut client) = connect().await;
        passes(&mut client).await;
        proxy.set(Wire::Reset);
        let reset = client.read_u8().await.unwrap_err();
        assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
        let mut late = TcpStream::connect(proxy.addr()).await.unwrap();
        assert!(late.read_u8().await.is_err());
        proxy.set(Wire::Open);
        passes(&mut TcpStream::connect(proxy.addr()).await.unwrap()).await;
        assert_eq!(proxy.connections(), 3);
    }
}
