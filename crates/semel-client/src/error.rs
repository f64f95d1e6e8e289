//! Why a call has no answer that the program can use: typed by what is known, and always with the key in hand.
//!
//! The kinds are decided in [`crate::core::call`]; this is how a program sees them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use semel::Key;
use semel::key::KeyError;

use crate::core::call::Ending;
pub use crate::core::call::Kind;
use crate::core::classify::{Answer, Effect, Finding};
use crate::core::problem::{Problem, problem};

/// Any error of a library beneath.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A call that did not succeed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Error(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    key: Option<Key>,
    attempts: u32,
    last: Option<Finding>,
    effect: Effect,
    retry_after: Option<Duration>,
    retryable: bool,
    answer: Option<Response<Bytes>>,
    problem: Option<Problem>,
    source: Option<BoxError>,
}

impl Error {
    /// A call that ended as the core says.
    pub(crate) fn ended(
        ending: &Ending,
        key: Option<Key>,
        attempts: u32,
        answer: Option<Response<Bytes>>,
        source: Option<BoxError>,
    ) -> Self {
        let problem = answer.as_ref().and_then(|answer| {
            problem(&Answer { status: answer.status(), headers: answer.headers(), body: answer.body() })
        });
        let Ending { kind, last, effect, retry_after, retryable } = *ending;
        let last = Some(last);
        let inner =
            Inner { kind, key, attempts, last, effect, retry_after, retryable, answer, problem, source };
        Self(Arc::new(inner))
    }

    /// A call of which nothing was sent, because of `source`.
    pub(crate) fn unsent(kind: Kind, key: Option<Key>, source: impl Into<BoxError>) -> Self {
        Self(Arc::new(Inner {
            kind,
            key,
            attempts: 0,
            last: None,
            effect: Effect::None,
            retry_after: None,
            retryable: false,
            answer: None,
            problem: None,
            source: Some(source.into()),
        }))
    }

    /// The answer came and is not what was asked for.
    #[cfg(any(feature = "client", feature = "blocking-reqwest", feature = "blocking-ureq"))]
    pub(crate) fn undecodable(
        key: Option<Key>,
        attempts: u32,
        answer: Response<Bytes>,
        why: serde_json::Error,
    ) -> Self {
        Self(Arc::new(Inner {
            kind: Kind::Decode,
            key,
            attempts,
            last: Some(Finding::Done),
            effect: Effect::Happened,
            retry_after: None,
            retryable: false,
            answer: Some(answer),
            problem: None,
            source: Some(why.into()),
        }))
    }

    /// What it is, by what is known.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The call's key, to send it again under, or to ask the host about. `None` only for calls that had none.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.0.key.as_ref()
    }

    /// How many attempts were made; 0 when nothing was sent on purpose.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// How long the host asked to wait, from its last answer on.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether sending the same call again **with the same key** does no harm and may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// Whether the effect happened, as far as this side can know, over all attempts.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// What the last attempt came to.
    #[must_use]
    pub fn last(&self) -> Option<Finding> {
        self.0.last
    }

    /// The last answer, where there was one and its body was read.
    #[must_use]
    pub fn answer(&self) -> Option<&Response<Bytes>> {
        self.0.answer.as_ref()
    }

    /// What the last answer said about itself, as problem+json or in Stripe's shape.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        self.0.problem.as_ref()
    }
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        Self::unsent(Kind::Invalid, None, error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.kind {
            Kind::NotSent => "nothing was sent",
            Kind::Unknown => "sent, and nobody on this side knows whether it took effect",
            Kind::Rejected => "the host refused it",
            Kind::InFlight => "the first call with this key still runs",
            Kind::KeyReused => "the key was used for another request",
            Kind::Throttled => "the host asks to come back later",
            Kind::Exhausted => "all retries were used",
            Kind::BudgetEmpty => "the retry budget of the host is used up",
            Kind::Deadline => "the call's time is up",
            Kind::Redirected => "the host names an address that is not followed",
            Kind::NotKept => "it took effect, and its answer was too large to be kept",
            Kind::Invalid => "it cannot be sent",
            Kind::Journal => "the journal did not keep it, so nothing was sent",
            Kind::Decode => "the answer is not what was asked for",
        })?;
        if let Some(answer) = &self.0.answer {
            write!(f, ", status {}", answer.status().as_u16())?;
        }
        if self.0.attempts > 0 {
            write!(f, ", attempts {}", self.0.attempts)?;
        }
        match &self.0.key {
            Some(key) => write!(f, ", key {key}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as _)
    }
}
