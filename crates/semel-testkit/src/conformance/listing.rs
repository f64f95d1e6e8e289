//! S9: one record is never another's, whether it is read, claimed or listed.

use std::collections::HashSet;

use semel::record::StateKind;
use semel::store::ScanArgs;

use super::*;

/// S9.
pub async fn s09_tenants_operations_keys_and_variants_are_apart(subject: Subject) {
    let store = subject.store();
    let base = id_of("a", "http", "k");
    let with_variant = |payload: &str| {
        let digest = request(payload).payload;
        RecordId::with_variant(
            base.tenant().clone(),
            base.operation().clone(),
            base.key().clone(),
            Some(digest),
        )
    };
    let ids = [
        base.clone(),
        id_of("b", "http", "k"),
        id_of("a", "refund", "k"),
        id_of("a", "http", "K"),
        id_of("a", "http", "k "),
        id_of("a", "http", "{k}:%'\""),
        with_variant("1"),
        with_variant("2"),
    ];
    for id in &ids {
        assert_eq!(store.get(id).await.unwrap(), None);
        let record = won(&*store, claim_of(id)).await;
        done(store.complete(completion(&record, &format!("{id:?} {:?}", id.variant()), HOUR))).await;
    }
    for id in &ids {
        let record = store.get(id).await.unwrap().unwrap();
        assert_eq!(record.id, *id);
        assert_eq!(record.outcome(), Some(&outcome(&format!("{id:?} {:?}", id.variant()))));
    }
}

async fn scan(subject: &Subject, args: ScanArgs) -> Vec<Record> {
    let (mut all, mut args) = (Vec::new(), args);
    loop {
        let page = subject.store.scan(args.clone()).await.unwrap();
        assert!(page.records.len() <= args.limit);
        all.extend(page.records);
        args.cursor = page.next;
        if args.cursor.is_none() {
            return all;
        }
    }
}

/// S9.
pub async fn s09_scan_filters_hold(subject: Subject) {
    let store = subject.store();
    for (number, id) in
        [id_of("a", "http", "k"), id_of("a", "job", "k"), id_of("b", "http", "k"), id_of("a", "http", "l")]
            .into_iter()
            .enumerate()
    {
        let record = won(&*store, claim_of(&id)).await;
        if number % 2 == 0 {
            done(store.complete(completion(&record, "x", HOUR))).await;
        }
    }
    let a = Tenant::id(&["a"]);
    let all = ScanArgs { limit: 10, ..ScanArgs::default() };
    assert_eq!(scan(&subject, all.clone()).await.len(), 4);
    assert_eq!(scan(&subject, ScanArgs { tenant: Some(a.clone()), ..all.clone() }).await.len(), 3);
    assert_eq!(scan(&subject, ScanArgs { key: Some("k".into()), ..all.clone() }).await.len(), 3);
    assert_eq!(
        scan(&subject, ScanArgs { operation: Some(Operation::new("job")), ..all.clone() }).await.len(),
        1
    );
    for (state, count) in
        [(StateKind::InFlight, 2), (StateKind::Completed, 2), (StateKind::InDoubt, 0), (StateKind::Failed, 0)]
    {
        assert_eq!(scan(&subject, ScanArgs { state: Some(state), ..all.clone() }).await.len(), count);
    }
    subject.advance(Policy::default().lease).await;
    let doubts = scan(&subject, ScanArgs { state: Some(StateKind::InDoubt), ..all.clone() }).await;
    assert_eq!(doubts.len(), 2, "a lapsed claim is listed in doubt");
    let both = ScanArgs { tenant: Some(a), key: Some("k".into()), operation: Some(Operation::http()), ..all };
    let found = scan(&subject, both).await;
    assert_eq!(found.iter().map(|record| record.id.clone()).collect::<Vec<_>>(), [id_of("a", "http", "k")]);
}

/// S9.
pub async fn s09_scan_shows_each_record_once(subject: Subject) {
    let store = subject.store();
    let mut expected = HashSet::new();
    for number in 0..95 {
        let record = won(&*store, claim_of(&id(&format!("k {number}")))).await;
        if number % 5 != 0 {
            done(store.complete(completion(&record, "x", HOUR))).await;
        }
        expected.insert(record.id);
    }
    for limit in [1, 7, 95, 1_000] {
        let found = scan(&subject, ScanArgs { limit, ..ScanArgs::default() }).await;
        assert_eq!(found.len(), 95, "pages of {limit}");
        assert_eq!(found.into_iter().map(|record| record.id).collect::<HashSet<_>>(), expected);
    }
}

/// S9: a store that reads the beginning of a record first goes on reading.
pub async fn s09_long_names_and_heads_are_listed_like_short_ones(subject: Subject) {
    let store = subject.store();
    let long = "long ".repeat(4_000);
    let named = won(&*store, claim_of(&id_of("a", &long, "k"))).await;
    let headed = won(&*store, claim_of(&id_of("a", "http", "k"))).await;
    let mut args = completion(&headed, "", HOUR);
    args.ending = Ending::Completed(Outcome { head: long.into(), ..outcome("") });
    let headed = done(store.complete(args)).await.unwrap();
    let mut found = scan(&subject, ScanArgs { limit: 10, ..ScanArgs::default() }).await;
    found.sort_by_key(|record| record.outcome().is_some());
    assert_eq!(found, [named, headed]);
}
