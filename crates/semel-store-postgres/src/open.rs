//! Opening: the first connection, the tables, and the tasks that serve callers from then on.

use std::sync::Arc;

use crate::bell::Bell;
use crate::config::{OpenError, PostgresConfig};
use crate::reader::Side;
use crate::schema;
use crate::session::Dialer;
use crate::store::PostgresStore;
use crate::watch::Watchers;
use crate::writer::Lane;

/// Connections that read what stands.
const READERS: usize = 1;

/// Makes the tables.
pub(crate) async fn migrate(config: &PostgresConfig) -> Result<(), OpenError> {
    let session = Arc::new(Dialer::new(config)?).dial(None).await?;
    schema::migrate(&session).await
}

pub(crate) async fn open(config: PostgresConfig) -> Result<PostgresStore, OpenError> {
    let dialer = Arc::new(Dialer::new(&config)?);
    let session = dialer.dial(None).await?;
    if config.migrate || dialer.migrates() {
        schema::migrate(&session).await?;
    }
    let unlogged = schema::check(&session, config.durability).await?;
    let watchers = Arc::new(Watchers::default());
    Ok(PostgresStore {
        claims: Lane::open(&dialer, config.writers),
        completions: Lane::open(&dialer, config.writers),
        writes: Lane::open(&dialer, 1),
        reads: Lane::open(&dialer, READERS),
        side: Side::new(Arc::clone(&dialer), session),
        bell: Bell::start(Arc::clone(&dialer), Arc::clone(&watchers)),
        watchers,
        dialer,
        unlogged,
    })
}
