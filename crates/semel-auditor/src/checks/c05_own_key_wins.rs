//! C5: a key that the caller gives is sent as it is, on every attempt, and nothing besides.

use super::{Check, Evidence, Ruling, count, fail, not_applicable, pass};
use crate::plan::OWN_KEY;
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C5",
    title: "the caller's own key is sent as it is",
    protects_from: "a program that sends its order again after a crash gives the old key, and it must be the one that is sent",
    severity: Severity::S0,
    needs: &["own-key"],
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Ruling {
    if evidence.supports("key") == Some(false) {
        return not_applicable("a call cannot be given a key");
    }
    let calls = evidence.calls(CHECK.needs);
    let attempts: Vec<_> = calls.iter().flat_map(super::Call::here).collect();
    let quoted = format!("\"{OWN_KEY}\"");
    let own = |key: &String| *key == OWN_KEY || *key == quoted;
    let with = attempts.iter().filter(|attempt| attempt.keys.iter().any(own)).count();
    if attempts.is_empty() {
        return not_applicable("no call arrived");
    }
    if with == 0 && evidence.supports("key").is_none() {
        return not_applicable(
            "the key in SEMEL_AUDIT_KEY was not sent; say `--supports key` if the command reads it",
        );
    }
    let ruling = if with < attempts.len() {
        let got = attempts.iter().find_map(|attempt| attempt.keys.iter().find(|key| !own(key)));
        let got = got.map_or_else(|| "no key".to_owned(), |key| format!("`{key}`"));
        fail(format!(
            "the caller gave the key `{OWN_KEY}`, and {} of {} carried {got} instead",
            attempts.len() - with,
            count(attempts.len(), "attempt")
        ))
    } else if let Some(attempt) = attempts.iter().find(|attempt| attempt.keys.len() > 1) {
        fail(format!(
            "the caller's key was sent together with another one ({}): which of them counts is anybody's guess",
            attempt.keys.join(", ")
        ))
    } else {
        pass(format!("the caller's key was sent as it is, on {}", count(attempts.len(), "attempt")))
    };
    ruling.figure("attempts", attempts.len()).figure("attempts_with_it", with)
}
