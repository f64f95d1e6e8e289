//! What an audit comes to: a finding for each check, a grade, and how many payments were made for how many calls.
//!
//! This is the model, and its JSON is the machine-readable form (`"version": 1`). The other forms are in `report/`, one
//! file each; [`Form`] lists them.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::scenario::Seen;

pub mod json;
pub mod junit;
pub mod page;
pub mod sarif;
pub mod terminal;

/// The version of the JSON form. It changes when a field changes its meaning or goes away.
pub const VERSION: u32 = 1;

/// The audit of one client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Audit {
    /// [`VERSION`].
    pub version: u32,
    /// Who was audited.
    pub subject: Subject,
    /// From the findings.
    pub grade: Grade,
    /// 100 minus the weights of what failed.
    pub score: u32,
    /// How many calls took effect, over all scenarios.
    pub meant: u64,
    /// How many payments were made for them. More than `meant`: somebody paid twice.
    pub made: u64,
    /// The two numbers as a sentence.
    pub sentence: String,
    /// One for each check that was asked for, in their order.
    pub findings: Vec<Finding>,
    /// What they were judged from.
    pub seen: Vec<Seen>,
    /// How long it took. As `took_ms` in JSON.
    #[serde(rename = "took_ms", with = "crate::millis")]
    pub took: Duration,
}

/// Who is audited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Subject {
    /// The package, or the command.
    pub name: String,
    /// Its version, as it was resolved.
    pub version: Option<String>,
    /// What was run.
    pub command: Option<String>,
    /// The language.
    pub language: Option<String>,
    /// Which wishes of a scenario it can fulfil: `calls`, `key`, `timeout`, `max_retries`, `deadline`. `None` when
    /// nobody said; then what it does tells.
    pub supports: Option<Vec<String>>,
    /// What was installed for it, each as `name version`; empty where nothing was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// `C1` to `C24`.
    pub check: String,
    /// What the check is about.
    pub title: String,
    /// How bad a failure is; for some checks it depends on what was seen.
    pub severity: Severity,
    /// The verdict.
    pub verdict: Verdict,
    /// The verdict's reason, in one sentence that needs no other.
    pub message: String,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// Which scenarios it was judged from: indexes into [`Audit::seen`].
    pub seen: Vec<usize>,
}

/// A number or word behind a verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is, with its unit last: `delay_median_ms`.
    pub name: String,
    /// A number, a text, or a list of them.
    pub value: Value,
}

/// How bad a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// Money or duplicates.
    S0,
    /// Overload, or a hang.
    S1,
    /// Wrong, but bounded.
    S2,
    /// Information.
    S3,
}

/// What a check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// Worth knowing, and no fault.
    Info,
    /// It could not be judged with this client; the message says why.
    NotApplicable,
}

/// A to F.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Grade {
    /// 90 and more.
    A,
    /// 75 and more.
    B,
    /// 60 and more.
    C,
    /// 45 and more.
    D,
    /// Less.
    E,
    /// A check of severity S0 fails, whatever else holds.
    F,
}

/// The forms of a report. Each takes all audits of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// The model as JSON.
    Json,
    /// JUnit XML.
    Junit,
    /// SARIF 2.1.0.
    Sarif,
    /// One HTML page that needs nothing else.
    Page,
    /// Lines of 100 characters without colours.
    Text,
}

impl Form {
    /// The report in this form.
    #[must_use]
    pub fn render(self, audits: &[Audit]) -> String {
        match self {
            Self::Json => json::render(audits),
            Self::Junit => junit::render(audits),
            Self::Sarif => sarif::render(audits),
            Self::Page => page::render(audits),
            Self::Text => terminal::render(audits, 100, false),
        }
    }

    /// The report in this form for `file`: the files that it names are named from there.
    #[must_use]
    pub fn render_for(self, file: &Path, audits: &[Audit]) -> String {
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut audits = audits.to_vec();
        for log in audits.iter_mut().flat_map(|audit| &mut audit.seen).filter_map(|seen| seen.log.as_mut()) {
            if let Ok(below) = Path::new(log.as_str()).strip_prefix(folder) {
                *log = below.display().to_string();
            }
        }
        self.render(&audits)
    }
}

impl Severity {
    /// What a failure takes off the score.
    #[must_use]
    pub const fn weight(self) -> u32 {
        match self {
            Self::S0 => 40,
            Self::S1 => 12,
            Self::S2 => 5,
            Self::S3 => 1,
        }
    }

    /// What it means.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::S0 => "money or duplicates",
            Self::S1 => "overload or a hang",
            Self::S2 => "wrong but bounded",
            Self::S3 => "information",
        }
    }
}

/// The score and the grade of these findings.
#[must_use]
pub fn grade(findings: &[Finding]) -> (u32, Grade) {
    let failed = || findings.iter().filter(|finding| finding.verdict == Verdict::Fail);
    let score = failed().fold(100_u32, |score, finding| score.saturating_sub(finding.severity.weight()));
    let grade = match score {
        _ if failed().any(|finding| finding.severity == Severity::S0) => Grade::F,
        90.. => Grade::A,
        75.. => Grade::B,
        60.. => Grade::C,
        45.. => Grade::D,
        _ => Grade::E,
    };
    (score, grade)
}
