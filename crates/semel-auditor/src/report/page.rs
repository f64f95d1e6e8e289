//! The report as one HTML page for people: what it would have cost, a row for each check, the attempts drawn to scale.
//!
//! The page needs nothing from outside and runs no script; its policy forbids both. All text in it comes from whoever
//! was audited and is escaped by the template, after [`clean`] has made control characters visible. Next:
//! [`timeline`], [`herd`], [`compare`].

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::terminal::clean;
use super::{Audit, Figure, Finding, Grade, Verdict};
use crate::attempt::Attempt;
use crate::scenario::{End, Seen};

mod compare;
mod herd;
mod timeline;

const STYLE: &str = include_str!("page/style.css");
/// Not even what slips through could load or run anything.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
/// Ids that stand before their title; longer ones are names and stand below it.
const SHORT_ID: usize = 4;
/// Of a run without a file of bytes so many attempts are shown.
const LISTED_ATTEMPTS: usize = 60;
/// A figure that is a list shows so many values.
const LISTED_VALUES: usize = 12;

/// The page.
#[must_use]
pub fn render(audits: &[Audit]) -> String {
    let title = match audits {
        [one] => format!("{}: semel audit", clean(&one.subject.name)),
        several => format!("{} audits: semel audit", several.len()),
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    @if audits.len() > 1 { (compare::table(audits)) }
                    @for (place, audit) in audits.iter().enumerate() { (section(place, audit)) }
                    footer {
                        "semel audit " (env!("CARGO_PKG_VERSION")) ". A retry is drawn and judged from the log of \
                         what went over the wire, not from what a client says of itself. Severity: S0 money or \
                         duplicates, S1 overload or a hang, S2 wrong but bounded, S3 information."
                    }
                }
            }
        }
    };
    page.into_string()
}

fn section(place: usize, audit: &Audit) -> Markup {
    let id = format!("audit-{place}");
    let twice = audit.made > audit.meant;
    html! {
        article.audit id=(id) {
            header.who {
                div {
                    p.kicker { "semel audit" }
                    h1 {
                        (clean(&audit.subject.name))
                        @if let Some(version) = &audit.subject.version { " " span { (clean(version)) } }
                    }
                }
                div class=(format!("grade {}", grade_class(audit.grade))) {
                    b { (format!("{:?}", audit.grade)) }
                    span { "grade, " (audit.score) " of 100" }
                }
            }
            p class=(if twice { "sentence bad" } else { "sentence good" }) { (clean(&audit.sentence)) }
            (facts(audit))
            h2 { "Checks" }
            (counts(&audit.findings))
            div.wide {
                table.checks {
                    thead { tr {
                        th scope="col" { "Verdict" } th scope="col" { "Severity" } th scope="col" { "Check" }
                    } }
                    tbody { @for finding in &audit.findings { (row(place, audit, finding)) } }
                }
            }
            @if let Some(herd) = herd::drawing(audit) {
                h2 { "The herd after a failure" }
                (herd)
            }
            @if !audit.seen.is_empty() {
                h2 { "What was seen" }
                @for (number, seen) in audit.seen.iter().enumerate() { (run(place, number, audit, seen)) }
            }
        }
    }
}

fn facts(audit: &Audit) -> Markup {
    let subject = &audit.subject;
    html! {
        dl.facts {
            div { dt { "Meant" } dd { (audit.meant) } }
            div { dt { "Made" } dd { (audit.made) } }
            @if let Some(language) = &subject.language { div { dt { "Language" } dd { (clean(language)) } } }
            div { dt { "Runs" } dd { (audit.seen.len()) } }
            div { dt { "Took" } dd { (format!("{:.1} s", audit.took.as_secs_f64())) } }
            @if let Some(command) = &subject.command { div { dt { "Command" } dd { code { (clean(command)) } } } }
        }
    }
}

fn counts(findings: &[Finding]) -> Markup {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let all = [Verdict::Pass, Verdict::Fail, Verdict::Info, Verdict::NotApplicable];
    html! {
        ul.counts {
            @for verdict in all { @if count(verdict) > 0 {
                li { (pill(verdict)) " " (count(verdict)) " " span.soft { (meaning(verdict)) } }
            } }
        }
    }
}

const fn meaning(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "kept",
        Verdict::Fail => "broken",
        Verdict::Info => "worth knowing, no fault",
        Verdict::NotApplicable => "could not be judged",
    }
}

fn row(place: usize, audit: &Audit, finding: &Finding) -> Markup {
    let id = format!("a{place}-{}", anchor(&finding.check));
    html! {
        tr id=(id) class=(class(finding.verdict)) {
            td { (pill(finding.verdict)) }
            td { @if finding.verdict == Verdict::Fail { strong { (finding.severity.as_str()) } br; span.soft {
                (finding.severity.meaning())
            } } @else { span.soft { (finding.severity.as_str()) } } }
            td {
                @let short = finding.check.chars().count() <= SHORT_ID;
                span.title {
                    @if short { code { (clean(&finding.check)) } " " }
                    (clean(&finding.title))
                }
                p.message { (prose(&finding.message)) }
                (evidence(place, audit, finding))
                @if !short { code.name { (clean(&finding.check)) } }
            }
        }
    }
}

/// What was measured, and where.
fn evidence(place: usize, audit: &Audit, finding: &Finding) -> Markup {
    let runs: Vec<usize> = finding.seen.iter().copied().filter(|&run| run < audit.seen.len()).collect();
    html! {
        @if !finding.figures.is_empty() || !runs.is_empty() {
            dl.figures {
                @for Figure { name, value } in &finding.figures {
                    div { dt { (clean(name)) } dd { (clean(&self::value(value))) } }
                }
                @if !runs.is_empty() {
                    div { dt { "seen in" } dd {
                        @for (nth, run) in runs.iter().enumerate() {
                            @if nth > 0 { ", " }
                            a href=(format!("#a{place}-run-{run}")) { (clean(&audit.seen[*run].scenario)) }
                        }
                    } }
                }
            }
        }
    }
}

/// A sentence; what stands between backticks in it is text that went over the wire.
fn prose(text: &str) -> Markup {
    let text = clean(text);
    let parts: Vec<&str> = text.split('`').collect();
    let whole = parts.len() % 2 == 1;
    html! {
        @if whole {
            @for (nth, part) in parts.iter().enumerate() {
                @if nth % 2 == 1 { code { (part) } } @else { (part) }
            }
        } @else { (text) }
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let shown: Vec<String> = values.iter().take(LISTED_VALUES).map(self::value).collect();
            let more = values.len().saturating_sub(LISTED_VALUES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{}{more}", shown.join(", "))
        }
        other => other.to_string(),
    }
}

/// One scenario: open where something failed in it.
fn run(place: usize, number: usize, audit: &Audit, seen: &Seen) -> Markup {
    let failed = |finding: &Finding| finding.verdict == Verdict::Fail && finding.seen.contains(&number);
    let open = audit.findings.iter().any(failed);
    html! {
        details.run open[open] {
            summary {
                h3 { (clean(&seen.scenario)) } " "
                span.soft { (clean(&seen.script)) " · " (requests(seen.attempts.len())) " in "
                    (timeline::seconds(seen.took.as_secs_f64())) (ending(&seen.end)) }
            }
            // The browser opens what is closed around the target of a link.
            div id=(format!("a{place}-run-{number}")) {
                (timeline::drawing(seen))
                (bytes(seen))
            }
        }
    }
}

fn requests(count: usize) -> String {
    if count == 1 { "1 request".to_owned() } else { format!("{count} requests") }
}

fn ending(end: &End) -> String {
    match end {
        End::Finished => String::new(),
        End::Quiet => ", over when nothing more came".to_owned(),
        End::Killed => ", stopped by the watchdog".to_owned(),
        End::SeenEnough => ", stopped when enough was seen".to_owned(),
        End::Exited(code) => format!(", ended with code {code}"),
        End::Broke(why) => format!(", broke: {}", clean(why)),
    }
}

/// The file of bytes, or what is known of each request.
fn bytes(seen: &Seen) -> Markup {
    if let Some(href) = seen.log.as_deref().and_then(relative) {
        return html! { p.runs { a href=(href) { "Every byte of this run" } } };
    }
    html! {
        details.bytes {
            summary { "Requests" }
            pre { @for attempt in seen.attempts.iter().take(LISTED_ATTEMPTS) { (clean_lines(&listed(attempt))) "\n" }
                @if seen.attempts.len() > LISTED_ATTEMPTS {
                    "and " (seen.attempts.len() - LISTED_ATTEMPTS) " more\n"
                } }
        }
    }
}

fn listed(attempt: &Attempt) -> String {
    let call = attempt.call.map_or_else(|| "?".to_owned(), |call| call.to_string());
    let mut text = format!(
        "{:.3} s  call {call}  {} {}\n",
        attempt.at.as_secs_f64(),
        clean(&attempt.method),
        clean(&attempt.target)
    );
    for (name, value) in &attempt.headers {
        text.push_str(&format!("    {}: {}\n", clean(name), clean(value)));
    }
    let digest: String = attempt.body_digest.chars().take(16).collect();
    text.push_str(&format!("    body of {} bytes, SHA-256 {}…\n", attempt.body_bytes, clean(&digest)));
    text.push_str(&format!("  → {}\n", clean(&attempt.step)));
    text
}

/// Lines that are clean already keep their ends.
fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// A path beside the page as a link; `None` for whatever else it might be.
fn relative(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').collect();
    if path.is_empty() || parts.iter().any(|part| part.is_empty() || *part == "..") {
        return None;
    }
    let mut href = String::from(".");
    for part in parts.iter().filter(|part| **part != ".") {
        href.push('/');
        for byte in part.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    href.push(char::from(byte))
                }
                other => href.push_str(&format!("%{other:02X}")),
            }
        }
    }
    Some(href)
}

/// The part of an id that a check's name gives.
fn anchor(check: &str) -> String {
    check.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

fn pill(verdict: Verdict) -> Markup {
    html! { span class=(format!("verdict {}", class(verdict))) { (word(verdict)) } }
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "fail",
        Verdict::Info => "info",
        Verdict::NotApplicable => "n/a",
    }
}

const fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::NotApplicable => "n-a",
        other => word(other),
    }
}

const fn grade_class(grade: Grade) -> &'static str {
    match grade {
        Grade::A | Grade::B => "good",
        Grade::C | Grade::D => "note",
        Grade::E | Grade::F => "bad",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_beside_the_page_are_linked() {
        assert_eq!(relative("logs/c2 a.log").unwrap(), "./logs/c2%20a.log");
        assert_eq!(relative("./a.log").unwrap(), "./a.log");
        assert_eq!(relative("javascript:alert(1)").unwrap(), "./javascript%3Aalert%281%29");
        for refused in ["", "/etc/passwd", "//host/a", "../a", "a/../../b", "https://host/a"] {
            assert_eq!(relative(refused), None, "{refused}");
        }
    }
}
