//! Servers and databases that are set up badly: each is refused or named when the store is opened.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use semel::record::ClaimArgs;
use semel::store::{Claimed, Durability, Survives};
use semel::{Fingerprint, Key, Operation, Policy, RecordId, Store, Tenant, fingerprint};
use semel_store_postgres::{OpenError, OpenErrorKind, PostgresConfig, PostgresStore};
use semel_testkit::certificates::Certificates;
use semel_testkit::server::postgres::{Pooler, PostgresServer};
use tokio::task::JoinSet;

fn config(server: &PostgresServer) -> PostgresConfig {
    PostgresConfig::new(server.url("postgres"))
}

async fn open(server: &PostgresServer) -> Result<PostgresStore, OpenError> {
    PostgresStore::open(config(server).migrate(true)).await
}

/// That opening is refused, and what it says.
async fn refused(config: PostgresConfig, kind: OpenErrorKind, says: &str) {
    match PostgresStore::open(config).await {
        Ok(store) => panic!("it was opened: {:?}", store.tier()),
        Err(refused) => {
            assert_eq!(refused.kind(), kind, "{refused}");
            assert!(refused.to_string().contains(says), "{refused}");
        }
    }
}

async fn warns(server: &PostgresServer, says: &str) -> PostgresStore {
    let store = open(server).await.unwrap();
    let warnings = store.tier().warnings;
    assert!(warnings.iter().any(|warning| warning.contains(says)), "{warnings:?}");
    store
}

fn claiming(key: &str) -> ClaimArgs {
    let id = RecordId::new(Tenant::public(), Operation::http(), Key::new(key).unwrap());
    let payload = fingerprint::payload(b"100", &fingerprint::PayloadParts::Raw);
    let request = Fingerprint { target: fingerprint::target("POST", "/", None), payload };
    ClaimArgs::new(id, request, &Policy::default())
}

#[tokio::test]
async fn fsync_off_is_refused_unless_less_is_asked_for() {
    let server = PostgresServer::start_with(&[("fsync", "off")]);
    refused(config(&server).migrate(true), OpenErrorKind::Settings, "fsync is off").await;
    let store =
        PostgresStore::open(config(&server).migrate(true).durability(Durability::Process)).await.unwrap();
    assert_eq!(store.capabilities().durability, Durability::Process);
    assert!(matches!(store.tier().power_cut, Survives::Partly(_)));
}

#[tokio::test]
async fn full_page_writes_off_is_refused() {
    let server = PostgresServer::start_with(&[("full_page_writes", "off")]);
    refused(config(&server).migrate(true), OpenErrorKind::Settings, "full_page_writes is off").await;
}

#[tokio::test]
async fn zero_damaged_pages_is_refused() {
    let server = PostgresServer::start_with(&[("zero_damaged_pages", "on")]);
    refused(config(&server).migrate(true), OpenErrorKind::Settings, "zero_damaged_pages").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn synchronous_commit_off_is_raised_for_our_own_sessions() {
    let server = PostgresServer::start_with(&[("synchronous_commit", "off")]);
    let store = warns(&server, "synchronous_commit is lower than on").await;
    let lsn = || server.sql("postgres", "SELECT pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn()");
    for number in 0..20 {
        store.claim(claiming(&format!("k {number}"))).await.unwrap();
        assert_eq!(lsn(), "0", "an acknowledged claim was not flushed");
    }
}

#[tokio::test]
async fn server_without_a_standby_is_named() {
    let server = PostgresServer::start_with(&[]);
    let store = warns(&server, "synchronous_standby_names is empty").await;
    assert_eq!(store.tier().node_loss, Survives::Partly("restore only".into()));
    assert_eq!(store.capabilities().durability, Durability::Power);
}

#[tokio::test]
async fn standby_that_only_receives_is_named() {
    let mut server = PostgresServer::start_with(&[]);
    open(&server).await.unwrap();
    server.stop();
    server.set("synchronous_standby_names", "s1");
    server.set("synchronous_commit", "remote_write");
    server.start_again();
    let store = PostgresStore::open(config(&server)).await.unwrap();
    assert!(store.tier().warnings.iter().any(|warning| warning.contains("remote_write")));
    assert_eq!(store.tier().partition, Survives::Partly("stops rather than forks".into()));
}

#[tokio::test]
async fn commits_that_do_not_wait_for_the_standby_are_raised() {
    let mut server = PostgresServer::start_with(&[]);
    open(&server).await.unwrap();
    server.stop();
    server.set("synchronous_standby_names", "s1");
    server.set("synchronous_commit", "local");
    server.start_again();
    let store = PostgresStore::open(config(&server)).await.unwrap();
    assert!(store.tier().warnings.iter().any(|warning| warning.contains("lower than on")));
    assert_eq!(store.tier().node_loss, Survives::Yes);
}

#[tokio::test]
async fn autovacuum_off_is_named() {
    let server = PostgresServer::start_with(&[("autovacuum", "off")]);
    warns(&server, "autovacuum is off").await;
}

#[tokio::test]
async fn standby_is_refused() {
    let server = PostgresServer::start_with(&[]);
    open(&server).await.unwrap();
    let standby = server.standby("s1");
    refused(config(&standby), OpenErrorKind::Unreachable, "takes no writes").await;
}

#[tokio::test]
async fn read_only_server_is_refused() {
    let server = PostgresServer::start_with(&[("default_transaction_read_only", "on")]);
    refused(config(&server), OpenErrorKind::Unreachable, "takes no writes").await;
}

#[tokio::test]
async fn another_encoding_is_refused() {
    let server = PostgresServer::start_with(&[]);
    server.sql("postgres", "CREATE DATABASE other ENCODING 'SQL_ASCII' TEMPLATE template0");
    refused(PostgresConfig::new(server.url("other")), OpenErrorKind::Settings, "encoding is SQL_ASCII").await;
}

#[tokio::test]
async fn tables_are_made_only_when_that_is_allowed() {
    let server = PostgresServer::start_with(&[]);
    refused(config(&server), OpenErrorKind::NotMigrated, "semel store migrate").await;
    PostgresStore::migrate(&config(&server)).await.unwrap();
    PostgresStore::migrate(&config(&server)).await.unwrap();
    PostgresStore::open(config(&server)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_migrate_at_once_make_the_tables_once() {
    let server = PostgresServer::start_with(&[]);
    let mut opening = JoinSet::new();
    for _ in 0..6 {
        opening.spawn(PostgresStore::open(config(&server).migrate(true)));
    }
    for opened in opening.join_all().await {
        opened.unwrap();
    }
}

#[tokio::test]
async fn newer_tables_are_refused() {
    let server = PostgresServer::start_with(&[]);
    open(&server).await.unwrap();
    server.sql("postgres", "UPDATE semel_meta SET version = 99");
    refused(config(&server).migrate(true), OpenErrorKind::Newer, "version 99").await;
}

#[tokio::test]
async fn tables_of_something_else_are_refused() {
    let server = PostgresServer::start_with(&[]);
    server.sql("postgres", "CREATE TABLE semel_records (mine text)");
    refused(config(&server), OpenErrorKind::Foreign, "did not make").await;
    refused(config(&server).migrate(true), OpenErrorKind::Foreign, "did not make").await;
}

#[tokio::test]
async fn unlogged_table_is_refused_unless_nothing_is_asked_for() {
    let server = PostgresServer::start_with(&[]);
    open(&server).await.unwrap();
    server.sql("postgres", "ALTER TABLE semel_records SET UNLOGGED");
    refused(config(&server), OpenErrorKind::Settings, "UNLOGGED").await;
    let store = PostgresStore::open(config(&server).durability(Durability::None)).await.unwrap();
    assert_eq!(
        (store.capabilities().durability, store.tier().process_kill),
        (Durability::None, Survives::No)
    );
}

#[tokio::test]
async fn role_without_rights_or_behind_row_security_is_refused() {
    let server = PostgresServer::start_with(&[]);
    open(&server).await.unwrap();
    server.sql("postgres", "CREATE ROLE shop LOGIN");
    let shop = || PostgresConfig::new(server.url("postgres").replace("//semel@", "//shop@"));
    refused(shop(), OpenErrorKind::Foreign, "").await;
    server.sql(
        "postgres",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON semel_records TO shop; GRANT SELECT, UPDATE ON semel_meta TO shop; \
         GRANT USAGE ON semel_tokens TO shop",
    );
    let store = PostgresStore::open(shop()).await.unwrap();
    assert!(matches!(store.claim(claiming("k")).await.unwrap(), Claimed::Won(_)));
    server.sql("postgres", "ALTER TABLE semel_records ENABLE ROW LEVEL SECURITY");
    refused(shop(), OpenErrorKind::Foreign, "row security").await;
}

#[tokio::test]
async fn server_that_cannot_be_reached_is_said_without_the_password() {
    let server = PostgresServer::start_with(&[]);
    let port = server.port();
    for (url, says) in [
        (format!("postgres://semel:secret@127.0.0.1:{port}/nowhere"), "does not exist"),
        (format!("postgres://nobody:secret@127.0.0.1:{port}/postgres"), "does not exist"),
        ("postgres://semel:secret@127.0.0.1:1/postgres".to_owned(), "refused"),
    ] {
        let error = PostgresStore::open(PostgresConfig::new(url)).await.unwrap_err();
        assert_eq!(error.kind(), OpenErrorKind::Unreachable);
        let text = error.to_string();
        assert!(text.contains(says) && !text.contains("secret"), "{text}");
    }
    let error =
        PostgresStore::open(PostgresConfig::new("postgres://me:secret@h/d?nonsense=1")).await.unwrap_err();
    assert_eq!(error.kind(), OpenErrorKind::Address);
    assert!(!error.to_string().contains("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_of_the_server_that_would_break_us_are_overruled() {
    let server = PostgresServer::start_with(&[
        ("default_transaction_isolation", "serializable"),
        ("statement_timeout", "1"),
        ("lock_timeout", "1"),
        ("enable_nestloop", "off"),
    ]);
    let store = Arc::new(open(&server).await.unwrap());
    for round in 0..20 {
        let mut racers = JoinSet::new();
        for _ in 0..16 {
            let store = Arc::clone(&store);
            racers.spawn(async move { store.claim(claiming(&format!("k {round}"))).await.unwrap() });
        }
        let won = racers.join_all().await.into_iter().filter(|claimed| matches!(claimed, Claimed::Won(_)));
        assert_eq!(won.count(), 1);
    }
}

#[tokio::test]
async fn another_schema_is_chosen_by_the_search_path() {
    let server = PostgresServer::start_with(&[]);
    server.sql("postgres", "CREATE SCHEMA apart");
    let url = format!("{}?options=-c%20search_path%3Dapart", server.url("postgres"));
    let store = PostgresStore::open(PostgresConfig::new(url).migrate(true)).await.unwrap();
    store.claim(claiming("k")).await.unwrap();
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM apart.semel_records"), "1");
    refused(config(&server), OpenErrorKind::NotMigrated, "no tables").await;
}

#[tokio::test]
async fn pooler_that_hands_out_transactions_is_refused() {
    let server = PostgresServer::start_with(&[]);
    open(&server).await.unwrap();
    let pooler = Pooler::start(&server, "");
    refused(PostgresConfig::new(pooler.url("postgres")), OpenErrorKind::Pooled, "pooler").await;
    let deaf = Pooler::start(&server, "ignore_startup_parameters = options");
    refused(PostgresConfig::new(deaf.url("postgres")), OpenErrorKind::Pooled, "pooler").await;
}

#[tokio::test]
async fn tls_is_verified_as_far_as_the_address_says() {
    let folder = tempfile::tempdir().unwrap();
    let ours = Certificates::make(folder.path()).unwrap();
    let mut server = PostgresServer::start_with(&[]);
    server.stop();
    let file = |name, path| server.put_file(name, &std::fs::read(path).unwrap());
    let certificate = file("server.crt", &ours.certificate);
    let key = file("server.key", &ours.private_key);
    server.set("ssl", "on");
    server.set("ssl_cert_file", certificate.to_str().unwrap());
    server.set("ssl_key_file", key.to_str().unwrap());
    server.start_again();
    let url = |host: &str, rest: &str| {
        PostgresConfig::new(format!("postgres://semel@{host}:{}/postgres?{rest}", server.port()))
            .migrate(true)
    };
    let root = format!("sslrootcert={}", ours.authority.display());
    let encrypted = "SELECT count(*) > 0 FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                     WHERE ssl AND application_name = 'semel'";
    for good in [
        url("localhost", &format!("sslmode=verify-full&{root}")),
        url("127.0.0.1", &format!("sslmode=verify-ca&{root}")),
        url("127.0.0.1", "sslmode=require"),
        url("127.0.0.1", ""),
    ] {
        let _store = PostgresStore::open(good).await.unwrap();
        assert_eq!(server.sql("postgres", encrypted), "t");
    }
    let other = tempfile::tempdir().unwrap();
    let theirs = Certificates::make(other.path()).unwrap();
    let wrong = format!("sslrootcert={}", theirs.authority.display());
    for mode in ["verify-full", "verify-ca", "require"] {
        let bad = url("localhost", &format!("sslmode={mode}&{wrong}"));
        refused(bad, OpenErrorKind::Unreachable, "certificate").await;
    }
    let plain = PostgresServer::start_with(&[]);
    let wanted = PostgresConfig::new(format!("{}?sslmode=require", plain.url("postgres")));
    refused(wanted, OpenErrorKind::Unreachable, "TLS").await;
}
