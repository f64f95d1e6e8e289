//! Listing: SCAN over each node in turn, a page at a time.
//!
//! A cursor names the node, where its SCAN stands, and the last digest that was shown of the batch found there. Not a
//! snapshot, as of every store. Next: `codec`, which reads what is found.

use bytes::Bytes;
use redis::{Cmd, Pipeline, RedisResult, Value};
use semel::Record;
use semel::clock::Timestamp;
use semel::store::{Page, ScanArgs, StoreError, StoreErrorKind};

use crate::codec;
use crate::link::{Link, read_error};
use crate::store::RedisStore;

/// How many keys of the server one step of SCAN looks at.
const BATCH_KEYS: usize = 1_000;
/// Enough for identity and outcome's head of nearly every record.
const BEGINNING_BYTES: usize = 4_096;

/// Where a listing stands.
struct Place {
    node: String,
    cursor: String,
    /// Keys up to this one were shown.
    after: Vec<u8>,
}

impl Place {
    fn read(text: &str) -> Result<Self, StoreError> {
        let mut parts = text.splitn(3, '|').map(str::to_owned);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(node), Some(cursor), Some(after)) => Ok(Self { node, cursor, after: after.into_bytes() }),
            _ => Err(StoreError::new(StoreErrorKind::Unavailable, "the cursor was not given by this store")),
        }
    }

    fn print(&self) -> String {
        format!("{}|{}|{}", self.node, self.cursor, String::from_utf8_lossy(&self.after))
    }

    fn at(node: &str) -> Self {
        Self { node: node.to_owned(), cursor: "0".to_owned(), after: Vec::new() }
    }
}

pub(crate) async fn scan(store: &RedisStore, args: ScanArgs) -> Result<Page, StoreError> {
    let nodes = nodes(&store.link).await.map_err(read_error)?;
    let mut page = Page::default();
    let Some(first) = nodes.first() else { return Ok(page) };
    page.now = match &store.clock {
        Some(clock) => clock.now(),
        None => time(&store.link, first).await.map_err(read_error)?,
    };
    let mut place = match &args.cursor {
        Some(text) => Place::read(text)?,
        None => Place::at(first),
    };
    loop {
        let nth = nodes.iter().position(|node| *node == place.node).ok_or_else(|| {
            StoreError::new(
                StoreErrorKind::Unavailable,
                "the Cluster has other masters than when this listing began; begin again",
            )
        })?;
        let (next, keys) = batch(store, &place).await.map_err(read_error)?;
        let mut keys = keys.as_slice();
        while !keys.is_empty() {
            let room = args.limit.saturating_sub(page.records.len());
            if room == 0 {
                page.next = Some(place.print());
                return Ok(page);
            }
            let (some, rest) = keys.split_at(room.min(keys.len()));
            for record in listed(store, &place.node, some).await? {
                page.records.extend(record.at(page.now).filter(|record| args.admits(record)));
            }
            place.after = some.last().cloned().unwrap_or_default();
            keys = rest;
        }
        place = match (next.as_str(), nodes.get(nth + 1)) {
            ("0", None) => return Ok(page),
            ("0", Some(node)) => Place::at(node),
            _ => Place { cursor: next, after: Vec::new(), ..place },
        };
        if page.records.len() == args.limit {
            page.next = Some(place.print());
            return Ok(page);
        }
    }
}

/// The masters, in an order that stays while they do.
async fn nodes(link: &Link) -> RedisResult<Vec<String>> {
    if !link.is_cluster() {
        return Ok(vec!["one".to_owned()]);
    }
    let slots = link.send(redis::cmd("CLUSTER").arg("SLOTS")).await?;
    let mut masters = crate::open::masters(slots);
    masters.sort_unstable();
    masters.dedup();
    Ok(masters)
}

async fn time(link: &Link, node: &str) -> RedisResult<Timestamp> {
    let (seconds, micros): (u64, u64) =
        redis::from_redis_value(link.send_to(node, redis::cmd("TIME")).await?)?;
    Ok(Timestamp::from_micros(seconds * 1_000_000 + micros))
}

/// One step of SCAN: where it goes on, and the keys of records that were not shown, in order.
async fn batch(store: &RedisStore, place: &Place) -> RedisResult<(String, Vec<Vec<u8>>)> {
    let mut cmd = redis::cmd("SCAN");
    let pattern = format!("{}:{}", store.prefix, "?".repeat(32));
    cmd.arg(&place.cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(BATCH_KEYS).arg("TYPE").arg("string");
    let found = store.link.send_to(&place.node, cmd).await?;
    let (next, mut keys): (String, Vec<Vec<u8>>) = redis::from_redis_value(found)?;
    keys.retain(|key| *key > place.after);
    keys.sort_unstable();
    keys.dedup();
    Ok((next, keys))
}

/// The records at `keys`, without the bodies of their outcomes.
async fn listed(store: &RedisStore, node: &str, keys: &[Vec<u8>]) -> Result<Vec<Record>, StoreError> {
    let mut beginnings = Pipeline::with_capacity(keys.len());
    for key in keys {
        beginnings.add_command(range(key, BEGINNING_BYTES));
    }
    let beginnings = store.link.send_all_to(node, beginnings).await.map_err(read_error)?;
    let mut records = Vec::with_capacity(keys.len());
    for (key, beginning) in keys.iter().zip(beginnings) {
        let mut value = bytes(beginning).map_err(read_error)?;
        if value.is_empty() {
            continue;
        }
        let wanted = codec::listed_bytes(&value).unwrap_or(codec::LARGEST_BYTES);
        if wanted > value.len() {
            value = store.link.send(&range(key, wanted)).await.and_then(bytes).map_err(read_error)?;
        }
        value.truncate(wanted);
        records.extend(codec::read(&Bytes::from(value), None)?);
    }
    Ok(records)
}

fn range(key: &[u8], bytes: usize) -> Cmd {
    let mut cmd = redis::cmd("GETRANGE");
    cmd.arg(key).arg(0).arg(bytes - 1);
    cmd
}

fn bytes(value: Value) -> RedisResult<Vec<u8>> {
    Ok(redis::from_redis_value(value.extract_error()?)?)
}
