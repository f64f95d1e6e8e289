//! Who is asked: the gateway that owns the store, or the store itself when nobody owns it, or many do.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use semel::engine::Limits;
use semel::{Engine, Store};
use semel_admin::{Admin, Client, Metrics};

use crate::exit::{Exit, Failure};
use crate::store_url::{StoreArgs, StoreUrl};

/// Reaches the records. Opening the store here makes doubts of what was in flight when its owner died, as the start of
/// a gateway does.
pub(super) async fn reach(args: &StoreArgs, verbose: bool) -> Result<Client, Failure> {
    let config = args.config()?;
    let url = args.url(&config)?;
    let refuse = |text: String| Failure::new(Exit::Unreachable, text);
    let path = match &url {
        StoreUrl::Embedded(path) => path,
        StoreUrl::Postgres(_) | StoreUrl::Redis(_) => {
            tell(verbose, format_args!("opened {url}"));
            return Ok(in_process(url.open(&config).await?));
        }
        StoreUrl::Memory => {
            return Err(refuse(
                "a memory store is known only to its own process; its gateway shows it at GET /keys of the admin \
                 listener"
                    .to_owned(),
            ));
        }
    };
    if !path.exists() {
        return Err(refuse(format!("there is no store {url}; --store names another")));
    }
    let Some(socket) = url.socket() else { unreachable!("an embedded store has a socket") };
    match UnixStream::connect(&socket) {
        Ok(_) => {
            tell(verbose, format_args!("asking the owner of {url} at {}", socket.display()));
            return Ok(Client::at_socket(socket));
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {}
        Err(error) => return Err(refuse(format!("{} cannot be reached: {error}", socket.display()))),
    }
    let store = url.open(&config).await?;
    tell(verbose, format_args!("nobody owns {url}: opened it; what was in flight there is in doubt"));
    Ok(in_process(store))
}

fn in_process(store: Arc<dyn Store>) -> Client {
    let metrics = Arc::new(Metrics::new());
    let engine = Engine::with(store, metrics.clone(), Limits::default());
    Client::in_process(Admin::new(engine, metrics, semel_tower::replay::outcome).operator())
}

fn tell(verbose: bool, text: std::fmt::Arguments<'_>) {
    if verbose {
        anstream::eprintln!("{text}");
    }
}
