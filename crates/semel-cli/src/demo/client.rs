//! The shop's client: sends a payment with an `Idempotency-Key`, waits a little and sends the same again.
//!
//! It is the same client on both days and does not know whether Semel is there. It keeps what it was told, from the
//! answers it really received; what was charged is not its business: that is the ledger of `payments.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::payments::Payment;

/// How long the client waits for an answer before it sends the same payment again.
pub(super) const PATIENCE: Duration = Duration::from_millis(800);
/// How long it waits before it tries again.
const PAUSE: Duration = Duration::from_millis(100);
const ATTEMPTS_MAX: usize = 3;

/// What came of sending one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    Heard(Heard),
    /// Nothing within [`PATIENCE`].
    TimedOut,
    /// The connection broke before an answer was complete.
    CutOff,
    /// Nobody listened there.
    NotConnected,
    /// The client itself died while it waited.
    Crashed,
}

/// An answer that arrived, as far as the demo looks at it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Heard {
    pub(super) status: u16,
    /// `Idempotency-Status`; an API on its own does not send one.
    pub(super) standing: Option<String>,
    /// `Idempotency-Replayed: true`.
    pub(super) replayed: bool,
    /// The last part of a problem's `type`, such as `mismatch`.
    pub(super) problem: Option<String>,
    pub(super) body: Bytes,
}

/// One customer's payment under its key: what a client sends, and sends again.
#[derive(Clone)]
pub(super) struct Order {
    pub(super) key: String,
    pub(super) payment: Payment,
}

/// A client of whatever listens at `addr`: the payments API itself, or the gateway in front of it.
#[derive(Clone, Copy)]
pub(super) struct Client {
    pub(super) addr: SocketAddr,
}

impl Client {
    /// Pays as client libraries do: after silence, a broken connection or a server's error it sends the same again.
    pub(super) async fn pay(self, order: &Order) -> Vec<Answer> {
        let mut answers = vec![self.send(order).await];
        while answers.len() < ATTEMPTS_MAX && answers.last().is_some_and(Answer::may_be_tried_again) {
            tokio::time::sleep(PAUSE).await;
            answers.push(self.send(order).await);
        }
        answers
    }

    /// Sends once and waits for the answer.
    pub(super) async fn send(self, order: &Order) -> Answer {
        match self.connect().await {
            Some(line) => line.send(order).await,
            None => Answer::NotConnected,
        }
    }

    /// Sends once, and dies as soon as `death` says so: the connection goes with it.
    pub(super) async fn send_until(self, order: &Order, death: impl Future<Output = ()>) -> Answer {
        tokio::select! {
            answer = self.send(order) => answer,
            () = death => Answer::Crashed,
        }
    }

    /// Opens a connection of its own, for one request.
    pub(super) async fn connect(self) -> Option<Line> {
        let connecting = async {
            let stream = TcpStream::connect(self.addr).await.ok()?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
            let mut driver = JoinSet::new();
            driver.spawn(connection);
            Some(Line { sender, _driver: driver })
        };
        tokio::time::timeout(PATIENCE, connecting).await.ok()?
    }
}

/// An open connection; dropping it closes it.
pub(super) struct Line {
    sender: SendRequest<Full<Bytes>>,
    _driver: JoinSet<hyper::Result<()>>,
}

impl Line {
    pub(super) async fn send(mut self, order: &Order) -> Answer {
        let heard = async {
            let response = self.sender.send_request(request(order)).await?;
            Heard::read(response).await
        };
        match tokio::time::timeout(PATIENCE, heard).await {
            Ok(Ok(heard)) => Answer::Heard(heard),
            Ok(Err(_)) => Answer::CutOff,
            Err(_) => Answer::TimedOut,
        }
    }
}

fn request(order: &Order) -> Request<Full<Bytes>> {
    let body = serde_json::to_vec(&order.payment).expect("a text and a number always become JSON");
    Request::post("/payments")
        .header(header::HOST, "payments.example")
        .header(header::CONTENT_TYPE, "application/json")
        .header("idempotency-key", &order.key)
        .body(Full::from(body))
        .expect("the demo's keys are plain header values")
}

impl Heard {
    async fn read(response: Response<Incoming>) -> hyper::Result<Self> {
        let (head, body) = response.into_parts();
        let text = |name: &str| Some(head.headers.get(name)?.to_str().ok()?.to_owned());
        let body = body.collect().await?.to_bytes();
        let problem = match text("content-type") {
            Some(kind) if kind.starts_with("application/problem+json") => problem_name(&body),
            _ => None,
        };
        Ok(Self {
            status: head.status.as_u16(),
            standing: text("idempotency-status"),
            replayed: text("idempotency-replayed").as_deref() == Some("true"),
            problem,
            body,
        })
    }

    fn in_doubt(&self) -> bool {
        self.standing.as_deref() == Some("in-doubt")
    }
}

fn problem_name(body: &[u8]) -> Option<String> {
    let problem: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(problem.get("type")?.as_str()?.rsplit(':').next()?.to_owned())
}

impl Answer {
    fn may_be_tried_again(&self) -> bool {
        match self {
            Self::Heard(heard) => heard.status >= 500 || heard.standing.as_deref() == Some("in-progress"),
            Self::TimedOut | Self::CutOff | Self::NotConnected => true,
            Self::Crashed => false,
        }
    }

    pub(super) fn is_replay(&self) -> bool {
        matches!(self, Self::Heard(heard) if heard.replayed)
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        matches!(self, Self::Heard(heard) if heard.in_doubt())
    }

    /// A status or what came instead of one, and what the answer says of itself, if anything.
    fn words(&self, original: Option<&Bytes>) -> (String, String) {
        let heard = match self {
            Self::Heard(heard) => heard,
            Self::TimedOut => return ("timeout".to_owned(), String::new()),
            Self::CutOff => return ("cut off".to_owned(), String::new()),
            Self::NotConnected => return ("no connection".to_owned(), String::new()),
            Self::Crashed => return ("crash".to_owned(), String::new()),
        };
        let remark = match (&heard.problem, heard.standing.as_deref()) {
            _ if heard.replayed && original != Some(&heard.body) => "replayed, but differs".to_owned(),
            _ if heard.replayed => "replayed".to_owned(),
            _ if heard.in_doubt() => "in doubt".to_owned(),
            (Some(problem), _) => problem.clone(),
            (None, Some("executed") | None) => String::new(),
            (None, Some(standing)) => standing.to_owned(),
        };
        (heard.status.to_string(), remark)
    }
}

/// Each answer in words, such as `201` and `201 replayed`. A replay is called one only if it says so and its body is
/// that of the first answer heard, byte for byte.
fn in_words(answers: &[Answer]) -> Vec<(String, String)> {
    let original = answers.iter().find_map(|answer| match answer {
        Answer::Heard(heard) if heard.status < 400 => Some(&heard.body),
        _ => None,
    });
    answers.iter().map(|answer| answer.words(original)).collect()
}

/// All answers in one short line: `201, 49 × 201 replayed`. A remark that neighbours share is said once, after the
/// last of them: `502, 409 in doubt`.
pub(super) fn told(answers: &[Answer]) -> String {
    let mut parts: Vec<(String, String)> = Vec::new();
    for same in in_words(answers).chunk_by(PartialEq::eq) {
        let (status, remark) = &same[0];
        let statuses = if same.len() == 1 { status.clone() } else { format!("{} × {status}", same.len()) };
        match parts.last_mut() {
            Some((earlier, shared)) if shared == remark && !remark.is_empty() => {
                earlier.push_str(", ");
                earlier.push_str(&statuses);
            }
            _ => parts.push((statuses, remark.clone())),
        }
    }
    let parts = parts.iter().map(|(statuses, remark)| format!("{statuses} {remark}").trim_end().to_owned());
    parts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(status: u16, standing: Option<&str>, problem: Option<&str>, body: &'static str) -> Answer {
        Answer::Heard(Heard {
            status,
            standing: standing.map(str::to_owned),
            replayed: standing == Some("replayed"),
            problem: problem.map(str::to_owned),
            body: Bytes::from_static(body.as_bytes()),
        })
    }

    #[test]
    fn answers_are_told_in_few_words() {
        let first = heard(201, Some("executed"), None, "pay_1");
        let again = heard(201, Some("replayed"), None, "pay_1");
        let lost = heard(502, Some("in-doubt"), Some("outcome-unknown"), "");
        let held = heard(409, Some("in-doubt"), Some("outcome-unknown"), "");
        let other = heard(422, Some("refused"), Some("mismatch"), "");
        let bare = heard(201, None, None, "pay_2");
        assert_eq!(told(&[first.clone(), again.clone(), again.clone()]), "201, 2 × 201 replayed");
        assert_eq!(told(&[Answer::TimedOut, again]), "timeout, 201 replayed");
        assert_eq!(told(&[lost, held]), "502, 409 in doubt");
        assert_eq!(told(&[first, other]), "201, 422 mismatch");
        assert_eq!(told(&[Answer::CutOff, bare]), "cut off, 201");
    }

    #[test]
    fn a_replay_with_another_body_is_not_passed_off_as_one() {
        let first = heard(201, Some("executed"), None, "pay_1");
        let forged = heard(201, Some("replayed"), None, "pay_2");
        assert_eq!(told(&[first, forged]), "201, 201 replayed, but differs");
    }
}
