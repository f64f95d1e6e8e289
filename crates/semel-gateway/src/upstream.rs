//! The way to the upstream: where a request goes is decided by the configuration alone, and each is sent at most
//! once.
//!
//! A request of which nothing was sent is reported as [`EffectReport::NotRun`]; anything after the first byte as
//! [`EffectReport::Unknown`]. Nothing is sent twice, and idle connections are dropped early, because an upstream that
//! closes one just as a request is written to it leaves the outcome unknown. Next: [`crate::connections`].

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use semel::Code;
use semel::error::error_chain;
use semel_tower::problem::Problem;
use semel_tower::profile::Profile;
use semel_tower::{Body, EffectReport, replay};
use tower::Service;

use crate::config::{Config, HostName};
use crate::connections::{self, Connector, Exchange, Failure};

/// The upstream as a service. Never fails: what went wrong is an answer that says so.
#[derive(Clone)]
pub struct Upstream(Arc<Way>);

struct Way {
    exchange: Exchange,
    /// Before the path and query of a target: scheme and authority where the HTTP version is negotiated.
    origin: Option<(Scheme, Authority)>,
    prefix: String,
    /// What the upstream is told it is called; `None`: what the client called it.
    host: Option<HeaderValue>,
    /// Where a client named nobody.
    authority: HeaderValue,
    timeout: Duration,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("authority", &self.0.authority).finish_non_exhaustive()
    }
}

impl Upstream {
    /// `None` when the configuration names no upstream.
    pub(crate) fn over<C: Connector>(config: &Config, connector: C) -> Option<Self> {
        let uri = &config.upstream.as_ref()?.0;
        let authority = uri.authority()?;
        let idle = config.timeouts.upstream_idle.0;
        let (exchange, origin) = match uri.scheme_str() {
            Some("https") => {
                (connections::negotiated(connector, false, idle), Some((Scheme::HTTPS, authority.clone())))
            }
            Some("h2c") => {
                (connections::negotiated(connector, true, idle), Some((Scheme::HTTP, authority.clone())))
            }
            _ => {
                let destination = Uri::builder().scheme(Scheme::HTTP).authority(authority.clone());
                let destination = destination.path_and_query("/").build().ok()?;
                (connections::kept(connector, destination, idle), None)
            }
        };
        let named = HeaderValue::from_str(authority.as_str()).ok()?;
        let says_client = config.host.unwrap_or(match uri.scheme_str() {
            Some("http") => HostName::Client,
            _ => HostName::Upstream,
        }) == HostName::Client;
        Some(Self(Arc::new(Way {
            exchange,
            origin,
            prefix: uri.path().trim_end_matches('/').to_owned(),
            host: (!says_client).then(|| named.clone()),
            authority: named,
            timeout: config.timeouts.upstream.0,
        })))
    }
}

impl Way {
    /// The request as the upstream gets it. The client's connection has been left behind at the door.
    fn address(&self, request: &mut Request<Body<Incoming>>) -> Result<(), http::Error> {
        let mut target = std::mem::take(request.uri_mut()).into_parts();
        let path = target.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
        target.path_and_query =
            Some(if self.prefix.is_empty() { path } else { format!("{}{path}", self.prefix).try_into()? });
        (target.scheme, target.authority) = self.origin.clone().unzip();
        *request.uri_mut() = Uri::from_parts(target)?;
        *request.version_mut() = Version::HTTP_11;
        let covered = matches!(request.body(), Body::Whole { .. });
        let headers = request.headers_mut();
        if covered {
            headers.remove(header::CONNECTION);
            headers.remove(header::UPGRADE);
        }
        // The gateway has answered it: the body is on its way.
        headers.remove(header::EXPECT);
        match &self.host {
            Some(host) => {
                headers.insert(header::HOST, host.clone());
            }
            None => {
                headers.entry(header::HOST).or_insert_with(|| self.authority.clone());
            }
        }
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

impl Service<Request<Body<Incoming>>> for Upstream {
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
        let sending = (self.0.exchange)(request);
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
                Err(failure) => not_received(&failure),
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

fn not_received(failure: &Failure) -> Answer {
    let (error, code, detail, report) = match failure {
        Failure::NotSent(error) => (
            error,
            Code::UpstreamUnreachable,
            "The upstream could not be reached and nothing was sent to it. Send the same request again, with the same \
             key.",
            EffectReport::NotRun,
        ),
        Failure::BrokenOff(error) => (
            error,
            Code::BadRequest,
            "The request's body broke off or is malformed, and it was not sent on whole. What was sent of it may have \
             taken effect.",
            EffectReport::Unknown,
        ),
        Failure::NoAnswer(error) => (
            error,
            Code::UpstreamFailed,
            "The request was sent and no answer came back: it may have taken effect. It will not be run again by \
             itself; sending again with the same key is harmless.",
            EffectReport::Unknown,
        ),
    };
    tracing::warn!(error = %error_chain(&**error), "the upstream gave no answer");
    failed(code, detail, report)
}

fn failed(code: Code, detail: &str, report: EffectReport) -> Answer {
    let problem = Problem::new(code, detail);
    let mut answer: Response<Body<Incoming>> = problem.clone().answer(&Profile::ietf());
    answer.extensions_mut().insert(report);
    answer.extensions_mut().insert(problem);
    answer
}
