//! Serves the orders API on 127.0.0.1:3000, with its records in `orders.sqlite` beside it.
//!
//! ```sh
//! cargo run -p axum-orders
//! curl -i 127.0.0.1:3000/orders -H 'Idempotency-Key: order-42' --json '{"item": "pen", "count": 3}'   # twice
//! ```

use semel::Engine;
use semel_store_embedded::{EmbeddedConfig, EmbeddedStore};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new(EmbeddedStore::open(EmbeddedConfig::new("orders.sqlite"))?);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    axum::serve(listener, axum_orders::app(engine, axum_orders::Orders::default())).await?;
    Ok(())
}
