//! C4: no two calls share a key.

use std::collections::HashMap;

use super::{Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C4",
    title: "a key of its own for every call",
    protects_from: "two orders under one key are one order: the second customer gets the first one's receipt",
    severity: Severity::S0,
    needs: &["many-calls"],
    judge,
};

/// Fewer calls prove nothing.
const CALLS_MIN: usize = 20;

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let seen = match evidence.seen("many-calls") {
        Ok(seen) => seen,
        Err(ruling) => return ruling,
    };
    // Each request is a call here: the server answered all of them.
    let keys: Vec<&str> = seen.attempts.iter().filter_map(|attempt| attempt.key()).collect();
    if keys.is_empty() {
        return not_applicable("calls have no keys; see C1");
    }
    if keys.len() < CALLS_MIN {
        return not_applicable(format!(
            "{} calls with a key are too few to judge, {CALLS_MIN} are needed",
            keys.len()
        ));
    }
    let mut uses = HashMap::new();
    for key in &keys {
        *uses.entry(*key).or_insert(0_usize) += 1;
    }
    let most = uses.values().copied().max().unwrap_or(0);
    let ruling = match uses.len() == keys.len() {
        true => pass(format!("{} calls had {} different keys", keys.len(), uses.len())),
        false => fail(format!(
            "{} calls had only {} different keys, one of them {most} times: of calls that share a key only the first is \
             carried out",
            keys.len(),
            uses.len()
        )),
    };
    ruling.figure("calls", keys.len()).figure("distinct_keys", uses.len())
}
