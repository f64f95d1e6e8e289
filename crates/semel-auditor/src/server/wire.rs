//! A connection that can be broken by script, from beneath (RST or FIN), and tapped from above TLS.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::bytes::{ByteLog, Way};

/// A frame of HTTP/2: GOAWAY, last stream 0, no error. Every request of the connection may be sent again.
const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What a connection and its requests tell each other.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: u32,
    /// It ends with RST, and not with FIN.
    reset: AtomicBool,
    /// What is written last.
    last_words: Mutex<&'static [u8]>,
    broken: Notify,
}

impl Line {
    pub(super) fn new(number: u32) -> Self {
        Self { number, reset: AtomicBool::new(false), last_words: Mutex::new(&[]), broken: Notify::new() }
    }

    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::SeqCst);
        self.broken.notify_one();
    }

    pub(super) fn close(&self) {
        self.broken.notify_one();
    }

    pub(super) fn go_away(&self) {
        *self.last_words.lock().unwrap_or_else(PoisonError::into_inner) = &GOAWAY;
        self.broken.notify_one();
    }

    pub(super) async fn broken(&self) {
        self.broken.notified().await;
    }
}

/// The connection itself.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    line: Arc<Line>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, line: Arc<Line>) -> Self {
        Self { stream, line }
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
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The connection as HTTP sees it: without TLS.
pub(super) struct Tap<S: AsyncRead + AsyncWrite + Unpin> {
    stream: S,
    line: Arc<Line>,
    bytes: Option<Arc<ByteLog>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tap<S> {
    pub(super) fn new(stream: S, line: Arc<Line>, bytes: Option<Arc<ByteLog>>) -> Self {
        Self { stream, line, bytes }
    }

    fn note(&self, way: Way, data: &[u8]) {
        if let Some(bytes) = &self.bytes {
            bytes.note(self.line.number, way, data);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Drop for Tap<S> {
    fn drop(&mut self) {
        let words = *self.line.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        if !words.is_empty() {
            self.note(Way::Out, words);
            // 17 bytes fit, or the client does not read; nobody is left to wait for it.
            let mut context = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut self.stream).poll_write(&mut context, words);
            let _ = Pin::new(&mut self.stream).poll_flush(&mut context);
            let _ = Pin::new(&mut self.stream).poll_shutdown(&mut context);
        }
        let reset = self.line.reset.load(Ordering::SeqCst);
        self.note(Way::End { reset }, &[]);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        self.note(Way::In, &buffer.filled()[before..]);
        Poll::Ready(read)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, data));
        if let Ok(count) = written {
            self.note(Way::Out, &data[..count]);
        }
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
