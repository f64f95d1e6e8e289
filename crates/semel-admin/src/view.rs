//! The JSON of records and of what is asked about them. Requests refuse unknown fields; answers may grow.
//!
//! Times are RFC 3339 on the store's clock; durations say their unit. Next: [`crate::inspect`].

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use semel::clock::Timestamp;
use semel::{Record, State};
use serde::{Deserialize, Serialize};

/// The last second that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// A record as operators see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordView {
    /// The record's digest, which names it among all.
    pub record: String,
    /// Whose key it is.
    pub tenant: String,
    /// What the key is used for.
    pub operation: String,
    /// The key.
    pub key: String,
    /// The payload digest, where it is part of the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// `in-flight`, `in-doubt`, `completed` or `failed`.
    pub state: String,
    /// The outcome's code: over HTTP its status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// How many times the record was claimed afresh.
    pub generation: u32,
    /// The newest claim's fencing token.
    pub token: u64,
    /// When the newest claim was made.
    pub claimed_at: String,
    /// How long ago that was.
    pub age_seconds: u64,
    /// Until when a claim in flight is believed alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_until: Option<String>,
    /// Past this the lease of a claim in flight is not renewed any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execute_until: Option<String>,
    /// Since when the record is in doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_doubt_since: Option<String>,
    /// Why the record is in doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt_cause: Option<String>,
    /// When the outcome was stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    /// When the record becomes absent by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// How long until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
}

impl RecordView {
    /// `record` as it stands at `now`.
    #[must_use]
    pub fn new(record: &Record, now: Timestamp) -> Self {
        let (lease_until, execute_until) = match record.state {
            State::InFlight { lease_until, execute_until } => (Some(lease_until), Some(execute_until)),
            _ => (None, None),
        };
        let (since, cause) = match record.state {
            State::InDoubt { since, cause, .. } => (Some(since), Some(cause)),
            _ => (None, None),
        };
        let completed_at = match record.state {
            State::Completed { completed_at, .. } | State::Failed { completed_at, .. } => Some(completed_at),
            State::InFlight { .. } | State::InDoubt { .. } => None,
        };
        Self {
            record: record.id.digest().to_string(),
            tenant: record.id.tenant().to_string(),
            operation: record.id.operation().to_string(),
            key: record.id.key().as_str().to_owned(),
            variant: record.id.variant().map(|digest| digest.to_string()),
            state: record.state.kind().as_str().to_owned(),
            code: record.outcome().map(|outcome| outcome.code),
            generation: record.generation,
            token: record.guard.token.0,
            claimed_at: rfc3339(record.claimed_at),
            age_seconds: now.since(record.claimed_at).as_secs(),
            lease_until: lease_until.map(rfc3339),
            execute_until: execute_until.map(rfc3339),
            in_doubt_since: since.map(rfc3339),
            doubt_cause: cause.map(|cause| cause.as_str().to_owned()),
            completed_at: completed_at.map(rfc3339),
            expires_at: record.expires_at().map(rfc3339),
            expires_in_seconds: record.expires_at().map(|at| at.since(now).as_secs()),
        }
    }
}

/// `time` in RFC 3339, to the millisecond.
#[must_use]
pub fn rfc3339(time: Timestamp) -> String {
    let since_epoch = Duration::from_micros(time.as_micros()).min(Duration::from_secs(LAST_SECOND));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since_epoch).to_string()
}

/// Which records to list; every filter that is given must hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAsk {
    /// `in-flight`, `in-doubt`, `completed` or `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Only this tenant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Only this operation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Only this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Where the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// At most so many records, 1 to 1,000; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

/// A page of records. It may be empty before the last one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// The records.
    pub records: Vec<RecordView>,
    /// Where the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Names one record. The key is enough unless several tenants or operations use it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// The key, exactly.
    pub key: String,
    /// Whose key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// What the key is used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The record's digest: tells apart records that differ by payload only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
}

/// Which record to show, and how much of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShowAsk {
    /// As in [`Selector`].
    pub key: String,
    /// As in [`Selector`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// As in [`Selector`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// As in [`Selector`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// Whether to show the outcome's body. Only over the owner-only socket.
    #[serde(default)]
    pub body: bool,
}

impl ShowAsk {
    /// Asks for the record that `selector` names.
    #[must_use]
    pub fn new(selector: Selector, body: bool) -> Self {
        let Selector { key, tenant, operation, record } = selector;
        Self { key, tenant, operation, record, body }
    }

    /// The record asked for.
    #[must_use]
    pub fn selector(self) -> Selector {
        let Self { key, tenant, operation, record, body: _ } = self;
        Selector { key, tenant, operation, record }
    }
}

/// One record, with what its outcome holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// The record.
    #[serde(flatten)]
    pub record: RecordView,
    /// Digest of method, path and query of the claiming request.
    pub target_digest: String,
    /// Digest of its payload.
    pub payload_digest: String,
    /// What is replayed, for a finished record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<OutcomeView>,
}

/// The sizes of an outcome, and its body where it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutcomeView {
    /// Size of the stored head: over HTTP its headers.
    pub head_bytes: usize,
    /// Size of the stored body.
    pub body_bytes: usize,
    /// False when the body was too large to keep.
    pub body_kept: bool,
    /// The body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
}

/// Bytes in JSON: as text where they are UTF-8.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// The text itself.
    Text(String),
    /// Any bytes, in the standard alphabet with padding.
    Base64(String),
}

impl Body {
    /// The JSON form of `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64(STANDARD.encode(bytes)),
        }
    }

    /// The bytes.
    ///
    /// # Errors
    /// When it is not base64.
    pub fn into_bytes(self) -> Result<Bytes, base64::DecodeError> {
        match self {
            Self::Text(text) => Ok(text.into()),
            Self::Base64(text) => STANDARD.decode(text).map(Bytes::from),
        }
    }
}

/// What an operator found out about a record in doubt.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolveAsk {
    /// Which record.
    pub select: Selector,
    /// What became of the effect.
    pub resolution: Resolution,
}

/// What became of an effect in doubt.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Resolution {
    /// It happened: this is replayed from now on.
    Completed(Given),
    /// It did not happen: the key is free again.
    NotHappened,
}

/// The outcome that an operator gives.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Given {
    /// HTTP status, 200 to 599.
    pub status: u16,
    /// Header names and values, in order.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body, up to 64 MiB.
    pub body: Body,
    /// How long it is replayed, 1 second to 1 year; default 24 hours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_seconds: Option<u64>,
}

/// What was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// The record before.
    pub before: RecordView,
    /// The record now; absent when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<RecordView>,
}

/// What to purge.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PurgeAsk {
    /// One finished record.
    One(Selector),
    /// A batch of expired records.
    Expired,
    /// A batch of the finished records of a tenant, of an operation, or of both.
    Finished(FinishedAsk),
}

/// A batch of finished records; one of the two filters is required.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinishedAsk {
    /// Only this tenant's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Only this operation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Where the batch before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// What one batch removed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Purged {
    /// How many records went.
    pub removed: usize,
    /// Whether another batch may find more.
    pub more: bool,
    /// Where the next batch of finished records begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_time_is_written_and_does_not_panic() {
        assert_eq!(rfc3339(Timestamp::from_micros(u64::MAX)), "9999-12-31T23:59:59.000Z");
        assert_eq!(rfc3339(Timestamp::from_micros(1_500)), "1970-01-01T00:00:00.001Z");
    }

    #[test]
    fn bodies_come_back_byte_for_byte() {
        for bytes in [&b""[..], b"{\"a\":1}", b"\x1f\x8b\x00\xff"] {
            assert_eq!(Body::new(bytes).into_bytes().unwrap(), bytes);
        }
    }

    #[test]
    fn requests_refuse_unknown_fields() {
        assert!(serde_json::from_str::<PurgeAsk>(r#"{"one":{"key":"k"}}"#).is_ok());
        assert!(serde_json::from_str::<PurgeAsk>(r#"{"one":{"key":"k","tenent":"a"}}"#).is_err());
        assert!(
            serde_json::from_str::<ResolveAsk>(r#"{"select":{"key":"k"},"resolution":"not_happened","x":1}"#)
                .is_err()
        );
    }
}
