//! Requests that two parsers could read in two ways. Whatever the gateway makes of one, the upstream sees at most one
//! plain request, and never the one that is hidden in it.

use std::time::Duration;

use semel_testkit::client::Raw;
use semel_testkit::figures;
use semel_testkit::gateway::Gateway;
use semel_testkit::upstream::{Reading, Tap, Tapped};

#[path = "gateway_smuggling/http2.rs"]
mod http2;
#[path = "gateway_smuggling/more.rs"]
mod more;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
const PATIENCE: Duration = Duration::from_secs(10);
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: api\r\n\r\n";

/// What the gateway must make of a trick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Nothing reaches the upstream.
    Refused,
    /// One request with one plain body, whatever it looked like before.
    One,
}
use self::Expected::{One, Refused};

struct Trick {
    name: &'static str,
    expected: Expected,
    request_line: &'static str,
    /// The lines after `Host` and the key, with their ends, and the body.
    rest: String,
}

fn trick(name: &'static str, expected: Expected, headers: &str, body: &str) -> Trick {
    Trick { name, expected, request_line: "POST /charges HTTP/1.1", rest: format!("{headers}\r\n{body}") }
}

fn line(name: &'static str, expected: Expected, request_line: &'static str) -> Trick {
    let rest = format!("Content-Length: {}\r\n\r\n{HIDDEN}", HIDDEN.len());
    Trick { name, expected, request_line, rest }
}

fn tricks() -> Vec<Trick> {
    let n = HIDDEN.len();
    // Read by its chunks this body ends before the hidden request; read by a length it does not.
    let ends_early = format!("0\r\n\r\n{HIDDEN}");
    let all = ends_early.len();
    // Read by its chunks it is one body; read by a short length the hidden request follows.
    let one_chunk = format!("{n:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
    let chunk = |size: &str| format!("{size}\r\n{HIDDEN}\r\n0\r\n\r\n");
    let both = "Transfer-Encoding: chunked\r\n";
    vec![
        trick("length, then chunks", One, &format!("Content-Length: {all}\r\n{both}"), &ends_early),
        trick("chunks, then length", One, &format!("{both}Content-Length: {all}\r\n"), &ends_early),
        trick("short length, then chunks", One, &format!("Content-Length: 4\r\n{both}"), &one_chunk),
        trick("chunks, then short length", One, &format!("{both}Content-Length: 4\r\n"), &one_chunk),
        trick(
            "two lengths, short first",
            Refused,
            &format!("Content-Length: 0\r\nContent-Length: {n}\r\n"),
            HIDDEN,
        ),
        trick(
            "two lengths, short last",
            Refused,
            &format!("Content-Length: {n}\r\nContent-Length: 0\r\n"),
            HIDDEN,
        ),
        trick("two equal lengths", One, &format!("Content-Length: {n}\r\nContent-Length: {n}\r\n"), HIDDEN),
        trick("a list of lengths", Refused, &format!("Content-Length: {n}, {n}\r\n"), HIDDEN),
        trick("a signed length", Refused, &format!("Content-Length: +{n}\r\n"), HIDDEN),
        trick("a negative length", Refused, "Content-Length: -1\r\n", HIDDEN),
        trick("a length in hex", Refused, &format!("Content-Length: 0x{n:x}\r\n"), HIDDEN),
        trick("an empty length", Refused, "Content-Length:\r\n", HIDDEN),
        trick("a length beyond 64 bits", Refused, "Content-Length: 18446744073709551616\r\n", HIDDEN),
        trick("a length with a space in it", Refused, "Content-Length: 1 0\r\n", HIDDEN),
        trick("chunked, identity", Refused, "Transfer-Encoding: chunked, identity\r\n", &ends_early),
        trick("identity, chunked", Refused, "Transfer-Encoding: identity, chunked\r\n", &ends_early),
        trick("gzip, chunked", Refused, "Transfer-Encoding: gzip, chunked\r\n", &ends_early),
        trick("chunked in two lines", Refused, &format!("{both}{both}"), &ends_early),
        trick(
            "chunked, then identity in a line",
            Refused,
            &format!("{both}Transfer-Encoding: identity\r\n"),
            &ends_early,
        ),
        trick(
            "identity, then chunked in a line",
            Refused,
            &format!("Transfer-Encoding: identity\r\n{both}"),
            &ends_early,
        ),
        trick(
            "xchunked",
            Refused,
            &format!("Transfer-Encoding: xchunked\r\nContent-Length: {all}\r\n"),
            &ends_early,
        ),
        trick("chunked with a parameter", Refused, "Transfer-Encoding: chunked;q=1\r\n", &ends_early),
        trick("chunked after a vertical tab", Refused, "Transfer-Encoding: \x0bchunked\r\n", &ends_early),
        trick("chunked in quotes", Refused, "Transfer-Encoding: \"chunked\"\r\n", &ends_early),
        trick("chunked after two spaces", One, "Transfer-Encoding:  chunked\r\n", &one_chunk),
        trick("CHUNKED", One, "Transfer-Encoding: CHUNKED\r\n", &one_chunk),
        trick(
            "a space before the colon",
            Refused,
            &format!("Transfer-Encoding : chunked\r\nContent-Length: {all}\r\n"),
            &ends_early,
        ),
        trick(
            "a tab before the colon",
            Refused,
            &format!("Transfer-Encoding\t: chunked\r\nContent-Length: {all}\r\n"),
            &ends_early,
        ),
        trick(
            "a folded coding",
            Refused,
            &format!("Content-Length: {all}\r\nTransfer-Encoding:\r\n chunked\r\n"),
            &ends_early,
        ),
        trick(
            "a folded header that names a coding",
            Refused,
            &format!("Content-Length: {all}\r\nX: y\r\n Transfer-Encoding: chunked\r\n"),
            &ends_early,
        ),
        trick(
            "a header line that begins with a space",
            Refused,
            &format!(" Transfer-Encoding: chunked\r\nContent-Length: {all}\r\n"),
            &ends_early,
        ),
        trick(
            "a coding after a bare line feed",
            One,
            &format!("Content-Length: {all}\r\nX: y\nTransfer-Encoding: chunked\r\n"),
            &ends_early,
        ),
        trick(
            "a coding after a bare carriage return",
            Refused,
            &format!("Content-Length: {all}\r\nX: y\rTransfer-Encoding: chunked\r\n"),
            &ends_early,
        ),
        trick(
            "a carriage return in a value",
            Refused,
            &format!("X: a\rb\r\nContent-Length: {n}\r\n"),
            HIDDEN,
        ),
        trick("a NUL in a value", Refused, &format!("X: a\0b\r\nContent-Length: {n}\r\n"), HIDDEN),
        trick("a NUL in a name", Refused, &format!("X\0: a\r\nContent-Length: {n}\r\n"), HIDDEN),
        trick(
            "a header without a colon",
            Refused,
            &format!("Transfer-Encoding\r\nContent-Length: {n}\r\n"),
            HIDDEN,
        ),
        trick("a header without a name", Refused, &format!(": chunked\r\nContent-Length: {n}\r\n"), HIDDEN),
        trick("a chunk extension", One, both, &chunk(&format!("{n:x};a=1"))),
        trick(
            "a line feed in a chunk extension",
            Refused,
            both,
            &format!("2;\nxx\r\n{n:x}\r\n0\r\n\r\n{HIDDEN}\r\n0\r\n\r\n"),
        ),
        trick("a chunk size with a prefix", Refused, both, &chunk(&format!("0x{n:x}"))),
        trick("a negative chunk size", Refused, both, &chunk("-1")),
        trick("an empty chunk size", Refused, both, &chunk("")),
        trick("a chunk size beyond 64 bits", Refused, both, &chunk("fffffffffffffffff")),
        trick("a chunk size that wraps around", Refused, both, &chunk(&format!("100000000000000{n:02x}"))),
        trick("a chunk longer than its size", Refused, both, &format!("1\r\n{HIDDEN}\r\n0\r\n\r\n")),
        trick(
            "a chunk that ends in a bare line feed",
            Refused,
            both,
            &format!("{n:x}\r\n{HIDDEN}\n0\r\n\r\n"),
        ),
        trick(
            "trailers that name a length",
            One,
            both,
            &format!("{n:x}\r\n{HIDDEN}\r\n0\r\nContent-Length: 4\r\nHost: evil\r\n\r\n"),
        ),
        trick("another Host", Refused, &format!("Host: other\r\nContent-Length: {n}\r\n"), HIDDEN),
        trick("the same Host twice", Refused, &format!("Host: api\r\nContent-Length: {n}\r\n"), HIDDEN),
        trick(
            "a connection that owns the length",
            One,
            &format!("Connection: content-length\r\nContent-Length: {n}\r\n"),
            HIDDEN,
        ),
        trick(
            "a change of protocol",
            One,
            &format!("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: {n}\r\n"),
            HIDDEN,
        ),
        trick(
            "a change to HTTP/2",
            One,
            &format!(
                "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: {n}\r\n"
            ),
            HIDDEN,
        ),
        line("another authority in the target", Refused, "POST http://other/charges HTTP/1.1"),
        line("the same authority in the target", One, "POST http://api/charges HTTP/1.1"),
        line("a name and password in the target", Refused, "POST http://api:80@other/charges HTTP/1.1"),
        line("no version", Refused, "POST /charges"),
        line("version 0.9", Refused, "POST /charges HTTP/0.9"),
        line("version 2.0", Refused, "POST /charges HTTP/2.0"),
        line("two versions", Refused, "POST /charges HTTP/1.1 HTTP/1.1"),
        line("a space in the target", Refused, "POST /charges x HTTP/1.1"),
        line("a tunnel", Refused, "CONNECT api:80 HTTP/1.1"),
        line("a target that is only an authority", Refused, "POST api:80 HTTP/1.1"),
        line("a body on GET", One, "GET /charges HTTP/1.1"),
        Trick {
            name: "chunks in HTTP/1.0",
            expected: Refused,
            request_line: "POST /charges HTTP/1.0",
            rest: format!("{both}Content-Length: {all}\r\n\r\n{ends_early}"),
        },
    ]
}

/// What became of one trick, in one word.
async fn play(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut raw = Raw::open(gateway.addr()).await;
    raw.write(bytes).await;
    raw.finish().await;
    let said =
        raw.read_to_close(PATIENCE).await.expect("the gateway closes a connection that its client has ended");
    let statuses: Vec<String> = said
        .split(|byte| *byte == b'\n')
        .filter(|line| line.starts_with(b"HTTP/1."))
        .map(|line| String::from_utf8_lossy(line).split(' ').nth(1).unwrap_or_default().to_owned())
        .collect();
    if statuses.is_empty() { "closed".to_owned() } else { statuses.join(" then ") }
}

/// Why what the upstream saw is not what it may see.
fn fault(expected: Expected, seen: &[Result<Tapped, String>]) -> Option<String> {
    let plain: Vec<&Tapped> = match seen.iter().map(Result::as_ref).collect::<Result<_, _>>() {
        Ok(plain) => plain,
        Err(why) => return Some(format!("the upstream was sent what is not one plain request: {why}")),
    };
    if plain.iter().any(|tapped| tapped.request_line.contains("hidden")) {
        return Some(format!("THE HIDDEN REQUEST WAS SERVED: {plain:?}"));
    }
    match (expected, plain.as_slice()) {
        (Refused, []) | (One, [_]) => None,
        _ => Some(format!("expected {expected:?}, and the upstream saw {plain:?}")),
    }
}

async fn play_all(key: &str, reading: Reading) {
    let tap = Tap::reading(reading).await.expect("the tap listens");
    let gateway = Gateway::start(SEMEL, &tap.url()).await;
    let mut faults = Vec::new();
    let tricks: Vec<Trick> = tricks().into_iter().chain(more::tricks()).collect();
    let played = tricks.len();
    for (nth, Trick { name, expected, request_line, rest }) in tricks.into_iter().enumerate() {
        let key = if key.is_empty() { String::new() } else { format!("Idempotency-Key: {key}-{nth}\r\n") };
        let bytes = format!("{request_line}\r\nHost: api\r\n{key}{rest}");
        let answered = play(&gateway, bytes.as_bytes()).await;
        let seen = tap.take();
        println!("{name}: {answered}, the upstream saw {}", seen.len());
        if let Some(fault) = fault(expected, &seen) {
            faults.push(format!("{name} ({answered}): {fault}"));
        }
        if expected == Refused && !(answered == "closed" || answered.starts_with('4')) {
            faults.push(format!("{name}: refused with {answered}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    figures::tell(&[("tricks played", played), ("hidden requests served", 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_keyed_request_hides_another() {
    play_all("k", Reading::Strict).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_unkeyed_request_hides_another() {
    play_all("", Reading::Strict).await;
}

/// A server that takes what it can get is asked no more than a strict one.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_hidden_from_lax_servers_either() {
    for reading in [Reading::LaxByLength, Reading::LaxByChunks] {
        play_all("k", reading).await;
        play_all("", reading).await;
    }
}

#[test]
fn there_are_a_hundred_tricks_and_no_two_have_one_name() {
    let names: Vec<&str> = tricks().iter().chain(&more::tricks()).map(|trick| trick.name).collect();
    let different: std::collections::BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(different.len(), names.len());
    assert!(names.len() + http2::COUNT >= 100, "{}", names.len());
}

/// What a client says in Semel's name reaches the upstream in no spelling: CGI and its heirs read underscores as
/// hyphens.
#[tokio::test(flavor = "multi_thread")]
async fn the_gateways_own_words_cannot_be_forged_with_underscores() {
    let tap = Tap::reading(Reading::LaxByLength).await.expect("the tap listens");
    let gateway = Gateway::start(SEMEL, &tap.url()).await;
    let forged = "POST /charges HTTP/1.1\r\nHost: api\r\nIdempotency-Key: forged\r\nIdempotency_Key: other\r\n\
                  Idempotency_Token: 99\r\nIdempotency_Attempt: 99\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(play(&gateway, forged.as_bytes()).await, "200");
    let seen = tap.take();
    let tapped = seen[0].as_ref().expect("a lax server reads everything");
    assert_eq!(tapped.values("idempotency-key"), [b"forged"], "{tapped:?}");
    assert_eq!(tapped.values("idempotency-attempt"), [b"1"], "{tapped:?}");
    assert_eq!(tapped.values("idempotency-token").len(), 1, "{tapped:?}");
}

/// A key that its own connection claims is a key all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cannot_take_the_key_out_of_a_request() {
    let tap = Tap::start().await.expect("the tap listens");
    let gateway = Gateway::start(SEMEL, &tap.url()).await;
    for spelling in ["idempotency-key", "close, Idempotency-Key", "IDEMPOTENCY-KEY , keep-alive"] {
        let key = spelling.len();
        let request = format!(
            "POST /charges HTTP/1.1\r\nHost: api\r\nConnection: {spelling}\r\nIdempotency-Key: nominated-{key}\r\n\
             Content-Length: 2\r\n\r\n{{}}"
        );
        assert_eq!(play(&gateway, request.as_bytes()).await, "200", "{spelling}");
        assert_eq!(play(&gateway, request.as_bytes()).await, "200", "{spelling}");
        assert_eq!(tap.take().len(), 1, "{spelling}: the second is a replay");
    }
}

/// Heads that have no `Host: api` line, or end their lines in another way.
#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_not_quite_heads_hide_nothing() {
    let tap = Tap::start().await.expect("the tap listens");
    let gateway = Gateway::start(SEMEL, &tap.url()).await;
    let n = HIDDEN.len();
    let heads = [
        ("no Host", Refused, format!("POST /charges HTTP/1.1\r\nContent-Length: {n}\r\n\r\n")),
        ("an empty Host", Refused, format!("POST /charges HTTP/1.1\r\nHost:\r\nContent-Length: {n}\r\n\r\n")),
        (
            "two names in Host",
            Refused,
            format!("POST /charges HTTP/1.1\r\nHost: api, other\r\nContent-Length: {n}\r\n\r\n"),
        ),
        (
            "a name and password in Host",
            Refused,
            format!("POST /charges HTTP/1.1\r\nHost: api@other\r\nContent-Length: {n}\r\n\r\n"),
        ),
        (
            "a path in Host",
            Refused,
            format!("POST /charges HTTP/1.1\r\nHost: api/hidden\r\nContent-Length: {n}\r\n\r\n"),
        ),
        ("bare line feeds", One, format!("POST /charges HTTP/1.1\nHost: api\nContent-Length: {n}\n\n")),
        (
            "empty lines before it",
            One,
            format!("\r\n\r\nPOST /charges HTTP/1.1\r\nHost: api\r\nContent-Length: {n}\r\n\r\n"),
        ),
        ("HTTP/1.0 without Host", One, format!("POST /charges HTTP/1.0\r\nContent-Length: {n}\r\n\r\n")),
        (
            "a space before the method",
            Refused,
            format!(" POST /charges HTTP/1.1\r\nHost: api\r\nContent-Length: {n}\r\n\r\n"),
        ),
        (
            "a tab after the method",
            Refused,
            format!("POST\t/charges HTTP/1.1\r\nHost: api\r\nContent-Length: {n}\r\n\r\n"),
        ),
        ("half of HTTP/2's first line", Refused, format!("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n{HIDDEN}")),
    ];
    let (mut faults, played) = (Vec::new(), heads.len());
    for (name, expected, head) in heads {
        let answered = play(&gateway, format!("{head}{HIDDEN}").as_bytes()).await;
        let seen = tap.take();
        println!("{name}: {answered}, the upstream saw {}", seen.len());
        faults.extend(fault(expected, &seen).map(|fault| format!("{name} ({answered}): {fault}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    figures::tell(&[("tricks played", played), ("hidden requests served", 0)]);
}

/// A client must not be able to keep the gateway's own words from the upstream by calling them its connection's, nor
/// talk its way past the gateway by changing to a protocol that carries requests.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_gateway_says_reaches_the_upstream_and_tunnels_for_requests_do_not() {
    let tap = Tap::start().await.expect("the tap listens");
    let gateway = Gateway::start(SEMEL, &tap.url()).await;
    let owned = "POST /charges HTTP/1.1\r\nHost: api\r\nIdempotency-Key: owned\r\n\
                 Connection: idempotency-attempt, idempotency-token, x-forwarded-for, host, close\r\n\
                 Content-Length: 2\r\n\r\n{}";
    assert_eq!(play(&gateway, owned.as_bytes()).await, "200");
    let seen = tap.take();
    let tapped = seen[0].as_ref().expect("one plain request");
    for name in ["idempotency-key", "idempotency-attempt", "idempotency-token", "x-forwarded-for", "host"] {
        assert_eq!(tapped.values(name).len(), 1, "{name} of {tapped:?}");
    }
    let h2c = "GET /report HTTP/1.1\r\nHost: api\r\nConnection: upgrade, http2-settings, close\r\nUpgrade: h2c\r\n\
               HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    assert_eq!(play(&gateway, h2c.as_bytes()).await, "200");
    let seen = tap.take();
    let tapped = seen[0].as_ref().expect("one plain request");
    assert_eq!(tapped.values("upgrade"), Vec::<&[u8]>::new(), "{tapped:?}");
}
