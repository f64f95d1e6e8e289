//! Callers and upstream, in one thread that never sleeps where it has a core of its own: to wake a sleeping core costs the
//! one who writes to it, and the slower a middle is, the oftener would it have to.
//!
//! Told what to do by lines of JSON, and answers with lines of JSON: what callers saw, or what was wrong with it.
//! Next: `load`, `upstream`.

use std::error::Error;
use std::rc::Rc;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;

use super::{load, upstream};

/// Serves and calls until its input ends; its first line of output is the upstream's port.
pub(super) async fn run(sleeps: bool) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", listener.local_addr()?.port());
    let book = Rc::default();
    tokio::task::spawn_local(upstream::serve(listener, Rc::clone(&book)));
    if !sleeps {
        tokio::task::spawn_local(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
    }
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await? {
        let saw = load::run(serde_json::from_str(&order)?, &book).await;
        println!("{}", serde_json::to_string(&saw.map_err(|error| error.to_string()))?);
    }
    Ok(())
}
