//! The words on the wire: header names and the values of `Idempotency-Status`.
//!
//! Not the profiles that rename them for people who come from elsewhere; those live with the HTTP layer.

/// The request header that carries the key, unless configured otherwise; echoed on every covered answer.
pub const KEY: &str = "idempotency-key";
/// Answer header: what the answer is, one of [`Status`].
pub const STATUS: &str = "idempotency-status";
/// Answer header, `true` on replays and absent from first answers.
pub const REPLAYED: &str = "idempotency-replayed";
/// Answer header, by choice: when the record expires, as an HTTP date.
pub const EXPIRES: &str = "idempotency-expires";
/// Header to the upstream: how many times the record was claimed afresh, from 1.
pub const ATTEMPT: &str = "idempotency-attempt";
/// Header to the upstream: the claim's fencing token.
pub const TOKEN: &str = "idempotency-token";
/// What every problem type begins with.
pub const PROBLEM: &str = "urn:semel:error:";

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The effect was run for this request.
    Executed,
    /// The stored outcome.
    Replayed,
    /// Another request with this key still runs.
    InProgress,
    /// Nobody knows whether the effect happened.
    InDoubt,
    /// Nothing was run and nothing was stored.
    Refused,
    /// The effect was run and its outcome could not be stored, or it ran unprotected.
    Unrecorded,
}

impl Status {
    /// Every status, for metrics.
    pub const ALL: [Self; 6] =
        [Self::Executed, Self::Replayed, Self::InProgress, Self::InDoubt, Self::Refused, Self::Unrecorded];

    /// The header's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::Replayed => "replayed",
            Self::InProgress => "in-progress",
            Self::InDoubt => "in-doubt",
            Self::Refused => "refused",
            Self::Unrecorded => "unrecorded",
        }
    }
}
