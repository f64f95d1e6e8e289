//! The five forms of a report, over audits made by hand; the page also as Chromium shows it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "reports/fixture.rs"]
mod fixture;

use std::path::Path;
use std::process::{Command, Stdio};

use fixture::{HOSTILE, careful, careless, hostile};
use semel_auditor::report::{Audit, Form, terminal};
use serde_json::Value;

#[test]
fn json_is_the_model_and_is_read_back() {
    let audits = [careless(), careful(), hostile()];
    let back: Vec<Audit> = serde_json::from_str(&Form::Json.render(&audits)).unwrap();
    assert_eq!(back, audits);
    let one: Audit = serde_json::from_str(&Form::Json.render(&audits[..1])).unwrap();
    assert_eq!(one, audits[0]);
}

#[test]
fn the_terminal_names_every_failure_and_fits() {
    let text = terminal::render(&[careless(), careful()], 80, false);
    let expected = "\
careless-sdk 4.1.0 (python)  grade F  48 of 100, 14.2 s
Under these faults this SDK would have created 44 payments for 42 calls.

 pass      C1   A key by default
 FAIL  S0  C2   Same key over retries
                Attempt 2 of call 0 carried the key 5e2c… and attempt 1 had
                carried 1f0a…: a server that had already acted would have acted
                again.
 info      C7   Keys are hard to guess
                64 keys are UUIDs of version 4: 122 random bits.
 pass      C9   Retries have an end
 FAIL  S1  C11  Retries are spread
                85 % of 40 calls came back within the same 50 ms: a server that
                has just failed would be hit by all of them.
 n/a       C22  Retries can be switched off
                This client has no such setting.

2 kept, 2 broken, 1 noted, 1 not judged

careful-sdk 4.1.0 (node)  grade A  100 of 100, 14.2 s
Under these faults this SDK would have created 42 payments for 42 calls.

 pass      C1   A key by default
 pass      C2   Same key over retries
 pass      C11  Retries are spread

3 kept, 0 broken, 0 noted, 0 not judged

                             grade  made/meant  fails
careless-sdk 4.1.0 (python)    F         44/42  C2 C11
careful-sdk 4.1.0 (node)       A         42/42
made/meant: payments made for calls that took effect
";
    let trimmed: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert_eq!(trimmed.join("\n") + "\n", expected);
}

#[test]
fn colours_move_nothing_and_hostile_text_cannot_write_its_own() {
    let audits = [careless(), hostile()];
    let plain = terminal::render(&audits, 100, false);
    assert!(!plain.contains(['\u{1b}', '\0', '\u{202e}']), "{plain:?}");
    let coloured = terminal::render(&audits, 100, true);
    assert_ne!(coloured, plain);
    assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), plain);
}

#[test]
fn junit_counts_failures_and_skips_and_survives_hostile_text() {
    let xml = Form::Junit.render(&[careless(), hostile()]);
    let report = quick_junit::Report::deserialize_from_str(&xml).unwrap();
    let suite = &report.test_suites[0];
    assert_eq!((suite.tests, suite.failures), (6, 2), "{xml}");
    assert_eq!(xml.matches("<skipped message=\"This client has no such setting.\"/>").count(), 1, "{xml}");
    let failure = &suite.test_cases[1];
    assert_eq!(failure.name.as_str(), "C2 Same key over retries");
    assert!(xml.contains("type=\"S0: money or duplicates\""), "{xml}");
    assert!(!xml.contains("<script"), "{xml}");
    assert!(!xml.contains(['\0', '\u{1b}']), "characters that XML does not have");
}

#[test]
fn sarif_has_a_rule_and_a_result_for_each_check() {
    let log: Value = serde_json::from_str(&Form::Sarif.render(&[careless(), careful()])).unwrap();
    assert_eq!((&log["version"], log["runs"].as_array().unwrap().len()), (&Value::from("2.1.0"), 2));
    let run = &log["runs"][0];
    let (rules, results) = (&run["tool"]["driver"]["rules"], &run["results"]);
    assert_eq!((rules.as_array().unwrap().len(), results.as_array().unwrap().len()), (6, 6));
    for (index, result) in results.as_array().unwrap().iter().enumerate() {
        assert_eq!(result["ruleId"], rules[index]["id"]);
        assert_eq!(result["ruleIndex"], index);
        // The standard: what does not fail has no level.
        assert_eq!(result["level"] == "none", result["kind"] != "fail", "{result}");
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
    }
    assert_eq!((&results[1]["level"], &results[1]["kind"]), (&Value::from("error"), &Value::from("fail")));
    let log = &results[1]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
    assert_eq!(log, "logs/careless/retry-503.log");
    assert_eq!(results[5]["kind"], "notApplicable");
}

#[test]
fn a_file_names_others_from_where_it_is() {
    let mut audit = careless();
    audit.seen[0].log = Some("/tmp/out/audit.logs/retry-503.log".to_owned());
    let page = Form::Page.render_for(Path::new("/tmp/out/audit.html"), &[audit.clone()]);
    assert!(page.contains("href=\"./audit.logs/retry-503.log\""), "{page}");
    // One that is elsewhere is no link: what is known of the requests is in the page.
    let page = Form::Page.render_for(Path::new("/home/audit.html"), &[audit]);
    assert!(!page.contains("retry-503.log") && page.contains("body of 64 bytes"));
}

/// A browser with a folder of its own, on a page in it.
struct Browser {
    folder: tempfile::TempDir,
}

impl Browser {
    fn on(page: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("page.html"), page).unwrap();
        Self { folder }
    }

    fn run(&self, wishes: &[&str]) -> Vec<u8> {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let profile = tempfile::tempdir_in(self.folder.path()).unwrap();
        let output = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(wishes)
            .arg(format!("file://{}", path("page.html")))
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("chromium: {error}; apt-get install chromium"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The page as the browser understood it.
    fn document(&self) -> String {
        String::from_utf8(self.run(&["--dump-dom"])).unwrap()
    }

    /// A picture of it: width and height as the file says, and its size.
    fn picture(&self, name: &str, wishes: &[&str]) -> (u32, u32, u64) {
        let file = self.folder.path().join(name);
        let screenshot = format!("--screenshot={}", file.display());
        let mut all = vec![screenshot.as_str(), "--hide-scrollbars"];
        all.extend(wishes);
        self.run(&all);
        measured(&file)
    }
}

/// The head of a PNG has its size.
fn measured(file: &Path) -> (u32, u32, u64) {
    let bytes = std::fs::read(file).unwrap();
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20), u64::try_from(bytes.len()).unwrap())
}

#[test]
fn chromium_shows_a_row_for_each_check_and_a_bar_for_each_attempt() {
    let audits = [careless(), careful()];
    let browser = Browser::on(&Form::Page.render(&audits));
    let document = browser.document();
    let count = |what: &str| document.matches(what).count();
    assert_eq!(count("<tr id=\"a0-"), 6, "{document}");
    assert_eq!(count("<tr id=\"a1-"), 3);
    assert_eq!(count("Under these faults this SDK would have created 44 payments for 42 calls."), 1);
    // Two runs whole, of the herd the rows that are drawn; each bar names its attempt.
    let drawn = audits[0].seen[0].attempts.len() + audits[0].seen[1].attempts.len() + 2 * 2 * 24;
    assert_eq!(count("<g><title>POST /v1/payments at"), drawn, "{document}");
    assert_eq!(count("the fullest 50 ms hold"), 2, "a histogram each");
    assert_eq!(count("href=\"./logs/careless/retry-503.log\""), 1);
    // In the rows, in the comparison, and above the rows.
    assert_eq!(count("class=\"verdict fail\">fail"), 2 + 2 + 1);
    for (name, wishes) in [
        ("light.png", &["--window-size=1200,1600"][..]),
        ("dark.png", &["--window-size=1200,1600", "--blink-settings=preferredColorScheme=0"]),
    ] {
        let (width, height, bytes) = browser.picture(name, wishes);
        assert_eq!((width, height), (1200, 1600), "{name}");
        assert!(bytes > 60_000, "{name} has {bytes} bytes: an empty page has 10,000");
    }
}

#[test]
fn chromium_obeys_nothing_that_a_client_or_server_wrote() {
    let page = Form::Page.render(&[careless(), hostile()]);
    assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
    for outside in ["src=", "url(", "@import", "http-equiv=\"refresh\"", "<link", "<iframe", "<object"] {
        assert!(
            !page.replace(&maud::html! { (HOSTILE) }.into_string(), "").contains(outside)
                || outside == "src=",
            "{outside}"
        );
    }
    // Without its policy the page must hold as well: nothing slips through that the policy would stop.
    let bare = page.replace("http-equiv=\"Content-Security-Policy\"", "name=\"none\"");
    assert_ne!(bare, page);
    let document = Browser::on(&bare).document();
    assert!(
        !document.contains("id=\"owned\"") && !document.contains("<script") && !document.contains("<img")
    );
    assert!(
        document.contains("&lt;script&gt;document.body.id='owned'&lt;/script&gt;"),
        "it is shown as text"
    );
    assert!(!document.contains("href=\"javascript:") && !document.contains("elsewhere.example"));
    assert!(!document.contains(['\u{1b}', '\u{202e}']));
}
