//! C23: neither the key nor credentials leave the origin; within it the key stays.

use super::{Call, Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::attempt::{Attempt, Origin};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C23",
    title: "redirects keep the key here and nothing elsewhere",
    protects_from: "a redirect to a stranger hands him the credentials; one within the house loses the key",
    severity: Severity::S2,
    needs: &["redirect-307", "redirect-308", "redirect-307-away", "redirect-308-away"],
    judge,
};

const CREDENTIALS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "x-api-key"];

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let within = evidence.calls(&["redirect-307", "redirect-308"]);
    if within.is_empty() {
        return not_applicable("no call arrived");
    }
    let away = evidence.seen.iter().filter(|seen| seen.scenario.ends_with("-away"));
    // Also what is no call any more, such as a POST that became a GET.
    let elsewhere: Vec<&Attempt> =
        away.flat_map(|seen| &seen.attempts).filter(|attempt| attempt.origin == Origin::Other).collect();
    let leaked = elsewhere
        .iter()
        .flat_map(|attempt| attempt.headers.iter())
        .find(|(name, _)| CREDENTIALS.contains(&name.as_str()));
    let followed = within.iter().filter(|call| call.retried()).count();
    let lost = within.iter().find(|call| call.retried() && lost_its_key(call));
    let ruling = if let Some((name, _)) = leaked {
        fail(format!("followed a redirect to another origin and took the header `{name}` there"))
    } else if elsewhere.iter().any(|attempt| !attempt.keys.is_empty()) {
        fail(
            "followed a redirect to another origin and took the key there: the order is placed with a stranger",
        )
    } else if let Some(call) = lost {
        fail(format!(
            "followed a redirect within the origin and changed or lost the key (scenario `{}`)",
            call.place()
        ))
    } else {
        let here = if followed > 0 {
            "followed within the origin with the same key"
        } else {
            "not followed within the origin"
        };
        let there = if elsewhere.is_empty() {
            "not followed elsewhere"
        } else {
            "followed elsewhere without key and credentials"
        };
        pass(format!("307 and 308 are {here}, and {there}"))
    };
    ruling.figure("followed_within", followed).figure("requests_elsewhere", elsewhere.len())
}

fn lost_its_key(call: &Call<'_>) -> bool {
    call.keys().len() > 1
}
