//! Transactional mode: the record in the caller's own SQLite file and the caller's own transaction, so that effect
//! and record are committed together or not at all.
//!
//! There is no lease and no doubt: until the transaction commits there is no record, and SQLite's own write lock
//! makes a duplicate wait (as long as the caller's `busy_timeout` allows) until the first has committed or rolled
//! back. Not for use with the file of an [`crate::EmbeddedStore`]; the table `semel_records` is the caller's.
//!
//! ```
//! use std::time::Duration;
//! use rusqlite::{Connection, TransactionBehavior};
//! use semel::{Fingerprint, Key, Operation, Outcome, RecordId, Tenant, fingerprint};
//! use semel_store_embedded::transaction::{self, Begun, Options};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut conn = Connection::open_in_memory()?;
//! conn.execute_batch("CREATE TABLE charges (amount INTEGER)")?;
//! transaction::migrate(&conn)?;
//!
//! let id = RecordId::new(Tenant::public(), Operation::new("charge"), Key::new("order-42")?);
//! let request = Fingerprint {
//!     target: fingerprint::target("POST", "/charges", None),
//!     payload: fingerprint::payload(b"100", &Default::default()),
//! };
//! let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
//! let receipt = match transaction::begin(&tx, &id, request, Options::default())? {
//!     Begun::Run(claim) => {
//!         tx.execute("INSERT INTO charges VALUES (100)", [])?;
//!         let receipt = Outcome { code: 201, body: "receipt 7".into(), body_kept: true, ..Outcome::default() };
//!         claim.complete(&tx, &receipt, Duration::from_secs(24 * 3600))?;
//!         receipt
//!     }
//!     Begun::Replay(receipt) => receipt,
//!     Begun::Mismatch(difference) => return Err(format!("another request: {difference:?}").into()),
//! };
//! tx.commit()?;
//! # assert_eq!(receipt.code, 201);
//! # Ok(()) }
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use semel::clock::{Clock, SystemClock, Timestamp};
use semel::digest::Digest;
use semel::fingerprint::Difference;
use semel::policy::OnMismatch;
use semel::{Fingerprint, Outcome, RecordId};

use crate::codec;
use crate::fault::Fault;

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS semel_records (
    digest BLOB PRIMARY KEY,
    tenant TEXT NOT NULL,
    operation TEXT NOT NULL,
    key TEXT NOT NULL,
    variant BLOB,
    target BLOB NOT NULL,
    payload BLOB NOT NULL,
    completed_us INTEGER NOT NULL,
    expires_us INTEGER NOT NULL,
    code INTEGER NOT NULL,
    body_kept INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    head BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS semel_records_by_expiry ON semel_records (expires_us);
";

/// Makes the table `semel_records` unless it is there. Call it once when the file is opened, outside a transaction
/// or inside one.
///
/// # Errors
/// What SQLite says.
pub fn migrate(conn: &Connection) -> Result<(), TransactionError> {
    conn.execute_batch(TABLE).map_err(TransactionError::from)
}

/// How a transaction is begun.
#[derive(Clone, Debug)]
pub struct Options {
    on_mismatch: OnMismatch,
    clock: Arc<dyn Clock>,
}

impl Default for Options {
    /// Another payload is refused; the time is the system's.
    fn default() -> Self {
        Self { on_mismatch: OnMismatch::Reject, clock: Arc::new(SystemClock::new()) }
    }
}

impl Options {
    /// What a repeated key with another payload gets. Default [`OnMismatch::Reject`].
    #[must_use]
    pub fn on_mismatch(mut self, on_mismatch: OnMismatch) -> Self {
        self.on_mismatch = on_mismatch;
        self
    }

    /// The clock that decides expiry, instead of the system's: for tests.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

/// What [`begin`] found.
#[derive(Debug)]
pub enum Begun {
    /// Nobody has completed this key: run the effect in this transaction, then [`Claim::complete`] it. A transaction
    /// that commits the effect without that leaves no record.
    Run(Claim),
    /// The effect has happened; this is its outcome.
    Replay(Outcome),
    /// The key was used for another request, whose outcome is not shown.
    Mismatch(Difference),
}

/// The right to run the effect in the transaction it was begun in.
#[derive(Debug)]
#[must_use = "an effect that is not completed leaves no record, and runs again"]
pub struct Claim {
    id: RecordId,
    fingerprint: Fingerprint,
    clock: Arc<dyn Clock>,
}

/// Decides whether the effect of `id` runs in `tx`. Begin `tx` as immediate: a deferred one that has read before is
/// refused by SQLite as busy when another has written since.
///
/// # Errors
/// What SQLite says, busy included; and that the record found is damaged or another's.
pub fn begin(
    tx: &Transaction<'_>,
    id: &RecordId,
    fingerprint: Fingerprint,
    options: Options,
) -> Result<Begun, TransactionError> {
    // Takes SQLite's write lock, so that nobody else decides between this and the commit.
    let now = options.clock.now();
    tx.prepare_cached("DELETE FROM semel_records WHERE digest = ?1 AND expires_us <= ?2")?
        .execute(params![id.digest().as_bytes(), codec::time(now)])?;
    let Some((claimed, outcome)) = find(tx, id)? else {
        return Ok(Begun::Run(Claim { id: id.clone(), fingerprint, clock: options.clock }));
    };
    Ok(match fingerprint.difference(&claimed, options.on_mismatch) {
        Some(difference) => Begun::Mismatch(difference),
        None => Begun::Replay(outcome),
    })
}

impl Claim {
    /// Stores the outcome in `tx`, kept for `retention` from now.
    ///
    /// # Errors
    /// What SQLite says. Roll `tx` back then.
    pub fn complete(
        self,
        tx: &Transaction<'_>,
        outcome: &Outcome,
        retention: Duration,
    ) -> Result<(), TransactionError> {
        let now = self.clock.now();
        let (completed, expires) = (codec::time(now), codec::time(now.plus(retention)));
        let Self { id, fingerprint, .. } = &self;
        tx.prepare_cached(
            "INSERT INTO semel_records VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
        )?
        .execute(params![
            id.digest().as_bytes(),
            id.tenant().as_str(),
            id.operation().as_str(),
            id.key().as_str(),
            id.variant().map(|digest| *digest.as_bytes()),
            fingerprint.target.as_bytes(),
            fingerprint.payload.as_bytes(),
            completed,
            expires,
            outcome.code,
            outcome.body_kept,
            checksum(id, fingerprint, outcome),
            &outcome.head[..],
            &outcome.body[..],
        ])?;
        Ok(())
    }
}

/// Removes up to `limit` expired records and returns how many went. `now` from the clock that [`begin`] was given.
///
/// # Errors
/// What SQLite says.
pub fn purge(conn: &Connection, now: Timestamp, limit: u32) -> Result<usize, TransactionError> {
    let delete = "DELETE FROM semel_records WHERE digest IN \
                  (SELECT digest FROM semel_records WHERE expires_us <= ?1 LIMIT ?2)";
    Ok(conn.prepare_cached(delete)?.execute(params![codec::time(now), limit])?)
}

fn find(tx: &Transaction<'_>, id: &RecordId) -> Result<Option<(Fingerprint, Outcome)>, Fault> {
    let mut select = tx.prepare_cached(
        "SELECT target, payload, code, body_kept, head, body, checksum, tenant, operation, key, variant \
         FROM semel_records WHERE digest = ?1",
    )?;
    let found = select
        .query_row([id.digest().as_bytes()], |row| {
            let (target, payload) = (Digest::from_bytes(row.get(0)?), Digest::from_bytes(row.get(1)?));
            let blob =
                |column| Ok::<_, rusqlite::Error>(Bytes::copy_from_slice(row.get_ref(column)?.as_blob()?));
            let outcome =
                Outcome { code: row.get(2)?, body_kept: row.get(3)?, head: blob(4)?, body: blob(5)? };
            let same = row.get_ref(7)?.as_str()? == id.tenant().as_str()
                && row.get_ref(8)?.as_str()? == id.operation().as_str()
                && row.get_ref(9)?.as_str()? == id.key().as_str()
                && row.get::<_, Option<[u8; 16]>>(10)? == id.variant().map(|digest| *digest.as_bytes());
            Ok((Fingerprint { target, payload }, outcome, same, row.get::<_, i64>(6)?))
        })
        .optional()?;
    let Some((fingerprint, outcome, same, expected)) = found else { return Ok(None) };
    if !same {
        return Err(Fault::damaged("a digest leads to the record of another key"));
    }
    if checksum(id, &fingerprint, &outcome) != expected {
        return Err(Fault::damaged("the record's checksum does not match"));
    }
    Ok(Some((fingerprint, outcome)))
}

fn checksum(id: &RecordId, fingerprint: &Fingerprint, outcome: &Outcome) -> i64 {
    let mut all = Vec::with_capacity(64 + outcome.head.len() + outcome.body.len());
    for digest in [&id.digest(), &fingerprint.target, &fingerprint.payload] {
        all.extend_from_slice(digest.as_bytes());
    }
    all.extend_from_slice(&outcome.code.to_le_bytes());
    all.push(u8::from(outcome.body_kept));
    all.extend_from_slice(&outcome.head.len().to_le_bytes());
    all.extend_from_slice(&outcome.head);
    all.extend_from_slice(&outcome.body);
    codec::checksum(&all)
}

/// Why a step of a transaction failed. Roll the transaction back; nothing of it has happened.
#[derive(Debug)]
pub struct TransactionError(Fault);

impl TransactionError {
    /// Whether another transaction held SQLite's write lock for longer than the `busy_timeout`: the same may be
    /// tried again.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.0.is_busy()
    }
}

impl<E: Into<Fault>> From<E> for TransactionError {
    fn from(fault: E) -> Self {
        Self(fault.into())
    }
}

impl fmt::Display for TransactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the record could not be read or written in this transaction")
    }
}

impl std::error::Error for TransactionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}
