//! The two loops: send, ask the core, wait. One for tasks and one for threads; nothing is decided here.

use bytes::Bytes;
use http::{HeaderMap, Method};
use url::Url;

use crate::core::call::Ending;
use crate::error::Error;
use crate::session::{Failure, Next, Place, Seen, Session, Stamp};

/// One request and the hands that send it.
pub(crate) trait Exchange: Place {
    type Answer: Seen;

    /// The headers as the program gave them.
    fn headers(&self) -> &HeaderMap;

    /// The body, if it is in memory.
    fn body(&self) -> Option<Bytes>;

    /// Goes on at this address, with this method; another method means without the body.
    fn follow(&mut self, url: Url, method: &Method);
}

/// Sends from a task.
#[cfg(any(feature = "client", feature = "reqwest-middleware", feature = "tower"))]
pub(crate) trait Send1: Exchange {
    fn send(
        &mut self,
        stamp: Stamp,
        keyed: bool,
    ) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;
}

/// Runs the call from a task.
#[cfg(any(feature = "client", feature = "reqwest-middleware", feature = "tower"))]
pub(crate) async fn drive<E: Send1>(
    session: &mut Session,
    exchange: &mut E,
) -> Result<(E::Answer, Option<Ending>), Error> {
    use crate::session::Lost;

    if session.must_be_kept() {
        let saved = session.saved(exchange.url(), exchange.headers(), exchange.body());
        session.held = Some(off_thread(session.keep(saved)).await?);
    }
    loop {
        let sending = exchange.send(session.stamp(), session.keyed());
        let sent = match tokio::time::timeout(session.attempt_timeout(), sending).await {
            Ok(sent) => sent,
            Err(elapsed) => Err(Failure { what: Lost::TimedOut, source: elapsed.into() }),
        };
        let landed = match session.after(sent, exchange) {
            Next::Wait(delay) => {
                tokio::time::sleep(delay).await;
                continue;
            }
            Next::Follow(url) => {
                exchange.follow(url, session.method());
                continue;
            }
            Next::Land(answer, ending) => Ok((answer, ending)),
            Next::Fail(error) => Err(error),
        };
        if let Some(held) = session.finished(kind(&landed)) {
            off_thread(move || held.settle()).await;
        }
        return landed;
    }
}

/// Disks are waited for elsewhere.
#[cfg(any(feature = "client", feature = "reqwest-middleware", feature = "tower"))]
async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this call with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Sends from a thread.
#[cfg(any(feature = "blocking-reqwest", feature = "blocking-ureq"))]
pub(crate) trait SendBlocking: Exchange {
    fn send(&mut self, stamp: Stamp, timeout: std::time::Duration) -> Result<Self::Answer, Failure>;
}

/// Runs the call from a thread.
#[cfg(any(feature = "blocking-reqwest", feature = "blocking-ureq"))]
pub(crate) fn drive_blocking<E: SendBlocking>(
    session: &mut Session,
    exchange: &mut E,
) -> Result<(E::Answer, Option<Ending>), Error> {
    if session.must_be_kept() {
        let saved = session.saved(exchange.url(), exchange.headers(), exchange.body());
        session.held = Some(session.keep(saved)()?);
    }
    loop {
        let sent = exchange.send(session.stamp(), session.attempt_timeout());
        let landed = match session.after(sent, exchange) {
            Next::Wait(delay) => {
                std::thread::sleep(delay);
                continue;
            }
            Next::Follow(url) => {
                exchange.follow(url, session.method());
                continue;
            }
            Next::Land(answer, ending) => Ok((answer, ending)),
            Next::Fail(error) => Err(error),
        };
        if let Some(held) = session.finished(kind(&landed)) {
            held.settle();
        }
        return landed;
    }
}

fn kind<A>(landed: &Result<(A, Option<Ending>), Error>) -> Option<crate::error::Kind> {
    match landed {
        Ok((_, ending)) => ending.as_ref().map(|ending| ending.kind),
        Err(error) => Some(error.kind()),
    }
}
