//! What an error answer says in its body: problem+json (RFC 9457), and Stripe's `{"error": …}`. Pure.
//!
//! Foreign input: whatever it is, it is read or ignored, and never trusted further than the status allows.
//! Next: [`crate::core::classify`].

use http::header;
use semel::{Code, wire};
use serde_json::Value;

use crate::core::classify::Answer;

/// Longer bodies are not looked into.
const BODY_MAX_BYTES: usize = 64 << 10;

/// An error body, in the words of RFC 9457. Of Stripe's shape `code` is its `code`, `kind` its `type` and `detail` its
/// `message`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// What kind of problem it is: a URI, or Stripe's word.
    pub kind: Option<String>,
    /// One line for a person.
    pub title: Option<String>,
    /// What happened in this case.
    pub detail: Option<String>,
    /// A code to look up.
    pub code: Option<String>,
}

/// What an answer says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    InFlight,
    InDoubt,
    NotKept,
    Reused,
}

/// Reads the body of an error answer; `None` when it has neither shape.
#[must_use]
pub fn problem(answer: &Answer<'_>) -> Option<Problem> {
    let json = answer.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let json = json.is_some_and(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/json") || kind.to_ascii_lowercase().ends_with("+json")
    });
    if !json || answer.body.len() > BODY_MAX_BYTES {
        return None;
    }
    let body: Value = serde_json::from_slice(answer.body).ok()?;
    let inner = body.get("error").filter(|inner| inner.is_object());
    let text = |name: &str| inner.unwrap_or(&body).get(name).and_then(Value::as_str).map(str::to_owned);
    let detail = text(if inner.is_some() { "message" } else { "detail" });
    let problem = Problem { kind: text("type"), title: text("title"), detail, code: text("code") };
    (problem != Problem::default()).then_some(problem)
}

/// Semel's header first, then its problem types, then the words that others use.
pub(super) fn mark(answer: &Answer<'_>) -> Option<Mark> {
    let standing = answer.headers.get(wire::STATUS).map(http::HeaderValue::as_bytes);
    if standing == Some(b"in-progress") {
        return Some(Mark::InFlight);
    }
    let Some(problem) = problem(answer) else {
        return (standing == Some(b"in-doubt")).then_some(Mark::InDoubt);
    };
    let kind = problem.kind.as_deref().unwrap_or_default();
    let title = problem.title.as_deref().unwrap_or_default().to_ascii_lowercase();
    let word =
        kind.strip_prefix(wire::PROBLEM).or_else(|| kind.rsplit(['/', '#', ':']).next()).unwrap_or_default();
    let code = problem.code.as_deref().unwrap_or_default().replace('_', "-").to_ascii_lowercase();
    let says = |names: &[&str]| names.iter().any(|name| word.replace('_', "-") == *name || code == *name);
    if says(&[Code::OutcomeUnknown.name()]) || standing == Some(b"in-doubt") {
        Some(Mark::InDoubt)
    } else if says(&[Code::AnswerNotKept.name()]) {
        Some(Mark::NotKept)
    } else if says(&[Code::InProgress.name(), "outstanding", "request-in-progress", "idempotency-key-in-use"])
        || title.starts_with("a request is outstanding")
    {
        Some(Mark::InFlight)
    } else if says(&[Code::Mismatch.name(), "idempotency-key-reused", "idempotency-mismatch"])
        || title.starts_with("idempotency-key is already used")
        || (kind == "idempotency_error" && answer.status != http::StatusCode::CONFLICT)
    {
        Some(Mark::Reused)
    } else {
        None
    }
}
