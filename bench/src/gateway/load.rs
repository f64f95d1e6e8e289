//! Callers in a closed loop over HTTP/1.1 or HTTP/2, who look at every answer.
//!
//! They live in the upstream's process. A wrong answer ends the measurement: a fast wrong answer is none.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::upstream::ANSWER_BYTES;

/// Requests that are repeated have one of so many keys.
const HOT_KEYS: u64 = 100;
const BODY: &str = concat!(
    r#"{"amount":4000,"currency":"eur","customer":"cus_0123456789abcdef","description":"#,
    r#""one hundred and fifty bytes of a description, as an order has it, with the names of things that "#,
    r#"somebody buys","n":12}"#
);

/// Which keys requests have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub(crate) enum Workload {
    /// Each a key of its own.
    Fresh,
    /// One of a hundred keys that are all finished.
    Replay,
    /// Four of five are repeated.
    Mixed,
    /// None.
    Unkeyed,
    /// All at once, with one key; the effect takes 300 ms.
    Crowd,
}

/// What callers are told to do.
#[derive(Serialize, Deserialize)]
pub(super) struct Load {
    pub(super) port: u16,
    pub(super) workload: Workload,
    pub(super) connections: u64,
    pub(super) milliseconds: u64,
    pub(super) http2: bool,
    /// Whether nobody in the middle knows keys, so that a repeated one has another answer.
    pub(super) bare: bool,
    /// Begins every key.
    pub(super) prefix: String,
}

/// What the callers saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Saw {
    pub(super) answers: u64,
    /// Distinct keys that were sent.
    pub(super) keys: u64,
    pub(super) seconds: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) max_us: f64,
}

struct Callers {
    load: Load,
    until: Instant,
    next: Cell<u64>,
    fresh: Cell<u64>,
    /// The answer that each repeated key must give.
    first: RefCell<HashMap<String, Bytes>>,
    latencies: RefCell<Vec<Duration>>,
}

pub(super) async fn run(load: Load) -> Result<Saw, Box<dyn Error>> {
    let mut callers = Callers {
        until: Instant::now() + Duration::from_secs(600),
        load,
        next: Cell::new(0),
        fresh: Cell::new(0),
        first: RefCell::default(),
        latencies: RefCell::default(),
    };
    if matches!(callers.load.workload, Workload::Replay | Workload::Mixed) {
        let mut caller = callers.caller().await?;
        for hot in 0..HOT_KEYS {
            callers.ask(&mut caller, Some(&callers.hot(hot))).await?;
        }
    }
    let begun = Instant::now();
    callers.until = begun + Duration::from_millis(callers.load.milliseconds);
    let callers = Rc::new(callers);
    let mut tasks = JoinSet::new();
    for _ in 0..callers.load.connections {
        tasks.spawn_local(Rc::clone(&callers).call());
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(callers.saw(begun.elapsed()))
}

impl Callers {
    fn hot(&self, hot: u64) -> String {
        format!("{}-hot-{hot:03}", self.load.prefix)
    }

    fn key(&self) -> Option<String> {
        let number = self.next.replace(self.next.get() + 1);
        let repeated = match self.load.workload {
            Workload::Unkeyed => return None,
            Workload::Fresh => false,
            Workload::Replay | Workload::Crowd => true,
            Workload::Mixed => !number.is_multiple_of(5),
        };
        if self.load.workload == Workload::Crowd {
            return Some(self.hot(0));
        }
        if repeated {
            return Some(self.hot(number % HOT_KEYS));
        }
        self.fresh.set(self.fresh.get() + 1);
        Some(format!("{}-{number:016x}", self.load.prefix))
    }

    async fn call(self: Rc<Self>) -> Result<(), String> {
        let mut caller = self.caller().await.map_err(|error| format!("no connection: {error}"))?;
        while Instant::now() < self.until {
            let key = self.key();
            let sent = Instant::now();
            self.ask(&mut caller, key.as_deref()).await?;
            self.latencies.borrow_mut().push(sent.elapsed());
            if self.load.workload == Workload::Crowd {
                break;
            }
        }
        Ok(())
    }

    async fn caller(&self) -> Result<Caller, Box<dyn Error>> {
        let stream = TcpStream::connect(("127.0.0.1", self.load.port)).await?;
        stream.set_nodelay(true)?;
        if !self.load.http2 {
            return Ok(Caller::Http1 { stream, read: BytesMut::with_capacity(8 * 1024) });
        }
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        Ok(Caller::Http2(sender))
    }

    /// One request; an answer that is not the right one is an error.
    async fn ask(&self, caller: &mut Caller, key: Option<&str>) -> Result<(), String> {
        let pause = self.load.workload == Workload::Crowd;
        let (status, body) = match caller {
            Caller::Http1 { stream, read } => {
                http1(stream, read, key, pause).await.map_err(|error| error.to_string())?
            }
            Caller::Http2(sender) => http2(sender, key, pause).await.map_err(|error| error.to_string())?,
        };
        let named = format!(r#"{{"key":"{}","number":"#, key.unwrap_or("none"));
        if status != 201 || body.len() != ANSWER_BYTES || !body.starts_with(named.as_bytes()) {
            let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
            return Err(format!("a wrong answer to {key:?}: {status} {text}"));
        }
        if let Some(key) = key.filter(|key| key.contains("-hot-") && !self.load.bare) {
            let mut first = self.first.borrow_mut();
            match first.get(key) {
                Some(first) if *first == body => {}
                Some(_) => return Err(format!("two answers to {key}")),
                None => _ = first.insert(key.to_owned(), body),
            }
        }
        Ok(())
    }

    fn saw(&self, took: Duration) -> Saw {
        let mut latencies = self.latencies.take();
        latencies.sort_unstable();
        let at = |thousandth: usize| {
            latencies.get(latencies.len() * thousandth / 1000).map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        Saw {
            answers: latencies.len() as u64,
            keys: self.fresh.get() + self.first.borrow().len() as u64,
            seconds: took.as_secs_f64(),
            p50_us: at(500),
            p99_us: at(990),
            max_us: latencies.last().map_or(0.0, |time| time.as_secs_f64() * 1e6),
        }
    }
}

enum Caller {
    Http1 { stream: TcpStream, read: BytesMut },
    Http2(http2::SendRequest<Full<Bytes>>),
}

async fn http1(
    stream: &mut TcpStream,
    read: &mut BytesMut,
    key: Option<&str>,
    pause: bool,
) -> Result<(u16, Bytes), Box<dyn Error>> {
    let key = key.map_or(String::new(), |key| format!("idempotency-key: {key}\r\n"));
    let pause = if pause { "x-pause-ms: 300\r\n" } else { "" };
    let request = format!(
        "POST /charges HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{key}{pause}content-length: {}\r\n\r\n{BODY}",
        BODY.len()
    );
    stream.write_all(request.as_bytes()).await?;
    loop {
        if let Some(head) = Head::parse(read)?
            && read.len() >= head.bytes + head.body_bytes
        {
            read.advance(head.bytes);
            return Ok((head.status, read.split_to(head.body_bytes).freeze()));
        }
        if stream.read_buf(read).await? == 0 {
            return Err("the connection was closed before the answer".into());
        }
    }
}

struct Head {
    status: u16,
    bytes: usize,
    body_bytes: usize,
}

impl Head {
    /// `None` while it is not whole.
    fn parse(read: &[u8]) -> Result<Option<Self>, Box<dyn Error>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(bytes) = head.parse(read)? else { return Ok(None) };
        let status = head.code.ok_or("no status")?;
        let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let body_bytes = std::str::from_utf8(length.ok_or("no length")?.value)?.parse()?;
        Ok(Some(Self { status, bytes, body_bytes }))
    }
}

async fn http2(
    sender: &mut http2::SendRequest<Full<Bytes>>,
    key: Option<&str>,
    pause: bool,
) -> Result<(u16, Bytes), Box<dyn Error>> {
    let mut request = Request::post("http://bench/charges").header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    if pause {
        request = request.header("x-pause-ms", "300");
    }
    sender.ready().await?;
    let answer = sender.send_request(request.body(Full::new(Bytes::from_static(BODY.as_bytes())))?).await?;
    let status: StatusCode = answer.status();
    Ok((status.as_u16(), answer.into_body().collect().await?.to_bytes()))
}
