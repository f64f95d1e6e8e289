//! The tables: made, brought up to date, and looked at before they are used.
//!
//! Next: `migrations/*.sql`, which say what is in them.

use semel::store::Durability;

use crate::address::chain;
use crate::config::{OpenError, OpenErrorKind};
use crate::session::Session;

/// How each version is made from the one before.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/1.sql")];

/// One migrates at a time. Nobody reads in between: the tables appear when this commits.
const BEGIN: &str = "BEGIN; SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = 0; \
    SELECT pg_advisory_xact_lock(8315168194530729)";

/// Makes the tables, or brings them up to date.
pub(crate) async fn migrate(session: &Session) -> Result<(), OpenError> {
    let broken = |error: tokio_postgres::Error| {
        OpenError::new(OpenErrorKind::Foreign, format!("the tables cannot be made: {}", chain(&error)))
    };
    session.client.batch_execute(BEGIN).await.map_err(broken)?;
    let from = match version(session).await? {
        Some(version) => version,
        None if exists(session, "semel_records").await? => return Err(foreign()),
        None => 0,
    };
    for (number, script) in (1..).zip(MIGRATIONS).filter(|(number, _)| *number > from) {
        session.client.batch_execute(script).await.map_err(broken)?;
        let set = format!("UPDATE semel_meta SET version = {number}");
        session.client.batch_execute(&set).await.map_err(broken)?;
    }
    session.client.batch_execute("COMMIT").await.map_err(broken)
}

/// Refuses tables that cannot be used, or keep less than `wanted`. Says whether a crash of the server empties one.
pub(crate) async fn check(session: &Session, wanted: Durability) -> Result<bool, OpenError> {
    let newest = i32::try_from(MIGRATIONS.len()).expect("there are few migrations");
    match version(session).await? {
        Some(version) if version == newest => {}
        Some(version) if version > newest => {
            return Err(OpenError::new(
                OpenErrorKind::Newer,
                format!(
                    "the tables are of version {version}, made by a newer semel; this one knows {newest}: use that \
                     semel or a newer one"
                ),
            ));
        }
        Some(_) => return Err(not_migrated("the tables were made by an older version of semel")),
        None if exists(session, "semel_records").await? => return Err(foreign()),
        None => return Err(not_migrated("the database has no tables of semel")),
    }
    let look = "SELECT bool_or(relpersistence = 'u'), bool_or(relkind = 'r' AND row_security_active(oid)), \
        bool_and(CASE relkind WHEN 'S' THEN has_sequence_privilege(oid, 'USAGE') \
            ELSE has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'UPDATE') END) \
        AND has_table_privilege('semel_records', 'INSERT') AND has_table_privilege('semel_records', 'DELETE') \
        FROM pg_class WHERE oid = ANY (ARRAY['semel_records', 'semel_meta', 'semel_tokens']::regclass[]::oid[])";
    let row = session.client.query_one(look, &[]).await.map_err(unreadable)?;
    let (unlogged, row_security, allowed): (bool, bool, bool) = (row.get(0), row.get(1), row.get(2));
    if !allowed {
        return Err(OpenError::new(
            OpenErrorKind::Foreign,
            "this role may not use the tables; it needs SELECT, INSERT, UPDATE, DELETE on semel_records, SELECT and \
             UPDATE on semel_meta, USAGE on semel_tokens",
        ));
    }
    if row_security {
        return Err(OpenError::new(
            OpenErrorKind::Foreign,
            "row security hides records from this role: a hidden one would run again; turn it off on semel_records",
        ));
    }
    if unlogged && wanted > Durability::None {
        return Err(OpenError::new(
            OpenErrorKind::Settings,
            "a table of semel is UNLOGGED: a crash of the server empties it, and every key would run again; ALTER \
             TABLE … SET LOGGED, or ask for durability = \"none\"",
        ));
    }
    Ok(unlogged)
}

/// The version of the tables; `None` when there are none.
async fn version(session: &Session) -> Result<Option<i32>, OpenError> {
    if !exists(session, "semel_meta").await? {
        return Ok(None);
    }
    let row = session.client.query_opt("SELECT version FROM semel_meta", &[]).await.map_err(unreadable)?;
    row.map(|row| row.get(0)).map_or_else(|| Err(foreign()), |version| Ok(Some(version)))
}

async fn exists(session: &Session, table: &str) -> Result<bool, OpenError> {
    let row = session.client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await;
    row.map(|row| row.get(0)).map_err(unreadable)
}

fn unreadable(error: tokio_postgres::Error) -> OpenError {
    OpenError::new(OpenErrorKind::Foreign, format!("the tables cannot be read: {}", chain(&error)))
}

fn not_migrated(what: &str) -> OpenError {
    let todo = "make them with `semel store migrate`, or open the store with migration allowed";
    OpenError::new(OpenErrorKind::NotMigrated, format!("{what}: {todo}"))
}

fn foreign() -> OpenError {
    OpenError::new(
        OpenErrorKind::Foreign,
        "there is a table semel_records or semel_meta that semel did not make; set another search_path",
    )
}
