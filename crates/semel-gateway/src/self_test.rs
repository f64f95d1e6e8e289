//! One record through the store before the first request: what is written must be what is found.
//!
//! A store whose writes go elsewhere than its reads (a pooler before two servers, a replica, a cache) replays nothing,
//! and nobody notices until an effect was made twice. Not a health check: a store that is away or full refuses by
//! itself, request by request, and may still replay. Next: [`crate::proxy`], which asks before it listens.

use std::time::Duration;

use semel::fingerprint::{PayloadParts, payload, target};
use semel::record::{ClaimArgs, Ending, ReleaseFrom};
use semel::store::{Claimed, CompleteArgs, ReleaseArgs, Store, StoreError, Written};
use semel::{Fingerprint, Key, Operation, Outcome, Policy, Record, RecordId, Tenant};

const KEPT: Duration = Duration::from_secs(60);

/// Why the store cannot be relied on, if it cannot.
///
/// # Errors
/// When the store does not answer, which says nothing about what it finds.
pub(crate) async fn self_test(store: &dyn Store) -> Result<Option<&'static str>, StoreError> {
    let fingerprint =
        Fingerprint { target: target("POST", "/", None), payload: payload(b"", &PayloadParts::Raw) };
    let id = RecordId::new(
        Tenant::from_text("semel"),
        Operation::new("self-test"),
        Key::generated(fingerprint.payload),
    );
    let asked = || ClaimArgs::new(id.clone(), fingerprint, &Policy::default());
    let Claimed::Won(claimed) = store.claim(asked()).await? else {
        return Ok(Some("a new key is said to be taken"));
    };
    let outcome = Outcome { code: 200, body: "self-test".into(), body_kept: true, ..Outcome::default() };
    let ending = Ending::Completed(outcome.clone());
    let guard = claimed.guard;
    let completed = store.complete(CompleteArgs { id: id.clone(), guard, ending, retention: KEPT }).await?;
    let found = store.claim(asked()).await?;
    let is_stored = |record: &Record| record.outcome() == Some(&outcome);
    let wrong = match (completed, found) {
        (Written::Refused(_), _) => Some("a claim cannot be completed: the store does not find it again"),
        (_, Claimed::Won(_)) => Some("a key is claimed a second time: the store does not find its outcome"),
        (_, Claimed::Standing(record)) if !is_stored(&record) => {
            Some("an outcome is not found as it was stored")
        }
        _ => None,
    };
    if wrong.is_none() {
        store.release(ReleaseArgs { id, guard, from: ReleaseFrom::Finished }).await?;
    }
    Ok(wrong)
}
