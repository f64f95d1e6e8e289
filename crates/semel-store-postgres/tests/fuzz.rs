//! Rows that no store wrote: columns of records changed at random in the server. A record is read as it is, as damaged,
//! or as absent; never as another's, and never with a panic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use semel::record::{ClaimArgs, DoubtCause, Ending};
use semel::store::{Claimed, CompleteArgs, DoubtArgs, Durability, ScanArgs, StoreErrorKind};
use semel::{Fingerprint, Key, Operation, Outcome, Policy, RecordId, Store, Tenant, fingerprint};
use semel_store_postgres::{PostgresConfig, PostgresStore};
use semel_testkit::seeded::number;
use semel_testkit::server::postgres::PostgresServer;

/// Each column of some of the rows gets one of the values that it can hold and that mean nothing.
const CHANGES: [(&str, &str); 16] = [
    ("state", "-1, 0, 1, 2, 3, 4, 5, 32767"),
    ("cause", "-1, 0, 1, 99, NULL, 32767"),
    ("code", "-1, 0, 200, 65535, 65536, 2147483647, NULL"),
    ("generation", "-1, 0, 2147483647"),
    ("token", "-1, 0, 9223372036854775807"),
    ("claimed_us", "-1, 0, 9223372036854775807"),
    ("doubt_retention_us", "-1, 0, 9223372036854775807"),
    ("lease_us", "-1, 0, 9223372036854775807, NULL"),
    ("execute_us", "-1, 0, 9223372036854775807, NULL"),
    ("settled_us", "-1, 0, 9223372036854775807, NULL"),
    ("expires_us", "-1, 0, 9223372036854775807, NULL"),
    ("body_kept", "true, false, NULL"),
    ("tenant", "'', 'id:other', E'\\u00fc'"),
    ("key", "'', 'other', E'caf\\u00e9', repeat('k', 300)"),
    ("head", "NULL, ''::bytea, '\\xff00'::bytea"),
    ("body", "NULL, ''::bytea, '\\xff00'::bytea"),
];

fn changes(seed: u64) -> String {
    let mut all = format!("SELECT setseed({}.0 / 1000);", seed % 1000);
    for (column, values) in CHANGES {
        let count = values.split(", ").count() - usize::from(values.contains("repeat"));
        let of = match column {
            "state" | "cause" => "smallint",
            "code" | "generation" => "integer",
            "tenant" | "key" => "text",
            "head" | "body" => "bytea",
            "body_kept" => "boolean",
            _ => "bigint",
        };
        all += &format!(
            "UPDATE semel_records SET {column} = (ARRAY[{values}]::{of}[])[1 + floor(random() * {count})] \
             WHERE random() < 0.07;"
        );
    }
    all
}

fn claim_of(number: u64) -> ClaimArgs {
    let id = RecordId::new(Tenant::id(&["t"]), Operation::http(), Key::new(&format!("k {number}")).unwrap());
    let request = Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(b"100", &fingerprint::PayloadParts::Raw),
    };
    ClaimArgs::new(id, request, &Policy::default())
}

async fn open(server: &PostgresServer) -> PostgresStore {
    let config = PostgresConfig::new(server.url("postgres")).durability(Durability::Process).migrate(true);
    PostgresStore::open(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_with_one_name_of_another_record_is_damaged() {
    let server = PostgresServer::start();
    let store = open(&server).await;
    let names =
        ["tenant = 'id:other'", "operation = 'other'", "key = 'other'", "variant = gen_random_uuid()"];
    for (number, name) in (0..).zip(names) {
        let args = claim_of(number);
        store.claim(args.clone()).await.unwrap();
        let row = format!("key = '{}'", args.id.key().as_str());
        server.sql("postgres", &format!("UPDATE semel_records SET {name} WHERE {row}"));
        assert_eq!(store.get(&args.id).await.unwrap_err().kind(), StoreErrorKind::Corrupt, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_bytes_are_damaged_or_the_record_that_was_asked_for() {
    let rows = number("SEMEL_FUZZ_INPUTS", 5_000).min(20_000) / 10;
    let seed = number("SEMEL_SEED", 1);
    let server = PostgresServer::start();
    let store = open(&server).await;
    for row in 0..rows {
        let Claimed::Won(record) = store.claim(claim_of(row)).await.unwrap() else { panic!("{row} stands") };
        let (id, guard) = (record.id, record.guard);
        if row % 3 == 1 {
            store.doubt(DoubtArgs { id, guard, cause: DoubtCause::NoAnswer }).await.unwrap();
        } else if row % 3 == 2 {
            let outcome = Outcome {
                code: 201,
                body: format!("body {row}").into(),
                body_kept: true,
                ..Outcome::default()
            };
            let retention = Duration::from_secs(3600);
            store
                .complete(CompleteArgs { id, guard, ending: Ending::Completed(outcome), retention })
                .await
                .unwrap();
        }
    }
    server.sql("postgres", &changes(seed));
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for row in 0..rows {
        let args = claim_of(row);
        let id = args.id.clone();
        let end = match store.get(&id).await {
            Ok(None) => "absent".to_owned(),
            Ok(Some(record)) => {
                assert_eq!(record.id, id, "SEMEL_SEED={seed}: another's record");
                format!("{:?}", record.state.kind())
            }
            Err(error) => format!("{:?}", error.kind()),
        };
        *ends.entry(end).or_default() += 1;
        match store.claim(args).await {
            Ok(Claimed::Won(record) | Claimed::Standing(record)) => {
                assert_eq!(record.id, id, "SEMEL_SEED={seed}")
            }
            Err(error) => *ends.entry(format!("claim: {:?}", error.kind())).or_default() += 1,
        }
    }
    let _ = store.scan(ScanArgs { limit: 100, ..ScanArgs::default() }).await;
    let _ = store.purge(100).await;
    println!("fuzz postgres rows: {rows} rows of seed {seed}: {ends:?}");
    let fresh = store.claim(claim_of(u64::MAX)).await.unwrap();
    assert!(matches!(fresh, Claimed::Won(_)), "the store goes on");
    assert!(ends.contains_key("Corrupt") && ends.contains_key("Completed"), "{ends:?}");
}
