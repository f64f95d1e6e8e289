//! Reading beside the writer: a few read-only connections, used on tokio's blocking threads.
//!
//! Next: [`crate::store`].

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::{Connection, OpenFlags};
use semel::clock::Timestamp;
use semel::digest::Digest;
use semel::record::StateKind;
use semel::store::{Page, ScanArgs};
use semel::{Record, Token};
use tokio::sync::Semaphore;

use crate::codec;
use crate::fault::Fault;
use crate::index::Index;
use crate::open::STATEMENTS;
use crate::segment::Place;
use crate::table;

/// How many read at once; more wait.
const READERS: usize = 4;
/// How many rows one page looks at, so that a filter that fits nothing does not read the whole file in one go.
const SCAN_ROWS: i64 = 20_000;

/// The connections that are not in use.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::default(), permits: Semaphore::new(READERS) }
    }

    /// Runs `read` on a connection that sees every commit so far.
    pub(crate) async fn run<T: Send + 'static>(
        self: &std::sync::Arc<Self>,
        read: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let _permit = self.permits.acquire().await.expect("the semaphore is never closed");
        let readers = std::sync::Arc::clone(self);
        let job = move || {
            let conn = readers.take()?;
            let answer = read(&conn);
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
            answer
        };
        match tokio::task::spawn_blocking(job).await {
            Ok(answer) => answer,
            Err(ended) => Err(Fault::damaged(format!("a read did not end: {ended}"))),
        }
    }

    fn take(&self) -> Result<Connection, rusqlite::Error> {
        if let Some(conn) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(conn);
        }
        connect(&self.path)
    }
}

/// A connection that only reads.
pub(crate) fn connect(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.pragma_update(None, "cache_size", -512)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(conn)
}

/// Where a page of a scan begins: among live claims by token, then among settled records by place.
#[derive(Clone, Copy)]
enum Cursor {
    InFlight(Token),
    Settled(i64),
}

impl Cursor {
    fn parse(text: Option<&str>) -> Option<Self> {
        let Some(text) = text else { return Some(Self::InFlight(Token(0))) };
        match text.split_once('.')? {
            ("c", token) => token.parse().ok().map(|token| Self::InFlight(Token(token))),
            ("s", place) => place.parse().ok().map(Self::Settled),
            _ => None,
        }
    }

    fn text(self) -> String {
        match self {
            Self::InFlight(token) => format!("c.{token}"),
            Self::Settled(place) => format!("s.{place}"),
        }
    }
}

/// What of a page the index knows, and what must be read.
pub(crate) struct Scan {
    page: Page,
    /// From where on settled records are read, when the page has room for them.
    from: Option<i64>,
    /// Segments to read, as first place and the one after the last.
    ranges: Vec<(Place, Place)>,
    /// Records whose rows in the tables are not how they stand.
    newer: HashSet<Digest>,
    args: ScanArgs,
}

impl Scan {
    /// The live claims of the page. `None` when the cursor is not one of ours.
    pub(crate) fn begin(index: &Index, args: ScanArgs, now: Timestamp) -> Option<Self> {
        let mut page = Page { now, ..Page::default() };
        let from = match Cursor::parse(args.cursor.as_deref())? {
            Cursor::Settled(place) => Some(place),
            Cursor::InFlight(after) => {
                let mut claims: Vec<&Record> = index
                    .in_flight
                    .values()
                    .map(|live| &live.record)
                    .filter(|record| record.guard.token > after)
                    .collect();
                claims.sort_unstable_by_key(|record| record.guard.token);
                let live = claims.into_iter().filter_map(|record| record.clone().at(now));
                page.records = live.filter(|record| args.admits(record)).take(args.limit).collect();
                let full = page.records.len() == args.limit;
                page.next = page
                    .records
                    .last()
                    .filter(|_| full)
                    .map(|last| Cursor::InFlight(last.guard.token).text());
                (!full).then_some(0)
            }
        };
        let wanted = |doubt: bool| match args.state {
            None => true,
            Some(StateKind::InFlight) => false,
            Some(StateKind::InDoubt) => doubt,
            Some(StateKind::Completed | StateKind::Failed) => !doubt,
        };
        let live = index
            .segments
            .iter()
            .filter(|(_, segment)| now < segment.class.until && wanted(segment.class.doubt));
        let ranges = live.map(|(id, segment)| (Place::new(*id, 0), Place::new(*id, segment.rows)));
        let over = index.in_flight.iter().filter(|(_, live)| live.over).map(|(digest, _)| *digest);
        let newer = over.chain(index.pending.keys().copied()).collect();
        Some(Self { page, from, ranges: ranges.collect(), newer, args })
    }

    /// The settled records of the page.
    pub(crate) fn finish(mut self, conn: &Connection) -> Result<Page, Fault> {
        let Some(from) = self.from else { return Ok(self.page) };
        let mut budget = SCAN_ROWS;
        let ranges = std::mem::take(&mut self.ranges).into_iter();
        for (first, end) in ranges.filter(|(_, end)| from < end.to_sql()) {
            let range = [first.to_sql().max(from), end.to_sql() - 1];
            match table::read(conn, first, || self.read(conn, first.segment, range, &mut budget)) {
                Ok(true) => break,
                // A table that is gone was dropped since the page was begun: everything in it had expired.
                Ok(false) | Err(Fault::Missing(_)) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(self.page)
    }

    /// Adds what the segment has between two places, or says that no more fits on the page.
    fn read(
        &mut self,
        conn: &Connection,
        segment: u32,
        range: [i64; 2],
        budget: &mut i64,
    ) -> Result<bool, Fault> {
        let mut select = conn.prepare_cached(&table::list(segment))?;
        let mut rows = select.query(range)?;
        while let Some(row) = rows.next()? {
            if self.page.records.len() == self.args.limit || *budget == 0 {
                self.page.next = Some(Cursor::Settled(row.get(0)?).text());
                return Ok(true);
            }
            *budget -= 1;
            let Some(record) = codec::read_settled(row, false)? else { continue };
            if self.newer.contains(&record.id.digest()) {
                continue;
            }
            self.page.records.extend(record.at(self.page.now).filter(|record| self.args.admits(record)));
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;
    use crate::index::{Lookup, Segment};
    use crate::schema;
    use crate::segment::Class;

    const NOW: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    #[test]
    fn a_page_passes_over_a_segment_that_was_dropped_after_it_was_begun() {
        let class = Class { doubt: false, width_s: 1, until: NOW.plus(Duration::from_secs(1)) };
        let mut index = Index::default();
        index.segments.insert(1, Segment { class, rows: 1, bytes: 0, lookup: Lookup::Exact(HashMap::new()) });
        let args =
            ScanArgs { tenant: None, operation: None, key: None, state: None, cursor: None, limit: 10 };
        let scan = Scan::begin(&index, args, NOW).unwrap();
        let mut conn = Connection::open_in_memory().unwrap();
        schema::migrate(&mut conn).unwrap();
        let page = scan.finish(&conn).unwrap();
        assert!(page.records.is_empty() && page.next.is_none());
    }
}
