//! Opening a store: who owns it, which format it has, what of it must be in memory, what the log has that the tables
//! have not, and that every claim which was in flight when its process ended is in doubt.
//!
//! Next: [`crate::writer`] and [`crate::fold`], which take over from here.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, RwLock};

use rusqlite::{Connection, ErrorCode};
use semel::clock::{Clock, SystemClock, Timestamp};
use semel::digest::Digest;
use semel::store::{Durability, StoreErrorKind};
use semel::{State, Token};

use crate::codec;
use crate::config::{EmbeddedConfig, OpenError, OpenErrorKind};
use crate::entry::Entry;
use crate::fault::Fault;
use crate::filter::Filter;
use crate::fold::{self, Folder, Health, Job};
use crate::index::{self, Index, Live, Lookup, Pending, Segment};
use crate::log::{self, Log, Refusal, Spare};
use crate::owner::{Owner, private};
use crate::reader;
use crate::schema;
use crate::segment::{self, Class, Place};
use crate::table;
use crate::watch::Watchers;
use crate::writer::{self, Writer};

/// The smallest release without known faults of the write-ahead log.
const SQLITE_MIN: i32 = 3_051_003;
const PAGE_BYTES: u32 = 8_192;
/// Those on a table of a segment are one for each.
pub(crate) const STATEMENTS: usize = 64;

/// Opens the file and makes everything but the threads.
pub(crate) fn open(config: &EmbeddedConfig) -> Result<Opened, OpenError> {
    let path =
        &resolved(&config.path).map_err(|error| OpenError::new(OpenErrorKind::Io, &config.path, error))?;
    let refuse = |fault| refusal(path, fault);
    let owner = Owner::take(path)?;
    let conn = file(path, config)?;
    let mut tables = load(&conn).map_err(refuse)?;
    let logged = logged(&conn, &tables.index).map_err(refuse)?;
    let sync = config.durability == Durability::Power;
    let found = log::read(path, tables.folded, sync).map_err(refuse)?;
    let floor = replay(&mut tables, found.entries);
    let clock: Arc<dyn Clock> = match &config.clock {
        Some(clock) => Arc::new(Floored { clock: Arc::clone(clock), floor }),
        None => Arc::new(SystemClock::not_before(floor)),
    };
    let io = |error| OpenError::new(OpenErrorKind::Io, path, error);
    let spare = Arc::new(Spare::new(path));
    let mut log = Log::begin(path, found.next_file, tables.next, sync, Arc::clone(&spare)).map_err(io)?;
    match writer::doubt_live(&mut log, &mut tables.index, clock.now()) {
        Ok(()) => {}
        Err(Refusal::Full(error) | Refusal::Broken(error)) => return Err(io(error)),
    }
    // They are in the log now.
    conn.execute_batch("DROP TABLE IF EXISTS in_flight").map_err(|error| refuse(error.into()))?;
    let reading = reader::connect(path).map_err(|error| refuse(error.into()))?;
    let (index, health) = (Arc::new(RwLock::new(tables.index)), Arc::new(Health::default()));
    let (jobs, waiting) = std::sync::mpsc::channel();
    let folder = Folder {
        conn,
        index: Arc::clone(&index),
        clock: Arc::clone(&clock),
        health: Arc::clone(&health),
        segment_rows: config.segment_rows,
        due: tables.due,
        sealing: None,
        dropping: None,
        logged,
        closed: found.closed.into(),
        spare,
        folded: tables.folded,
        newest_segment: 0,
        transaction_bytes: fold::TRANSACTION_BYTES,
        owner,
    };
    let writer = Writer {
        log,
        conn: reading,
        index,
        watchers: Arc::new(Watchers::default()),
        clock,
        ceiling: floor,
        health,
        folder: jobs,
        closed: Vec::new(),
        entries: Vec::new(),
        asked_for_spare: false,
    };
    Ok(Opened { path: path.clone(), writer, folder, jobs: waiting })
}

/// The file, in this version's format.
fn file(path: &Path, config: &EmbeddedConfig) -> Result<Connection, OpenError> {
    if rusqlite::version_number() < SQLITE_MIN {
        let why = format!("SQLite {} is too old", rusqlite::version());
        return Err(OpenError::new(OpenErrorKind::Io, path, why));
    }
    // SQLite gives its other files the mode of this one.
    private().open(path).map_err(|error| OpenError::new(OpenErrorKind::Io, path, error))?;
    let mut conn = connect(path, config).map_err(|error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::new(OpenErrorKind::Foreign, path, error),
        _ => refusal(path, error.into()),
    })?;
    schema::migrate(&mut conn).map_err(|(kind, source)| OpenError::new(kind, path, source))?;
    Ok(conn)
}

fn refusal(path: &Path, fault: Fault) -> OpenError {
    let kind = match fault.kind() {
        StoreErrorKind::Corrupt => OpenErrorKind::Damaged,
        _ => OpenErrorKind::Io,
    };
    OpenError::new(kind, path, fault)
}

/// Where the file is whatever it is called by, so that owner and log lie beside it and not beside a link to it.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new(".")).canonicalize()?;
            Ok(folder.join(path.file_name().ok_or(error)?))
        }
        found => found,
    }
}

/// The two halves of an open store, each for a thread of its own.
pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) writer: Writer,
    pub(crate) folder: Folder,
    pub(crate) jobs: Receiver<Job>,
}

/// What the file holds.
struct Tables {
    index: Index,
    due: VecDeque<u32>,
    /// The time that the store begins at, at the least.
    floor: Timestamp,
    folded: u64,
    /// What the next entry of the log is numbered.
    next: u64,
}

fn connect(path: &Path, config: &EmbeddedConfig) -> Result<Connection, rusqlite::Error> {
    let conn = Connection::open(path)?;
    conn.pragma_update(None, "page_size", PAGE_BYTES)?;
    conn.pragma_update(None, "journal_mode", "wal")?;
    let synchronous = if config.durability == Durability::Power { "full" } else { "normal" };
    conn.pragma_update(None, "synchronous", synchronous)?;
    conn.pragma_update(None, "wal_autocheckpoint", 0)?;
    conn.pragma_update(None, "temp_store", "memory")?;
    conn.pragma_update(None, "cache_size", -8_192)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    if let Some(bytes) = config.file_max_bytes {
        conn.pragma_update(
            None,
            "max_page_count",
            i64::try_from(bytes / u64::from(PAGE_BYTES)).unwrap_or(i64::MAX),
        )?;
    }
    Ok(conn)
}

fn load(conn: &Connection) -> Result<Tables, Fault> {
    for table in ["meta", "folded", "segments", "segment_log"] {
        let verdict: String =
            conn.query_row(&format!("PRAGMA integrity_check({table})"), [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(Fault::damaged(verdict));
        }
    }
    let (floor, folded) = (schema::ceiling(conn)?, schema::folded(conn)?);
    let mut index = Index { last: Token(floor.as_micros()), ..Index::default() };
    load_in_flight(conn, &mut index)?;
    load_segments(conn, &mut index)?;
    let due = load_log(conn, &mut index)?;
    Ok(Tables { index, due, floor, folded, next: folded })
}

/// Brings the index to where the log says, and returns the time that the store begins at, at the least.
fn replay(tables: &mut Tables, entries: Vec<(u64, Entry)>) -> Timestamp {
    let Tables { index, folded, next, floor, .. } = tables;
    for (number, entry) in entries {
        *floor = entry.vouches_for().max(*floor);
        *next = (number + 1).max(*next);
        match entry {
            Entry::Live(mut live) => {
                // It may have been renewed, which the log does not say.
                if let State::InFlight { lease_until, execute_until } = &mut live.record.state {
                    *lease_until = *execute_until;
                }
                index.in_flight.insert(live.record.id.digest(), live);
            }
            Entry::Ceiling(_) => {}
            Entry::Settled(settled, over) => {
                let digest = settled.record.id.digest();
                index.in_flight.remove(&digest);
                if number >= *folded {
                    index.put_pending(digest, Pending { entry: number, settled: Some(settled), over });
                }
            }
            Entry::Removed(digest, over) => {
                index.in_flight.remove(&digest);
                if number >= *folded {
                    index.put_pending(digest, Pending { entry: number, settled: None, over });
                }
            }
        }
    }
    index.last = index.last.max(Token(floor.as_micros()));
    *floor
}

/// What a file of format 1 has.
fn load_in_flight(conn: &Connection, index: &mut Index) -> Result<(), Fault> {
    let exists = "SELECT count(*) FROM sqlite_schema WHERE name = 'in_flight'";
    if conn.query_row(exists, [], |row| row.get::<_, u32>(0))? == 0 {
        return Ok(());
    }
    let mut select = conn.prepare(codec::SELECT_IN_FLIGHT)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let record = codec::read_in_flight(row)?;
        // A doubt that was taken over was overwritten at once in that format.
        index.in_flight.insert(record.id.digest(), Live { record, over: false });
    }
    Ok(())
}

fn load_segments(conn: &Connection, index: &mut Index) -> Result<(), Fault> {
    let mut select = conn.prepare(
        "SELECT id, kind, width_s, until_us, rows, bits, checksum FROM segments LEFT JOIN segment_filters USING (id)",
    )?;
    let mut found = select.query([])?;
    while let Some(row) = found.next()? {
        let id: u32 = row.get(0)?;
        let class = Class { doubt: row.get(1)?, width_s: row.get(2)?, until: codec::to_time(row.get(3)?)? };
        let rows: Option<u32> = row.get(4)?;
        let wrong = || Fault::damaged(format!("segment {id} is damaged"));
        let filter = row.get_ref(5)?.as_blob_or_null().map_err(|_| wrong())?;
        if segment::checksum(id, class, rows, filter.unwrap_or_default()) != row.get::<_, i64>(6)? {
            return Err(wrong());
        }
        let lookup = match (filter, rows) {
            (Some(bits), Some(_)) => Lookup::Sealed(Filter::from_bytes(bits).ok_or_else(wrong)?),
            (None, None) => Lookup::Exact(HashMap::new()),
            _ => return Err(wrong()),
        };
        index.segments.insert(id, Segment { class, rows: rows.unwrap_or(0), bytes: 0, lookup });
    }
    Ok(())
}

/// The digests of segments that are not sealed. Returns those that grow no more because a newer one of their class
/// does.
fn load_log(conn: &Connection, index: &mut Index) -> Result<VecDeque<u32>, Fault> {
    let mut due = VecDeque::new();
    let mut select =
        conn.prepare("SELECT place, digests, checksum FROM segment_log WHERE place BETWEEN ?1 AND ?2")?;
    for (id, segment) in &mut index.segments {
        let Lookup::Exact(known) = &mut segment.lookup else { continue };
        let mut found = select.query(Place::range(*id))?;
        let wrong = || Fault::damaged(format!("the log of segment {id} is damaged"));
        while let Some(row) = found.next()? {
            let place: i64 = row.get(0)?;
            let digests = row.get_ref(1)?.as_blob().map_err(|_| wrong())?;
            if place != Place::new(*id, segment.rows).to_sql()
                || index::chunk_checksum(place, digests) != row.get::<_, i64>(2)?
            {
                return Err(wrong());
            }
            for digest in digests.as_chunks::<16>().0 {
                known.insert(Digest::from_bytes(*digest), segment.rows);
                segment.rows += 1;
            }
        }
        // The table of an expired segment may have been dropped already.
        if let Some(newest) = table::newest(conn, *id)?
            && newest + 1 != Place::new(*id, segment.rows).to_sql()
        {
            return Err(Fault::damaged(format!("segment {id} has lost its newest rows")));
        }
        due.extend(index.growing.insert(segment.class, *id));
    }
    Ok(due)
}

/// Sealed segments whose log was not dropped before the process ended.
fn logged(conn: &Connection, index: &Index) -> Result<VecDeque<u32>, Fault> {
    let mut select = conn.prepare("SELECT min(place) FROM segment_log WHERE place BETWEEN ?1 AND ?2")?;
    let mut logged = VecDeque::new();
    for (id, segment) in &index.segments {
        let first: Option<i64> = select.query_row(Place::range(*id), |row| row.get(0))?;
        if first.is_some() && matches!(segment.lookup, Lookup::Sealed(_)) {
            logged.push_back(*id);
        }
    }
    Ok(logged)
}

/// A given clock that never shows a time before what the file vouches for.
#[derive(Debug)]
struct Floored {
    clock: Arc<dyn Clock>,
    floor: Timestamp,
}

impl Clock for Floored {
    fn now(&self) -> Timestamp {
        self.clock.now().max(self.floor)
    }
}
