//! Refusals: what is wrong, what to do, and whether sending again is safe, in the profile's own shape.
//!
//! The text for the caller never shows another payload, another tenant or an inner error; those go to the log.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use semel::error::Resend;
use semel::{Code, wire};
use serde_json::{Value, json};

use crate::body::Body;
use crate::profile::{ErrorBody, Profile};

/// A refusal on its way to the caller.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The stable code.
    pub code: Code,
    /// What happened in this case, for the caller.
    pub detail: String,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// More members of the body.
    pub members: Vec<(&'static str, Value)>,
    /// Where the resource is, when an earlier answer said so.
    pub location: Option<HeaderValue>,
}

impl Problem {
    /// A refusal under `code`. Codes that pass by themselves say when to come back.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let retry_after = (code.resend() == Resend::After).then(semel::engine::retry_after);
        Self { code, detail: detail.into(), retry_after, members: Vec::new(), location: None }
    }

    /// The answer, as `profile` words it.
    #[must_use]
    pub fn answer<B>(self, profile: &Profile) -> Response<Body<B>> {
        let status = StatusCode::from_u16(profile.status(self.code)).unwrap_or(StatusCode::BAD_REQUEST);
        let (content_type, body) = match profile.errors {
            ErrorBody::Problem => ("application/problem+json", self.problem_json(status)),
            ErrorBody::Stripe => ("application/json", self.stripe_json()),
        };
        let mut answer = Response::new(Body::whole(Bytes::from(body.to_string())));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        if let Some(location) = self.location {
            headers.insert(header::LOCATION, location);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(retry_after) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after.as_secs().max(1)));
        }
        answer
    }

    fn problem_json(&self, status: StatusCode) -> Value {
        let mut body = json!({
            "type": format!("{}{}", wire::PROBLEM, self.code.name()),
            "title": title(self.code),
            "status": status.as_u16(),
            "detail": self.detail,
            "code": self.code.as_str(),
            "resend": resend(self.code),
        });
        for (name, value) in &self.members {
            body[*name] = value.clone();
        }
        body
    }

    fn stripe_json(&self) -> Value {
        let kind = match self.code {
            Code::Mismatch | Code::InProgress | Code::OutcomeUnknown => "idempotency_error",
            Code::StoreUnavailable | Code::UpstreamFailed | Code::UpstreamTimeout => "api_error",
            _ => "invalid_request_error",
        };
        let code = self.code.name().replace('-', "_");
        json!({ "error": { "type": kind, "code": code, "message": self.detail } })
    }
}

/// One line for a person.
#[must_use]
pub fn title(code: Code) -> &'static str {
    match code {
        Code::KeyMissing => "This request needs an idempotency key",
        Code::KeyInvalid => "The idempotency key cannot be read",
        Code::KeyRepeated => "The request has several idempotency keys",
        Code::Mismatch => "The idempotency key was used for another request",
        Code::InProgress => "The first request with this idempotency key still runs",
        Code::OutcomeUnknown => "Nobody knows whether this request took effect",
        Code::AnswerNotKept => "The request took effect; its answer was too large to keep",
        Code::TenantNotConfigured => "No setting says whose idempotency key this is",
        Code::TenantUnknown => "The credential does not say whose idempotency key this is",
        Code::StoreUnavailable => "The idempotency store cannot be reached",
        Code::TooLarge => "The request is too large to be protected",
        Code::Quota => "Too many requests are in flight",
        Code::EarlyData => "Keyed requests are not taken from TLS early data",
        Code::RequestTimeout => "The request did not arrive in time",
        Code::UpstreamUnreachable => "The upstream cannot be reached",
        Code::UpstreamFailed => "The upstream failed while handling this request",
        Code::UpstreamTimeout => "The upstream did not answer in time",
        Code::RecordUnreadable => "What is stored under this key cannot be read",
        Code::NotAuthorised => "The caller may not see this outcome",
        _ => "The request is refused",
    }
}

fn resend(code: Code) -> &'static str {
    match code.resend() {
        Resend::Never => "never",
        Resend::SameKey => "same-key",
        Resend::After => "after",
        Resend::Unknown => "unknown",
    }
}
