//! The PostgreSQL store under the suite that every store must pass, against a server of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use semel::clock::ManualClock;
use semel_store_postgres::{PostgresConfig, PostgresStore};
use semel_testkit::conformance::Subject;
use semel_testkit::server::postgres::PostgresServer;

async fn make(_: Arc<ManualClock>) -> Subject {
    let server = PostgresServer::start();
    let config = PostgresConfig::new(server.url("postgres"))
        .durability(semel::store::Durability::Process)
        .migrate(true);
    Subject::on_real_time(Arc::new(PostgresStore::open(config).await.unwrap())).keeping(server)
}

semel_testkit::conformance_suite!(make);
