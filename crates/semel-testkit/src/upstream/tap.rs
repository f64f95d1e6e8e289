//! An upstream that keeps the bytes it is sent. Read strictly: what it calls one request, no other server may call
//! two. Read laxly: as servers do that take what they can get, so that what is hidden in a request is found.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

mod lax;

const HEADERS_MAX: usize = 64;

/// How a tap reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// What is not exactly one plain request is an error.
    Strict,
    /// Takes bare line feeds, folded lines, names with spaces and underscores; of several lengths the first, and a
    /// length before chunks.
    LaxByLength,
    /// The same, but of several lengths the last, and chunks before a length.
    LaxByChunks,
}

/// A request as it was on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tapped {
    /// `POST /charges HTTP/1.1`.
    pub request_line: String,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl Tapped {
    /// The values of a header.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<&[u8]> {
        self.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_slice()).collect()
    }
}

/// Answers every request with an empty 200 and keeps it.
#[derive(Debug)]
pub struct Tap {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Result<Tapped, String>>>>,
    _tasks: JoinSet<()>,
}

impl Tap {
    /// Listens on a free port.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn start() -> io::Result<Self> {
        Self::reading(Reading::Strict).await
    }

    /// As [`Tap::start`], with a parser that reads otherwise.
    ///
    /// # Errors
    /// As the operating system says.
    pub async fn reading(reading: Reading) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let seen = Arc::<Mutex<Vec<_>>>::default();
        let (kept, mut tasks) = (Arc::clone(&seen), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(listen(stream, reading, Arc::clone(&kept)));
            }
        });
        Ok(Self { addr, seen, _tasks: tasks })
    }

    /// Where it listens, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// What it was sent since the last call; an error is something that is not one plain request.
    #[must_use]
    pub fn take(&self) -> Vec<Result<Tapped, String>> {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn listen(mut stream: TcpStream, reading: Reading, seen: Arc<Mutex<Vec<Result<Tapped, String>>>>) {
    let mut bytes = Vec::new();
    loop {
        let parsed = match reading {
            Reading::Strict => parse(&bytes),
            lax => Ok(lax::parse(&bytes, lax)),
        };
        match parsed {
            Ok(Some((tapped, length))) => {
                bytes.drain(..length);
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(Ok(tapped));
                if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_err() {
                    return;
                }
            }
            Ok(None) => match stream.read_buf(&mut bytes).await {
                // Half a request is none: nobody may act on it.
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            },
            Err(why) => {
                let what = format!("{why}: {}", bytes.escape_ascii());
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(Err(what));
                return;
            }
        }
    }
}

/// The first request in `bytes` and its length; `None` when it is not whole yet.
fn parse(bytes: &[u8]) -> Result<Option<(Tapped, usize)>, String> {
    let mut slots = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut slots);
    let httparse::Status::Complete(head_bytes) = head.parse(bytes).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let lines = &bytes[..head_bytes];
    if lines.iter().zip(&lines[1..]).any(|(one, two)| *two == b'\n' && *one != b'\r') {
        return Err("a line without a carriage return".to_owned());
    }
    let headers: Vec<(String, Vec<u8>)> =
        head.headers.iter().map(|header| (header.name.to_ascii_lowercase(), header.value.to_vec())).collect();
    let request_line = lines.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let request_line = String::from_utf8_lossy(request_line).into_owned();
    let tapped = Tapped { request_line, headers, body: Vec::new() };
    let rest = &bytes[head_bytes..];
    let body =
        match (tapped.values("content-length").as_slice(), tapped.values("transfer-encoding").as_slice()) {
            ([], []) => Some((Vec::new(), 0)),
            ([length], []) => {
                let length = std::str::from_utf8(length).ok().and_then(|length| length.parse::<usize>().ok());
                let length = length.ok_or("a length that is no number")?;
                rest.get(..length).map(|body| (body.to_vec(), length))
            }
            ([], [coding]) if *coding == b"chunked" => chunks(rest)?,
            (lengths, codings) => {
                return Err(format!("{} lengths and {} codings", lengths.len(), codings.len()));
            }
        };
    Ok(body.map(|(body, length)| (Tapped { body, ..tapped }, head_bytes + length)))
}

fn chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let size = httparse::parse_chunk_size(&bytes[at..]).map_err(|error| error.to_string())?;
        let httparse::Status::Complete((line_bytes, size)) = size else { return Ok(None) };
        let size = usize::try_from(size).map_err(|error| error.to_string())?;
        let start = at + line_bytes;
        let Some(chunk) = bytes.get(start..start + size + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            return Err("a chunk, or trailers, without an end".to_owned());
        }
        body.extend_from_slice(&chunk[..size]);
        at = start + size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}
