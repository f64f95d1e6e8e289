//! Reading: what stands, lists for people, and the purge.
//!
//! Always from the primary. Next: [`crate::codec`].

use std::collections::HashMap;
use std::sync::Arc;

use semel::clock::Timestamp;
use semel::digest::Digest;
use semel::record::{AttemptId, Guard, StateKind};
use semel::store::{Page, ScanArgs, StoreError, StoreErrorKind};
use semel::{Record, RecordId, Token};
use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use crate::codec::{self, clock, dead, full, moment, narrow};
use crate::fault::Failure;
use crate::session::{Dialer, Session};
use crate::writer::{Link, Work};

const READ: &str =
    concat!("SELECT ", full!(), " FROM ", moment!(), ", semel_records AS r WHERE r.digest = ANY ($1)");
const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// What a row says.
pub(crate) struct Standing {
    /// As it was written: it may have expired or lapsed by `now`. `None` when it was released.
    pub(crate) record: Option<Record>,
    pub(crate) guard: Guard,
    pub(crate) released: bool,
    pub(crate) now: Timestamp,
}

/// Reads the rows of `ids`.
pub(crate) async fn read<'a>(
    session: &Session,
    ids: impl Iterator<Item = &'a RecordId> + Send,
) -> Result<HashMap<Uuid, Standing>, Failure> {
    session.settle_doubts().await?;
    let ids: HashMap<Uuid, &RecordId> = ids.map(|id| (codec::uuid(id.digest()), id)).collect();
    let digests: Vec<Uuid> = ids.keys().copied().collect();
    let mut standing = HashMap::with_capacity(digests.len());
    for row in session.rows(READ, &[&digests]).await? {
        let digest: Uuid = codec::get(&row, 0)?;
        let Some(id) = ids.get(&digest) else { continue };
        let record = codec::read(&row, id)?;
        let token: i64 = codec::get(&row, 4)?;
        let attempt: Uuid = codec::get(&row, 1)?;
        let guard = Guard {
            token: Token(u64::try_from(token).unwrap_or(0)),
            attempt: AttemptId::from_bytes(attempt.into_bytes()),
        };
        let released = record.is_none();
        standing.insert(digest, Standing { record, guard, released, now: codec::now(&row)? });
    }
    Ok(standing)
}

/// The server's time.
pub(crate) async fn now(session: &Session) -> Result<Timestamp, Failure> {
    let rows = session.rows(NOW, &[]).await?;
    codec::at(rows.first().ok_or_else(|| Failure::damaged("the server told no time"))?, 0)
}

/// A read of one record as it stands now.
pub(crate) struct Read(pub(crate) RecordId);

impl Work for Read {
    type Answer = Option<Record>;
    const REPEATS: bool = true;

    fn digest(&self) -> Digest {
        self.0.digest()
    }

    async fn run(session: &Session, batch: &[Self], _again: bool) -> Result<Vec<Option<Record>>, Failure> {
        let standing = read(session, batch.iter().map(|read| &read.0)).await?;
        let one = |read: &Self| {
            let found = standing.get(&codec::uuid(read.0.digest()))?;
            found.record.clone()?.at(found.now)
        };
        Ok(batch.iter().map(one).collect())
    }
}

/// How many rows one page looks at, so that a filter that fits nothing does not read the whole table in one go.
const SCAN_ROWS: i64 = 20_000;
/// How many rows one statement of the purge removes.
const PURGE_SLICE: usize = 500;

macro_rules! boundary {
    ($where:literal) => {
        concat!(
            "SELECT r.digest FROM semel_records AS r WHERE r.digest > $1",
            $where,
            " ORDER BY r.digest OFFSET $2 LIMIT 1"
        )
    };
}

macro_rules! list {
    ($where:literal) => {
        concat!(
            "WITH ",
            clock!(),
            " SELECT ",
            narrow!(),
            ", r.tenant, r.operation, r.key, r.variant, r.head, NULL::bytea, clock.now_us \
              FROM clock, semel_records AS r WHERE r.digest > $1 AND ($2::uuid IS NULL OR r.digest <= $2)",
            $where,
            " AND ($3::text IS NULL OR r.tenant = $3) AND ($4::text IS NULL OR r.operation = $4) \
              AND ($5::text IS NULL OR r.key = $5) AND ($6::smallint IS NULL OR \
              CASE WHEN r.state = 0 AND r.lease_us <= clock.now_us THEN 1 ELSE r.state END = $6) AND NOT (",
            dead!(),
            ") ORDER BY r.digest LIMIT $7"
        )
    };
}

/// Live claims and doubts are few among many, and have an index of their own.
const OPEN: [&str; 2] = [boundary!(" AND r.state < 2"), list!(" AND r.state < 2")];
const ALL: [&str; 2] = [boundary!(""), list!("")];

/// Rows stay for two seconds after they are dead: a claim that was on its way when its record was released still meets
/// the row, and takes a greater token.
macro_rules! purge {
    ($dead:literal, $order:literal) => {
        concat!(
            "WITH ",
            clock!(),
            ", gone AS (SELECT r.digest FROM clock, semel_records AS r WHERE ",
            $dead,
            " <= clock.now_us - 2000000 ORDER BY r.",
            $order,
            " LIMIT $1 FOR UPDATE OF r SKIP LOCKED) \
              DELETE FROM semel_records AS r USING gone WHERE r.digest = gone.digest RETURNING r.digest"
        )
    };
}

const PURGE: &str = purge!("r.state > 0 AND r.expires_us", "expires_us");
/// Claims that lapsed, and whose doubt nobody touched until it expired.
const PURGE_LAPSED: &str =
    purge!("r.state < 2 AND r.state = 0 AND r.lease_us + r.doubt_retention_us", "digest");

/// What is asked rarely and may take long, on a connection of its own.
pub(crate) struct Side(Mutex<Link>);

impl Side {
    pub(crate) fn new(dialer: Arc<Dialer>, session: Session) -> Self {
        Self(Mutex::new(Link::new(dialer, Some(session))))
    }

    /// A page of records.
    pub(crate) async fn scan(&self, args: ScanArgs) -> Result<Page, StoreError> {
        let after = match &args.cursor {
            None => Uuid::nil(),
            Some(text) => text.parse().map_err(|_| {
                StoreError::new(StoreErrorKind::Unavailable, "the cursor was not given by this store")
            })?,
        };
        let mut link = self.0.lock().await;
        let mut pages = link.make(&[Scan { args, after }]).await.map_err(Failure::into_error)?;
        Ok(pages.remove(0))
    }

    /// Removes up to `limit` expired records.
    pub(crate) async fn purge(&self, limit: usize) -> Result<usize, StoreError> {
        let mut purged = 0;
        let mut link = self.0.lock().await;
        for statement in [PURGE, PURGE_LAPSED] {
            while purged < limit {
                let slice = (limit - purged).min(PURGE_SLICE);
                let work = Purge { statement, rows: i64::try_from(slice).unwrap_or(i64::MAX) };
                let removed = link.make(&[work]).await.map_err(Failure::into_error)?.remove(0);
                purged += removed;
                if removed < slice {
                    break;
                }
            }
        }
        Ok(purged)
    }
}

struct Scan {
    args: ScanArgs,
    after: Uuid,
}

impl Work for Scan {
    type Answer = Page;

    fn digest(&self) -> Digest {
        Digest::from_bytes(self.after.into_bytes())
    }

    async fn run(session: &Session, batch: &[Self], _again: bool) -> Result<Vec<Page>, Failure> {
        session.settle_doubts().await?;
        let mut pages = Vec::with_capacity(batch.len());
        for scan in batch {
            pages.push(scan.page(session).await?);
        }
        Ok(pages)
    }
}

impl Scan {
    async fn page(&self, session: &Session) -> Result<Page, Failure> {
        let ScanArgs { tenant, operation, key, state, limit, .. } = &self.args;
        let code = state.map(|state| match state {
            StateKind::InFlight => codec::IN_FLIGHT,
            StateKind::InDoubt => codec::IN_DOUBT,
            StateKind::Completed => codec::COMPLETED,
            StateKind::Failed => codec::FAILED,
        });
        let [boundary, list] = if code.is_some_and(|code| code <= codec::IN_DOUBT) { OPEN } else { ALL };
        let end = session.rows(boundary, &[&self.after, &(SCAN_ROWS - 1)]).await?;
        let end: Option<Uuid> = end.first().map(|row| codec::get(row, 0)).transpose()?;
        let rows = i64::try_from(*limit).unwrap_or(i64::MAX);
        let (tenant, operation) =
            (tenant.as_ref().map(semel::Tenant::as_str), operation.as_ref().map(semel::Operation::as_str));
        let params: [&(dyn ToSql + Sync); 7] = [&self.after, &end, &tenant, &operation, key, &code, &rows];
        let found = session.rows(list, &params).await?;
        let mut page = Page { now: now(session).await?, ..Page::default() };
        page.next = end.map(|end| end.to_string());
        for row in &found {
            let now = codec::now(row)?;
            page.records.extend(codec::read_any(row)?.and_then(|record| record.at(now)));
        }
        if found.len() == *limit
            && let Some(last) = found.last()
        {
            page.next = Some(codec::get::<Uuid>(last, 0)?.to_string());
        }
        Ok(page)
    }
}

struct Purge {
    statement: &'static str,
    rows: i64,
}

impl Work for Purge {
    type Answer = usize;

    fn digest(&self) -> Digest {
        Digest::from_bytes([0; 16])
    }

    async fn run(session: &Session, batch: &[Self], _again: bool) -> Result<Vec<usize>, Failure> {
        let mut removed = Vec::with_capacity(batch.len());
        for purge in batch {
            removed.push(session.rows(purge.statement, &[&purge.rows]).await?.len());
        }
        Ok(removed)
    }
}
