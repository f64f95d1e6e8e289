//! The one error of this crate: a problem document (RFC 9457) that reads the same in this process and over HTTP.
//!
//! Next: [`crate::inspect`], which makes most of them.

use std::error::Error;
use std::fmt;

use semel::Code;
use semel::error::Resend;
use semel::store::StoreError;
use serde::{Deserialize, Serialize};

use crate::view::RecordView;

/// Why nothing was shown or changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:semel:error:` and the code's name.
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// The name in words.
    pub title: Box<str>,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this call, and what to do.
    pub detail: Box<str>,
    /// The stable code, `SEMEL-0022`.
    pub code: Box<str>,
    /// Whether the same call may be sent again: `never`, `same-key`, `after`, `unknown`.
    pub resend: Box<str>,
    /// The records that a key names, when it names several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<RecordView>,
}

impl Problem {
    fn new(code: Code, status: u16, detail: impl Into<Box<str>>) -> Self {
        let resend = match code.resend() {
            Resend::Never => "never",
            Resend::SameKey => "same-key",
            Resend::After => "after",
            Resend::Unknown => "unknown",
        };
        Self {
            kind: format!("{}{}", semel::wire::PROBLEM, code.name()).into(),
            title: code.name().replace('-', " ").into(),
            status,
            detail: detail.into(),
            code: code.as_str().into(),
            resend: resend.into(),
            matches: Vec::new(),
        }
    }

    /// The call itself is not understood.
    pub fn bad_request(detail: impl Into<Box<str>>) -> Self {
        Self::new(Code::BadRequest, 400, detail)
    }

    /// This listener does not show that.
    pub fn forbidden(detail: impl Into<Box<str>>) -> Self {
        Self::new(Code::NotAuthorised, 403, detail)
    }

    /// No record is named.
    pub fn not_found(detail: impl Into<Box<str>>) -> Self {
        Self::new(Code::RecordNotFound, 404, detail)
    }

    /// Several records are named, and nothing was done to any of them.
    pub fn ambiguous(detail: impl Into<Box<str>>, matches: Vec<RecordView>) -> Self {
        Self { matches, ..Self::new(Code::RecordNotFound, 409, detail) }
    }

    /// The record is not in a state that allows what was asked.
    pub fn record_state(detail: impl Into<Box<str>>) -> Self {
        Self::new(Code::RecordState, 409, detail)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let mut detail = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            detail = format!("{detail}: {cause}");
            source = cause.source();
        }
        Self::new(Code::StoreUnavailable, 503, detail)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)
    }
}

impl Error for Problem {}
