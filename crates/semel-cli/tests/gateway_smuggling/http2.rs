//! Tricks of HTTP/2: what frames can say and a request of HTTP/1 cannot, on its way to an upstream of HTTP/1. Frames and
//! header blocks are written by hand, because no client would send these.

use semel_testkit::client::Raw;
use semel_testkit::gateway::Gateway;
use semel_testkit::upstream::{Reading, Tap};

use super::{
    Expected::{self, One, Refused},
    HIDDEN, PATIENCE, SEMEL, fault,
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

type Header<'a> = (&'a str, &'a str);

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames are small").to_be_bytes();
    let stream = if kind == 4 { 0 } else { 1_u32 }.to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// Literals without an index and without Huffman's code.
fn block(headers: &[Header<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            let length = u8::try_from(text.len()).ok().filter(|length| *length < 127);
            block.push(length.expect("texts are short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

const PSEUDO: [Header<'static>; 4] =
    [(":method", "POST"), (":scheme", "http"), (":authority", "api"), (":path", "/charges")];

struct Trick {
    name: &'static str,
    expected: Expected,
    headers: Vec<Header<'static>>,
    trailers: Vec<Header<'static>>,
}

/// A good request with one header more.
fn more(name: &'static str, expected: Expected, header: Header<'static>) -> Trick {
    Trick { name, expected, headers: [PSEUDO.as_slice(), &[header]].concat(), trailers: Vec::new() }
}

/// A good request with another value for one of the four.
fn other(name: &'static str, expected: Expected, header: Header<'static>) -> Trick {
    let headers = PSEUDO.map(|own| if own.0 == header.0 { header } else { own });
    Trick { name, expected, headers: headers.to_vec(), trailers: Vec::new() }
}

fn without(name: &'static str, expected: Expected, lacking: &str) -> Trick {
    let headers = PSEUDO.into_iter().filter(|(name, _)| *name != lacking).collect();
    Trick { name, expected, headers, trailers: Vec::new() }
}

fn trailing(name: &'static str, expected: Expected, trailer: Header<'static>) -> Trick {
    Trick { name, expected, headers: PSEUDO.to_vec(), trailers: vec![trailer] }
}

pub(super) const COUNT: usize = 40;

fn tricks() -> Vec<Trick> {
    vec![
        more("a length that is too short", Refused, ("content-length", "4")),
        more("a length that is too long", Refused, ("content-length", "99")),
        more("a length of nothing", Refused, ("content-length", "0")),
        more("a length that is no number", Refused, ("content-length", "+4")),
        more("a coding", Refused, ("transfer-encoding", "chunked")),
        more("a coding in a value", Refused, ("x", "y\r\nTransfer-Encoding: chunked")),
        more("a bare line feed in a value", Refused, ("x", "y\nTransfer-Encoding: chunked")),
        more("a bare carriage return in a value", Refused, ("x", "y\rz")),
        more("a NUL in a value", Refused, ("x", "y\0z")),
        more("a coding in a name", Refused, ("x: y\r\ntransfer-encoding", "chunked")),
        more("a colon in a name", Refused, ("x:y", "z")),
        more("a space in a name", Refused, ("transfer-encoding ", "chunked")),
        more("capitals in a name", Refused, ("Transfer-Encoding", "chunked")),
        more("an empty name", Refused, ("", "chunked")),
        more("a connection header", Refused, ("connection", "idempotency-key")),
        more("a proxy's connection header", Refused, ("proxy-connection", "keep-alive")),
        more("a kept connection", Refused, ("keep-alive", "timeout=5")),
        more("a change of protocol", Refused, ("upgrade", "h2c")),
        more("a coding to accept", Refused, ("te", "gzip")),
        more("another host", Refused, ("host", "other")),
        more("the same host", One, ("host", "api")),
        more("a second path", Refused, (":path", "/hidden")),
        more("a second method", Refused, (":method", "GET")),
        more("a pseudo header that does not exist", Refused, (":hidden", "x")),
        more("an answer's pseudo header", Refused, (":status", "200")),
        more("a protocol in a tunnel", Refused, (":protocol", "websocket")),
        other(
            "a request in the path",
            Refused,
            (":path", "/charges HTTP/1.1\r\nHost: api\r\n\r\nGET /hidden"),
        ),
        other("a space in the path", Refused, (":path", "/charges x")),
        other("a path without a slash", Refused, (":path", "charges")),
        other("an empty path", Refused, (":path", "")),
        other("a URL as path", Refused, (":path", "http://other/charges")),
        other("a request in the method", Refused, (":method", "GET /hidden HTTP/1.1\r\nX: y\r\n\r\nPOST")),
        other("a tunnel", Refused, (":method", "CONNECT")),
        other("a line end in the authority", Refused, (":authority", "api\r\nX: y")),
        other("a name and password in the authority", Refused, (":authority", "api@other")),
        other("a URL in the scheme", Refused, (":scheme", "http://other/hidden?")),
        without("no path", Refused, ":path"),
        without("no method", Refused, ":method"),
        trailing("trailers that name a length", One, ("content-length", "4")),
        trailing("trailers with a pseudo header", One, (":path", "/hidden")),
    ]
}

/// What became of the stream.
async fn play(gateway: &Gateway, key: &str, trick: &Trick) -> &'static str {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, &[]));
    let key = ("idempotency-key", key);
    let headers =
        [trick.headers.as_slice(), if key.1.is_empty() { &[] } else { std::slice::from_ref(&key) }].concat();
    bytes.extend(frame(HEADERS, END_HEADERS, &block(&headers)));
    let ends = if trick.trailers.is_empty() { END_STREAM } else { 0 };
    bytes.extend(frame(DATA, ends, HIDDEN.as_bytes()));
    if !trick.trailers.is_empty() {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, &block(&trick.trailers)));
    }
    let mut raw = Raw::open(gateway.addr()).await;
    raw.write(&bytes).await;
    let mut said = Vec::new();
    loop {
        if let Some(end) = end_of(&mut said) {
            return end;
        }
        match raw.read_some(PATIENCE).await {
            Some(more) if more.is_empty() => return "closed",
            Some(more) => said.extend(more),
            None => panic!("{}: the gateway says nothing", trick.name),
        }
    }
}

/// Takes the whole frames out of `said`; what ends the stream is named.
fn end_of(said: &mut Vec<u8>) -> Option<&'static str> {
    while let Some(head) = said.first_chunk::<9>() {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        if said.len() < 9 + length {
            return None;
        }
        said.drain(..9 + length);
        match kind {
            RST_STREAM => return Some("reset"),
            GOAWAY => return Some("goodbye"),
            HEADERS | DATA if flags & END_STREAM != 0 => return Some("answered"),
            _ => {}
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn no_frames_hide_a_request() {
    let tricks = tricks();
    assert_eq!(tricks.len(), COUNT);
    let mut faults = Vec::new();
    for reading in [Reading::Strict, Reading::LaxByLength, Reading::LaxByChunks] {
        let tap = Tap::reading(reading).await.expect("the tap listens");
        let gateway = Gateway::start(SEMEL, &tap.url()).await;
        for (nth, trick) in tricks.iter().enumerate() {
            for key in [String::new(), format!("h2-{nth}")] {
                let answered = play(&gateway, &key, trick).await;
                let seen = tap.take();
                println!("{}: {answered}, the upstream saw {}", trick.name, seen.len());
                let fault = fault(trick.expected, &seen);
                faults
                    .extend(fault.map(|fault| format!("{} ({answered}, {reading:?}): {fault}", trick.name)));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    semel_testkit::figures::tell(&[("tricks played", 6 * COUNT), ("hidden requests served", 0)]);
}
