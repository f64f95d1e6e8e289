//! What a program can see of its calls: events for metrics, and the same as tracing at debug.
//!
//! Neither has a credential, a header, a query or a body in it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use semel::Key;

use crate::core::call::Kind;
use crate::core::classify::Finding;

/// Something that happened to a call.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Event<'a> {
    /// What.
    pub what: What,
    /// The call's method.
    pub method: &'a Method,
    /// The host, with its port where it has one.
    pub host: &'a str,
    /// The path, without its query.
    pub path: &'a str,
    /// The call's key.
    pub key: Option<&'a Key>,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// What the answer's `x-request-id` or `request-id` says.
    pub request_id: Option<&'a str>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// The call has its answer.
    Done,
    /// It is sent again after a delay, because of what the attempt came to.
    Retry {
        /// How long.
        delay: Duration,
        /// Why.
        because: Finding,
    },
    /// It goes to another address of the origin.
    Followed,
    /// There will be no further attempt.
    GaveUp {
        /// The kind of error.
        kind: Kind,
        /// What the last attempt came to.
        because: Finding,
    },
    /// A retry layer around this one sends the call again. Attempts multiply: one of the two has to go.
    ForeignRetry,
}

/// Is told every event.
#[derive(Clone)]
pub(crate) struct Observer(pub(crate) Arc<dyn Fn(&Event<'_>) + Send + Sync>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

pub(crate) fn tell(observer: Option<&Observer>, event: &Event<'_>) {
    let Event { what, method, host, path, key, attempt, request_id } = *event;
    let key = key.map(Key::as_str);
    match what {
        What::Done => tracing::debug!(%method, host, path, key, attempt, request_id, "call done"),
        What::Retry { delay, because } => {
            tracing::debug!(%method, host, path, key, attempt, request_id, ?delay, reason = ?because, "call is sent again");
        }
        What::Followed => {
            tracing::debug!(%method, host, path, key, attempt, request_id, "call follows a redirect")
        }
        What::GaveUp { kind, because } => {
            let kind = kind.as_str();
            tracing::debug!(%method, host, path, key, attempt, request_id, kind, reason = ?because, "call given up");
        }
        What::ForeignRetry => {
            tracing::warn!(%method, host, path, key, "a retry layer around Once sends this call again; remove it");
        }
    }
    if let Some(Observer(observer)) = observer {
        observer(event);
    }
}
