//! The tables of settled records: one for each segment.
//!
//! An expired segment's table is dropped whole, which reads its pages and frees them; rows deleted one by one would
//! have every page written again, and again when SQLite's log is moved to the file. Next: [`crate::upkeep`].

use rusqlite::{Connection, ErrorCode};

use crate::fault::Fault;
use crate::segment::Place;

const COLUMNS: &str = "(
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
) STRICT";

const VIEW: &str = "CREATE VIEW records AS
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
FROM";

/// SQLite takes 500 parts of a union.
const UNION_MAX: usize = 400;
/// Never grows: it gives `records` its columns while there is no other.
const NO_SEGMENT: u32 = 0;

pub(crate) fn insert(segment: u32) -> String {
    format!(
        "INSERT INTO settled_{segment} VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, \
         ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23)"
    )
}

pub(crate) fn select(segment: u32) -> String {
    format!("SELECT * FROM settled_{segment} WHERE place = ?1")
}

/// Without the body, which comes last.
pub(crate) fn list(segment: u32) -> String {
    format!(
        "SELECT place, token, attempt, tenant, operation, key, variant, target, payload, generation, claimed_us, \
         doubt_retention_us, state, cause, code, settled_us, expires_us, body_kept, body_bytes, body_checksum, \
         checksum, head FROM settled_{segment} WHERE place BETWEEN ?1 AND ?2"
    )
}

pub(crate) fn remove(segment: u32) -> String {
    format!(
        "UPDATE settled_{segment} SET state = 0, attempt = x'', tenant = '', operation = '', key = '', \
         variant = NULL, target = x'', payload = x'', head = x'', body = x'', body_bytes = 0, checksum = ?2 \
         WHERE place = ?1"
    )
}

/// Makes the table of a segment.
pub(crate) fn create(conn: &Connection, segment: u32) -> Result<(), rusqlite::Error> {
    conn.execute_batch(&format!("CREATE TABLE settled_{segment} {COLUMNS}"))?;
    show(conn)
}

/// Drops the table of a segment, if it is still there.
pub(crate) fn drop(conn: &Connection, segment: u32) -> Result<(), rusqlite::Error> {
    conn.execute_batch(&format!("DROP TABLE IF EXISTS settled_{segment}"))?;
    show(conn)
}

/// Whether the segment has a table.
pub(crate) fn exists(conn: &Connection, segment: u32) -> Result<bool, rusqlite::Error> {
    let name = format!("settled_{segment}");
    conn.prepare_cached("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?.exists([name])
}

/// What `read` finds in the table of a segment.
///
/// # Errors
/// [`Fault::Missing`] when the table is not there: damage, or a race of a reader with the folder.
pub(crate) fn read<T>(
    conn: &Connection,
    place: Place,
    read: impl FnOnce() -> Result<T, Fault>,
) -> Result<T, Fault> {
    read().or_else(|fault| match &fault {
        Fault::Sqlite(error)
            if error.sqlite_error_code() == Some(ErrorCode::Unknown) && !exists(conn, place.segment)? =>
        {
            Err(Fault::Missing(place.to_sql()))
        }
        _ => Err(fault),
    })
}

/// How many rows from `first` to `last` have a record.
pub(crate) fn count(conn: &Connection, first: Place, last: Place) -> Result<usize, Fault> {
    let count = format!(
        "SELECT count(*) FROM settled_{} WHERE place BETWEEN ?1 AND ?2 AND state <> 0",
        first.segment
    );
    let records: u32 =
        conn.prepare_cached(&count)?.query_row([first.to_sql(), last.to_sql()], |row| row.get(0))?;
    Ok(usize::try_from(records).unwrap_or(usize::MAX))
}

/// The newest row, if there is one.
pub(crate) fn newest(conn: &Connection, segment: u32) -> Result<Option<i64>, rusqlite::Error> {
    if !exists(conn, segment)? {
        return Ok(None);
    }
    conn.query_row(&format!("SELECT max(place) FROM settled_{segment}"), [], |row| row.get(0))
}

/// Gives each segment a table of its own, which were all in one up to format 2.
pub(crate) fn part(conn: &Connection) -> Result<(), rusqlite::Error> {
    create(conn, NO_SEGMENT)?;
    let mut segments = conn.prepare("SELECT id FROM segments")?;
    for segment in segments.query_map([], |row| row.get::<_, u32>(0))? {
        let segment = segment?;
        create(conn, segment)?;
        let (first, last) = Place::range(segment);
        conn.execute(
            &format!("INSERT INTO settled_{segment} SELECT * FROM settled WHERE place BETWEEN ?1 AND ?2"),
            [first, last],
        )?;
    }
    conn.execute_batch("DROP TABLE settled")
}

/// Makes the view for people over the tables that there are.
fn show(conn: &Connection) -> Result<(), rusqlite::Error> {
    let mut tables =
        conn.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB 'settled_*'")?;
    let tables: Vec<String> = tables.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let union = |parts: Vec<String>| parts.join(" UNION ALL ");
    let groups = tables.chunks(UNION_MAX).map(|tables| {
        let all = tables.iter().map(|table| format!("SELECT * FROM {table}")).collect();
        format!("SELECT * FROM ({})", union(all))
    });
    let rows = union(groups.collect());
    conn.execute_batch(&format!("DROP VIEW IF EXISTS records; {VIEW} ({rows}) WHERE state <> 0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    fn tables() -> Connection {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::migrate(&mut conn).unwrap();
        conn
    }

    fn records(conn: &Connection) -> u32 {
        let columns = "SELECT count(*), max(state), max(key), max(expires_at) FROM records";
        conn.query_row(columns, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn people_see_every_segment_however_many_there_are() {
        let conn = tables();
        assert_eq!(records(&conn), 0);
        let segments = u32::try_from(UNION_MAX).unwrap() * 2 + 1;
        conn.execute_batch("BEGIN").unwrap();
        for segment in 1..=segments {
            conn.execute_batch(&format!("CREATE TABLE settled_{segment} {COLUMNS}")).unwrap();
            let row = format!(
                "INSERT INTO settled_{segment} VALUES ({segment} << 32, 1, x'', '', '', '', NULL, x'', x'', 1, 0, 0, \
                 2, 0, 201, 0, 0, 1, 0, 0, 0, x'', x'')"
            );
            conn.execute_batch(&row).unwrap();
        }
        show(&conn).unwrap();
        assert_eq!(records(&conn), segments);
        drop(&conn, 1).unwrap();
        assert_eq!(records(&conn), segments - 1);
    }

    #[test]
    fn a_table_that_goes_between_two_reads_is_missing_and_another_error_is_not() {
        let conn = tables();
        create(&conn, 1).unwrap();
        let look = || {
            let place = Place::new(1, 0);
            read(&conn, place, || Ok(conn.prepare_cached(&select(1))?.exists([place.to_sql()])?))
        };
        assert!(!look().unwrap());
        drop(&conn, 1).unwrap();
        assert!(matches!(look(), Err(Fault::Missing(place)) if place == 1 << 32));
        let other = read(&conn, Place::new(0, 0), || Ok(conn.execute_batch("SELECT none FROM settled_0")?));
        assert!(matches!(other, Err(Fault::Sqlite(_))));
    }
}
