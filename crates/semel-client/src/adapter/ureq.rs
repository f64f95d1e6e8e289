//! The client for threads, over ureq.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use ureq::{Agent, Error, Timeout};

use crate::adapter::io::never_connected;
use crate::adapter::transport::{Sender, Transport};
use crate::session::{Failure, Lost};

/// Sends calls from threads. Cheap to clone.
///
/// ```no_run
/// # fn charge() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use semel_client::Once;
/// use semel_client::adapter::ureq::{Client, Ureq};
///
/// let client = Client::builder(Once::for_hosts(["api.example.com"]), Ureq::default()).build()?;
/// let answer = client.post("https://api.example.com/charges").json(&4000).idempotency_key("order-42").send()?;
/// # Ok(()) }
/// ```
pub type Client = crate::api::Api<Sender<Ureq>>;

/// An agent of ureq. Its own redirects and timeouts are not used.
#[derive(Clone, Debug)]
pub struct Ureq(Agent);

impl Default for Ureq {
    fn default() -> Self {
        Self::over(Agent::new_with_defaults())
    }
}

impl Ureq {
    /// This agent.
    #[must_use]
    pub fn over(agent: Agent) -> Self {
        Self(agent)
    }

    fn exchange(&self, request: Request<Bytes>, timeout: Duration) -> Result<Response<ureq::Body>, Error> {
        let (head, body) = request.into_parts();
        // An empty body is sent as one where the method has a meaning for it.
        match body.is_empty() && head.method.is_idempotent() {
            true => self.0.run(self.set(Request::from_parts(head, ()), timeout)),
            false => self.0.run(self.set(Request::from_parts(head, &body[..]), timeout)),
        }
    }

    fn set<B: ureq::AsSendBody>(&self, request: Request<B>, timeout: Duration) -> Request<B> {
        let set = self.0.configure_request(request).timeout_global(Some(timeout));
        set.http_status_as_error(false).max_redirects(0).max_redirects_will_error(false).build()
    }
}

impl Transport for Ureq {
    fn send(&self, request: Request<Bytes>, timeout: Duration) -> Result<Response<Bytes>, Failure> {
        let answer = self.exchange(request, timeout).map_err(|error| failure(error, Lost::Broken))?;
        let (head, body) = answer.into_parts();
        let mut whole = Vec::new();
        match io::copy(&mut body.into_reader(), &mut whole) {
            Ok(_) => Ok(Response::from_parts(head, whole.into())),
            Err(error) => Err(failure(Error::from(error), Lost::Truncated)),
        }
    }
}

fn failure(error: Error, broken: Lost) -> Failure {
    let what = match &error {
        Error::Http(_) | Error::BadUri(_) | Error::InvalidProxyUrl => Lost::Invalid,
        Error::HostNotFound | Error::ConnectionFailed => Lost::NotSent,
        Error::Timeout(Timeout::Resolve | Timeout::Connect) => Lost::NotSent,
        Error::Timeout(_) => Lost::TimedOut,
        Error::Io(io) if broken == Lost::Broken && never_connected(io) => Lost::NotSent,
        _ => broken,
    };
    Failure { what, source: error.into() }
}
