//! Serves the API on port 3000.
//!
//! ```sh
//! DATABASE_URL=postgres://me@localhost/shop cargo run -p postgres-orders
//! curl -i localhost:3000/orders -H 'Idempotency-Key: order-42' -d '{"item": "pen", "count": 3}'
//! ```

use postgres_orders::{Failure, app, database};

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let url =
        std::env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL to postgres://USER@HOST/DATABASE")?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    Ok(axum::serve(listener, app(database(&url).await?)).await?)
}
