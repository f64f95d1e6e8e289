//! What a client is asked to do, what it says of it, and what was seen.
//!
//! Not how the server fails meanwhile: that is a script.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::attempt::Attempt;

/// What a client is asked to do; one JSON line to a driver, environment variables to a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// Its name, for instance `retry-503`. Unique within an audit.
    pub name: String,
    /// Where the client sends to: a base URL without a path.
    pub url: String,
    /// How many calls to make. Call `n`, from 0, carries `semel-audit-n` in some field of its body.
    pub calls: u32,
    /// How many of them at a time.
    pub parallel: u32,
    /// The key to use instead of the client's own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    /// How long one attempt may take.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeout_ms: Option<u64>,
    /// How often a call may be sent again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_retries: Option<u32>,
    /// How long a call may take with all its attempts.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub deadline_ms: Option<u64>,
}

/// What a client says of a call that has returned: one JSON line. Only `ok` is needed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// Which call.
    pub call: u32,
    /// Whether it returned a result, and no error.
    pub ok: bool,
    /// The HTTP status that the result or the error carries.
    pub status: Option<u16>,
    /// The error: its class and text.
    pub error: Option<String>,
    /// The key that the error hands back.
    pub key: Option<String>,
    /// Whether the error says that the call may be sent again.
    pub retryable: Option<bool>,
    /// How many attempts the error says were made.
    pub attempts: Option<u32>,
    /// How long the error says to wait, in seconds.
    pub retry_after_s: Option<f64>,
    /// How long the call took, on the client's clock.
    pub took_ms: Option<f64>,
    /// When it was heard, since the scenario began. Set by whoever hears it. As `at_ms` in JSON.
    #[serde(rename = "at_ms", with = "crate::millis")]
    pub at: Duration,
}

/// What was seen of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// The scenario's name.
    pub scenario: String,
    /// How the server failed, as a script.
    pub script: String,
    /// What the client was asked to do.
    pub asked: Scenario,
    /// Every request, in order of arrival.
    pub attempts: Vec<Attempt>,
    /// What the client said, in the order heard.
    pub said: Vec<Said>,
    /// How it ended.
    pub end: End,
    /// How long it took. As `took_ms` in JSON.
    #[serde(rename = "took_ms", with = "crate::millis")]
    pub took: Duration,
    /// The longest that this machine kept the server from running meanwhile, where delays were measured. As
    /// `stalled_ms` in JSON.
    #[serde(rename = "stalled_ms", with = "crate::millis", default)]
    pub stalled: Duration,
    /// The file with every byte that went over the wire, where they were kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log: Option<String>,
}

/// How a scenario ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The client says that it is done, or its command ended with code 0.
    Finished,
    /// Nothing more came in; whether its calls have returned was not seen.
    Quiet,
    /// Stopped by the watchdog.
    Killed,
    /// Stopped because more would not have changed the verdict.
    SeenEnough,
    /// The command ended with this code.
    Exited(i32),
    /// The command ended by a signal, the driver broke off, or it could not be started; and why.
    Broke(String),
}
