//! The upstream that every request ends at: 201 with 1 KiB, and a ledger of how often each key took effect.
//!
//! `GET /ledger` tells the ledger.

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// Length of an answer.
pub(super) const ANSWER_BYTES: usize = 1024;

/// What happened at the upstream.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// Effects, keyed or not.
    pub(super) effects: u64,
    /// Keys that took effect more than once.
    pub(super) doubled: u64,
}

/// All effects so far.
#[derive(Default)]
pub(super) struct Book {
    pub(super) ledger: Ledger,
    by_key: HashMap<Box<[u8]>, u32>,
    /// When the last effect ended.
    pub(super) ended: Option<Instant>,
}

impl Book {
    /// An effect; gives its number.
    pub(super) fn note(&mut self, key: Option<&[u8]>) -> u64 {
        self.ledger.effects += 1;
        if let Some(key) = key {
            let times = self.by_key.entry(key.into()).or_default();
            *times += 1;
            self.ledger.doubled += u64::from(*times == 2);
        }
        self.ledger.effects
    }
}

pub(super) async fn serve(listener: TcpListener, book: Rc<RefCell<Book>>) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let book = Rc::clone(&book);
        let service = service_fn(move |request| answer(Rc::clone(&book), request));
        tokio::task::spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn answer(
    book: Rc<RefCell<Book>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    if head.method == Method::GET {
        let ledger = serde_json::to_vec(&book.borrow().ledger).expect("numbers are JSON");
        return Ok(Response::new(Full::new(ledger.into())));
    }
    // A request that breaks off is seen by its caller.
    let _ = body.collect().await;
    let key = head.headers.get("idempotency-key");
    let number = book.borrow_mut().note(key.map(AsRef::as_ref));
    if let Some(pause) = pause(&head.headers) {
        tokio::time::sleep(pause).await;
    }
    book.borrow_mut().ended = Some(Instant::now());
    let key = key.map_or("none", |key| key.to_str().unwrap_or("odd"));
    let answer = Response::builder()
        .status(201)
        .header("content-type", "application/json")
        .header("location", format!("/charges/{number}"))
        .body(Full::new(answer_to(key, number).into()));
    Ok(answer.expect("the parts are valid"))
}

/// How long the effect is to take, where the request says so.
pub(super) fn pause(headers: &HeaderMap) -> Option<Duration> {
    let pause = headers.get("x-pause-ms")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_millis(pause))
}

/// The body of an answer: it names the key and the effect.
pub(super) fn answer_to(key: &str, number: u64) -> String {
    let mut text = format!(r#"{{"key":"{key}","number":{number:012},"filling":""#);
    text.extend(std::iter::repeat_n('x', ANSWER_BYTES - text.len() - 2));
    text.push_str("\"}");
    text
}
