//! gRPC: refusals as trailers-only answers, and what a `grpc-status` means for the record.
//!
//! The key is the metadata entry of the header's name. With the feature `grpc` a refusal that passes by itself
//! carries a `google.rpc.RetryInfo`. Next: [`crate::problem`] for plain HTTP.

use http::header::{self, HeaderMap, HeaderValue};
use http::{HeaderName, Response};
use semel::Code;

use crate::body::Body;
use crate::problem::Problem;
use crate::route::AnswerClass;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a message speaks gRPC.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// What a finished gRPC answer means for the record; `None` when it has no readable status, as when it broke off.
pub(crate) fn classify(headers: &HeaderMap, trailers: Option<&HeaderMap>) -> Option<AnswerClass> {
    let status = trailers.and_then(|trailers| trailers.get(&STATUS)).or_else(|| headers.get(&STATUS))?;
    let status: u8 = status.to_str().ok()?.parse().ok()?;
    Some(match status {
        // PERMISSION_DENIED, RESOURCE_EXHAUSTED, ABORTED, UNAVAILABLE, UNAUTHENTICATED
        7 | 8 | 10 | 14 | 16 => AnswerClass::Released,
        // CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, DATA_LOSS
        1 | 2 | 4 | 13 | 15 => AnswerClass::InDoubt,
        _ => AnswerClass::Stored,
    })
}

/// A refusal in gRPC's own words.
pub(crate) fn refuse<B>(problem: &Problem) -> Response<Body<B>> {
    let status: u8 = match problem.code {
        Code::Mismatch | Code::OutcomeUnknown | Code::AnswerNotKept => 9,
        Code::InProgress => 10,
        Code::TenantNotConfigured | Code::TenantUnknown | Code::NotAuthorised => 7,
        Code::Quota => 8,
        Code::StoreUnavailable | Code::UpstreamUnreachable => 14,
        Code::UpstreamFailed => 2,
        Code::RecordUnreadable => 13,
        Code::UpstreamTimeout | Code::RequestTimeout => 4,
        _ => 3,
    };
    let mut answer = Response::new(Body::whole(bytes::Bytes::new()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(STATUS, HeaderValue::from(u16::from(status)));
    let message = format!("{}: {}", problem.code, problem.detail);
    if let Ok(message) = HeaderValue::try_from(percent_encoded(&message)) {
        headers.insert(MESSAGE, message);
    }
    #[cfg(feature = "grpc")]
    if let Some(details) = retry_info::encode(i32::from(status), &message, problem.retry_after) {
        headers.insert(HeaderName::from_static("grpc-status-details-bin"), details);
    }
    answer
}

/// gRPC's percent-encoding of a message: printable ASCII but for the percent sign stands for itself.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(feature = "grpc")]
mod retry_info {
    //! `google.rpc.Status` with one `google.rpc.RetryInfo`, the two messages written out.

    use std::time::Duration;

    use base64::Engine as _;
    use http::HeaderValue;
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    struct Status {
        #[prost(int32, tag = "1")]
        code: i32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(message, repeated, tag = "3")]
        details: Vec<Any>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Any {
        #[prost(string, tag = "1")]
        type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        value: Vec<u8>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct RetryInfo {
        #[prost(message, optional, tag = "1")]
        retry_delay: Option<Delay>,
    }

    #[derive(Clone, PartialEq, Message)]
    struct Delay {
        #[prost(int64, tag = "1")]
        seconds: i64,
    }

    pub(super) fn encode(code: i32, message: &str, retry_after: Option<Duration>) -> Option<HeaderValue> {
        let delay = Delay { seconds: i64::try_from(retry_after?.as_secs()).ok()? };
        let info = Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: RetryInfo { retry_delay: Some(delay) }.encode_to_vec(),
        };
        let status = Status { code, message: message.to_owned(), details: vec![info] };
        HeaderValue::try_from(base64::engine::general_purpose::STANDARD_NO_PAD.encode(status.encode_to_vec()))
            .ok()
    }
}
