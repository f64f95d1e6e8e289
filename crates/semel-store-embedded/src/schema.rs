//! The tables of the file, and how a file of an older format becomes one of this format.
//!
//! The `settled` tables, made by [`crate::table`], hold everything that expires, one for each segment; a row is never
//! removed before its whole segment is, so that a missing row is damage and not absence. The `segment` tables say which
//! segments there are and find a digest in them. `folded` says up to where the log is in these tables. `records` is for people. Live claims
//! are in the log only.

use rusqlite::{Connection, OptionalExtension, Row};

use semel::clock::Timestamp;

use crate::codec;
use crate::config::OpenErrorKind;
use crate::fault::Fault;
use crate::table;

/// "Seml": what tells our files from other SQLite files.
const APPLICATION_ID: i32 = 0x5365_6d6c;

type Migration = fn(&Connection) -> Result<(), rusqlite::Error>;

/// What makes a file of format N from one of format N - 1, in order.
const MIGRATIONS: [Migration; 3] =
    [|conn| conn.execute_batch(FORMAT_1), |conn| conn.execute_batch(FORMAT_2), table::part];

const FORMAT_1: &str = "
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    clock_ceiling_us INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;

CREATE TABLE in_flight (
    token INTEGER PRIMARY KEY,
    attempt BLOB NOT NULL,
    tenant TEXT NOT NULL,
    operation TEXT NOT NULL,
    key TEXT NOT NULL,
    variant BLOB,
    target BLOB NOT NULL,
    payload BLOB NOT NULL,
    generation INTEGER NOT NULL,
    claimed_us INTEGER NOT NULL,
    doubt_retention_us INTEGER NOT NULL,
    lease_until_us INTEGER NOT NULL,
    execute_until_us INTEGER NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;

CREATE TABLE settled (
    place INTEGER PRIMARY KEY, -- segment << 32 | row
    token INTEGER NOT NULL,
    attempt BLOB NOT NULL,
    tenant TEXT NOT NULL,
    operation TEXT NOT NULL,
    key TEXT NOT NULL,
    variant BLOB,
    target BLOB NOT NULL,
    payload BLOB NOT NULL,
    generation INTEGER NOT NULL,
    claimed_us INTEGER NOT NULL,
    doubt_retention_us INTEGER NOT NULL,
    state INTEGER NOT NULL, -- 0 removed, 1 in doubt, 2 completed, 3 failed
    cause INTEGER NOT NULL, -- of a doubt: 0 lease expired, 1 no answer, 2 failed answer, 3 abandoned, 4 restarted
    code INTEGER NOT NULL,
    settled_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    body_kept INTEGER NOT NULL,
    body_bytes INTEGER NOT NULL, -- before compression
    body_checksum INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    head BLOB NOT NULL,
    body BLOB NOT NULL -- LZ4 block when shorter than body_bytes
) STRICT;

CREATE TABLE segments (
    id INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL, -- 0 finished, 1 in doubt
    width_s INTEGER NOT NULL,
    until_us INTEGER NOT NULL,
    rows INTEGER, -- once sealed
    checksum INTEGER NOT NULL -- of the filter too, once sealed
) STRICT;
CREATE TABLE segment_filters (
    id INTEGER PRIMARY KEY,
    bits BLOB NOT NULL
) STRICT;
CREATE TABLE segment_log (
    place INTEGER PRIMARY KEY, -- segment << 32 | first row
    digests BLOB NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE segment_index (
    place INTEGER PRIMARY KEY, -- segment << 32 | chunk
    entries BLOB NOT NULL,
    checksum INTEGER NOT NULL
) STRICT;

CREATE VIEW records AS
SELECT 'in-flight' AS state, tenant, operation, key, NULL AS code, NULL AS cause, generation, token,
    strftime('%Y-%m-%dT%H:%M:%fZ', claimed_us / 1e6, 'unixepoch') AS claimed_at,
    NULL AS settled_at, NULL AS expires_at, NULL AS body_bytes
FROM in_flight
UNION ALL
SELECT CASE state WHEN 1 THEN 'in-doubt' WHEN 2 THEN 'completed' ELSE 'failed' END,
    tenant, operation, key, CASE state WHEN 1 THEN NULL ELSE code END,
    CASE state WHEN 1 THEN
        CASE cause WHEN 0 THEN 'lease-expired' WHEN 1 THEN 'no-answer' WHEN 2 THEN 'failed-answer'
        WHEN 3 THEN 'abandoned' ELSE 'restarted' END
    END,
    generation, token,
    strftime('%Y-%m-%dT%H:%M:%fZ', claimed_us / 1e6, 'unixepoch'),
    strftime('%Y-%m-%dT%H:%M:%fZ', settled_us / 1e6, 'unixepoch'),
    strftime('%Y-%m-%dT%H:%M:%fZ', expires_us / 1e6, 'unixepoch'),
    body_bytes
FROM settled WHERE state <> 0;
";

/// Claims of format 1 that were in flight stay in their table until they are in the log as doubts, at opening.
const FORMAT_2: &str = "
CREATE TABLE folded (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    entry INTEGER NOT NULL, -- of the log: every entry before it is in these tables
    checksum INTEGER NOT NULL
) STRICT;

DROP VIEW records;
CREATE VIEW records AS
SELECT CASE state WHEN 1 THEN 'in-doubt' WHEN 2 THEN 'completed' ELSE 'failed' END AS state,
    tenant, operation, key, CASE state WHEN 1 THEN NULL ELSE code END AS code,
    CASE state WHEN 1 THEN
        CASE cause WHEN 0 THEN 'lease-expired' WHEN 1 THEN 'no-answer' WHEN 2 THEN 'failed-answer'
        WHEN 3 THEN 'abandoned' ELSE 'restarted' END
    END AS cause,
    generation, token,
    strftime('%Y-%m-%dT%H:%M:%fZ', claimed_us / 1e6, 'unixepoch') AS claimed_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', settled_us / 1e6, 'unixepoch') AS settled_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', expires_us / 1e6, 'unixepoch') AS expires_at,
    body_bytes
FROM settled WHERE state <> 0;
";

/// Why a file is not taken.
pub(crate) type Refusal = (OpenErrorKind, Box<dyn std::error::Error + Send + Sync>);

/// Brings the file to this format, or says why not. Runs before anything else is read.
pub(crate) fn migrate(conn: &mut Connection) -> Result<(), Refusal> {
    let format = format_of(conn)?;
    let tx = conn.transaction().map_err(refuse)?;
    for (number, step) in (1..).zip(MIGRATIONS).skip(format) {
        step(&tx).map_err(refuse)?;
        tx.pragma_update(None, "user_version", number).map_err(refuse)?;
    }
    if format == 0 {
        tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(refuse)?;
        set_ceiling(&tx, Timestamp::default()).map_err(refuse)?;
    }
    if format < 2 {
        set_folded(&tx, 0).map_err(refuse)?;
    }
    tx.commit().map_err(refuse)
}

fn format_of(conn: &Connection) -> Result<usize, Refusal> {
    let number = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(refuse);
    let (application, format) = (number("application_id")?, number("user_version")?);
    let table: Option<String> = conn
        .query_row("SELECT name FROM sqlite_schema LIMIT 1", [], |row| row.get(0))
        .optional()
        .map_err(refuse)?;
    if table.is_none() && application == 0 && format == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err((OpenErrorKind::Foreign, format!("its application id is {application:#x}").into()));
    }
    match usize::try_from(format) {
        Ok(known) if (1..=MIGRATIONS.len()).contains(&known) => Ok(known),
        Ok(newer) if newer > MIGRATIONS.len() => Err((
            OpenErrorKind::Newer,
            format!("its format is {newer}, the newest known is {}", MIGRATIONS.len()).into(),
        )),
        _ => Err((OpenErrorKind::Damaged, format!("its format is {format}").into())),
    }
}

fn refuse(error: rusqlite::Error) -> Refusal {
    use rusqlite::ErrorCode as Code;
    let kind = match error.sqlite_error_code() {
        Some(Code::NotADatabase) => OpenErrorKind::Foreign,
        Some(Code::DatabaseCorrupt) => OpenErrorKind::Damaged,
        _ => OpenErrorKind::Io,
    };
    (kind, error.into())
}

/// Sets the time that a store begins at, at the least.
pub(crate) fn set_ceiling(conn: &Connection, ceiling: Timestamp) -> Result<(), rusqlite::Error> {
    set(conn, "INSERT OR REPLACE INTO meta VALUES (1, ?1, ?2)", codec::time(ceiling))
}

/// The time that a store begins at, at the least.
pub(crate) fn ceiling(conn: &Connection) -> Result<Timestamp, Fault> {
    codec::to_time(get(conn, "SELECT clock_ceiling_us, checksum FROM meta", "the clock's ceiling")?)
}

/// Sets the number of the first entry of the log that is not in the tables.
pub(crate) fn set_folded(conn: &Connection, entry: u64) -> Result<(), rusqlite::Error> {
    let entry = i64::try_from(entry).unwrap_or(i64::MAX);
    set(conn, "INSERT OR REPLACE INTO folded VALUES (1, ?1, ?2)", entry)
}

/// The number of the first entry of the log that is not in the tables.
pub(crate) fn folded(conn: &Connection) -> Result<u64, Fault> {
    let entry = get(conn, "SELECT entry, checksum FROM folded", "the place in the log")?;
    u64::try_from(entry).map_err(|_| Fault::damaged("a place in the log below zero"))
}

fn set(conn: &Connection, sql: &str, number: i64) -> Result<(), rusqlite::Error> {
    let checksum = codec::checksum(&number.to_le_bytes());
    conn.prepare_cached(sql)?.execute([number, checksum]).map(|_| ())
}

fn get(conn: &Connection, sql: &str, what: &str) -> Result<i64, Fault> {
    let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    match conn.query_row(sql, [], read).optional()? {
        Some((number, checksum)) if checksum == codec::checksum(&number.to_le_bytes()) => Ok(number),
        Some(_) => Err(Fault::damaged(format!("the checksum of {what} does not match"))),
        None => Err(Fault::damaged(format!("{what} is gone"))),
    }
}
