//! Encryption at rest through the whole program: every file of every store is searched for what was answered, and an
//! outcome that cannot be opened is never run again.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use semel_testkit::client::Call;
use semel_testkit::gateway::Gateway;
use semel_testkit::server::postgres::PostgresServer;
use semel_testkit::server::redis::RedisServer;
use semel_testkit::upstream::{Reply, Upstream};
use tempfile::TempDir;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
/// In a header of the upstream's answer; nothing in it repeats, so that no compression hides it.
const SECRET: &str = "zq7-4111-x";
const KEY: &str = "alice-order-42-of-example";

struct Keys(TempDir);

impl Keys {
    fn new(lines: &[(&str, &str)]) -> Self {
        let keys = Self(tempfile::tempdir().unwrap());
        keys.write(lines);
        keys
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("keys")
    }

    fn write(&self, lines: &[(&str, &str)]) {
        let text: String =
            lines.iter().map(|(name, digit)| format!("{name} {}\n", digit.repeat(64))).collect();
        fs::write(self.path(), text).unwrap();
    }

    fn config(&self, more: &str) -> String {
        let path = self.path();
        format!("{more}\n[encryption]\nkeys = \"{}\"\nactive = \"2026\"\nhash_keys = true\n", path.display())
    }
}

fn keys() -> Keys {
    Keys::new(&[("2026", "a"), ("hash-secret", "b")])
}

fn paying() -> Call {
    Call::post("/charges", format!("{{\"card\":\"{SECRET}\"}}")).key(KEY)
}

fn upstream() -> Upstream {
    Upstream::scripted(|arrived| async move {
        let Reply::Answer(mut answer) = arrived.charge() else { panic!("it answers whole") };
        answer.headers_mut().insert("x-card", SECRET.parse().unwrap());
        Reply::Answer(answer)
    })
}

/// How many files below `folder` hold `text`.
fn holding(folder: &Path, text: &str) -> usize {
    let mut found = 0;
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found += holding(&path, text);
        } else if path.extension().is_none_or(|kind| kind != "toml") {
            let bytes = fs::read(&path).unwrap_or_default();
            found += usize::from(bytes.windows(text.len()).any(|part| part == text.as_bytes()));
        }
    }
    found
}

/// Pays once with and once without encryption at a store of each, and searches what the stores wrote.
async fn searched(plain: (Option<String>, Option<&Path>), sealed: (Option<String>, Option<&Path>)) {
    let keys = keys();
    for ((url, folder), config) in [(plain, "[defaults]\n".to_owned()), (sealed, keys.config(""))] {
        let upstream = upstream();
        let mut gateway = match url {
            Some(url) => Gateway::start_on(&url, SEMEL, &upstream.url(), &config).await,
            None => Gateway::start_with(SEMEL, &upstream.url(), &config).await,
        };
        let first = paying().answer(gateway.addr()).await;
        let again = paying().answer(gateway.addr()).await;
        assert_eq!((first.status, again.standing()), (201, Some("replayed")));
        assert_eq!(first.essence(), again.essence());
        assert_eq!(upstream.ledger().effects(KEY), 1);
        gateway.terminate();
        gateway.wait().await;
        let folder = folder.unwrap_or_else(|| gateway.folder());
        let is_plain = !config.contains("encryption");
        for secret in [SECRET, KEY] {
            assert_eq!(holding(folder, secret) > 0, is_plain, "{secret} in {}", folder.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fm51_the_embedded_stores_files_hold_no_secret() {
    searched((None, None), (None, None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fm51_the_files_of_redis_hold_no_secret() {
    let (plain, sealed) = (RedisServer::start(), RedisServer::start());
    searched((Some(plain.url()), Some(plain.folder())), (Some(sealed.url()), Some(sealed.folder()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fm51_the_files_of_postgresql_hold_no_secret() {
    let (plain, sealed) = (PostgresServer::start_with(&[]), PostgresServer::start_with(&[]));
    let folders = [&plain, &sealed].map(|server| {
        let made = std::process::Command::new(SEMEL)
            .args(["store", "migrate", &server.url("postgres")])
            .output()
            .unwrap();
        assert!(made.status.success());
        PathBuf::from(server.sql("postgres", "SHOW data_directory").trim())
    });
    let of = |server: &PostgresServer, folder: usize| (Some(server.url("postgres")), Some(&*folders[folder]));
    searched(of(&plain, 0), of(&sealed, 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_under_a_missing_key_answers_500_and_never_runs_again_whatever_the_route_says() {
    let (keys, upstream) = (keys(), upstream());
    let config = keys.config("[defaults]\non_store_down = \"run\"\n");
    let mut gateway = Gateway::start_with(SEMEL, &upstream.url(), &config).await;
    let first = paying().answer(gateway.addr()).await;
    for (lines, status) in [
        (&[("2026", "c"), ("hash-secret", "b")][..], 500),
        (&[("2026", "a"), ("2025", "c"), ("hash-secret", "b")][..], 201),
    ] {
        gateway.terminate();
        gateway.wait().await;
        keys.write(lines);
        gateway.start_again().await;
        let answer = paying().answer(gateway.addr()).await;
        assert_eq!(answer.status, status, "{answer:?}");
        match status {
            500 => assert_eq!(answer.problem().as_deref(), Some("record-unreadable")),
            _ => assert_eq!(answer.essence(), first.essence()),
        }
        assert_eq!(upstream.ledger().effects(KEY), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_finds_a_hashed_key_by_the_key_and_by_its_hash() {
    let (keys, upstream) = (keys(), upstream());
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), &keys.config("")).await;
    paying().answer(gateway.addr()).await;
    let listed = gateway.keys(&["list", "--all"]).await;
    let hash = listed.documents[0]["key"].as_str().unwrap().to_owned();
    assert!(hash.starts_with("hashed:"), "{hash}");
    for key in [KEY, hash.as_str()] {
        assert_eq!(gateway.keys(&["show", key]).await.documents[0]["state"], "completed", "{key}");
    }
}
