//! The server fails as its script says: seen from a client's side, over HTTP/1.1, HTTP/2 and TLS.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use semel_auditor::attempt::{Attempt, Ended, Origin};
use semel_auditor::server::tls::Tls;
use semel_auditor::server::{Server, Setup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

fn serving(script: &str) -> Server {
    Server::start(Setup::new(script.parse().unwrap())).unwrap()
}

fn authority(server: &Server) -> &str {
    server.url().split("//").nth(1).unwrap()
}

/// Sends one POST on a connection of its own and reads until the end.
async fn raw(server: &Server, key: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(authority(server)).await?;
    let request = format!(
        "POST /payments HTTP/1.1\r\nHost: test\r\nConnection: close\r\nIdempotency-Key: {key}\r\n\
         Content-Length: 13\r\n\r\nsemel-audit-0"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    match read {
        Ok(_) => Ok(String::from_utf8(answer).unwrap()),
        // What came before the reset is what there is to see.
        Err(_) if !answer.is_empty() => Ok(format!("{}(reset)", String::from_utf8(answer).unwrap())),
        Err(error) => Err(error),
    }
}

/// Waits until the last attempt has ended.
async fn ended(server: &Server) -> Vec<Attempt> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let attempts = server.attempts();
        if attempts.last().is_some_and(|attempt| attempt.ended != Ended::Running) {
            return attempts;
        }
        assert!(Instant::now() < deadline, "the attempt does not end: {attempts:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn answers_have_status_headers_and_body_of_their_step() {
    let server = serving("503|retry-after=2|body='{\"a\":1}', 200");
    let first = raw(&server, "k").await.unwrap();
    assert!(first.starts_with("HTTP/1.1 503"), "{first}");
    assert!(first.contains("retry-after: 2\r\n") && first.ends_with("{\"a\":1}"), "{first}");
    let second = raw(&server, "k").await.unwrap();
    assert!(second.starts_with("HTTP/1.1 200") && second.contains("semel-audit"), "{second}");
    let attempts = server.attempts();
    let seen: Vec<_> =
        attempts.iter().map(|attempt| (attempt.step.as_str(), attempt.effect, attempt.key())).collect();
    let step = "503|retry-after=2|body='{\"a\":1}'";
    assert_eq!(seen, [(step, false, Some("k")), ("200", true, Some("k"))]);
    // SHA-256 of the body, as others compute it.
    assert_eq!(attempts[0].body_digest, attempts[1].body_digest);
    assert_eq!((attempts[0].body_digest.len(), attempts[0].body_bytes), (64, 13));
}

#[tokio::test]
async fn payment_is_made_once_for_a_key_however_it_fails() {
    let server = serving("reset, close, cut, dup-effect 502, 200");
    for _ in 0..5 {
        let _ = raw(&server, "same").await;
    }
    let effects: Vec<bool> = ended(&server).await.iter().map(|attempt| attempt.effect).collect();
    assert_eq!(effects, [true, false, false, false, false]);
    let server = serving("reset, 200");
    for key in ["one", "two"] {
        let _ = raw(&server, key).await;
    }
    assert!(ended(&server).await.iter().all(|attempt| attempt.effect));
}

#[tokio::test]
async fn reset_is_rst_and_close_is_fin() {
    let server = serving("reset, close");
    let reset = raw(&server, "k").await.unwrap_err();
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    assert_eq!(raw(&server, "k").await.unwrap(), "");
    assert!(ended(&server).await.iter().all(|attempt| attempt.ended == Ended::Broken));
}

#[tokio::test]
async fn cut_is_a_head_and_half_a_body() {
    let server = serving("cut, 200");
    let cut = raw(&server, "k").await.unwrap();
    let whole = raw(&server, "k").await.unwrap();
    assert!(cut.ends_with("(reset)"), "{cut}");
    let (half, body) =
        (cut.trim_end_matches("(reset)").split("\r\n\r\n").nth(1), whole.split("\r\n\r\n").nth(1));
    let (half, body) = (half.unwrap(), body.unwrap());
    assert!(cut.contains(&format!("content-length: {}", body.len())), "{cut}");
    assert_eq!((half.len(), body.starts_with(half)), (body.len() / 2, true));
}

#[tokio::test]
async fn hang_answers_late_and_notices_who_left() {
    let server = serving("hang 0.3, hang");
    let began = Instant::now();
    assert!(raw(&server, "k").await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(began.elapsed() >= Duration::from_millis(300));
    let left = tokio::time::timeout(Duration::from_millis(200), raw(&server, "k")).await;
    assert!(left.is_err());
    let attempts = ended(&server).await;
    assert_eq!(attempts[1].ended, Ended::Left);
    assert!(attempts[1].ended_at.unwrap() >= attempts[1].at + Duration::from_millis(150));
}

#[tokio::test]
async fn drip_sends_a_byte_at_a_time() {
    let server = serving("drip 0.4");
    let began = Instant::now();
    let answer = raw(&server, "k").await.unwrap();
    assert!(answer.ends_with("\"object\":\"payment\"}"), "{answer}");
    assert!(began.elapsed() >= Duration::from_millis(390));
}

#[tokio::test]
async fn refused_connections_are_refused_for_so_long() {
    let server = serving("refuse 0.3, 503, 200");
    let refused = raw(&server, "k").await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let deadline = Instant::now() + Duration::from_secs(10);
    let first = loop {
        match raw(&server, "k").await {
            Ok(answer) => break answer,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(first.starts_with("HTTP/1.1 503"), "{first}");
}

#[tokio::test]
async fn redirects_lead_to_the_same_origin_or_to_another_port() {
    let server = serving("307|location={base}/moved, 308|location={other}/away");
    let location = |answer: &str| {
        let line = answer.lines().find(|line| line.starts_with("location: ")).unwrap();
        line.trim_start_matches("location: ").to_owned()
    };
    let same = location(&raw(&server, "k").await.unwrap());
    assert_eq!(same, format!("{}/moved", server.url()));
    let away = location(&raw(&server, "k").await.unwrap());
    let (origin, path) = away.split_at(away.rfind('/').unwrap());
    assert!(origin != server.url() && path == "/away", "{away}");
    let mut stream = TcpStream::connect(origin.trim_start_matches("http://")).await.unwrap();
    stream
        .write_all(b"POST /away HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer s\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let there = server.attempts().pop().unwrap();
    assert_eq!((there.origin, there.header("authorization")), (Origin::Other, Some("(hidden, 8 bytes)")));
}

#[tokio::test]
async fn get_is_answered_aside_and_takes_no_step() {
    let server = serving("503, 200");
    let mut stream = TcpStream::connect(authority(&server)).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(raw(&server, "k").await.unwrap().starts_with("HTTP/1.1 503"));
    assert_eq!(server.attempts()[0].step, "aside");
}

#[tokio::test]
async fn calls_are_told_apart_by_their_marker_and_have_steps_of_their_own() {
    let setup = Setup { calls: 2, ..Setup::new("503, 200".parse().unwrap()) };
    let server = Server::start(setup).unwrap();
    for call in [0, 1, 0, 1] {
        let mut stream = TcpStream::connect(authority(&server)).await.unwrap();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 15\r\n\r\n[semel-audit-{call}]"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    let seen: Vec<_> = server.attempts().iter().map(|attempt| (attempt.call, attempt.step.clone())).collect();
    let step = |call, step: &str| (Some(call), step.to_owned());
    assert_eq!(seen, [step(0, "503"), step(1, "503"), step(0, "200"), step(1, "200")]);
}

#[tokio::test]
async fn every_byte_is_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/bytes.log");
    let setup = Setup { bytes: Some(path.clone()), ..Setup::new("reset, 200".parse().unwrap()) };
    let server = Server::start(setup).unwrap();
    let _ = raw(&server, "k").await;
    let _ = raw(&server, "k").await;
    let _ = server.finish().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = std::fs::read_to_string(&path).unwrap();
        let there = ["Idempotency-Key: k", "#0 server resets", "HTTP/1.1 200 OK", "#1"];
        if there.iter().all(|part| text.contains(part)) {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn post_http2(
    stream: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    to: &str,
) -> Result<Response<Incoming>, hyper::Error> {
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(connection);
    let request = Request::post(format!("{to}/payments")).header("idempotency-key", "k");
    sender.send_request(request.body(Full::new(Bytes::from_static(b"semel-audit-0"))).unwrap()).await
}

#[tokio::test]
async fn http2_is_spoken_where_the_connection_begins_so() {
    let server = serving("503|retry-after=2, cut, goaway, reset, 200");
    let connect = || async { TokioIo::new(TcpStream::connect(authority(&server)).await.unwrap()) };
    let answer = post_http2(connect().await, server.url()).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "2"));
    let cut = post_http2(connect().await, server.url()).await.unwrap();
    assert!(cut.into_body().collect().await.is_err());
    let gone = post_http2(connect().await, server.url()).await.unwrap_err();
    let why = format!("{gone:?}").to_lowercase();
    assert!(why.contains("goaway") || why.contains("go_away") || why.contains("no_error"), "{why}");
    assert!(post_http2(connect().await, server.url()).await.is_err());
    let answer = post_http2(connect().await, server.url()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let effects: Vec<_> = ended(&server).await.iter().map(|attempt| attempt.effect).collect();
    assert_eq!(effects, [false, true, false, false, false]);
}

#[tokio::test]
async fn tls_shows_a_certificate_of_its_own_authority_and_agrees_on_the_protocol() {
    let tls = Arc::new(Tls::make().unwrap());
    let setup = Setup { tls: Some(Arc::clone(&tls)), ..Setup::new("200".parse().unwrap()) };
    let server = Server::start(setup).unwrap();
    assert!(server.url().starts_with("https://localhost:"), "{}", server.url());
    let port = server.url().rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(tls.authority().as_bytes()).unwrap()).unwrap();
    for protocol in ["h2", "http/1.1"] {
        let mut config = ClientConfig::builder().with_root_certificates(roots.clone()).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        let stream = TokioIo::new(stream);
        let status = if protocol == "h2" {
            post_http2(stream, server.url()).await.unwrap().status()
        } else {
            let (mut sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let request =
                Request::post("/").header("host", "localhost").body(Full::<Bytes>::default()).unwrap();
            sender.send_request(request).await.unwrap().status()
        };
        assert_eq!(status, 200, "{protocol}");
    }
}
