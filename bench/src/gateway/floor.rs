//! The floor: a reverse proxy on the same HTTP library that reads requests and answers whole and does nothing else.
//!
//! A process of its own. It stores nothing, knows no keys, and sends each request once.

use std::error::Error;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;

type Upstream = Client<HttpConnector, Full<Bytes>>;
type Failure = Box<dyn Error + Send + Sync>;

/// Serves until it is killed; its first line of output is its port.
pub(super) async fn run(upstream: Authority) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Upstream = Client::builder(TokioExecutor::new()).build(connector);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (client, upstream) = (client.clone(), upstream.clone());
        let service = service_fn(move |request| forward(client.clone(), upstream.clone(), request));
        tokio::spawn(async move {
            // A connection that breaks off is seen by whoever measures.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn forward(
    client: Upstream,
    upstream: Authority,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Failure> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    (uri.scheme, uri.authority) = (Some(Scheme::HTTP), Some(upstream));
    head.uri = Uri::from_parts(uri)?;
    head.version = http::Version::HTTP_11;
    let (head, body) = client.request(Request::from_parts(head, Full::new(body))).await?.into_parts();
    Ok(Response::from_parts(head, Full::new(body.collect().await?.to_bytes())))
}
