//! The report as JUnit XML: a suite for each audit, a case for each check. What cannot be judged is skipped, what is worth
//! knowing is a success with output.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::terminal::name;
use super::{Audit, Finding, Verdict};

/// The XML.
#[must_use]
pub fn render(audits: &[Audit]) -> String {
    let mut report = Report::new("semel audit");
    report.set_time(audits.iter().map(|audit| audit.took).sum());
    for audit in audits {
        let name = name(audit);
        let mut suite = TestSuite::new(name.as_str());
        suite.set_time(audit.took);
        suite.set_system_out(audit.sentence.as_str());
        suite.add_test_cases(audit.findings.iter().map(|finding| case(finding, &name)));
        report.add_test_suite(suite);
    }
    // Writing to memory does not fail.
    report.to_string().unwrap_or_default()
}

fn case(finding: &Finding, subject: &str) -> TestCase {
    let status = match finding.verdict {
        Verdict::Pass | Verdict::Info => TestCaseStatus::success(),
        Verdict::Fail => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_type(format!("{}: {}", finding.severity.as_str(), finding.severity.meaning()));
            status.set_message(finding.message.as_str());
            let figures = finding.figures.iter().map(|figure| format!("{} = {}", figure.name, figure.value));
            status.set_description(figures.collect::<Vec<_>>().join("\n"));
            status
        }
        Verdict::NotApplicable => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(finding.message.as_str());
            status
        }
    };
    let mut case = TestCase::new(format!("{} {}", finding.check, finding.title), status);
    case.set_classname(subject);
    if matches!(finding.verdict, Verdict::Pass | Verdict::Info) {
        case.set_system_out(finding.message.as_str());
    }
    case
}
