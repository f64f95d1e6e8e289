//! Upgraded connections: after 101 the bytes of both sides pass as they are, whatever they are, until both have
//! ended.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use semel_testkit::gateway::Gateway;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
const PATIENCE: Duration = Duration::from_secs(30);
const LARGE_BYTES: usize = 8 << 20;
/// The example of RFC 6455.
const HANDSHAKE: &str = "Host: api\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const ACCEPTED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What the upstream does once it has changed the protocol.
#[derive(Clone, Copy)]
enum After {
    /// Sends back what comes, and ends when the client has ended.
    Echo,
    /// Waits for the client's end, then says how many bytes came.
    CountToTheEnd,
    /// Says goodbye and ends first, then goes on reading.
    GoodbyeFirst,
}

struct Upstream {
    addr: SocketAddr,
    /// Bytes that came after the upgrade.
    received: Arc<AtomicUsize>,
    /// Heads as they came.
    heads: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Upstream {
    async fn start(after: After) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (received, heads) = (Arc::new(AtomicUsize::new(0)), Arc::default());
        let upstream = Self { addr, received: Arc::clone(&received), heads: Arc::clone(&heads) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, after, Arc::clone(&received), Arc::clone(&heads)));
            }
        });
        upstream
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

async fn serve(
    stream: TcpStream,
    after: After,
    received: Arc<AtomicUsize>,
    heads: Arc<std::sync::Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let head = head(&mut stream).await?;
    let upgrades = head.to_ascii_lowercase().contains("upgrade: websocket");
    heads.lock().unwrap().push(head);
    if !upgrades {
        return stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nplain")
            .await;
    }
    stream.write_all(ACCEPTED.as_bytes()).await?;
    if matches!(after, After::GoodbyeFirst) {
        stream.write_all(b"goodbye").await?;
        stream.shutdown().await?;
    }
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        received.fetch_add(read, Ordering::SeqCst);
        if matches!(after, After::Echo) {
            stream.write_all(&buffer[..read]).await?;
        }
    }
    if matches!(after, After::CountToTheEnd) {
        stream.write_all(received.load(Ordering::SeqCst).to_string().as_bytes()).await?;
    }
    stream.shutdown().await
}

/// A head up to its empty line.
async fn head(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            break;
        }
    }
    Ok(head)
}

/// A connection to the gateway, and the head of the answer to `request` on it.
async fn ask(gateway: &Gateway, request: &str) -> (BufReader<TcpStream>, String) {
    let mut stream = BufReader::new(TcpStream::connect(gateway.addr()).await.unwrap());
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = timeout(PATIENCE, head(&mut stream)).await.unwrap().unwrap();
    (stream, answer)
}

async fn upgraded(gateway: &Gateway) -> BufReader<TcpStream> {
    let (stream, answer) = ask(gateway, &format!("GET /socket HTTP/1.1\r\n{HANDSHAKE}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    let answer = answer.to_ascii_lowercase();
    assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    assert!(answer.contains("upgrade: websocket"), "{answer}");
    stream
}

/// Bytes that differ from place to place.
fn noise() -> Vec<u8> {
    (0..LARGE_BYTES / 4)
        .flat_map(|n| u32::try_from(n).unwrap().wrapping_mul(2_654_435_761).to_be_bytes())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_upgrade_bytes_pass_both_ways_as_they_are() {
    let upstream = Upstream::start(After::Echo).await;
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let mut stream = upgraded(&gateway).await;
    // A text frame of RFC 6455, masked as a client must.
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    for _ in 0..3 {
        stream.write_all(&hello).await.unwrap();
        let mut echoed = [0; 11];
        timeout(PATIENCE, stream.read_exact(&mut echoed)).await.unwrap().unwrap();
        assert_eq!(echoed, hello);
    }
    let sent = noise();
    let (mut from, mut to) = stream.into_inner().into_split();
    let writing = {
        let sent = sent.clone();
        tokio::spawn(async move {
            to.write_all(&sent).await.unwrap();
            to.shutdown().await.unwrap();
        })
    };
    let mut echoed = Vec::new();
    timeout(PATIENCE, from.read_to_end(&mut echoed)).await.unwrap().unwrap();
    writing.await.unwrap();
    assert!(echoed == sent, "{} bytes came back", echoed.len());
    assert_eq!(upstream.received.load(Ordering::SeqCst), LARGE_BYTES + 33);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_ended_still_hears_the_upstream() {
    let upstream = Upstream::start(After::CountToTheEnd).await;
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let mut stream = upgraded(&gateway).await;
    stream.write_all(&noise()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, LARGE_BYTES.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_has_ended_still_hears_the_client() {
    let upstream = Upstream::start(After::GoodbyeFirst).await;
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let mut stream = upgraded(&gateway).await;
    let mut said = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut said)).await.unwrap().unwrap();
    assert_eq!(said, "goodbye");
    stream.write_all(b"still here").await.unwrap();
    stream.shutdown().await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while upstream.received.load(Ordering::SeqCst) < 10 {
        assert!(tokio::time::Instant::now() < deadline, "the upstream never heard it");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_request_is_answered_and_upgrades_nothing() {
    let upstream = Upstream::start(After::Echo).await;
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let request =
        format!("POST /socket HTTP/1.1\r\n{HANDSHAKE}Idempotency-Key: k\r\nContent-Length: 0\r\n\r\n");
    for standing in ["executed", "replayed"] {
        let (mut stream, answer) = ask(&gateway, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains(&format!("idempotency-status: {standing}")), "{answer}");
        let mut body = [0; 5];
        timeout(PATIENCE, stream.read_exact(&mut body)).await.unwrap().unwrap();
        assert_eq!(&body, b"plain");
    }
    let heads = upstream.heads.lock().unwrap().clone();
    assert_eq!(heads.len(), 1, "{heads:?}");
    assert!(!heads[0].to_ascii_lowercase().contains("upgrade"), "{heads:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_to_a_protocol_that_carries_requests_is_not_asked_for() {
    let upstream = Upstream::start(After::Echo).await;
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    for protocol in ["h2c", "websocket, h2c", "HTTP/2.0", "TLS/1.0"] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: api\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\n\
            HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n"
        );
        let (_, answer) = ask(&gateway, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{protocol}: {answer}");
    }
    let heads = upstream.heads.lock().unwrap().join("\n").to_ascii_lowercase();
    assert!(!heads.contains("upgrade") && !heads.contains("http2-settings"), "{heads}");
}
