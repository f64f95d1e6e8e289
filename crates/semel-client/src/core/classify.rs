//! What became of one attempt: what is known about the effect, and whether sending it again can help. Pure.
//!
//! Not whether it *may* be sent again: that depends on the method, the key and the host, see
//! [`crate::core::call`]. Next: [`crate::core::problem`], which reads what an answer says about its key.

use http::{HeaderMap, StatusCode};
use semel::wire;

use crate::core::problem::{Mark, mark};

/// What one attempt came to, as an adapter saw it.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// Not a byte was sent: the name was not found, the connection refused, TLS not agreed on.
    NotSent,
    /// The connection broke before the head of the answer.
    Broken,
    /// No answer in time.
    TimedOut,
    /// The answer broke off in the middle.
    Truncated,
    /// A whole answer, or the head of one whose body is read later.
    Answer(Answer<'a>),
}

/// An answer.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body as far as it was read; of refusals it is needed, see [`must_be_read`].
    pub body: &'a [u8],
}

/// Whether the effect happened, as far as the caller can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// It did not.
    None,
    /// Nobody on this side knows.
    Unknown,
    /// It did.
    Happened,
}

/// What an attempt came to, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Finding {
    /// An answer that ends the call.
    Done,
    /// The host names another address.
    Moved,
    /// Not a byte was sent.
    NotSent,
    /// Sent, and no answer, or half of one.
    Lost,
    /// 429.
    Throttled,
    /// 503.
    Unavailable,
    /// 408, 500, 502 or 504.
    Failed,
    /// The first request with this key still runs.
    InFlight,
    /// The key was used for another request.
    KeyReused,
    /// The host says that nobody knows whether the effect happened.
    InDoubt,
    /// The effect happened, and its answer was not kept.
    NotKept,
    /// Refused for good.
    Rejected,
}

/// A finding and what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it came to.
    pub finding: Finding,
    /// Whether sending the same again can help.
    pub again: bool,
    /// What this attempt says about the effect.
    pub effect: Effect,
}

/// Judges one attempt.
#[must_use]
pub fn classify(outcome: &Outcome<'_>) -> Verdict {
    let verdict = |finding, again, effect| Verdict { finding, again, effect };
    match outcome {
        Outcome::NotSent => verdict(Finding::NotSent, true, Effect::None),
        Outcome::Broken | Outcome::TimedOut | Outcome::Truncated => {
            verdict(Finding::Lost, true, Effect::Unknown)
        }
        Outcome::Answer(answer) => by_status(answer),
    }
}

fn by_status(answer: &Answer<'_>) -> Verdict {
    let status = answer.status.as_u16();
    let verdict = |finding, again, effect| Verdict { finding, again, effect };
    if status < 400 {
        let moved = matches!(status, 301 | 302 | 303 | 307 | 308)
            && answer.headers.contains_key(http::header::LOCATION);
        // A 307 or 308 asks for the request elsewhere: here nothing was done.
        let elsewhere = moved && matches!(status, 307 | 308);
        let effect = if elsewhere { Effect::None } else { Effect::Happened };
        return verdict(if moved { Finding::Moved } else { Finding::Done }, false, effect);
    }
    let said = should_retry(answer.headers);
    match mark(answer) {
        Some(Mark::InFlight) if status == 409 => {
            return verdict(Finding::InFlight, said.unwrap_or(true), Effect::Unknown);
        }
        Some(Mark::InDoubt) if status == 409 => return verdict(Finding::InDoubt, false, Effect::Unknown),
        Some(Mark::NotKept) if status == 409 => return verdict(Finding::NotKept, false, Effect::Happened),
        // Elsewhere some adapters have not read the body, and all must judge alike.
        Some(Mark::Reused) if must_be_read(answer.status) => {
            return verdict(Finding::KeyReused, false, Effect::None);
        }
        _ => {}
    }
    let (finding, again) = match status {
        429 => (Finding::Throttled, true),
        503 => (Finding::Unavailable, true),
        408 | 500 | 502 | 504 => (Finding::Failed, true),
        _ => (Finding::Rejected, false),
    };
    let refused = answer.headers.get(wire::STATUS).is_some_and(|value| value == "refused");
    let ran = !refused && (status >= 500 || status == 408);
    let effect = if ran { Effect::Unknown } else { Effect::None };
    verdict(finding, said.unwrap_or(again), effect)
}

/// Whether the body of an answer must be read before it can be judged: of a refusal it says what became of the key.
#[must_use]
pub fn must_be_read(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 409 | 422)
}

/// `stripe-should-retry: true`, `x-should-retry: false` and the like: the host's own word. `None` when it says
/// nothing, or contradicts itself.
fn should_retry(headers: &HeaderMap) -> Option<bool> {
    let said = headers.iter().filter(|(name, _)| name.as_str().ends_with("-should-retry"));
    let mut words = said.filter_map(|(_, value)| match value.as_bytes() {
        b"true" => Some(true),
        b"false" => Some(false),
        _ => None,
    });
    let first = words.next()?;
    words.all(|word| word == first).then_some(first)
}
