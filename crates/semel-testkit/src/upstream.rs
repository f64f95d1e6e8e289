//! Upstreams that count their effects, each behind one [`Upstream`]: scripted ones in this process, whose every
//! answer a test decides, and children in Python and Node, which behave as those servers do.
//!
//! None knows what an idempotency key is for: each writes every request into its [`Ledger`] and acts.

mod child;
mod scripted;
mod tap;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use tokio::task::JoinSet;

use crate::ledger::Ledger;

pub use child::PythonProtocol;
pub use scripted::{Arrived, Reply, Reserved};
pub use tap::{Reading, Tap, Tapped};

/// An upstream that runs until it is dropped.
#[derive(Debug)]
pub struct Upstream {
    addr: SocketAddr,
    ledger: Ledger,
    noted: Noted,
    _running: Running,
}

/// What a scripted upstream knows of its connections.
#[derive(Clone, Debug, Default)]
struct Noted {
    /// The keys whose answer was handed to the operating system.
    answered: Arc<Mutex<HashSet<String>>>,
    connections: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Running {
    Tasks(#[expect(dead_code, reason = "dropping it ends them")] JoinSet<()>),
    Child(#[expect(dead_code, reason = "dropping it ends it")] tokio::process::Child),
}

impl Upstream {
    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What reached it.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The keys whose answers a scripted upstream has written to its connection, so that on this machine they are
    /// with whoever asked.
    #[must_use]
    pub fn answered(&self) -> HashSet<String> {
        self.noted.answered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many those are.
    #[must_use]
    pub fn answered_count(&self) -> usize {
        self.noted.answered.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many connections a scripted upstream has accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.noted.connections.load(Ordering::SeqCst)
    }
}

/// The answer to the `nth` effect: 201 with a `Location`, and a body that no other effect has.
#[must_use]
pub fn charge(nth: usize, key: Option<&str>) -> Response<Bytes> {
    let mut answer = Response::new(Bytes::from(json!({ "charge": nth, "key": key }).to_string()));
    *answer.status_mut() = StatusCode::CREATED;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(location) = HeaderValue::try_from(format!("/charges/{nth}")) {
        headers.insert(header::LOCATION, location);
    }
    answer
}
