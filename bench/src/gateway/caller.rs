//! One caller: a connection or a stream on one, and a request at a time.
//!
//! Not which request, nor whether the answer is right: `load` says.

use std::error::Error;

use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BODY: &str = concat!(
    r#"{"amount":4000,"currency":"eur","customer":"cus_0123456789abcdef","description":"#,
    r#""one hundred and fifty bytes of a description, as an order has it, with the names of things that "#,
    r#"somebody buys","n":12}"#
);

/// What differs between requests.
pub(super) struct Sent<'a> {
    pub(super) path: &'a str,
    pub(super) key: Option<&'a str>,
    /// A header beside `Idempotency-Key` that carries the key to the effect.
    pub(super) key_header: Option<&'a str>,
    pub(super) pause_ms: u64,
}

pub(super) enum Caller {
    Http1 { stream: TcpStream, read: BytesMut },
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Caller {
    pub(super) async fn connect(port: u16, is_http2: bool) -> Result<Self, Box<dyn Error>> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        if !is_http2 {
            return Ok(Self::Http1 { stream, read: BytesMut::with_capacity(8 * 1024) });
        }
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::task::spawn_local(connection);
        Ok(Self::Http2(sender))
    }

    /// Another stream on the same connection.
    pub(super) fn beside(&self) -> Option<Self> {
        match self {
            Self::Http1 { .. } => None,
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
        }
    }

    pub(super) async fn send(&mut self, sent: &Sent<'_>) -> Result<(u16, Bytes), Box<dyn Error>> {
        match self {
            Self::Http1 { stream, read } => http1(stream, read, sent).await,
            Self::Http2(sender) => http2(sender, sent).await,
        }
    }
}

async fn http1(
    stream: &mut TcpStream,
    read: &mut BytesMut,
    sent: &Sent<'_>,
) -> Result<(u16, Bytes), Box<dyn Error>> {
    let mut key = sent.key.map_or(String::new(), |key| format!("idempotency-key: {key}\r\n"));
    if let Some((name, value)) = sent.key_header.zip(sent.key) {
        key.push_str(&format!("{name}: {value}\r\n"));
    }
    let pause = if sent.pause_ms > 0 { format!("x-pause-ms: {}\r\n", sent.pause_ms) } else { String::new() };
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n{key}{pause}content-length: {}\r\n\r\n{BODY}",
        sent.path,
        BODY.len()
    );
    stream.write_all(request.as_bytes()).await?;
    loop {
        if let Some(answer) = whole(read)? {
            return Ok(answer);
        }
        if stream.read_buf(read).await? == 0 {
            return Err("the connection was closed before the answer".into());
        }
    }
}

/// Takes an answer from what was read; `None` while it is not whole.
fn whole(read: &mut BytesMut) -> Result<Option<(u16, Bytes)>, Box<dyn Error>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = head.parse(read)? else { return Ok(None) };
    let status = head.code.ok_or("no status")?;
    let length = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let Some(length) = length else {
        let Some((body, bytes)) = joined(&read[head_bytes..])? else { return Ok(None) };
        read.advance(head_bytes + bytes);
        return Ok(Some((status, body)));
    };
    let body_bytes = std::str::from_utf8(length.value)?.parse()?;
    if read.len() < head_bytes + body_bytes {
        return Ok(None);
    }
    read.advance(head_bytes);
    Ok(Some((status, read.split_to(body_bytes).freeze())))
}

/// The body that comes in chunks, and how many bytes they took; `None` while the last is not there.
fn joined(mut chunks: &[u8]) -> Result<Option<(Bytes, usize)>, Box<dyn Error>> {
    let (mut body, whole) = (BytesMut::new(), chunks.len());
    loop {
        let parsed = httparse::parse_chunk_size(chunks).map_err(|_| "neither a length nor chunks")?;
        let httparse::Status::Complete((line_bytes, chunk_bytes)) = parsed else { return Ok(None) };
        let end = line_bytes + usize::try_from(chunk_bytes)?;
        if chunks.len() < end + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&chunks[line_bytes..end]);
        chunks = &chunks[end + 2..];
        if chunk_bytes == 0 {
            return Ok(Some((body.freeze(), whole - chunks.len())));
        }
    }
}

async fn http2(
    sender: &mut http2::SendRequest<Full<Bytes>>,
    sent: &Sent<'_>,
) -> Result<(u16, Bytes), Box<dyn Error>> {
    let mut request =
        Request::post(format!("http://bench{}", sent.path)).header("content-type", "application/json");
    if let Some(key) = sent.key {
        request = request.header("idempotency-key", key);
    }
    if let Some((name, value)) = sent.key_header.zip(sent.key) {
        request = request.header(name, value);
    }
    if sent.pause_ms > 0 {
        request = request.header("x-pause-ms", sent.pause_ms);
    }
    sender.ready().await?;
    let answer = sender.send_request(request.body(Full::new(Bytes::from_static(BODY.as_bytes())))?).await?;
    let status = answer.status().as_u16();
    Ok((status, answer.into_body().collect().await?.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_taken_when_it_is_whole_whether_it_has_a_length_or_chunks() {
        let long = "HTTP/1.1 201 Created\r\ncontent-length: 5\r\n\r\nhello";
        let chunks =
            "HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
        for text in [long, chunks] {
            for end in 0..text.len() {
                assert!(whole(&mut BytesMut::from(&text[..end])).expect("a beginning").is_none(), "{end}");
            }
            let mut two = BytesMut::from(text.repeat(2).as_str());
            for _ in 0..2 {
                let answer = whole(&mut two).expect("it can be read");
                assert_eq!(answer, Some((201, Bytes::from_static(b"hello"))));
            }
            assert!(two.is_empty());
        }
    }
}
