//! A journal in one SQLite file, which one process owns while it has it open.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rusqlite::{Connection, params};
use semel::Key;
use url::Url;

use crate::error::BoxError;
use crate::journal::{EntryId, Journal, Saved, Unfinished};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS call (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL,
        method TEXT NOT NULL,
        url TEXT NOT NULL,
        headers BLOB NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    PRAGMA user_version = 1;";

/// What a call that was written down survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The loss of power: an fsync for each call, before it is sent.
    #[default]
    Power,
    /// The end of the process by whatever means.
    Process,
}

/// Calls in an SQLite file.
#[derive(Debug)]
pub struct SqliteJournal(Mutex<Connection>);

impl SqliteJournal {
    /// Opens or makes the file; what is written survives the loss of power.
    ///
    /// # Errors
    /// When it cannot be opened, is of another kind or version, or another process has it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, BoxError> {
        Self::open_with(path, Durability::Power)
    }

    /// As [`SqliteJournal::open`], with another durability.
    ///
    /// # Errors
    /// As [`SqliteJournal::open`].
    pub fn open_with(path: impl AsRef<Path>, durability: Durability) -> Result<Self, BoxError> {
        let file = Connection::open(path)?;
        // Its owner keeps it: waiting for it would not help.
        file.busy_timeout(Duration::ZERO)?;
        // The first write takes the file for this process until it ends.
        file.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        file.pragma_update(None, "journal_mode", "WAL")?;
        let synchronous = match durability {
            Durability::Power => "FULL",
            Durability::Process => "NORMAL",
        };
        file.pragma_update(None, "synchronous", synchronous)?;
        let version: i64 = file.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if !matches!(version, 0 | 1) {
            return Err(format!("the journal is of version {version}, and this is for version 1").into());
        }
        file.execute_batch(SCHEMA)?;
        Ok(Self(Mutex::new(file)))
    }

    fn file(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for SqliteJournal {
    fn begin(&self, call: &Saved) -> Result<EntryId, BoxError> {
        let file = self.file();
        let mut insert =
            file.prepare_cached("INSERT INTO call (key, method, url, headers, body) VALUES (?, ?, ?, ?, ?)")?;
        let id = insert.insert(params![
            call.key.as_str(),
            call.method.as_str(),
            call.url.as_str(),
            lines(&call.headers),
            &call.body[..]
        ])?;
        Ok(EntryId(id))
    }

    fn settle(&self, id: EntryId) -> Result<(), BoxError> {
        self.file().prepare_cached("DELETE FROM call WHERE id = ?")?.execute([id.0])?;
        Ok(())
    }

    fn open(&self) -> Result<Vec<Unfinished>, BoxError> {
        let file = self.file();
        let mut select =
            file.prepare_cached("SELECT id, key, method, url, headers, body FROM call ORDER BY id")?;
        let mut rows = select.query([])?;
        let mut open = Vec::new();
        while let Some(row) = rows.next()? {
            let headers: Vec<u8> = row.get(4)?;
            let saved = Saved {
                key: Key::new(&row.get::<_, String>(1)?)?,
                method: Method::from_bytes(row.get::<_, String>(2)?.as_bytes())?,
                url: Url::parse(&row.get::<_, String>(3)?)?,
                headers: read_lines(&headers)?,
                body: row.get::<_, Vec<u8>>(5)?.into(),
            };
            open.push(Unfinished { id: EntryId(row.get(0)?), saved });
        }
        Ok(open)
    }
}

/// `name: value` a line; neither can hold the end of one.
fn lines(headers: &HeaderMap) -> Vec<u8> {
    let mut text = Vec::new();
    for (name, value) in headers {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.push(b'\n');
    }
    text
}

fn read_lines(text: &[u8]) -> Result<HeaderMap, BoxError> {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let colon =
            line.iter().position(|byte| *byte == b':').ok_or("a header without a colon in the journal")?;
        let value = line.get(colon + 2..).unwrap_or_default();
        headers.append(HeaderName::from_bytes(&line[..colon])?, HeaderValue::from_bytes(value)?);
    }
    Ok(headers)
}
