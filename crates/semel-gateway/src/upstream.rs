//! The way to the upstream: where a request goes is decided by the configuration alone, and each is sent at most
//! once.
//!
//! A request of which nothing was sent is reported as [`EffectReport::NotRun`]; anything after the first byte as
//! [`EffectReport::Unknown`]. The client's own resending is off, and idle connections are dropped early, because an
//! upstream that closes one just as a request is written to it leaves the outcome unknown.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use semel::Code;
use semel::error::error_chain;
use semel_tower::problem::Problem;
use semel_tower::profile::Profile;
use semel_tower::{Body, EffectReport, replay};
use tower::Service;

use crate::config::{Config, HostName};

/// The upstream as a service. Never fails: what went wrong is an answer that says so.
#[derive(Clone, Debug)]
pub struct Upstream<C = HttpsConnector<HttpConnector>>(Arc<Way<C>>);

#[derive(Debug)]
struct Way<C> {
    client: Client<C, Body<Incoming>>,
    scheme: Scheme,
    authority: Authority,
    prefix: String,
    host: HostName,
    timeout: Duration,
}

impl<C: Connect + Clone> Upstream<C> {
    /// `None` when the configuration names no upstream.
    pub(crate) fn over(config: &Config, connector: C) -> Option<Self> {
        let uri = &config.upstream.as_ref()?.0;
        let http2_only = uri.scheme_str() == Some("h2c");
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(config.timeouts.upstream_idle.0)
            .retry_canceled_requests(false)
            .http2_only(http2_only)
            .set_host(false)
            .build(connector);
        Some(Self(Arc::new(Way {
            client,
            scheme: if uri.scheme() == Some(&Scheme::HTTPS) { Scheme::HTTPS } else { Scheme::HTTP },
            authority: uri.authority()?.clone(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            host: config.host.unwrap_or(if uri.scheme_str() == Some("http") {
                HostName::Client
            } else {
                HostName::Upstream
            }),
            timeout: config.timeouts.upstream.0,
        })))
    }
}

impl<C> Way<C> {
    /// The request as the upstream gets it. The client's connection has been left behind at the door.
    fn address(&self, request: &mut Request<Body<Incoming>>) -> Result<(), http::Error> {
        let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
        let path: PathAndQuery = if self.prefix.is_empty() {
            request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"))
        } else {
            format!("{}{path}", self.prefix).try_into()?
        };
        let host = match self.host {
            HostName::Client => request.headers().get(header::HOST).cloned(),
            HostName::Upstream => None,
        };
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone());
        *request.uri_mut() = uri.path_and_query(path).build()?;
        *request.version_mut() = Version::HTTP_11;
        let host = match host {
            Some(host) => host,
            None => HeaderValue::from_str(self.authority.as_str())?,
        };
        let covered = matches!(request.body(), Body::Whole { .. });
        let headers = request.headers_mut();
        if covered {
            headers.remove(header::CONNECTION);
            headers.remove(header::UPGRADE);
        }
        // The gateway has answered it: the body is on its way.
        headers.remove(header::EXPECT);
        headers.insert(header::HOST, host);
        Ok(())
    }
}

/// A connector that tells a refused connection from a lost answer.
pub(crate) fn connector(tls: rustls::ClientConfig, timeout: Duration) -> HttpsConnector<HttpConnector> {
    let mut http = HttpConnector::new();
    http.set_connect_timeout(Some(timeout));
    http.set_nodelay(true);
    http.enforce_http(false);
    hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions()
        .wrap_connector(http)
}

/// Whether an uncovered request asks to change the protocol.
fn upgrades(request: &Request<Body<Incoming>>) -> bool {
    matches!(request.body(), Body::Stream { .. }) && request.headers().contains_key(header::UPGRADE)
}

type Answer = Response<Body<Incoming>>;

impl<C: Connect + Clone + Send + Sync + 'static> Service<Request<Body<Incoming>>> for Upstream<C> {
    type Response = Answer;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body<Incoming>>) -> Self::Future {
        let covered = matches!(request.body(), Body::Whole { .. });
        let upgrading = upgrades(&request).then(|| hyper::upgrade::on(&mut request));
        if let Err(error) = self.0.address(&mut request) {
            tracing::warn!(%error, "the request cannot be addressed to the upstream");
            let detail = "The request's path or host cannot be sent on. Nothing was sent.";
            return Box::pin(std::future::ready(Ok(failed(Code::BadRequest, detail, EffectReport::NotRun))));
        }
        let sending = self.0.client.request(request);
        let timeout = self.0.timeout;
        Box::pin(async move {
            let answer = if covered {
                match tokio::time::timeout(timeout, sending).await {
                    Ok(answer) => answer,
                    Err(_) => return Ok(timed_out()),
                }
            } else {
                sending.await
            };
            Ok(match answer {
                Ok(answer) => received(answer, upgrading),
                Err(error) => not_received(&error),
            })
        })
    }
}

fn received(mut answer: Response<Incoming>, upgrading: Option<hyper::upgrade::OnUpgrade>) -> Answer {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(client) = upgrading
    {
        tokio::spawn(tunnel(client, hyper::upgrade::on(&mut answer)));
    } else {
        replay::strip_hop_by_hop(answer.headers_mut());
    }
    // The client is answered in its own version: HTTP/1.0 would cost it its connection.
    *answer.version_mut() = Version::HTTP_11;
    answer.map(Body::stream)
}

async fn tunnel(client: hyper::upgrade::OnUpgrade, upstream: hyper::upgrade::OnUpgrade) {
    let (Ok(client), Ok(upstream)) = tokio::join!(client, upstream) else { return };
    let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
        tracing::debug!(%error, "an upgraded connection ended");
    }
}

fn timed_out() -> Answer {
    let detail = "The request was sent and the upstream has not answered in time: it may still take effect. It will \
                  not be run again by itself; sending again with the same key is harmless.";
    failed(Code::UpstreamTimeout, detail, EffectReport::Unknown)
}

fn not_received(error: &Error) -> Answer {
    tracing::warn!(error = %error_chain(error), "the upstream gave no answer");
    if nothing_was_sent(error) {
        let detail = "The upstream could not be reached and nothing was sent to it. Send the same request again, \
                      with the same key.";
        return failed(Code::UpstreamUnreachable, detail, EffectReport::NotRun);
    }
    if source(error).is_some_and(hyper::Error::is_user) {
        let detail = "The request's body broke off or is malformed, and it was not sent on whole. What was sent of \
                      it may have taken effect.";
        return failed(Code::BadRequest, detail, EffectReport::Unknown);
    }
    let detail = "The request was sent and no answer came back: it may have taken effect. It will not be run again \
                  by itself; sending again with the same key is harmless.";
    failed(Code::UpstreamFailed, detail, EffectReport::Unknown)
}

/// True only when it is certain. Over HTTP/2 a cancelled stream may have been sent.
fn nothing_was_sent(error: &Error) -> bool {
    if error.is_connect() {
        return true;
    }
    let http2 =
        error.connect_info().is_some_and(hyper_util::client::legacy::connect::Connected::is_negotiated_h2);
    !http2 && source(error).is_some_and(hyper::Error::is_canceled)
}

fn source(error: &Error) -> Option<&hyper::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

fn failed(code: Code, detail: &str, report: EffectReport) -> Answer {
    let problem = Problem::new(code, detail);
    let mut answer: Response<Body<Incoming>> = problem.clone().answer(&Profile::ietf());
    answer.extensions_mut().insert(report);
    answer.extensions_mut().insert(problem);
    answer
}
