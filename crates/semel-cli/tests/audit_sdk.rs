//! `semel audit sdk` with real packages from PyPI and npm, pinned, and with an adapter that is not built in.
//!
//! Installs below the target folder, so that only the first run needs the registries.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn semel(arguments: &[&str]) -> Output {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sdk-cache");
    let mut command = Command::new(env!("CARGO_BIN_EXE_semel"));
    command.args(["audit", "sdk"]).args(arguments).env("XDG_CACHE_HOME", cache);
    command.output().expect("semel runs")
}

/// The audits of a run that is not failed by what it finds.
fn audits(arguments: &[&str]) -> Vec<Value> {
    let output = semel(&[arguments, &["--json", "--fail-on", "never"]].concat());
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    match serde_json::from_slice(&output.stdout).expect("JSON") {
        Value::Array(audits) => audits,
        one => vec![one],
    }
}

fn verdict<'a>(audit: &'a Value, check: &str) -> &'a str {
    let findings = audit["findings"].as_array().expect("findings");
    let finding = findings.iter().find(|finding| finding["check"] == check).expect("it was asked for");
    finding["verdict"].as_str().expect("a verdict")
}

/// How many requests a scenario of one call saw, and with how many different keys.
fn seen(audit: &Value, scenario: &str) -> (usize, usize) {
    let seen = audit["seen"].as_array().expect("scenarios");
    let seen = seen.iter().find(|seen| seen["scenario"] == scenario).expect("it was run");
    let attempts = seen["attempts"].as_array().expect("attempts");
    let mut keys: Vec<String> = attempts.iter().map(|attempt| attempt["keys"].to_string()).collect();
    keys.sort();
    keys.dedup();
    (attempts.len(), keys.iter().filter(|keys| *keys != "[]").count())
}

#[test]
fn four_real_packages_do_under_faults_what_is_known_of_them() {
    let names = ["python:gocardless-pro", "python:mailgun", "node:modern-treasury", "node:postmark"];
    let all = audits(&[&names[..], &["--check", "C1,C2,C3,C9"]].concat());
    let [gocardless, mailgun, treasury, postmark] = all.as_slice() else { panic!("{} audits", all.len()) };
    for (audit, name, version) in [
        (gocardless, names[0], "gocardless-pro 3.22.0"),
        (mailgun, names[1], "mailgun 1.10.0"),
        (treasury, names[2], "modern-treasury 3.3.0"),
        (postmark, names[3], "postmark 5.1.0"),
    ] {
        assert_eq!(
            (&audit["subject"]["name"], &audit["subject"]["version"]),
            (&name.into(), &version.into())
        );
    }

    // Connections that break are tried again, with the same key; an error of the API's is final.
    assert_eq!(verdict(gocardless, "C1"), "pass");
    assert_eq!(seen(gocardless, "retry-reset"), (3, 1));
    assert_eq!(seen(gocardless, "steady-503"), (1, 1));

    // No key, and a POST that was carried out is sent again: another payment.
    assert_eq!((verdict(mailgun, "C1"), verdict(mailgun, "C3")), ("fail", "fail"));
    assert_eq!(seen(mailgun, "steady-503"), (4, 0));
    assert!(mailgun["made"].as_u64() > mailgun["meant"].as_u64(), "{}", mailgun["sentence"]);

    // Its own key, the same one over retries.
    assert_eq!((verdict(treasury, "C1"), verdict(treasury, "C2")), ("pass", "pass"));
    assert_eq!(seen(treasury, "retry-503"), (3, 1));
    assert_eq!(seen(treasury, "steady-503"), (3, 1));
    assert_eq!(treasury["made"], treasury["meant"]);

    // No key, and nothing is sent again.
    assert_eq!((verdict(postmark, "C1"), seen(postmark, "retry-503")), ("fail", (1, 0)));
    assert_eq!(postmark["made"], postmark["meant"]);
}

const ADAPTER: &str = r#"name = "mine"
language = "node"
packages = ["ms@2.1.3"]
call = "fetch"
supports = ["key"]

[api]
key_headers = ["X-Once"]
"#;

const SCRIPT: &str = r#"
import { randomUUID } from "node:crypto";
import ms from "ms";

export function client(url) {
  return { url, pause: ms("10ms") };
}

export async function create({ url, pause }, marker, key) {
  const headers = { "X-Once": key ?? randomUUID() };
  for (let left = 2; ; left--) {
    const answer = await fetch(url, { method: "POST", headers, body: marker }).catch(() => undefined);
    if (answer?.ok) return;
    if (left === 0) throw new Error(`status ${answer?.status}`);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}
"#;

#[test]
fn adapter_of_a_users_own_runs_without_recompiling() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("mine")).expect("a folder");
    fs::write(folder.path().join("mine/adapter.toml"), ADAPTER).expect("it is written");
    fs::write(folder.path().join("mine/create.mjs"), SCRIPT).expect("it is written");
    let adapters = folder.path().to_str().expect("UTF-8");
    let all = audits(&["--adapters", adapters, "node:mine", "--check", "C1,C2,C5"]);
    assert_eq!(all[0]["subject"]["version"], "ms 2.1.3");
    assert_eq!(["C1", "C2", "C5"].map(|check| verdict(&all[0], check)), ["pass"; 3]);
    assert_eq!(seen(&all[0], "retry-503"), (3, 1));
}

#[test]
fn broken_adapter_is_refused_with_its_file_and_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("adapter.toml");
    fs::write(&path, ADAPTER.replace("ms@2.1.3", "ms@latest")).expect("it is written");
    let output = semel(&["--adapters", folder.path().to_str().expect("UTF-8"), "--list"]);
    let complaint = String::from_utf8_lossy(&output.stderr);
    let expected = format!("{}:3:13: `ms@latest` has no exact version", path.display());
    assert!(complaint.contains(&expected), "{complaint}");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn adapters_are_listed_with_their_packages_and_an_unknown_one_is_refused() {
    let listed = semel(&["--list"]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(text.lines().count() >= 20 && text.contains("@workos-inc/node 11.0.0"), "{text}");
    let refused = semel(&["python:strip"]);
    let complaint = String::from_utf8_lossy(&refused.stderr);
    assert!(complaint.contains("there is no adapter `python:strip`; is it"), "{complaint}");
    assert_eq!(refused.status.code(), Some(2));
}
