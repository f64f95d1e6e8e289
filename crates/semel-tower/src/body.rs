//! A body that is either whole in memory or the stream it came as, with what was already read of it in front.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// Whole, or `B` as it streams.
    #[project = BodyProjection]
    #[derive(Debug)]
    #[allow(missing_docs, reason = "the macro takes no documentation on fields")]
    pub enum Body<B> {
        /// What is left to send of it, and the trailers after it.
        Whole { bytes: Option<Bytes>, trailers: Option<HeaderMap> },
        /// The chunks that were read from it already, and what was not.
        Stream { prefix: VecDeque<Bytes>, #[pin] rest: B },
    }
}

impl<B> Body<B> {
    /// A whole body without trailers.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::Whole { bytes: (!bytes.is_empty()).then_some(bytes), trailers: None }
    }

    /// A stream of which nothing was read.
    pub fn stream(rest: B) -> Self {
        Self::Stream { prefix: VecDeque::new(), rest }
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for Body<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.project() {
            BodyProjection::Whole { bytes, trailers } => Poll::Ready(match bytes.take() {
                Some(bytes) => Some(Ok(Frame::data(bytes))),
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            }),
            BodyProjection::Stream { prefix, rest } => match prefix.pop_front() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => rest.poll_frame(context),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole { bytes, trailers } => bytes.is_none() && trailers.is_none(),
            Self::Stream { prefix, rest } => prefix.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let in_memory = match self {
            Self::Whole { bytes, .. } => bytes.as_ref().map_or(0, Bytes::len),
            Self::Stream { prefix, .. } => prefix.iter().map(Bytes::len).sum(),
        };
        let in_memory = u64::try_from(in_memory).unwrap_or(u64::MAX);
        match self {
            Self::Whole { .. } => SizeHint::with_exact(in_memory),
            Self::Stream { rest, .. } => {
                let mut hint = SizeHint::new();
                hint.set_lower(rest.size_hint().lower().saturating_add(in_memory));
                if let Some(upper) = rest.size_hint().upper() {
                    hint.set_upper(upper.saturating_add(in_memory));
                }
                hint
            }
        }
    }
}
