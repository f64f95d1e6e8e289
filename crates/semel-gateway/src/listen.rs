//! Where connections come from: the operating system, or whatever stands in for it in a simulation.
//!
//! Not TLS and no HTTP. Next: [`crate::proxy`], which serves what is accepted here.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpListener, TcpStream};

/// Accepts connections.
pub trait Listen: Send + 'static {
    /// One connection.
    type Stream: Accepted;

    /// The next connection, and who is at its other end.
    ///
    /// # Errors
    /// As whatever accepts says; the gateway goes on after a moment.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;
}

/// A connection that was accepted.
pub trait Accepted: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether it begins as HTTP/2 does. Looks without taking.
    ///
    /// # Errors
    /// When the connection breaks.
    fn speaks_http2(&self) -> impl Future<Output = io::Result<bool>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        // Who has gone already is found out when it is served.
        let _ = stream.set_nodelay(true);
        Ok((stream, peer))
    }
}

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Accepted for TcpStream {
    async fn speaks_http2(&self) -> io::Result<bool> {
        let mut seen = [0; HTTP2_PREFACE.len()];
        let mut pause = Duration::from_millis(1);
        loop {
            let ready = self.ready(Interest::READABLE).await?;
            let count = self.peek(&mut seen).await?;
            if count == 0 || seen[..count] != HTTP2_PREFACE[..count] {
                return Ok(false);
            }
            if count == HTTP2_PREFACE.len() {
                return Ok(true);
            }
            if ready.is_read_closed() {
                return Ok(false);
            }
            // What was looked at is still there, so readiness says nothing about what is to come.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }
}
