//! `semel audit`: exit codes, reports and last words, with clients in Python as others write them.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use semel_testkit::port::Port;
use serde_json::Value;
use tokio::time::Instant;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");

/// Sends one call, and once more when that fails; with a key of its own, or without one.
const CLIENT: &str = r#"
import os, sys, time, urllib.request, uuid
headers = {"Idempotency-Key": str(uuid.uuid4())} if sys.argv[1] == "keyed" else {}
for attempt in range(2):
    try:
        body = b'{"name": "semel-audit-0"}'
        to = os.environ["SEMEL_AUDIT_URL"] + "/payments"
        urllib.request.urlopen(urllib.request.Request(to, data=body, headers=headers, method="POST")).read()
        sys.exit(0)
    except Exception as error:
        time.sleep(0.2)
sys.exit(3)
"#;

fn audit(options: &[&str], command: &[&str]) -> Output {
    let mut semel = Command::new(SEMEL);
    semel.args(["audit", "run"]).args(options).arg("--").args(command);
    semel.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn client_that_keeps_its_key_ends_with_0_and_its_report_has_every_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let (page, junit) = (folder.path().join("audit.html"), folder.path().join("audit.xml"));
    let reports = [format!("html={}", page.display()), format!("junit={}", junit.display())];
    let options = ["--check", "C2,C3,C6", "--json", "--report", &reports[0], "--report", &reports[1]];
    let audited = audit(&options, &["python3", "-c", CLIENT, "keyed"]);
    assert_eq!(audited.status.code(), Some(0), "{}", text(&audited.stderr));
    let report: Value = serde_json::from_slice(&audited.stdout).unwrap();
    let verdicts: Vec<_> =
        report["findings"].as_array().unwrap().iter().map(|finding| &finding["verdict"]).collect();
    assert_eq!(verdicts, ["pass", "pass", "pass"], "{report}");
    assert_eq!((&report["grade"], &report["made"]), (&"A".into(), &report["meant"]));
    let seen = report["seen"].as_array().unwrap();
    let reset = seen.iter().find(|seen| seen["scenario"] == "retry-reset").unwrap();
    assert_eq!(reset["attempts"].as_array().unwrap().len(), 2);
    let log = std::fs::read_to_string(reset["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("POST /payments HTTP/1.1"), "{log}");
    assert!(std::fs::read_to_string(page).unwrap().contains("<html"));
    assert!(std::fs::read_to_string(junit).unwrap().contains("<testsuite"));
}

#[test]
fn client_that_pays_twice_ends_with_5_unless_nothing_counts() {
    let client = ["python3", "-c", CLIENT, "keyless"];
    let audited = audit(&["--check", "c3"], &client);
    let (out, error) = (text(&audited.stdout), text(&audited.stderr));
    assert_eq!(audited.status.code(), Some(5), "{out}{error}");
    assert!(error.contains("C3 failed"), "{error}");
    assert!(out.contains("payments for"), "{out}");
    let audited = audit(&["--check", "c3", "--fail-on", "never"], &client);
    assert_eq!(audited.status.code(), Some(0));
}

#[test]
fn milder_fault_ends_with_6_where_it_counts() {
    // A key for every call and a retry on 422, which is S1.
    let client = ["python3", "-c", CLIENT, "keyed"];
    assert_eq!(audit(&["--check", "C17"], &client).status.code(), Some(0));
    assert_eq!(audit(&["--check", "C17", "--fail-on", "s1"], &client).status.code(), Some(6));
}

#[test]
fn command_that_sends_nothing_is_reported_with_its_last_words() {
    let silent =
        audit(&["--check", "C2"], &["python3", "-c", "import sys; sys.exit('no such module: shop')"]);
    let error = text(&silent.stderr);
    assert_eq!(silent.status.code(), Some(1), "{error}");
    assert!(error.contains("sent no request") && error.contains("no such module: shop"), "{error}");
    let missing = audit(&[], &["no-such-program"]);
    assert!(
        text(&missing.stderr).contains("`no-such-program` cannot be started"),
        "{}",
        text(&missing.stderr)
    );
    assert_eq!(audit(&["--check", "C25"], &["true"]).status.code(), Some(2));
}

#[test]
fn https_is_served_by_an_authority_that_the_command_is_told_of() {
    let audited = audit(&["--check", "C2", "--tls"], &["python3", "-c", CLIENT, "keyed"]);
    assert_eq!(audited.status.code(), Some(0), "{}{}", text(&audited.stdout), text(&audited.stderr));
    assert!(text(&audited.stdout).contains("1 kept, 0 broken"), "{}", text(&audited.stdout));
}

#[test]
fn interrupt_ends_the_commands_and_judges_what_was_seen() {
    let folder = tempfile::tempdir().unwrap();
    let began = folder.path().join("began");
    // Makes its calls at once in the first scenario, and in all others waits for ever.
    let client = r#"
import os, sys, time, urllib.request
if os.environ["SEMEL_AUDIT_SCENARIO"] != "plain":
    open(sys.argv[1], "w").close()
    time.sleep(3600)
to = os.environ["SEMEL_AUDIT_URL"]
urllib.request.urlopen(urllib.request.Request(to, data=b"x", method="POST")).read()
"#;
    let semel = Command::new(SEMEL)
        .args([
            "audit",
            "run",
            "--check",
            "C2",
            "--json",
            "--",
            "python3",
            "-c",
            client,
            began.to_str().unwrap(),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !began.exists() {
        assert!(Instant::now() < deadline, "no scenario began");
        std::thread::sleep(Duration::from_millis(20));
    }
    let id = semel.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let ended = semel.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{}", text(&ended.stderr));
    assert_eq!(report["findings"][0]["verdict"], "not-applicable", "{report}");
    assert_eq!(report["seen"].as_array().unwrap().len(), 1, "{report}");
}

#[test]
fn serve_says_what_to_do_and_judges_what_comes() {
    let taken = Port::take();
    let port = taken.number();
    let mut serving = Command::new(SEMEL)
        .args(["audit", "serve", "--check", "C17", "--quiet-s", "1", "--json", "--port", &port.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut asked = 0;
    for line in BufReader::new(serving.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if !line.contains(&format!("http://127.0.0.1:{port}")) {
            continue;
        }
        asked += 1;
        let calls = if asked == 1 { 2 } else { 1 };
        for call in 0..calls {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let request = format!(
                "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 13\r\n\r\nsemel-audit-{call}"
            );
            stream.write_all(request.as_bytes()).unwrap();
            stream.read_to_end(&mut Vec::new()).unwrap();
        }
    }
    let ended = serving.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&ended.stdout).unwrap();
    assert_eq!((asked, ended.status.code()), (6, Some(0)), "{report}");
    assert_eq!(report["findings"][0]["verdict"], "pass", "{report}");
}
