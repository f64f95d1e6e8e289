//! Runs the log and imports two events into it, twice.
//!
//! ```sh
//! cargo run -p audit-log
//! ```

use audit_log::{AuditLog, Event, Recorded, app};
use semel::Engine;
use semel::store::memory::MemoryStore;
use semel_client::Once;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let recorded = Recorded::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let served = app(Engine::new(MemoryStore::new()), recorded.clone());
    tokio::spawn(async move { axum::serve(listener, served).await });

    let log = AuditLog::new(Once::new(), &url, "token")?;
    for _ in 0..2 {
        for action in ["login", "export"] {
            let event =
                Event { actor: "mallory".to_owned(), action: action.to_owned(), at_ms: 1_790_000_000_000 };
            log.create_event_under("import-2026-11", &event).await?;
        }
    }
    let recorded = recorded.lock().map_err(|error| error.to_string())?;
    println!("4 sent, {} recorded: {recorded:?}", recorded.len());
    Ok(())
}
