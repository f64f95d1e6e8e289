//! The payments API of the demo: it takes money, keeps a ledger and has bad moments.
//!
//! It knows nothing of idempotency keys: it never reads the header, and each request it understands is one more
//! charge. The ledger is what the demo counts. Faults are switched on by the scenario being played, in process;
//! nothing a client or a gateway sends can change them. Next: `scenarios.rs`, the bad day.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How long the API takes over a payment on a good day.
const HANDLING: Duration = Duration::from_millis(120);
/// How long it takes while it is slow: longer than [`super::client::PATIENCE`].
const SLOW_HANDLING: Duration = Duration::from_millis(1200);
const REQUEST_MAX_BYTES: usize = 64 * 1024;

/// What a client asks for.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Payment {
    pub(super) customer: String,
    pub(super) amount_cents: u64,
}

/// What is wrong with the API at the moment. Whatever it is, the money is taken first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Nothing,
    /// Each answer comes after [`SLOW_HANDLING`].
    SlowAnswers,
    /// The connection of the next charge is closed before the answer; after that the API is well again.
    NextAnswerLost,
}

/// Charges made and their sum, counted in the ledger.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Tally {
    pub(super) charges: u64,
    pub(super) cents: u64,
}

struct Books {
    ledger: Vec<Payment>,
    fault: Fault,
}

/// A running payments API on a free port of 127.0.0.1; dropping it ends it.
pub(super) struct Payments {
    addr: SocketAddr,
    books: Arc<Mutex<Books>>,
    _accepting: JoinSet<Infallible>,
}

impl Payments {
    pub(super) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let addr = listener.local_addr()?;
        let books = Arc::new(Mutex::new(Books { ledger: Vec::new(), fault: Fault::Nothing }));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, Arc::clone(&books)));
        Ok(Self { addr, books, _accepting: accepting })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn set_fault(&self, fault: Fault) {
        open(&self.books).fault = fault;
    }

    /// What the ledger says of one customer at this moment.
    pub(super) fn charged(&self, customer: &str) -> Tally {
        let books = open(&self.books);
        let charges = books.ledger.iter().filter(|charge| charge.customer == customer);
        charges.fold(Tally::default(), |sum, charge| Tally {
            charges: sum.charges + 1,
            cents: sum.cents.saturating_add(charge.amount_cents),
        })
    }
}

fn open(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, books: Arc<Mutex<Books>>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { connections.spawn(serve(stream, Arc::clone(&books))); }
                // Out of file descriptors, most likely: they come back as connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, books: Arc<Mutex<Books>>) {
    let service = service_fn(move |request| answer(Arc::clone(&books), request));
    // An error here is a client that went away, or an answer that is lost on purpose.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(books: Arc<Mutex<Books>>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    if request.uri().path() != "/payments" || request.method() != Method::POST {
        return Ok(plain(StatusCode::NOT_FOUND, "POST /payments is all there is\n"));
    }
    let payment: Payment = match Limited::new(request.into_body(), REQUEST_MAX_BYTES).collect().await {
        Ok(body) => match serde_json::from_slice(&body.to_bytes()) {
            Ok(payment) => payment,
            Err(_) => return Ok(plain(StatusCode::BAD_REQUEST, "customer and amount_cents are needed\n")),
        },
        Err(_) => return Ok(plain(StatusCode::BAD_REQUEST, "the body is cut short or too large\n")),
    };
    let (number, fault) = charge(&books, payment.clone());
    match fault {
        Fault::Nothing => tokio::time::sleep(HANDLING).await,
        Fault::SlowAnswers => tokio::time::sleep(SLOW_HANDLING).await,
        // hyper closes the connection without a byte when the service fails.
        Fault::NextAnswerLost => return Err(io::ErrorKind::ConnectionReset.into()),
    }
    Ok(charged(number, &payment))
}

/// Takes the money and says which line of the ledger it is. From here on the charge has happened, heard of or not.
fn charge(books: &Mutex<Books>, payment: Payment) -> (usize, Fault) {
    let mut books = open(books);
    books.ledger.push(payment);
    let fault = books.fault;
    if fault == Fault::NextAnswerLost {
        books.fault = Fault::Nothing;
    }
    (books.ledger.len(), fault)
}

fn charged(number: usize, payment: &Payment) -> Response<Full<Bytes>> {
    let body = serde_json::json!({
        "id": format!("pay_{number}"),
        "customer": payment.customer,
        "amount_cents": payment.amount_cents,
        "status": "charged",
    });
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = StatusCode::CREATED;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    if let Ok(location) = format!("/payments/pay_{number}").parse() {
        headers.insert(header::LOCATION, location);
    }
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
