//! What an operator may look at and change: list, show, release, resolve, purge. On any store, without HTTP.
//!
//! Every change reads the record, checks its state and writes under the guard it read: when the record moved in
//! between, nothing is changed and the caller is told. Nothing here touches a claim that is believed alive.
//! Next: [`crate::api`], which serves it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use semel::clock::Timestamp;
use semel::record::{StateKind, Token};
use semel::store::{CompleteArgs, Ending, ReleaseArgs, ReleaseFrom, ScanArgs, Store, Written};
use semel::{Operation, Outcome, Record, State, Tenant};

use crate::problem::Problem;
use crate::view::{
    Body, Changed, FinishedAsk, Given, ListAsk, Listing, OutcomeView, PurgeAsk, Purged, RecordView,
    Resolution, ResolveAsk, Selector, ShowAsk, Shown, rfc3339,
};

/// Makes the outcome that the surface in front will replay from a status, headers and a body.
pub type MakeOutcome = fn(u16, Vec<(String, String)>, Bytes) -> Outcome;

/// The largest body that may be given to a record.
pub const BODY_MAX_BYTES: usize = 64 << 20;

const PAGE_RECORDS: usize = 1_000;
const LIST_RECORDS: usize = 100;
/// How many of the records that a key names are told apart by name.
const MATCHES_SHOWN: usize = 20;
const RETENTION_SECONDS: u64 = 24 * 60 * 60;
const RETENTION_MAX_SECONDS: u64 = 365 * 24 * 60 * 60;

/// A page of records.
///
/// # Errors
/// When a filter is not one, or the store cannot say.
pub async fn list(store: &dyn Store, ask: ListAsk) -> Result<Listing, Problem> {
    let limit = ask.limit.unwrap_or(LIST_RECORDS);
    if !(1..=PAGE_RECORDS).contains(&limit) {
        return Err(Problem::bad_request(format!("limit is 1 to {PAGE_RECORDS}, not {limit}")));
    }
    let args = ScanArgs {
        tenant: ask.tenant.as_deref().map(Tenant::from_text),
        operation: ask.operation.as_deref().map(Operation::new),
        key: ask.key,
        state: ask.state.as_deref().map(state_kind).transpose()?,
        cursor: ask.cursor,
        limit,
    };
    let page = store.scan(args).await?;
    let records = page.records.iter().map(|record| RecordView::new(record, page.now)).collect();
    Ok(Listing { records, next: page.next })
}

/// How many records are in doubt, counted up to `most`.
///
/// # Errors
/// When the store cannot say.
pub async fn count_in_doubt(store: &dyn Store, most: usize) -> Result<usize, Problem> {
    let mut count = 0;
    let mut cursor = None;
    loop {
        let limit = PAGE_RECORDS.min(most - count);
        let args = ScanArgs { state: Some(StateKind::InDoubt), cursor, limit, ..ScanArgs::default() };
        let page = store.scan(args).await?;
        count += page.records.len();
        cursor = page.next;
        if cursor.is_none() || count >= most {
            return Ok(count.min(most));
        }
    }
}

/// One record with the sizes of its outcome, and with its body where asked for.
///
/// # Errors
/// When no record or several are named, or the store cannot say.
pub async fn show(store: &dyn Store, ask: ShowAsk) -> Result<Shown, Problem> {
    let with_body = ask.body;
    let selector = ask.selector();
    let (found, now) = find(store, &selector).await?;
    // A scan may leave bodies out.
    let record = store.get(&found.id).await?.ok_or_else(|| absent(&selector))?;
    let outcome = record.outcome().map(|outcome| OutcomeView {
        head_bytes: outcome.head.len(),
        body_bytes: outcome.body.len(),
        body_kept: outcome.body_kept,
        body: with_body.then(|| Body::new(&outcome.body)),
    });
    Ok(Shown {
        record: RecordView::new(&record, now),
        target_digest: record.fingerprint.target.to_string(),
        payload_digest: record.fingerprint.payload.to_string(),
        outcome,
    })
}

/// An effect in doubt did not happen: its record becomes absent and the key may run again.
///
/// # Errors
/// When no record or several are named, the record is not in doubt or moved meanwhile, or the store cannot say.
pub async fn release(store: &dyn Store, selector: Selector) -> Result<Changed, Problem> {
    let (record, now) = find(store, &selector).await?;
    require_doubt(&record)?;
    remove(store, &record, ReleaseFrom::Doubt, now).await
}

/// Says what became of an effect in doubt.
///
/// # Errors
/// As for [`release`], and when the given outcome cannot be one.
pub async fn resolve(store: &dyn Store, ask: ResolveAsk, make: MakeOutcome) -> Result<Changed, Problem> {
    let given = match ask.resolution {
        Resolution::NotHappened => return release(store, ask.select).await,
        Resolution::Completed(given) => given,
    };
    let (outcome, retention) = outcome(given, make)?;
    let (record, now) = find(store, &ask.select).await?;
    require_doubt(&record)?;
    let args = CompleteArgs {
        id: record.id.clone(),
        guard: record.guard,
        ending: Ending::Completed(outcome.clone()),
        retention,
    };
    match store.complete(args).await? {
        Written::Done(Some(after)) if after.outcome() == Some(&outcome) => {
            Ok(Changed { before: RecordView::new(&record, now), after: Some(RecordView::new(&after, now)) })
        }
        Written::Done(standing) | Written::Refused(standing) => Err(moved(standing)),
    }
}

/// Removes one finished record, or a batch of expired or finished ones.
///
/// # Errors
/// When no record or several are named, the record is not finished or moved meanwhile, no filter is given, or the
/// store cannot say.
pub async fn purge(store: &dyn Store, ask: PurgeAsk) -> Result<Purged, Problem> {
    match ask {
        PurgeAsk::One(selector) => {
            let (record, now) = find(store, &selector).await?;
            require_finished(&record)?;
            remove(store, &record, ReleaseFrom::Finished, now).await?;
            Ok(Purged { removed: 1, more: false, next: None })
        }
        PurgeAsk::Expired => {
            let removed = store.purge(PAGE_RECORDS).await?;
            Ok(Purged { removed, more: removed >= PAGE_RECORDS, next: None })
        }
        PurgeAsk::Finished(filter) => purge_finished(store, filter).await,
    }
}

async fn purge_finished(store: &dyn Store, filter: FinishedAsk) -> Result<Purged, Problem> {
    if filter.tenant.is_none() && filter.operation.is_none() {
        return Err(Problem::bad_request("name the tenant or the operation whose finished records go"));
    }
    let args = ScanArgs {
        tenant: filter.tenant.as_deref().map(Tenant::from_text),
        operation: filter.operation.as_deref().map(Operation::new),
        cursor: filter.cursor,
        limit: PAGE_RECORDS,
        ..ScanArgs::default()
    };
    let page = store.scan(args).await?;
    let mut removed = 0;
    for record in page.records.iter().filter(|record| record.outcome().is_some()) {
        let from = ReleaseFrom::Finished;
        let args = ReleaseArgs { id: record.id.clone(), guard: record.guard, from };
        if matches!(store.release(args).await?, Written::Done(_)) {
            removed += 1;
        }
    }
    Ok(Purged { removed, more: page.next.is_some(), next: page.next })
}

/// The one record that `selector` names, as read by a scan, and the store's time.
async fn find(store: &dyn Store, selector: &Selector) -> Result<(Record, Timestamp), Problem> {
    let mut args = ScanArgs {
        tenant: selector.tenant.as_deref().map(Tenant::from_text),
        operation: selector.operation.as_deref().map(Operation::new),
        key: Some(selector.key.clone()),
        limit: PAGE_RECORDS,
        ..ScanArgs::default()
    };
    let named = |record: &Record| {
        selector.record.as_ref().is_none_or(|digest| *digest == record.id.digest().to_string())
    };
    let mut found = Vec::new();
    let now = loop {
        let page = store.scan(args.clone()).await?;
        found.extend(page.records.into_iter().filter(named));
        args.cursor = page.next;
        if args.cursor.is_none() || found.len() > MATCHES_SHOWN {
            break page.now;
        }
    };
    match <[Record; 1]>::try_from(found) {
        Ok([record]) => Ok((record, now)),
        Err(none) if none.is_empty() => Err(absent(selector)),
        Err(several) => {
            let more = if several.len() > MATCHES_SHOWN { "more than " } else { "" };
            let count = several.len().min(MATCHES_SHOWN);
            let detail = format!(
                "{more}{count} records have the key {:?}; name the tenant, the operation or the record. \
                 Nothing was changed",
                selector.key
            );
            let shown = several.iter().take(count).map(|record| RecordView::new(record, now)).collect();
            Err(Problem::ambiguous(detail, shown))
        }
    }
}

async fn remove(
    store: &dyn Store,
    record: &Record,
    from: ReleaseFrom,
    now: Timestamp,
) -> Result<Changed, Problem> {
    let args = ReleaseArgs { id: record.id.clone(), guard: record.guard, from };
    match store.release(args).await? {
        Written::Done(_) => Ok(Changed { before: RecordView::new(record, now), after: None }),
        Written::Refused(standing) => Err(moved(standing)),
    }
}

fn require_doubt(record: &Record) -> Result<(), Problem> {
    match record.state {
        State::InDoubt { .. } => Ok(()),
        State::InFlight { lease_until, .. } => Err(in_flight(record.guard.token, lease_until)),
        State::Completed { .. } | State::Failed { .. } => Err(Problem::record_state(format!(
            "the record is {}, not in doubt; `purge` removes a finished record, and its key may then run again",
            record.state.kind().as_str()
        ))),
    }
}

fn require_finished(record: &Record) -> Result<(), Problem> {
    match record.state {
        State::Completed { .. } | State::Failed { .. } => Ok(()),
        State::InFlight { lease_until, .. } => Err(in_flight(record.guard.token, lease_until)),
        State::InDoubt { .. } => Err(Problem::record_state(
            "the record is in doubt: find out whether the effect happened, then `resolve` it",
        )),
    }
}

fn in_flight(token: Token, lease_until: Timestamp) -> Problem {
    Problem::record_state(format!(
        "the effect runs now: the claim with token {token} is held, its lease runs until {} and is renewed while \
         the effect runs; nothing was changed",
        rfc3339(lease_until)
    ))
}

fn moved(standing: Option<Record>) -> Problem {
    let stands = standing.map_or("absent", |record| record.state.kind().as_str());
    Problem::record_state(format!("the record changed meanwhile and is now {stands}; nothing was changed"))
}

fn absent(selector: &Selector) -> Problem {
    let mut detail = format!("no record has the key {:?}", selector.key);
    if let Some(tenant) = &selector.tenant {
        detail += &format!(", tenant {tenant:?}");
    }
    if let Some(operation) = &selector.operation {
        detail += &format!(", operation {operation:?}");
    }
    if let Some(record) = &selector.record {
        detail += &format!(", record {record:?}");
    }
    Problem::not_found(detail + "; it may have expired")
}

fn state_kind(name: &str) -> Result<StateKind, Problem> {
    StateKind::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| {
        let names = StateKind::ALL.map(StateKind::as_str).join(", ");
        Problem::bad_request(format!("no state is called {name:?}; there are {names}"))
    })
}

fn outcome(given: Given, make: MakeOutcome) -> Result<(Outcome, Duration), Problem> {
    let Given { status, headers, body, retention_seconds } = given;
    if !(200..=599).contains(&status) {
        return Err(Problem::bad_request(format!("a final HTTP status is 200 to 599, not {status}")));
    }
    for (name, value) in &headers {
        let name = HeaderName::try_from(name)
            .map_err(|_| Problem::bad_request(format!("{name:?} is not a header name")))?;
        HeaderValue::try_from(value)
            .map_err(|_| Problem::bad_request(format!("the value of the header {name} is not one")))?;
        if matches!(name.as_str(), "connection" | "content-length" | "transfer-encoding") {
            return Err(Problem::bad_request(format!("the header {name} is set when the answer is sent")));
        }
    }
    let body = body
        .into_bytes()
        .map_err(|error| Problem::bad_request(format!("the body is not base64: {error}")))?;
    if body.len() > BODY_MAX_BYTES {
        return Err(Problem::bad_request(format!("the body is larger than {BODY_MAX_BYTES} bytes")));
    }
    let retention_seconds = retention_seconds.unwrap_or(RETENTION_SECONDS);
    if !(1..=RETENTION_MAX_SECONDS).contains(&retention_seconds) {
        return Err(Problem::bad_request("the outcome is kept for 1 second to 1 year"));
    }
    Ok((make(status, headers, body), Duration::from_secs(retention_seconds)))
}
