//! The report as SARIF 2.1.0, which code scanning reads: a run for each audit, a rule for each check, a result for each
//! finding, those that pass included.
//!
//! Only the fields that are used; their names are the standard's.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::terminal::name;
use super::{Audit, Finding, Severity, Verdict};

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

#[derive(Serialize)]
struct Log {
    #[serde(rename = "$schema")]
    schema: &'static str,
    version: &'static str,
    runs: Vec<Run>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run {
    tool: Tool,
    automation_details: AutomationDetails,
    results: Vec<Outcome>,
    properties: Value,
}

#[derive(Serialize)]
struct Tool {
    driver: Driver,
}

#[derive(Serialize)]
struct Driver {
    name: &'static str,
    version: &'static str,
    rules: Vec<Rule>,
}

#[derive(Serialize)]
struct AutomationDetails {
    id: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    id: String,
    short_description: Text,
    default_configuration: Configuration,
}

#[derive(Serialize)]
struct Configuration {
    level: &'static str,
}

#[derive(Serialize)]
struct Text {
    text: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    rule_id: String,
    rule_index: usize,
    kind: &'static str,
    level: &'static str,
    message: Text,
    locations: Vec<Location>,
    partial_fingerprints: Map<String, Value>,
    properties: Value,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    #[serde(skip_serializing_if = "Option::is_none")]
    physical_location: Option<PhysicalLocation>,
    logical_locations: [LogicalLocation; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PhysicalLocation {
    artifact_location: ArtifactLocation,
}

#[derive(Serialize)]
struct ArtifactLocation {
    uri: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogicalLocation {
    fully_qualified_name: String,
    kind: &'static str,
}

/// The JSON.
#[must_use]
pub fn render(audits: &[Audit]) -> String {
    let log = Log { schema: SCHEMA, version: "2.1.0", runs: audits.iter().map(run).collect() };
    // Strings, numbers and lists of them always have a JSON form.
    serde_json::to_string_pretty(&log).unwrap_or_default() + "\n"
}

fn run(audit: &Audit) -> Run {
    let name = name(audit);
    let rules = audit.findings.iter().map(|finding| Rule {
        id: finding.check.clone(),
        short_description: Text { text: finding.title.clone() },
        default_configuration: Configuration { level: level(finding.severity) },
    });
    let results =
        audit.findings.iter().enumerate().map(|(index, finding)| outcome(audit, index, finding, &name));
    Run {
        tool: Tool {
            driver: Driver {
                name: "semel audit",
                version: env!("CARGO_PKG_VERSION"),
                rules: rules.collect(),
            },
        },
        automation_details: AutomationDetails { id: format!("semel-audit/{name}") },
        results: results.collect(),
        properties: json!({
            "grade": audit.grade,
            "score": audit.score,
            "meant": audit.meant,
            "made": audit.made,
            "sentence": audit.sentence,
        }),
    }
}

fn outcome(audit: &Audit, rule_index: usize, finding: &Finding, subject: &str) -> Outcome {
    let log = finding.seen.iter().find_map(|&seen| audit.seen.get(seen)?.log.clone());
    let mut figures = Map::new();
    for figure in &finding.figures {
        figures.insert(figure.name.clone(), figure.value.clone());
    }
    let fingerprint =
        ("semelAudit/v1".to_owned(), json!(format!("{}:{}", audit.subject.name, finding.check)));
    Outcome {
        rule_id: finding.check.clone(),
        rule_index,
        kind: match finding.verdict {
            Verdict::Pass => "pass",
            Verdict::Fail => "fail",
            Verdict::Info => "informational",
            Verdict::NotApplicable => "notApplicable",
        },
        // The standard: a level only where something fails.
        level: if finding.verdict == Verdict::Fail { level(finding.severity) } else { "none" },
        message: Text { text: finding.message.clone() },
        locations: vec![Location {
            physical_location: log
                .map(|uri| PhysicalLocation { artifact_location: ArtifactLocation { uri } }),
            logical_locations: [LogicalLocation { fully_qualified_name: subject.to_owned(), kind: "module" }],
        }],
        partial_fingerprints: Map::from_iter([fingerprint]),
        properties: json!({ "severity": finding.severity, "figures": figures }),
    }
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::S0 | Severity::S1 => "error",
        Severity::S2 => "warning",
        Severity::S3 => "note",
    }
}
