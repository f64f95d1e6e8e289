//! What the server saw of one request: the log that everything is judged from.
//!
//! Not what the client says of itself: that is [`Said`](crate::scenario::Said).

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One request, as it arrived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// When its body had been read, since the scenario began. As `at_ms` in JSON.
    #[serde(rename = "at_ms", with = "crate::millis")]
    pub at: Duration,
    /// Which call it belongs to: from the marker in its body, or 0 where the scenario has one call only.
    pub call: Option<u32>,
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// All headers in order, names in lower case. Of credentials only the length.
    pub headers: Vec<(String, String)>,
    /// Every idempotency key in it, as sent: one for each header that carries one, or body field that was declared.
    pub keys: Vec<String>,
    /// SHA-256 of the body, in hexadecimal.
    pub body_digest: String,
    /// How long the body was.
    pub body_bytes: u64,
    /// Which of the scenario's two ports it reached.
    pub origin: Origin,
    /// The connection it came on, counted from 0 over both ports.
    pub connection: u32,
    /// What the script did about it, as it is written there.
    pub step: String,
    /// Whether a payment was made because of it: the script acts here, and the key was new or there was none.
    pub effect: bool,
    /// When the server began to answer or broke off, or noticed that the client had gone; `None` while it runs. As
    /// `ended_ms` in JSON.
    #[serde(rename = "ended_ms", with = "crate::millis::option", default)]
    pub ended_at: Option<Duration>,
    /// How it ended.
    pub ended: Ended,
}

/// Which port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The one the client was pointed at.
    Main,
    /// The one that redirects to another origin lead to.
    Other,
}

/// How the server's side of an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// It has not.
    Running,
    /// With an answer.
    Answered,
    /// Broken by the script.
    Broken,
    /// The client went away first.
    Left,
}

impl Attempt {
    /// The first key it carries.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.keys.first().map(String::as_str)
    }

    /// The first value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}
