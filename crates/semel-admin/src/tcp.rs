//! The accept loop of the reader: a head that never ends must not hold a connection for ever, and `axum::serve` has
//! no timer to end it with.
//!
//! Not the owner-only socket, which only the owner can hold open. Next: [`crate::api`], what is served.

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};

/// For a request's head, from the start of the connection or from the answer before.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The rest after an accept that failed for lack of descriptors, so that it does not spin.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves `router` until `stop`, and then what is being answered.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: impl Future<Output = ()>) {
    let connections = GracefulShutdown::new();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&listener) => accepted,
        };
        let Some(stream) = accepted else { continue };
        let service = TowerToHyperService::new(router.clone());
        let connection = connections.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the admin listener ended");
            }
        });
    }
    connections.shutdown().await;
}

async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    let accepted: io::Result<_> = async {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
    .await;
    match accepted {
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, "the admin listener cannot accept");
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}
