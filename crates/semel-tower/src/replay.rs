//! What of an answer is stored, and how it is given again: byte by byte but for what HTTP makes afresh.
//!
//! The stored head is the header block in HTTP/1 form, one `name: value` a line, so that a person can read a record
//! in the store's own shell; trailers follow after an empty line. Next: [`crate::service`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use semel::clock::Timestamp;
use semel::wire::{self, Status};
use semel::{Key, Outcome, Record};

use crate::body::Body;
use crate::profile::Profile;
use crate::route::Route;

const KEY: HeaderName = HeaderName::from_static(wire::KEY);
const STATUS: HeaderName = HeaderName::from_static(wire::STATUS);
const EXPIRES: HeaderName = HeaderName::from_static(wire::EXPIRES);

/// What a covered answer says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Marks<'a> {
    /// What the answer is.
    pub status: Status,
    /// The key, echoed.
    pub key: Option<&'a Key>,
    /// When the record expires, where the route says so.
    pub expires_at: Option<Timestamp>,
}

/// The outcome of an answer: its status, the headers and trailers that may be given again, and its body, or none
/// where it was too large.
#[must_use]
pub fn store(
    status: StatusCode,
    headers: &HeaderMap,
    body: Option<Bytes>,
    trailers: Option<&HeaderMap>,
    route: &Route,
) -> Outcome {
    let mut head = BytesMut::with_capacity(256);
    let named = connection_names(headers);
    write_block(&mut head, headers, |name| {
        !is_hop_by_hop(name, &named) && !is_mark(name) && *name != header::DATE && !route.never_stored(name)
    });
    if let Some(trailers) = trailers {
        head.put_slice(b"\r\n");
        write_block(&mut head, trailers, |_| true);
    }
    let body_kept = body.is_some();
    // A slice of its connection's read buffer would keep all of that in memory for as long as the record is there.
    let body = body.map(|body| Bytes::copy_from_slice(&body)).unwrap_or_default();
    Outcome { code: status.as_u16(), head: head.freeze(), body, body_kept }
}

/// The outcome that an operator gives to a record in doubt.
#[must_use]
pub fn outcome(status: u16, headers: Vec<(String, String)>, body: Bytes) -> Outcome {
    let mut head = BytesMut::new();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            write_line(&mut head, &name, &value);
        }
    }
    Outcome { code: status, head: head.freeze(), body, body_kept: true }
}

/// The stored answer of `record`; `None` when it is not one (damaged, or not HTTP).
#[must_use]
pub fn replay<B>(outcome: &Outcome, profile: &Profile, marks: &Marks<'_>) -> Option<Response<Body<B>>> {
    let (mut headers, trailers) = read_head(&outcome.head)?;
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    mark(&mut headers, profile, marks);
    let bytes = (!outcome.body.is_empty()).then(|| outcome.body.clone());
    let mut answer = Response::new(Body::Whole { bytes, trailers });
    *answer.status_mut() = StatusCode::from_u16(outcome.code).ok()?;
    *answer.headers_mut() = headers;
    Some(answer)
}

/// The stored headers of an answer whose body was not kept.
#[must_use]
pub fn stored_headers(outcome: &Outcome) -> HeaderMap {
    read_head(&outcome.head).map(|(headers, _)| headers).unwrap_or_default()
}

/// A fresh answer's headers, as the caller gets them: without the connection's own and without marks that the
/// upstream made up.
pub fn mark_fresh(headers: &mut HeaderMap, profile: &Profile, marks: &Marks<'_>) {
    strip(headers, is_mark);
    mark(headers, profile, marks);
}

/// Removes the headers that belong to one connection: the known ones, and those that `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named = connection_names(headers);
    let found = found(headers, |name| is_hop_by_hop(name, &named));
    remove(headers, found);
}

/// Removes from a request what only Semel may say to an upstream.
pub fn strip_marks(headers: &mut HeaderMap) {
    strip(headers, |name| is_mark(name) && name != wire::KEY);
}

/// When `record` expires, where the route says so.
#[must_use]
pub fn expires_at(record: &Record, route: &Route) -> Option<Timestamp> {
    record.expires_at().filter(|_| route.tell_expiry)
}

fn mark(headers: &mut HeaderMap, profile: &Profile, marks: &Marks<'_>) {
    headers.insert(STATUS, HeaderValue::from_static(marks.status.as_str()));
    if marks.status == Status::Replayed {
        headers.insert(profile.replayed.clone(), HeaderValue::from_static("true"));
    }
    if let Some(value) = marks.key.and_then(key_value) {
        headers.insert(KEY, value);
    }
    if let Some(expires_at) = marks.expires_at {
        let date: SystemTime = UNIX_EPOCH + Duration::from_micros(expires_at.as_micros());
        if let Ok(value) = HeaderValue::try_from(httpdate::fmt_http_date(date)) {
            headers.insert(EXPIRES, value);
        }
    }
}

/// A key as a header: the raw form, or the quoted one where the raw form would be read as something else.
#[must_use]
pub fn key_value(key: &Key) -> Option<HeaderValue> {
    let text = key.as_str();
    if text.starts_with('"') || text.trim() != text {
        let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        return HeaderValue::try_from(quoted).ok();
    }
    HeaderValue::from_str(text).ok()
}

fn is_mark(name: &HeaderName) -> bool {
    const MARKS: [&str; 7] = [
        wire::KEY,
        wire::STATUS,
        wire::REPLAYED,
        wire::EXPIRES,
        wire::ATTEMPT,
        wire::TOKEN,
        "idempotent-replayed",
    ];
    reads_as_one_of(name, &MARKS)
}

/// Whether some servers read `name` as a known one: to CGI and what came after it, `Idempotency_Token` and
/// `Idempotency-Token` are one variable.
fn reads_as_one_of(name: &HeaderName, known: &[&str]) -> bool {
    let name = name.as_str().as_bytes();
    let same = |known: &str| {
        let known = known.as_bytes();
        name.len() == known.len()
            && name.iter().zip(known).all(|(own, known)| own == known || (*own == b'_' && *known == b'-'))
    };
    known.iter().any(|known| same(known))
}

fn connection_names(headers: &HeaderMap) -> Vec<&str> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // A key goes from end to end, whatever a client says: without it the request would pass unprotected.
        .filter(|name| !name.eq_ignore_ascii_case(wire::KEY))
        .collect()
}

fn is_hop_by_hop(name: &HeaderName, named: &[&str]) -> bool {
    const KNOWN: [&str; 8] = [
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    reads_as_one_of(name, &KNOWN) || named.iter().any(|named| name.as_str().eq_ignore_ascii_case(named))
}

fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let found = found(headers, unwanted);
    remove(headers, found);
}

fn found(headers: &HeaderMap, wanted: impl Fn(&HeaderName) -> bool) -> Vec<HeaderName> {
    headers.keys().filter(|name| wanted(name)).cloned().collect()
}

/// The order of the rest may change, which means nothing between headers of different names.
fn remove(headers: &mut HeaderMap, names: Vec<HeaderName>) {
    names.into_iter().for_each(|name| drop(headers.remove(name)));
}

fn write_block(head: &mut BytesMut, headers: &HeaderMap, wanted: impl Fn(&HeaderName) -> bool) {
    headers.iter().filter(|(name, _)| wanted(name)).for_each(|(name, value)| write_line(head, name, value));
}

fn write_line(head: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    head.put_slice(name.as_str().as_bytes());
    head.put_slice(b": ");
    head.put_slice(value.as_bytes());
    head.put_slice(b"\r\n");
}

fn read_head(head: &[u8]) -> Option<(HeaderMap, Option<HeaderMap>)> {
    let closed = [head, b"\r\n"].concat();
    let (headers, rest) = read_block(&closed)?;
    let trailers = if rest.is_empty() { None } else { Some(read_block(rest)?.0) };
    Some((headers, trailers))
}

/// The headers before the first empty line, and what is after it.
fn read_block(block: &[u8]) -> Option<(HeaderMap, &[u8])> {
    let lines = block.iter().filter(|byte| **byte == b'\n').count();
    let mut slots = vec![httparse::EMPTY_HEADER; lines];
    let httparse::Status::Complete((end, parsed)) = httparse::parse_headers(block, &mut slots).ok()? else {
        return None;
    };
    let mut headers = HeaderMap::with_capacity(parsed.len() + 4);
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    Some((headers, &block[end..]))
}
