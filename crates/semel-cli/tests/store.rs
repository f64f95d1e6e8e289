//! `semel store` as people and scripts call it: what a store survives, its format, and moving its records.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use semel::fingerprint::{self, PayloadParts};
use semel::record::{DoubtCause, Ending};
use semel::store::{ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Written};
use semel::{Fingerprint, Key, Operation, Outcome, Policy, Record, RecordId, Store, Tenant};
use semel_store_embedded::{EmbeddedConfig, EmbeddedStore};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(3600);

fn semel(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SEMEL_")) {
        command.env_remove(name);
    }
    command
        .args(args)
        .env("XDG_STATE_HOME", folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn said(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn document(output: &Output, code: i32) -> Value {
    assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[track_caller]
fn fails(output: &Output, code: i32, says: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(says), "{says:?} is not in {stderr:?}");
}

fn open(folder: &Path, name: &str) -> EmbeddedStore {
    EmbeddedStore::open(EmbeddedConfig::new(folder.join(name))).unwrap()
}

fn id(tenant: &str, key: &str) -> RecordId {
    RecordId::new(Tenant::id(&[tenant]), Operation::http(), Key::new(key).unwrap())
}

async fn claim(store: &EmbeddedStore, id: &RecordId) -> Record {
    let fingerprint = Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(b"100", &PayloadParts::Raw),
    };
    match store.claim(ClaimArgs::new(id.clone(), fingerprint, &Policy::default())).await.unwrap() {
        Claimed::Won(record) => record,
        Claimed::Standing(record) => panic!("{record:?} stands"),
    }
}

async fn complete(
    store: &EmbeddedStore,
    id: &RecordId,
    ending: impl Fn(Outcome) -> Ending,
    body: &str,
) -> Record {
    let guard = claim(store, id).await.guard;
    let outcome = Outcome { code: 201, head: "a: b".into(), body: body.to_owned().into(), body_kept: true };
    let args = CompleteArgs { id: id.clone(), guard, ending: ending(outcome), retention: HOUR };
    match store.complete(args).await.unwrap() {
        Written::Done(Some(record)) => record,
        other => panic!("{other:?}"),
    }
}

#[test]
fn check_says_what_a_store_survives() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    drop(open(folder, "keys.sqlite"));
    let shown = said(&semel(folder, &["store", "check", "embedded:keys.sqlite"]));
    for says in
        ["embedded:keys.sqlite", "power: an acknowledged outcome survives", "process kill", "power cut"]
    {
        assert!(shown.contains(says), "{says:?} is not in {shown}");
    }
    let checked = document(&semel(folder, &["store", "check", "embedded:keys.sqlite", "--json"]), 0);
    let survives =
        json!({ "process_kill": "yes", "power_cut": "yes", "node_loss_and_failover": "-", "partition": "-" });
    assert_eq!((&checked["survives"], &checked["durability"]), (&survives, &json!("power")));
    assert_eq!((&checked["warnings"], &checked["server"]), (&json!([]), &Value::Null));

    std::fs::write(folder.join("semel.toml"), "store = \"embedded:keys.sqlite\"\ndurability = \"process\"\n")
        .unwrap();
    let checked = document(&semel(folder, &["store", "check", "--config", "semel.toml", "--json"]), 0);
    assert_eq!(checked["survives"]["power_cut"], "the last moments lost");
    let memory = document(&semel(folder, &["store", "check", "memory:", "--json"]), 0);
    assert_eq!((&memory["durability"], &memory["survives"]["process_kill"]), (&json!("none"), &json!("no")));
}

#[test]
fn a_store_that_cannot_be_opened_is_refused_and_none_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for command in [
        &["check", "embedded:none"][..],
        &["migrate", "embedded:none"],
        &["copy", "embedded:none", "memory:"],
    ] {
        fails(&semel(folder, &[&["store"], command].concat()), 4, "there is no store embedded:none");
    }
    fails(&semel(folder, &["store", "check"]), 4, "semel/gateway.sqlite");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0);
    std::fs::write(folder.join("notes"), "not a store of any kind, and longer than a header ".repeat(40))
        .unwrap();
    fails(&semel(folder, &["store", "check", "embedded:notes"]), 4, "is not a store of semel");
    fails(&semel(folder, &["store", "check", "sqlite:x"]), 2, "is not a store");
    let owned = open(folder, "owned.sqlite");
    fails(&semel(folder, &["store", "check", "embedded:owned.sqlite"]), 4, "is open already");
    drop(owned);
    fails(&semel(folder, &["store", "copy", "embedded:a", "embedded:a"]), 2, "the same store");
}

#[test]
fn migrate_leaves_a_store_of_this_version_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    drop(open(folder, "keys.sqlite"));
    let shown = said(&semel(folder, &["store", "migrate", "embedded:keys.sqlite"]));
    assert_eq!(shown, "embedded:keys.sqlite has the format of this version\n");
    assert!(said(&semel(folder, &["store", "migrate", "memory:"])).contains("nothing to do"));
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_moves_every_live_record_and_can_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (paid, declined) = (id("acme", "paid"), id("globex", "paid"));
    let (doubted, running) = (id("acme", "doubted"), id("acme", "running"));
    let old = open(folder, "old.sqlite");
    let large = "receipt ".repeat(50_000);
    let mut expected = vec![
        complete(&old, &paid, Ending::Completed, &large).await,
        complete(&old, &declined, Ending::Failed, "no").await,
    ];
    let guard = claim(&old, &doubted).await.guard;
    let args = DoubtArgs { id: doubted.clone(), guard, cause: DoubtCause::NoAnswer };
    old.doubt(args).await.unwrap();
    expected.push(old.get(&doubted).await.unwrap().unwrap());
    claim(&old, &running).await;
    for number in 0..300 {
        expected.push(complete(&old, &id("acme", &format!("k {number}")), Ending::Completed, "x").await);
    }
    drop(old);

    let copying = ["store", "copy", "embedded:old.sqlite", "embedded:new.sqlite"];
    let shown = said(&semel(folder, &copying));
    assert!(shown.starts_with("304 records stand in embedded:new.sqlite"), "{shown}");
    let counts = json!({ "copied": 304, "made_doubts": 0, "in_the_way": 0, "expired": 0 });
    let again = semel(folder, &[&copying[..], &["--json"]].concat());
    assert_eq!(document(&again, 0), counts, "again; what was in flight is in doubt since its owner ended");

    let new = open(folder, "new.sqlite");
    for record in expected {
        assert_eq!(new.get(&record.id).await.unwrap(), Some(record));
    }
    assert!(new.get(&running).await.unwrap().unwrap().outcome().is_none());
    drop(new);
    let shown =
        semel(folder, &["keys", "list", "--store", "embedded:new.sqlite", "--state", "in-doubt", "--json"]);
    assert_eq!(said(&shown).lines().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_leaves_out_what_another_record_stands_in_the_way_of() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (name, body) in [("old.sqlite", "theirs"), ("new.sqlite", "ours")] {
        complete(&open(folder, name), &id("acme", "k"), Ending::Completed, body).await;
    }
    let copied = semel(folder, &["store", "copy", "embedded:old.sqlite", "embedded:new.sqlite", "--json"]);
    assert_eq!(document(&copied, 1)["in_the_way"], 1);
    fails(&copied, 1, "1 key has another record in embedded:new.sqlite");
    let kept = open(folder, "new.sqlite").get(&id("acme", "k")).await.unwrap().unwrap();
    assert_eq!(kept.outcome().unwrap().body, "ours");
}
