//! Taking orders: the handler, and the transaction that order and record share.
//!
//! Next: [`take`].

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use deadpool_postgres::{Manager, Pool};
use semel::{Fingerprint, Key, Operation, Outcome, RecordId, Tenant, fingerprint};
use semel_store_postgres::transaction::{self, Begun, Options};
use semel_store_postgres::{PostgresConfig, PostgresStore};
use serde::{Deserialize, Serialize};
use tokio_postgres::NoTls;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Anything that goes wrong here.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What a customer wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// What.
    pub item: String,
    /// How many, at least one.
    pub count: i32,
}

/// The database at `url`, with the tables this API needs.
///
/// # Errors
/// When it cannot be reached, or the tables cannot be made.
pub async fn database(url: &str) -> Result<Pool, Failure> {
    PostgresStore::migrate(&PostgresConfig::new(url)).await?;
    let pool = Pool::builder(Manager::new(url.parse()?, NoTls)).max_size(16).build()?;
    let orders = "CREATE TABLE IF NOT EXISTS orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, \
                  item text NOT NULL, count integer NOT NULL CHECK (count > 0))";
    pool.get().await?.batch_execute(orders).await?;
    Ok(pool)
}

/// The API.
pub fn app(pool: Pool) -> Router {
    Router::new().route("/orders", get(list).post(answer)).with_state(pool)
}

async fn answer(State(pool): State<Pool>, headers: HeaderMap, body: Bytes) -> Response {
    match take(&pool, &headers, &body).await {
        Ok(answer) => answer,
        Err(error) => {
            eprintln!("an order was not taken: {error}");
            (StatusCode::SERVICE_UNAVAILABLE, "try again with the same key").into_response()
        }
    }
}

/// Takes an order, or replays what came of it. Whatever goes wrong before the commit has changed nothing, and the same
/// key may be sent again.
///
/// # Errors
/// What the database says.
pub async fn take(pool: &Pool, headers: &HeaderMap, body: &[u8]) -> Result<Response, Failure> {
    let key = headers.get("idempotency-key").and_then(|value| Key::from_header(value.as_bytes()).ok());
    let (Some(key), Ok(order)) = (key, serde_json::from_slice::<Order>(body)) else {
        return Ok(
            (StatusCode::BAD_REQUEST, "an order and a valid Idempotency-Key are needed").into_response()
        );
    };
    // Whose key it is. An API with accounts takes the account's id here, which does not rotate.
    let tenant = headers.get(header::AUTHORIZATION).map(|value| Tenant::credential(value.as_bytes()));
    let id = RecordId::new(tenant.unwrap_or_else(Tenant::public), Operation::new("order"), key);
    let request = Fingerprint {
        target: fingerprint::target("POST", "/orders", None),
        payload: fingerprint::payload(body, &fingerprint::PayloadParts::Json),
    };

    let mut client = pool.get().await?;
    let mut tx = client.transaction().await?;
    let outcome = match transaction::begin(&mut *tx, &id, request, Options::default()).await? {
        Begun::Run(claim) => {
            let outcome = insert(&mut tx, &order).await?;
            claim.complete(&mut *tx, &outcome, DAY).await?;
            outcome
        }
        Begun::Replay(outcome) | Begun::Failed(outcome) => outcome,
        Begun::Mismatch(_) => {
            return Ok(refuse(StatusCode::UNPROCESSABLE_ENTITY, "the key was used for another order"));
        }
        _ => return Ok(refuse(StatusCode::CONFLICT, "an order with this key is being taken")),
    };
    tx.commit().await?;
    let location = String::from_utf8(outcome.head.to_vec())?;
    let headers = [(header::LOCATION, location), (header::CONTENT_TYPE, "application/json".to_owned())];
    Ok((StatusCode::from_u16(outcome.code)?, headers, outcome.body).into_response())
}

/// The effect: everything that is done in SQL belongs here.
async fn insert(tx: &mut tokio_postgres::Transaction<'_>, order: &Order) -> Result<Outcome, Failure> {
    let insert = "INSERT INTO orders (item, count) VALUES ($1, $2) RETURNING id";
    let row = tx.query_one(insert, &[&order.item, &order.count]).await?;
    let number: i64 = row.get(0);
    let (head, body) = (format!("/orders/{number}").into(), serde_json::to_vec(order)?.into());
    Ok(Outcome { code: 201, head, body, body_kept: true })
}

fn refuse(status: StatusCode, why: &'static str) -> Response {
    (status, [(header::RETRY_AFTER, "1")], why).into_response()
}

async fn list(State(pool): State<Pool>) -> Result<String, (StatusCode, String)> {
    let broken = |error: &dyn std::error::Error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string());
    let client = pool.get().await.map_err(|error| broken(&error))?;
    let row = client.query_one("SELECT count(*) FROM orders", &[]).await.map_err(|error| broken(&error))?;
    Ok(format!("{} orders\n", row.get::<_, i64>(0)))
}
