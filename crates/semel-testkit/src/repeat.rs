//! A body that is one chunk many times over, so that a gibibyte costs a mebibyte. Counts what was taken of it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// `chunk`, `times` over.
#[derive(Clone, Debug)]
pub struct Repeat {
    chunk: Bytes,
    left: u64,
    taken: Arc<AtomicU64>,
}

impl Repeat {
    /// A body of `times` chunks.
    #[must_use]
    pub fn new(chunk: impl Into<Bytes>, times: u64) -> Self {
        let chunk = chunk.into();
        let left = if chunk.is_empty() { 0 } else { times };
        Self { chunk, left, taken: Arc::default() }
    }

    /// Counts the chunks that were taken, of this body and of its clones.
    #[must_use]
    pub fn taken(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.taken)
    }

    /// What [`crate::client::drain`] says about the whole body.
    #[must_use]
    pub fn digest(&self) -> (u64, blake3::Hash) {
        let mut digest = blake3::Hasher::new();
        for _ in 0..self.left {
            digest.update(&self.chunk);
        }
        (self.bytes_left(), digest.finalize())
    }

    fn bytes_left(&self) -> u64 {
        self.left * u64::try_from(self.chunk.len()).unwrap_or(u64::MAX)
    }
}

impl Body for Repeat {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.taken.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes_left())
    }
}
