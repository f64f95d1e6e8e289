//! Audits made by hand: one client that pays twice, one that does not, and one whose every text attacks whoever shows
//! it.

use std::time::Duration;

use semel_auditor::attempt::{Attempt, Ended, Origin};
use semel_auditor::report::{Audit, Figure, Finding, Severity, Subject, VERSION, Verdict, grade};
use semel_auditor::scenario::{End, Scenario, Seen};
use serde_json::json;

/// What a page must show and never obey.
pub(crate) const HOSTILE: &str = "</code></pre></title></style><script>document.body.id='owned'</script>\
    <img src=x onerror=\"document.body.id='owned'\">'\"&amp;\u{202e}\u{1b}[31m\0";

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn attempt(call: u32, key: Option<&str>, at: u64, ended: u64, step: &str) -> Attempt {
    let mut headers = vec![
        ("content-type".to_owned(), "application/json".to_owned()),
        ("authorization".to_owned(), "(32 characters)".to_owned()),
    ];
    headers.extend(key.map(|key| ("idempotency-key".to_owned(), key.to_owned())));
    Attempt {
        at: ms(at),
        call: Some(call),
        method: "POST".to_owned(),
        target: "/v1/payments".to_owned(),
        headers,
        keys: key.map(str::to_owned).into_iter().collect(),
        body_digest: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned(),
        body_bytes: 64,
        origin: Origin::Main,
        connection: 0,
        step: step.to_owned(),
        effect: false,
        ended_at: Some(ms(ended)),
        ended: if step == "reset" { Ended::Broken } else { Ended::Answered },
    }
}

fn paid(attempt: Attempt) -> Attempt {
    Attempt { effect: true, ..attempt }
}

fn seen(scenario: &str, script: &str, attempts: Vec<Attempt>, log: Option<&str>) -> Seen {
    let calls = attempts.iter().filter_map(|attempt| attempt.call).max().map_or(1, |last| last + 1);
    let took = attempts.iter().filter_map(|attempt| attempt.ended_at).max().unwrap_or_default();
    Seen {
        scenario: scenario.to_owned(),
        script: script.to_owned(),
        asked: Scenario {
            name: scenario.to_owned(),
            url: "http://127.0.0.1:4000".to_owned(),
            calls,
            parallel: calls,
            key: None,
            timeout_ms: None,
            max_retries: None,
            deadline_ms: None,
        },
        attempts,
        said: Vec::new(),
        end: End::Finished,
        took,
        stalled: Duration::ZERO,
        log: log.map(str::to_owned),
    }
}

fn finding(check: &str, title: &str, severity: Severity, verdict: Verdict, message: &str) -> Finding {
    let (check, title, message) = (check.to_owned(), title.to_owned(), message.to_owned());
    Finding { check, title, severity, verdict, message, figures: Vec::new(), seen: Vec::new() }
}

fn audit(
    name: &str,
    language: &str,
    findings: Vec<Finding>,
    seen: Vec<Seen>,
    meant: u64,
    made: u64,
) -> Audit {
    let (score, grade) = grade(&findings);
    Audit {
        version: VERSION,
        subject: Subject {
            name: name.to_owned(),
            version: Some("4.1.0".to_owned()),
            command: Some(format!("semel audit sdk {language}:{name}")),
            language: Some(language.to_owned()),
            supports: None,
        },
        grade,
        score,
        meant,
        made,
        sentence: format!(
            "Under these faults this SDK would have created {made} payments for {meant} calls."
        ),
        findings,
        seen,
        took: ms(14_200),
    }
}

/// Forty calls that fail at once and come back after `delay(call)` ms.
fn herd(delay: impl Fn(u32) -> u64) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for call in 0..40 {
        let key = format!("key-of-call-{call}");
        attempts.push(attempt(call, Some(&key), 20 + u64::from(call % 7), 24 + u64::from(call % 7), "503"));
        let back = 24 + u64::from(call % 7) + delay(call);
        attempts.push(paid(attempt(call, Some(&key), back, back + 6, "200")));
    }
    attempts.sort_by_key(|attempt| attempt.at);
    attempts
}

/// A client that makes a new key for each attempt and comes back in a herd.
pub(crate) fn careless() -> Audit {
    let mut keys = finding(
        "C2",
        "Same key over retries",
        Severity::S0,
        Verdict::Fail,
        "Attempt 2 of call 0 carried the key 5e2c… and attempt 1 had carried 1f0a…: a server that had already acted \
         would have acted again.",
    );
    keys.figures = vec![
        Figure { name: "keys_per_call".into(), value: json!([3, 3, 2]) },
        Figure { name: "payments".into(), value: json!(3) },
    ];
    keys.seen = vec![0, 1];
    let mut jitter = finding(
        "C11",
        "Retries are spread",
        Severity::S1,
        Verdict::Fail,
        "85 % of 40 calls came back within the same 50 ms: a server that has just failed would be hit by all of them.",
    );
    jitter.figures = vec![Figure { name: "within_50_ms_percent".into(), value: json!(85.0) }];
    jitter.seen = vec![2];
    let mut count = finding(
        "C9",
        "Retries have an end",
        Severity::S1,
        Verdict::Pass,
        "The client stopped after 3 attempts and 1.6 s.",
    );
    count.seen = vec![0];
    let findings = vec![
        finding(
            "C1",
            "A key by default",
            Severity::S1,
            Verdict::Pass,
            "Every first attempt carried Idempotency-Key.",
        ),
        keys,
        finding(
            "C7",
            "Keys are hard to guess",
            Severity::S2,
            Verdict::Info,
            "64 keys are UUIDs of version 4: 122 random bits.",
        ),
        count,
        jitter,
        finding(
            "C22",
            "Retries can be switched off",
            Severity::S2,
            Verdict::NotApplicable,
            "This client has no such setting.",
        ),
    ];
    let retried = vec![
        attempt(0, Some("1f0a7c52-61d0-4c9e-9a3e-2b1f4f2d8a10"), 12, 18, "503"),
        attempt(0, Some("5e2c9b10-3f3e-4b7e-8e0c-7d8b4a3a9c11"), 540, 546, "503"),
        paid(attempt(0, Some("c9d1e2f3-0a1b-4c2d-9e3f-5a6b7c8d9e12"), 1_590, 1_604, "200")),
    ];
    let lost = vec![
        paid(attempt(0, Some("77aa0c52-61d0-4c9e-9a3e-2b1f4f2d8a10"), 9, 40, "dup-effect, reset")),
        paid(attempt(0, Some("88bb9b10-3f3e-4b7e-8e0c-7d8b4a3a9c11"), 560, 575, "200")),
        attempt(1, None, 9, 41, "reset"),
        paid(attempt(1, None, 620, 633, "200")),
    ];
    let seen = vec![
        seen("retry-503", "503, 503, 200", retried, Some("logs/careless/retry-503.log")),
        seen("lost-answer", "dup-effect, 200", lost, None),
        seen(
            "herd",
            "the first 40 requests 503, then 200",
            herd(|call| if call < 34 { 500 } else { 430 + u64::from(call) * 9 }),
            None,
        ),
    ];
    audit("careless-sdk", "python", findings, seen, 42, 44)
}

/// A client that keeps everything.
pub(crate) fn careful() -> Audit {
    let mut jitter = finding(
        "C11",
        "Retries are spread",
        Severity::S1,
        Verdict::Pass,
        "At most 8 % of 40 calls came back within the same 50 ms.",
    );
    jitter.seen = vec![0];
    let findings = vec![
        finding(
            "C1",
            "A key by default",
            Severity::S1,
            Verdict::Pass,
            "Every first attempt carried Idempotency-Key.",
        ),
        finding(
            "C2",
            "Same key over retries",
            Severity::S0,
            Verdict::Pass,
            "Each call kept its key over 3 attempts.",
        ),
        jitter,
    ];
    let herd = herd(|call| 260 + u64::from(call * 37 % 40) * 13);
    audit(
        "careful-sdk",
        "node",
        findings,
        vec![seen("herd", "the first 40 requests 503, then 200", herd, None)],
        42,
        42,
    )
}

/// A client that sends what no page must obey, in every place where text can be.
pub(crate) fn hostile() -> Audit {
    let mut bad = attempt(0, Some(HOSTILE), 3, 9, HOSTILE);
    bad.method = HOSTILE.to_owned();
    bad.target = HOSTILE.to_owned();
    bad.headers = vec![(HOSTILE.to_owned(), HOSTILE.to_owned())];
    bad.body_digest = HOSTILE.to_owned();
    let mut finding = finding(HOSTILE, HOSTILE, Severity::S0, Verdict::Fail, HOSTILE);
    finding.figures = vec![
        Figure { name: HOSTILE.into(), value: json!(HOSTILE) },
        Figure { name: "list".into(), value: json!([HOSTILE, { HOSTILE: HOSTILE }]) },
    ];
    // One that is not there as well.
    finding.seen = vec![0, 1, 99];
    let mut first = seen(HOSTILE, HOSTILE, vec![bad.clone()], Some("javascript:alert(1)"));
    first.end = End::Broke(HOSTILE.to_owned());
    let second = seen("hostile log", HOSTILE, vec![bad], Some("//elsewhere.example/log"));
    let mut audit = audit(HOSTILE, HOSTILE, vec![finding], vec![first, second], 1, 1);
    audit.subject.version = Some(HOSTILE.to_owned());
    audit.subject.command = Some(HOSTILE.to_owned());
    audit.sentence = HOSTILE.to_owned();
    audit
}
