//! Encryption at rest: a sealed store is a store like any other, and what is in it shows no answer, opens for no other
//! record, and is never run again because it cannot be read.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use semel::clock::ManualClock;
use semel::fingerprint::{self, PayloadParts};
use semel::record::{ClaimArgs, DoubtCause, Ending, ReleaseFrom};
use semel::store::memory::MemoryStore;
use semel::store::sealed::{Keyring, SealedStore};
use semel::store::{
    Claimed, CompleteArgs, DoubtArgs, ReleaseArgs, RenewArgs, ScanArgs, StoreError, StoreErrorKind, Written,
};
use semel::{
    Code, Engine, Fingerprint, Key, OnceError, Operation, Outcome, Policy, Record, RecordId, Store, Tenant,
};
use semel_testkit::conformance::Subject;

const SECRET: &str = "card 4111 1111 1111 1111";
const HOUR: Duration = Duration::from_secs(3600);

fn keyring(name: &str) -> Keyring {
    Keyring::new(name, *blake3::hash(name.as_bytes()).as_bytes()).unwrap()
}

fn and(ring: Keyring, name: &str) -> Keyring {
    ring.opening(name, *blake3::hash(name.as_bytes()).as_bytes()).unwrap()
}

async fn make(clock: Arc<ManualClock>) -> Subject {
    let memory = Arc::new(MemoryStore::with_clock(clock.clone()));
    Subject::on_clock(Arc::new(SealedStore::new(memory, keyring("2026"))), clock)
}

semel_testkit::conformance_suite!(make);

fn id(tenant: &str, key: &str) -> RecordId {
    RecordId::new(Tenant::id(&[tenant]), Operation::http(), Key::new(key).unwrap())
}

fn claiming(id: &RecordId) -> ClaimArgs {
    let request = Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(b"100", &PayloadParts::Raw),
    };
    ClaimArgs::new(id.clone(), request, &Policy::default())
}

fn outcome() -> Outcome {
    let head = format!("x-card: {SECRET}\r\n");
    Outcome { code: 201, head: head.into(), body: SECRET.into(), body_kept: true }
}

async fn completed(store: &dyn Store, id: &RecordId) -> Record {
    let Claimed::Won(record) = store.claim(claiming(id)).await.unwrap() else { panic!("it stands") };
    let ending = Ending::Completed(outcome());
    let args = CompleteArgs { id: id.clone(), guard: record.guard, ending, retention: HOUR };
    let Written::Done(Some(record)) = store.complete(args).await.unwrap() else { panic!("refused") };
    record
}

fn two(ring: Keyring) -> (Arc<MemoryStore>, SealedStore) {
    let memory = Arc::new(MemoryStore::new());
    (memory.clone(), SealedStore::new(memory, ring))
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, StoreError>) -> String {
    let error = answer.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    std::error::Error::source(&error).unwrap().to_string()
}

fn shows(record: &Record, secret: &str) -> bool {
    let outcome = record.outcome().unwrap();
    let parts = [&outcome.head[..], &outcome.body[..], record.id.key().as_str().as_bytes()];
    parts.iter().any(|part| part.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()))
}

#[tokio::test]
async fn the_store_behind_holds_no_answer_and_callers_get_it_whole() {
    let (memory, sealed) = two(keyring("2026"));
    let id = id("acme", "order-42");
    let record = completed(&sealed, &id).await;
    assert_eq!(record.outcome(), Some(&outcome()));
    assert_eq!(sealed.get(&id).await.unwrap(), Some(record.clone()));
    let stored = memory.get(&id).await.unwrap().unwrap();
    assert!(!shows(&stored, SECRET) && shows(&stored, "order-42"));
    let page = sealed.scan(ScanArgs { limit: 10, ..ScanArgs::default() }).await.unwrap();
    assert_eq!(page.records, [record]);
}

#[tokio::test]
async fn fm51_ciphertext_that_was_moved_or_altered_is_refused() {
    let (memory, sealed) = two(keyring("2026"));
    let (mine, yours) = (id("acme", "k"), id("evil", "k"));
    completed(&sealed, &mine).await;
    let stored = memory.get(&mine).await.unwrap().unwrap();
    let planted = Record { id: yours.clone(), ..stored.clone() };
    memory.import(planted).await.unwrap();
    assert!(refusal(sealed.get(&yours).await).contains("altered or moved"));

    for (number, change) in [
        |record: &mut Record| record.guard.token.0 += 1,
        |record: &mut Record| stored_outcome(record).code = 500,
        |record: &mut Record| stored_outcome(record).body_kept = false,
        |record: &mut Record| flip_last(&mut stored_outcome(record).body),
        |record: &mut Record| flip_last(&mut stored_outcome(record).head),
    ]
    .into_iter()
    .enumerate()
    {
        let (memory, sealed) = two(keyring("2026"));
        let mut altered = stored.clone();
        change(&mut altered);
        memory.import(altered).await.unwrap();
        assert!(refusal(sealed.get(&mine).await).contains("altered or moved"), "change {number}");
    }
}

fn stored_outcome(record: &mut Record) -> &mut Outcome {
    let semel::State::Completed { outcome, .. } = &mut record.state else { panic!("it has an outcome") };
    outcome
}

fn flip_last(bytes: &mut bytes::Bytes) {
    let mut changed = bytes.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    *bytes = changed.into();
}

#[tokio::test]
async fn a_rotated_key_opens_what_it_sealed_until_it_is_taken_away() {
    let (memory, sealed) = two(keyring("2025"));
    completed(&sealed, &id("acme", "old")).await;
    let rotated = SealedStore::new(memory.clone(), and(keyring("2026"), "2025"));
    assert_eq!(rotated.get(&id("acme", "old")).await.unwrap().unwrap().outcome(), Some(&outcome()));
    completed(&rotated, &id("acme", "new")).await;
    let without = SealedStore::new(memory.clone(), keyring("2026"));
    assert!(without.get(&id("acme", "new")).await.unwrap().is_some());
    assert!(refusal(without.get(&id("acme", "old")).await).contains("\"2025\", which is not configured"));
    let wrong = Keyring::new("2026", [7; 32]).unwrap();
    assert!(refusal(SealedStore::new(memory, wrong).get(&id("acme", "new")).await).contains("another one"));
}

#[tokio::test]
async fn an_outcome_that_cannot_be_read_is_an_error_and_its_effect_never_runs_again() {
    let memory = Arc::new(MemoryStore::new());
    let ran = Arc::new(AtomicUsize::new(0));
    let pay = async |ring: Keyring| {
        let engine = Engine::new(SealedStore::new(memory.clone(), ring));
        let ran = Arc::clone(&ran);
        let effect = move |_| async move {
            ran.fetch_add(1, Ordering::SeqCst);
            Ok(SECRET.to_owned())
        };
        engine.once("charge").key("k").run(effect).await
    };
    pay(keyring("2026")).await.unwrap();
    let refused = pay(keyring("other")).await.unwrap_err();
    assert_eq!(refused.code(), Code::RecordUnreadable);
    assert!(matches!(refused, OnceError::Engine(_)), "{refused:?}");
    assert!(pay(keyring("2026")).await.unwrap().is_replay());
    assert_eq!(ran.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn plain_outcomes_are_read_only_when_that_is_allowed() {
    let memory = Arc::new(MemoryStore::new());
    let id = id("acme", "k");
    completed(&*memory, &id).await;
    let strict = SealedStore::new(memory.clone(), keyring("2026"));
    assert!(refusal(strict.get(&id).await).contains("read_plain"));
    let lenient = SealedStore::new(memory, keyring("2026").reading_plain());
    assert_eq!(lenient.get(&id).await.unwrap().unwrap().outcome(), Some(&outcome()));
}

#[tokio::test]
async fn hashed_keys_are_found_by_key_and_by_hash_and_stored_nowhere() {
    let (memory, sealed) = two(keyring("2026").hashing_keys([9; 32]));
    let id = id("acme", "alice@example.com");
    let record = completed(&sealed, &id).await;
    assert_eq!(record.id, id);
    assert_eq!(sealed.get(&id).await.unwrap(), Some(record.clone()));
    assert_eq!(memory.get(&id).await.unwrap(), None);
    let key = Some("alice@example.com".to_owned());
    let page = sealed.scan(ScanArgs { key, limit: 10, ..ScanArgs::default() }).await.unwrap();
    let [listed] = page.records.as_slice() else { panic!("{page:?}") };
    assert!(listed.id.key().as_str().starts_with("hashed:") && !shows(listed, "alice"));
    assert_eq!(sealed.get(&listed.id).await.unwrap().unwrap().outcome(), record.outcome());
    let Claimed::Standing(again) = sealed.claim(claiming(&id)).await.unwrap() else { panic!("won twice") };
    assert_eq!(again, record);
}

#[tokio::test]
async fn a_key_that_only_begins_like_a_hash_is_hashed() {
    let (memory, sealed) = two(keyring("2026").hashing_keys([9; 32]));
    let id = id("acme", "hashed:ab");
    completed(&sealed, &id).await;
    assert_eq!(memory.get(&id).await.unwrap(), None);
}

#[test]
fn names_of_keys_are_short_printable_and_given_once() {
    assert!(Keyring::new("", [0; 32]).is_err());
    assert!(Keyring::new("with space", [0; 32]).is_err());
    assert!(Keyring::new(&"k".repeat(65), [0; 32]).is_err());
    assert!(keyring("a").opening("a", [0; 32]).is_err());
    assert!(!format!("{:?}", Keyring::new("a", [77; 32]).unwrap()).contains("77"));
}

#[tokio::test]
async fn a_claim_is_renewed_doubted_and_released_under_the_hash_of_its_key() {
    let (_, store) = two(keyring("2026").hashing_keys([1; 32]));
    let id = id("a", "k");
    let Claimed::Won(Record { guard, .. }) = store.claim(claiming(&id)).await.unwrap() else {
        panic!("it stands")
    };
    let renewed = store.renew(RenewArgs { id: id.clone(), guard, lease: HOUR }).await.unwrap();
    assert!(matches!(renewed, Written::Done(Some(record)) if record.id == id));
    let doubted =
        store.doubt(DoubtArgs { id: id.clone(), guard, cause: DoubtCause::NoAnswer }).await.unwrap();
    assert!(matches!(doubted, Written::Done(Some(record)) if record.id == id));
    let released =
        store.release(ReleaseArgs { id: id.clone(), guard, from: ReleaseFrom::Doubt }).await.unwrap();
    assert!(matches!(released, Written::Done(None)));
    assert_eq!(store.get(&id).await.unwrap(), None);
}

#[test]
fn a_keyring_shows_the_names_of_its_keys_and_says_what_is_wrong_with_one() {
    let shown = format!("{:?}", and(keyring("2026"), "2025"));
    assert!(shown.contains("2026") && shown.contains("2025"), "{shown}");
    let wrong = Keyring::new("two words", [0; 32]).unwrap_err();
    assert!(wrong.to_string().contains("no name of a key"), "{wrong}");
}
