//! Reading bodies within bounds: requests before they are claimed for, answers before they are stored.
//!
//! Nothing here decides; [`crate::service`] does.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body as HttpBody;
use http_body_util::BodyExt;

use crate::body::Body;

/// For ever.
const YEAR: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// What came of reading a body.
#[derive(Debug)]
pub enum Captured<B> {
    /// All of it.
    Whole {
        /// The body.
        bytes: Bytes,
        /// What followed it.
        trailers: Option<HeaderMap>,
    },
    /// Larger than the limit: what was read, and the rest.
    Large(Body<Pin<Box<B>>>),
    /// Still coming when time was up: what was read, and the rest.
    Late(Body<Pin<Box<B>>>),
    /// It broke off.
    Broken(String),
}

/// Reads `body` up to `max_bytes`, for at most `timeout`.
///
/// # Cancellation
/// Dropped mid-await, what was read is lost with the body.
pub async fn capture<B>(body: B, max_bytes: usize, timeout: Duration) -> Captured<B>
where
    B: HttpBody<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let mut read = Read { chunks: VecDeque::new(), rest: Box::pin(body) };
    if read.rest.size_hint().lower() > u64::try_from(max_bytes).unwrap_or(u64::MAX) {
        return Captured::Large(Body::stream(read.rest));
    }
    let end = tokio::time::timeout(timeout.min(YEAR), read.rest_of_it(max_bytes)).await;
    let Read { chunks, rest } = read;
    match end {
        Ok(Ok(End::Reached(trailers))) => Captured::Whole { bytes: join(chunks), trailers },
        Ok(Ok(End::TooFar)) => Captured::Large(Body::Stream { prefix: chunks, rest }),
        Ok(Err(error)) => Captured::Broken(error.to_string()),
        Err(_) => Captured::Late(Body::Stream { prefix: chunks, rest }),
    }
}

/// What was read of a body, and what was not.
struct Read<B> {
    chunks: VecDeque<Bytes>,
    rest: Pin<Box<B>>,
}

enum End {
    /// With what followed the body.
    Reached(Option<HeaderMap>),
    /// There is more than was asked for.
    TooFar,
}

impl<B: HttpBody<Data = Bytes>> Read<B> {
    async fn rest_of_it(&mut self, max_bytes: usize) -> Result<End, B::Error> {
        let mut read_bytes = 0_usize;
        let mut trailers = None;
        while let Some(frame) = self.rest.frame().await {
            match frame?.into_data() {
                Ok(data) => {
                    read_bytes += data.len();
                    self.chunks.push_back(data);
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
            if read_bytes > max_bytes {
                return Ok(End::TooFar);
            }
        }
        Ok(End::Reached(trailers))
    }
}

/// One chunk is passed on without a copy; several are joined.
fn join(mut chunks: VecDeque<Bytes>) -> Bytes {
    if chunks.len() <= 1 {
        return chunks.pop_front().unwrap_or_default();
    }
    let mut joined = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    chunks.iter().for_each(|chunk| joined.extend_from_slice(chunk));
    joined.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn a_body_at_the_limit_is_whole_and_one_above_is_not() {
        let at = capture(Full::new(Bytes::from_static(b"12345")), 5, Duration::from_secs(1)).await;
        assert!(matches!(at, Captured::Whole { bytes, .. } if bytes == "12345"));
        let above = capture(Full::new(Bytes::from_static(b"123456")), 5, Duration::from_secs(1)).await;
        let Captured::Large(body) = above else { panic!("kept too much") };
        assert_eq!(body.collect().await.unwrap().to_bytes(), "123456");
    }
}
