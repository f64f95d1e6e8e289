//! Carries out one step of the script for one request.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::channel::{Channel, Sender};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

use super::log::{Ending, Log, Todo};
use super::wire::Line;
use crate::attempt::Origin;
use crate::clock;
use crate::script::{Act, Step, value};

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// How long half an answer has to reach the client before the reset that would overtake it.
const HALF_FIRST: Duration = Duration::from_millis(30);

pub(super) async fn answer(
    request: Request<Incoming>,
    origin: Origin,
    log: Arc<Log>,
    line: Arc<Line>,
) -> io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let (index, todo) = log.arrive(&head, &body, origin, line.number);
    let ending = Ending::new(Arc::clone(&log), index);
    let step = match todo {
        Todo::Step(step) => step,
        Todo::Aside(text) => {
            ending.answered(false);
            return response(&log, StatusCode::OK, &[], whole(text));
        }
    };
    match step.act {
        Act::Succeed => {
            ending.answered(true);
            success(&log, &step, whole(text(&log, &step)))
        }
        Act::Answer(status) | Act::ActThen(status) => {
            ending.answered((200..300).contains(&status));
            let status = StatusCode::from_u16(status).map_err(io::Error::other)?;
            response(&log, status, &step.headers, whole(refusal(&log, &step, status)))
        }
        Act::Reset => broken(&ending, || line.reset()).await,
        Act::Close => broken(&ending, || line.close()).await,
        Act::GoAway => broken(&ending, || line.go_away()).await,
        Act::Hang(time) => {
            match time {
                Some(time) => tokio::time::sleep(time).await,
                None => pending().await,
            }
            ending.answered(true);
            success(&log, &step, whole(text(&log, &step)))
        }
        Act::Cut => {
            let text = text(&log, &step);
            let (sender, answer) = promised(&log, &step, &text)?;
            tokio::spawn(cut(sender, text, ending, line));
            Ok(answer)
        }
        Act::Drip(time) => {
            let text = text(&log, &step);
            let (sender, answer) = promised(&log, &step, &text)?;
            tokio::spawn(drip(sender, text, ending, time));
            Ok(answer)
        }
        // Scripts refuse connections, not requests.
        Act::Refuse(_) => pending().await,
    }
}

/// Nothing more comes: the connection ends, and this request with it.
async fn broken(ending: &Ending, how: impl FnOnce()) -> io::Result<Response<Body>> {
    ending.broken();
    how();
    pending().await
}

/// The first half, and a reset.
async fn cut(mut sender: Sender<Bytes, io::Error>, text: String, ending: Ending, line: Arc<Line>) {
    let half = text.len() / 2;
    let _ = sender.send_data(Bytes::from(text).slice(..half)).await;
    tokio::time::sleep(HALF_FIRST).await;
    ending.broken();
    line.reset();
}

async fn drip(mut sender: Sender<Bytes, io::Error>, text: String, ending: Ending, time: Duration) {
    let pause = time / u32::try_from(text.len().max(1)).unwrap_or(u32::MAX);
    for byte in text.bytes() {
        tokio::time::sleep(pause).await;
        if sender.send_data(Bytes::copy_from_slice(&[byte])).await.is_err() {
            // The client has gone.
            return;
        }
    }
    ending.answered(true);
}

/// Says how long the body will be, and sends it later.
fn promised(log: &Log, step: &Step, text: &str) -> io::Result<(Sender<Bytes, io::Error>, Response<Body>)> {
    let (sender, body) = Channel::new(1);
    let mut answer = success(log, step, body.boxed_unsync())?;
    answer.headers_mut().insert(header::CONTENT_LENGTH, text.len().into());
    Ok((sender, answer))
}

/// The body of a success.
fn text(log: &Log, step: &Step) -> String {
    step.body.clone().unwrap_or_else(|| log.setup.api.body.clone())
}

fn refusal(log: &Log, step: &Step, status: StatusCode) -> String {
    let reason = status.canonical_reason().unwrap_or("as scripted");
    let plain = || format!("{{\"error\":{{\"type\":\"scripted\",\"message\":\"{reason}\"}}}}");
    step.body.clone().or_else(|| log.setup.api.failure.clone()).unwrap_or_else(plain)
}

fn success(log: &Log, step: &Step, body: Body) -> io::Result<Response<Body>> {
    let api = &log.setup.api;
    let headers: Vec<_> = api.headers.iter().chain(&step.headers).cloned().collect();
    response(log, StatusCode::from_u16(api.status).map_err(io::Error::other)?, &headers, body)
}

fn response(
    log: &Log,
    status: StatusCode,
    headers: &[(String, String)],
    body: Body,
) -> io::Result<Response<Body>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, written) in headers {
        let [base, other] = &log.urls;
        let text = value(written, clock::wall()).replace("{base}", base).replace("{other}", other);
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(io::Error::other)?;
        response.headers_mut().insert(name, HeaderValue::from_str(&text).map_err(io::Error::other)?);
    }
    Ok(response)
}

fn whole(text: String) -> Body {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}
