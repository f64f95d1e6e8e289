//! C8: keys fit in what servers accept: at most 255 printable ASCII characters.

use super::{Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::attempt::Attempt;
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C8",
    title: "keys that every server accepts",
    protects_from: "a key that is too long or not ASCII is cut, changed or refused on its way",
    severity: Severity::S3,
    needs: &["plain", "many-calls"],
    judge,
};

const CHARACTERS_MAX: usize = 255;

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let calls = evidence.calls(CHECK.needs);
    let keys: Vec<&str> =
        calls.iter().flat_map(|call| &call.attempts).filter_map(|attempt| Attempt::key(attempt)).collect();
    if keys.is_empty() {
        return not_applicable("calls have no keys; see C1");
    }
    let longest = keys.iter().map(|key| key.chars().count()).max().unwrap_or(0);
    let odd =
        keys.iter().find(|key| key.is_empty() || !key.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    let quoted =
        keys.iter().filter(|key| key.len() > 1 && key.starts_with('"') && key.ends_with('"')).count();
    let how = match quoted {
        0 => "without quotes",
        all if all == keys.len() => "in quotes, as RFC 8941 has strings",
        _ => "some in quotes",
    };
    let ruling = if longest > CHARACTERS_MAX {
        fail(format!("a key has {longest} characters: many servers accept {CHARACTERS_MAX} at most"))
    } else if let Some(odd) = odd {
        fail(format!("a key has characters that are not printable ASCII: {}", odd.escape_debug()))
    } else {
        pass(format!("keys have at most {longest} printable ASCII characters, {how}"))
    };
    ruling.figure("longest_characters", longest).figure("quoted", quoted == keys.len())
}
