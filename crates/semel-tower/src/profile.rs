//! Named profiles: bundles of settings, status codes, marker names and error bodies, so that people who come from
//! something else can switch. Every setting can still be overridden on the [`Route`].

use std::time::Duration;

use http::HeaderName;
use semel::policy::{OnDuplicate, OnMismatch};
use semel::{Code, Policy, wire};

use crate::route::{KeySource, Missing, On5xx, Route};

/// How refusals and replays are worded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The name in a configuration file.
    pub name: &'static str,
    /// The header that marks a replay.
    pub replayed: HeaderName,
    /// The body of a refusal.
    pub errors: ErrorBody,
    /// The status of a mismatch.
    pub mismatch_status: u16,
}

/// The shape of an error body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorBody {
    /// `application/problem+json` (RFC 9457).
    Problem,
    /// `{"error": {"type", "code", "message"}}`.
    Stripe,
}

impl Profile {
    /// The names, in the order in which they are documented.
    pub const NAMES: [&'static str; 5] = ["ietf", "stripe", "audit-log", "control-plane", "form"];

    /// The default: the codes of draft-ietf-httpapi-idempotency-key-header-07, with problem+json.
    #[must_use]
    pub fn ietf() -> Self {
        Self {
            name: "ietf",
            replayed: HeaderName::from_static(wire::REPLAYED),
            errors: ErrorBody::Problem,
            mismatch_status: 422,
        }
    }

    fn stripe() -> Self {
        Self {
            name: "stripe",
            replayed: HeaderName::from_static("idempotent-replayed"),
            errors: ErrorBody::Stripe,
            mismatch_status: 400,
        }
    }

    /// The HTTP status of a refusal.
    #[must_use]
    pub fn status(&self, code: Code) -> u16 {
        match code {
            Code::Mismatch => self.mismatch_status,
            Code::InProgress | Code::OutcomeUnknown | Code::AnswerNotKept => 409,
            Code::TenantNotConfigured | Code::TenantUnknown | Code::NotAuthorised => 403,
            Code::RecordUnreadable => 500,
            Code::StoreUnavailable => 503,
            Code::TooLarge => 413,
            Code::Quota => 429,
            Code::EarlyData => 425,
            Code::RequestTimeout => 408,
            Code::UpstreamUnreachable | Code::UpstreamFailed => 502,
            Code::UpstreamTimeout => 504,
            _ => 400,
        }
    }
}

impl Route {
    /// The settings of the profile called `name`; `None` when there is none of that name.
    #[must_use]
    pub fn profile(name: &str) -> Option<Self> {
        let ietf = Self::default();
        let policy = Policy::default();
        Some(match name {
            "ietf" => ietf,
            "stripe" => Self {
                profile: Profile::stripe(),
                on_5xx: On5xx::Store,
                policy: Policy { on_duplicate: OnDuplicate::Conflict, ..policy }.into(),
                ..ietf
            },
            "audit-log" => Self {
                profile: Profile { name: "audit-log", ..Profile::ietf() },
                missing: Missing::Generate,
                policy: Policy { on_mismatch: OnMismatch::Distinct, ..policy }.into(),
                ..ietf
            },
            "control-plane" => Self {
                profile: Profile { name: "control-plane", ..Profile::ietf() },
                policy: Policy { retention: Duration::from_secs(48 * 60 * 60), ..policy }.into(),
                ..ietf
            },
            "form" => Self {
                profile: Profile { name: "form", ..Profile::ietf() },
                key: KeySource::Body("/idempotency_key".to_owned()),
                policy: Policy { on_mismatch: OnMismatch::Replay, ..policy }.into(),
                ..ietf
            },
            _ => return None,
        })
    }
}
