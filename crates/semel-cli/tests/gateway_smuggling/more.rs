//! More tricks of HTTP/1: codings and lengths, chunks and trailers, hosts, targets, names.

use super::{
    Expected::{One, Refused},
    HIDDEN, Trick, line, trick,
};

pub(super) fn tricks() -> Vec<Trick> {
    [codings(), lengths(), chunks(), trailers(), hosts(), names(), targets(), connections()]
        .into_iter()
        .flatten()
        .collect()
}

const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

fn one_chunk() -> String {
    format!("{:x}\r\n{HIDDEN}\r\n0\r\n\r\n", HIDDEN.len())
}

fn ends_early() -> String {
    format!("0\r\n\r\n{HIDDEN}")
}

/// A header before a body with a good length.
fn with(headers: &str) -> String {
    format!("{headers}\r\nContent-Length: {}\r\n", HIDDEN.len())
}

fn codings() -> Vec<Trick> {
    let one = one_chunk();
    let of = |name, coding: &str| {
        let all = ends_early();
        trick(
            name,
            Refused,
            &format!("Transfer-Encoding: {coding}\r\nContent-Length: {}\r\n", all.len()),
            &all,
        )
    };
    vec![
        trick("a tab after the coding", One, "Transfer-Encoding: chunked\t\r\n", &one),
        trick("a tab before the coding", One, "Transfer-Encoding:\tchunked\r\n", &one),
        of("a comma after the coding", "chunked,"),
        of("a comma before the coding", ", chunked"),
        of("chunked twice in one line", "chunked, chunked"),
        of("a NUL after the coding", "chunked\0"),
        of("a letter that looks like k", "chun\u{212a}ed"),
        of("a no-break space after the coding", "chunked\u{a0}"),
        of("compress", "compress"),
        of("no coding", ""),
        of("identity", "identity"),
        of("chunked in braces", "{chunked}"),
        of("chunked and a semicolon", "chunked;"),
        of("chunked after a form feed", "\x0cchunked"),
        of("cow", "cow"),
    ]
}

fn lengths() -> Vec<Trick> {
    let n = HIDDEN.len();
    let of = |name, expected, length: &str| {
        trick(name, expected, &format!("Content-Length: {length}\r\n"), HIDDEN)
    };
    vec![
        of("a length with zeros before it", One, &format!("000{n}")),
        of("a length with a space after it", One, &format!("{n} ")),
        of("a length with a comma after it", Refused, &format!("{n},")),
        of("a length with a fraction", Refused, &format!("{n}.0")),
        of("a length with an exponent", Refused, "1e1"),
        of("a length in quotes", Refused, &format!("\"{n}\"")),
        of("a length in another script's digits", Refused, "\u{663}\u{663}"),
        of("a length with an underscore", Refused, "1_0"),
        of("a length and a semicolon", Refused, &format!("{n};a")),
        of("a length of 32 bits that wraps around", Refused, &format!("{}", (1_u64 << 32) + 4)),
        of("a length of 64 bits that wraps around", Refused, &format!("{}", (1_u128 << 64) + 4)),
        of("a folded length", Refused, &format!("\r\n {n}")),
        trick(
            "three lengths",
            Refused,
            &format!("Content-Length: {n}\r\nContent-Length: {n}\r\nContent-Length: 0\r\n"),
            HIDDEN,
        ),
        trick("a length with an underscore in its name", Refused, &with("Content_Length: 0"), HIDDEN),
        trick("a length behind a space in its name", Refused, &with("Content Length: 0"), HIDDEN),
    ]
}

fn chunks() -> Vec<Trick> {
    let n = HIDDEN.len();
    let of = |name, expected, size: &str| {
        trick(name, expected, CHUNKED, &format!("{size}\r\n{HIDDEN}\r\n0\r\n\r\n"))
    };
    let raw = |name, expected, body: &str| trick(name, expected, CHUNKED, body);
    vec![
        of("a chunk size with zeros before it", One, &format!("0000{n:x}")),
        of("a chunk size in capitals", One, &format!("{n:X}")),
        of("a chunk size with a sign", Refused, &format!("+{n:x}")),
        of("a chunk size after a space", Refused, &format!(" {n:x}")),
        of("a chunk size with a space after it", One, &format!("{n:x} ")),
        of("a chunk size with a comma", Refused, &format!("{n:x},{n:x}")),
        of("a chunk size with an underscore", Refused, "2_2"),
        of("a chunk size of 32 bits that wraps around", Refused, &format!("1000000{n:02x}")),
        of("a semicolon without an extension", One, &format!("{n:x};")),
        of("a quoted chunk extension", One, &format!("{n:x};a=\"b;c\"")),
        of("a chunk extension with a bare carriage return", Refused, &format!("{n:x};a\rb")),
        of("a chunk extension of 100 kB", Refused, &format!("{n:x};{}", "a".repeat(100_000))),
        of("an extension with a NUL", One, &format!("{n:x};a=\0")),
        raw("a chunk size that ends in a bare line feed", Refused, &format!("{n:x}\n{HIDDEN}\r\n0\r\n\r\n")),
        raw(
            "a chunk size that ends in a bare carriage return",
            Refused,
            &format!("{n:x}\r{HIDDEN}\r\n0\r\n\r\n"),
        ),
        raw("a last chunk that ends in a bare line feed", Refused, &format!("{n:x}\r\n{HIDDEN}\r\n0\n\n")),
        raw("a last chunk of many zeros", One, &format!("{n:x}\r\n{HIDDEN}\r\n0000000\r\n\r\n")),
        raw("a last chunk with an extension", One, &format!("{n:x}\r\n{HIDDEN}\r\n0;a=b\r\n\r\n")),
        raw("chunks without an end", Refused, &format!("{n:x}\r\n{HIDDEN}\r\n")),
        raw("a last chunk without its empty line", Refused, &format!("{n:x}\r\n{HIDDEN}\r\n0\r\n")),
        raw("a chunk without its line end", Refused, &format!("{n:x}\r\n{HIDDEN}0\r\n\r\n")),
        raw("two line ends after a chunk", Refused, &format!("{n:x}\r\n{HIDDEN}\r\n\r\n0\r\n\r\n")),
        raw("a request in the place of a chunk", Refused, HIDDEN),
    ]
}

fn trailers() -> Vec<Trick> {
    let of = |name, expected, trailer: &str| {
        let n = HIDDEN.len();
        trick(name, expected, CHUNKED, &format!("{n:x}\r\n{HIDDEN}\r\n0\r\n{trailer}\r\n\r\n"))
    };
    vec![
        of("trailers that name a coding", One, "Transfer-Encoding: chunked"),
        of("trailers that name the key", One, "Idempotency-Key: other"),
        of("a trailer without a colon", Refused, "GET /hidden HTTP/1.1"),
        of("a folded trailer", Refused, "X: a\r\n b"),
        of("a trailer with a space before its colon", Refused, "X : a"),
        of("a trailer that ends in a bare line feed", Refused, "X: a\nY: b"),
        of("trailers of 100 kB", Refused, &format!("X: {}", "a".repeat(100_000))),
    ]
}

fn hosts() -> Vec<Trick> {
    let of = |name, header: &str| trick(name, Refused, &with(header), HIDDEN);
    vec![
        of("a second Host behind a space", "Host : other"),
        of("a second Host that is empty", "Host:"),
        of("a second Host in capitals", "HOST: other"),
        of("a second Host in a folded line", "X: y\r\n Host: other"),
        trick("a forwarded host", One, &with("X-Forwarded-Host: other"), HIDDEN),
        trick("a forwarded host in quotes", One, &with("Forwarded: host=\"other\""), HIDDEN),
        trick("a host with an underscore", One, &with("_Host: other"), HIDDEN),
    ]
}

fn names() -> Vec<Trick> {
    let of = |name, header: &str| trick(name, Refused, &with(header), HIDDEN);
    vec![
        of("a space in a name", "Transfer Encoding: chunked"),
        of("a name in quotes", "\"Transfer-Encoding\": chunked"),
        of("a name with a bracket", "X(: y"),
        of("a name with a slash", "X/Y: z"),
        of("a name that is not ASCII", "Transf\u{e9}r-Encoding: chunked"),
        of("a name with a vertical tab", "X\x0b: y"),
        of("a name after a carriage return", "\rTransfer-Encoding: chunked"),
        of("a name with a DEL", "X\x7f: y"),
        of("an escape in a value", "X: \x1b[0m"),
        of("a DEL in a value", "X: a\x7fb"),
        of("a thousand headers", &"X: y\r\n".repeat(1_000)[..5_998]),
        of("a header of a mebibyte", &format!("X: {}", "a".repeat(1 << 20))),
        trick("bytes that are not ASCII in a value", One, &with("X: \u{e9}\u{2028}"), HIDDEN),
        trick("an underscored coding", Refused, &with("Transfer_Encoding: chunked"), HIDDEN),
        trick("an empty value", One, &with("X:"), HIDDEN),
    ]
}

fn targets() -> Vec<Trick> {
    vec![
        line("a line end in the target, encoded", One, "POST /charges%0d%0aX:%20y HTTP/1.1"),
        line("a hidden request in the target, encoded", One, "POST /charges%20HTTP/1.1%0d%0a HTTP/1.1"),
        line("dot segments", Refused, "POST /charges/../other HTTP/1.1"),
        line("encoded dot segments", Refused, "POST /charges/%2e%2e/other HTTP/1.1"),
        line("half encoded dot segments", Refused, "POST /charges/.%2E/other HTTP/1.1"),
        line("a fragment in the target", One, "POST /charges#other HTTP/1.1"),
        line("a NUL in the target", Refused, "POST /char\0ges HTTP/1.1"),
        line("a backslash in the target", Refused, "POST \\charges HTTP/1.1"),
        line("an asterisk as target", One, "POST * HTTP/1.1"),
        line("no target", Refused, "POST  HTTP/1.1"),
        line("a carriage return in the request line", Refused, "POST /charges HTTP/1.1\rX: y"),
        line("a version in lower case", Refused, "POST /charges http/1.1"),
        line("version 1.2", Refused, "POST /charges HTTP/1.2"),
        line("version 11", Refused, "POST /charges HTTP/11"),
        line("a space after the version", Refused, "POST /charges HTTP/1.1 "),
        line("two spaces before the version", Refused, "POST /charges  HTTP/1.1"),
        line("a tab before the version", Refused, "POST /charges\tHTTP/1.1"),
        line("a method with a colon", Refused, "PO:ST /charges HTTP/1.1"),
        line("a method of its own", One, "CHARGE /charges HTTP/1.1"),
        line("an authority without a host", Refused, "POST http:///charges HTTP/1.1"),
        line("an authority with another port", Refused, "POST http://api:81/charges HTTP/1.1"),
        line("two slashes before another host", One, "POST //other/charges HTTP/1.1"),
        line("a backslash in the authority", Refused, "POST http://api\\@other/charges HTTP/1.1"),
    ]
}

fn connections() -> Vec<Trick> {
    let of = |name, header: &str| trick(name, One, &with(header), HIDDEN);
    vec![
        of("a connection that owns the key", "Connection: idempotency-key"),
        of("a connection that owns the host", "Connection: host"),
        of("a connection that owns the coding", "Connection: transfer-encoding"),
        of("a connection that owns a cookie", "Cookie: a=b\r\nConnection: cookie"),
        of("a proxy's connection", "Proxy-Connection: keep-alive"),
        of("a change to TLS", "Connection: upgrade\r\nUpgrade: TLS/1.0"),
        of("a change to what has no name", "Connection: upgrade\r\nUpgrade:"),
        of("a change that no connection names", "Upgrade: websocket"),
        of("an expectation", "Expect: 100-continue"),
        of("another expectation", "Expect: 200-ok"),
        of("TE that wants trailers", "TE: trailers, chunked"),
        of("a method in a header", "X-HTTP-Method-Override: GET"),
        of("a target in a header", "X-Original-URL: /hidden"),
    ]
}
