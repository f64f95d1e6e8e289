//! The 24 checks: each a title, a severity, the scenarios it needs, and a judgement over what was seen of them.
//!
//! Judged is what the server saw, and for C15, C16, C19 and C21 also what the client said. One file each in `checks/`.
//! Not what a report makes of it: that is [`crate::report`].

use serde_json::Value;

use crate::report::{Figure, Finding, Severity, Subject, Verdict};
use crate::scenario::Seen;

mod c01_key_by_default;
mod c02_same_key;
mod c03_no_keyless_replay;
mod c04_distinct_keys;
mod c05_own_key_wins;
mod c06_same_body;
mod c07_key_entropy;
mod c08_key_form;
mod c09_retries_bounded;
mod c10_delays_grow;
mod c11_jitter;
mod c12_retry_after_seconds;
mod c13_retry_after_date;
mod c14_never_early;
mod c15_no_unbounded_sleep;
mod c16_hostile_retry_after;
mod c17_refusals_are_final;
mod c18_conflict;
mod c19_lost_answer;
mod c20_timeouts;
mod c21_typed_error;
mod c22_opt_out;
mod c23_redirects;
mod c24_amplification;
mod evidence;

pub use evidence::{Call, Evidence, calls};

/// All of them, in order.
pub const CHECKS: [&Check; 24] = [
    &c01_key_by_default::CHECK,
    &c02_same_key::CHECK,
    &c03_no_keyless_replay::CHECK,
    &c04_distinct_keys::CHECK,
    &c05_own_key_wins::CHECK,
    &c06_same_body::CHECK,
    &c07_key_entropy::CHECK,
    &c08_key_form::CHECK,
    &c09_retries_bounded::CHECK,
    &c10_delays_grow::CHECK,
    &c11_jitter::CHECK,
    &c12_retry_after_seconds::CHECK,
    &c13_retry_after_date::CHECK,
    &c14_never_early::CHECK,
    &c15_no_unbounded_sleep::CHECK,
    &c16_hostile_retry_after::CHECK,
    &c17_refusals_are_final::CHECK,
    &c18_conflict::CHECK,
    &c19_lost_answer::CHECK,
    &c20_timeouts::CHECK,
    &c21_typed_error::CHECK,
    &c22_opt_out::CHECK,
    &c23_redirects::CHECK,
    &c24_amplification::CHECK,
];

/// A check.
#[derive(Debug)]
pub struct Check {
    /// `C1` to `C24`.
    pub id: &'static str,
    /// What must hold, in a few words.
    pub title: &'static str,
    /// What goes wrong for people where it does not.
    pub protects_from: &'static str,
    /// How bad that is, unless the judgement says otherwise.
    pub severity: Severity,
    /// The names of its scenarios in [`SCENARIOS`](crate::plan::SCENARIOS).
    pub needs: &'static [&'static str],
    /// The judgement. Pure.
    pub judge: fn(&Evidence<'_>) -> Ruling,
}

impl Check {
    /// The check with this id, in either case.
    #[must_use]
    pub fn named(id: &str) -> Option<&'static Self> {
        CHECKS.into_iter().find(|check| check.id.eq_ignore_ascii_case(id))
    }

    /// Judges what was seen. `one_call`: the client can make only one call for each of its runs.
    #[must_use]
    pub fn find(&self, subject: &Subject, seen: &[Seen], one_call: bool) -> Finding {
        let missing = self.needs.iter().find(|name| !seen.iter().any(|seen| seen.scenario == **name));
        let ruling = match missing {
            Some(name) => not_applicable(format!("the scenario `{name}` was not run")),
            None => (self.judge)(&Evidence { subject, seen, one_call }),
        };
        let from = seen.iter().enumerate().filter(|(_, seen)| self.needs.contains(&seen.scenario.as_str()));
        Finding {
            check: self.id.to_owned(),
            title: self.title.to_owned(),
            severity: ruling.severity.unwrap_or(self.severity),
            verdict: ruling.verdict,
            message: ruling.message,
            figures: ruling.figures,
            seen: from.map(|(index, _)| index).collect(),
        }
    }
}

/// What a judgement comes to.
#[derive(Clone, Debug)]
pub struct Ruling {
    verdict: Verdict,
    severity: Option<Severity>,
    message: String,
    figures: Vec<Figure>,
}

impl Ruling {
    fn new(verdict: Verdict, message: impl Into<String>) -> Self {
        Self { verdict, severity: None, message: message.into(), figures: Vec::new() }
    }

    fn severity(mut self, severity: Severity) -> Self {
        self.severity = Some(severity);
        self
    }

    fn figure(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.figures.push(Figure { name: name.to_owned(), value: value.into() });
        self
    }
}

fn pass(message: impl Into<String>) -> Ruling {
    Ruling::new(Verdict::Pass, message)
}

fn fail(message: impl Into<String>) -> Ruling {
    Ruling::new(Verdict::Fail, message)
}

fn info(message: impl Into<String>) -> Ruling {
    Ruling::new(Verdict::Info, message)
}

fn not_applicable(message: impl Into<String>) -> Ruling {
    Ruling::new(Verdict::NotApplicable, message)
}

/// `1 attempt`, `3 attempts`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Planned;

    #[test]
    fn checks_are_numbered_in_order_and_need_scenarios_that_exist() {
        for (index, check) in CHECKS.into_iter().enumerate() {
            assert_eq!(check.id, format!("C{}", index + 1));
            assert!(!check.needs.is_empty(), "{}", check.id);
            for name in check.needs {
                assert!(Planned::named(name).is_some(), "{} needs {name}", check.id);
            }
        }
    }

    #[test]
    fn what_was_not_seen_is_not_judged() {
        for check in CHECKS {
            let finding = check.find(&Subject::default(), &[], false);
            assert_eq!(finding.verdict, Verdict::NotApplicable, "{}", check.id);
        }
    }
}
