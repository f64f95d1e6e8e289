//! C19: an answer that breaks off in the middle is asked for again under the same key, or reported as what it is.

use super::{Check, Evidence, Ruling, count, fail, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C19",
    title: "an answer that was lost is not an order that was lost",
    protects_from: "the payment was made and its receipt broke off: whoever orders again without the key pays twice",
    severity: Severity::S1,
    needs: &["lost-answer"],
    judge,
};

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let calls = evidence.calls(CHECK.needs);
    let Some(call) = calls.first() else { return not_applicable("no call arrived") };
    let payments = call.here().filter(|attempt| attempt.effect).count();
    let key = call.attempts[0].key();
    let said = call.said();
    let ruling = if payments > 1 {
        fail(format!(
            "the answer broke off and the call was sent again without its key: {}",
            count(payments, "payment")
        ))
        .severity(Severity::S0)
    } else if call.retried() {
        pass("the answer broke off, and was asked for again under the same key")
    } else if said.is_some_and(|said| said.ok) {
        fail("half an answer was taken for a whole one")
    } else if let (Some(key), Some(handed)) = (key, said.and_then(|said| said.key.as_deref())) {
        match handed == key {
            true => pass("the answer broke off, and the error carries the key to ask again under"),
            false => fail(format!(
                "the answer broke off, and the error carries `{handed}`, which is not the key that was sent"
            )),
        }
    } else if key.is_some() && said.is_none() {
        not_applicable(
            "it did not retry, and nobody said whether its error carries the key; see the guide for the line to print",
        )
    } else if key.is_some() {
        fail("the answer broke off, and the error does not carry the key: its caller can only order again")
    } else {
        fail("the answer broke off, and there is no key: its caller can only order again, or hope")
    };
    ruling.figure("payments", payments).figure("attempts", call.here().count())
}
