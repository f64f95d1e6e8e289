//! Several audits side by side: a column for each subject, a row for each check, what it would have cost on top.

use maud::{Markup, html};

use super::{anchor, class, clean, grade_class};
use crate::report::{Audit, Finding};

/// The table that stands above all audits.
pub(super) fn table(audits: &[Audit]) -> Markup {
    let checks = checks(audits);
    let (made, meant) =
        audits.iter().fold((0, 0), |(made, meant), audit| (made + audit.made, meant + audit.meant));
    html! {
        section.compared {
            p.kicker { "semel audit" }
            h1 { (audits.len()) " audits compared" }
            p class=(if made > meant { "sentence bad" } else { "sentence good" }) {
                "Under the same faults these " (audits.len()) " would have created " (made) " payments for "
                (meant) " calls."
            }
            div.wide {
                table.compare {
                    thead { tr {
                        th scope="col" { "Check" }
                        @for (place, audit) in audits.iter().enumerate() {
                            th.subject scope="col" { a href=(format!("#audit-{place}")) { (label(audit)) } }
                        }
                    } }
                    tbody {
                        tr.sums {
                            td { "Grade" }
                            @for audit in audits { td.cell {
                                span class=(format!("verdict {}", grade_verdict(audit))) { (format!("{:?}", audit.grade)) }
                            } }
                        }
                        tr.sums {
                            td { "Payments made / calls meant" }
                            @for audit in audits { td.cell {
                                span class=(if audit.made > audit.meant { "too-many" } else { "" }) {
                                    (audit.made) "/" (audit.meant)
                                }
                            } }
                        }
                        @for (check, title) in &checks { tr {
                            td { code { (clean(check)) } " " (clean(title)) }
                            @for (place, audit) in audits.iter().enumerate() { (cell(place, audit, check)) }
                        } }
                    }
                }
            }
        }
    }
}

/// All checks of all audits, in the order of the first that has them.
fn checks(audits: &[Audit]) -> Vec<(&str, &str)> {
    let mut checks: Vec<(&str, &str)> = Vec::new();
    for finding in audits.iter().flat_map(|audit| &audit.findings) {
        if !checks.iter().any(|(check, _)| *check == finding.check) {
            checks.push((&finding.check, &finding.title));
        }
    }
    checks
}

fn cell(place: usize, audit: &Audit, check: &str) -> Markup {
    let found: Option<&Finding> = audit.findings.iter().find(|finding| finding.check == check);
    html! {
        td.cell {
            @match found {
                Some(finding) => a href=(format!("#a{place}-{}", anchor(check))) title=(clean(&finding.message)) {
                    span class=(format!("verdict {}", class(finding.verdict))) { (super::word(finding.verdict)) }
                },
                None => span.soft { "–" },
            }
        }
    }
}

/// A grade looks as the verdict that it is like.
fn grade_verdict(audit: &Audit) -> &'static str {
    match grade_class(audit.grade) {
        "good" => "pass",
        "note" => "info",
        _ => "fail",
    }
}

fn label(audit: &Audit) -> String {
    let version = audit.subject.version.as_deref().unwrap_or_default();
    let language = audit.subject.language.as_deref().map(|language| format!(" ({language})"));
    clean(format!("{} {version}{}", audit.subject.name, language.unwrap_or_default()).trim())
}
