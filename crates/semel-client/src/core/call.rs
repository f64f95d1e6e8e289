//! One logical call, attempt by attempt: `(state, outcome) → done | wait and send | go elsewhere | give up`. Pure: time
//! and chance come in through [`World`], and nothing goes out.
//!
//! Adapters send, wait and read; all decisions are here. Next: [`crate::core::classify`], which judges an attempt.

use std::time::{Duration, SystemTime};

use http::Method;
use semel::backoff::Backoff;
use url::Url;

use crate::core::budget::Budget;
use crate::core::classify::{Effect, Finding, Outcome, Verdict, classify};
use crate::core::redirect::{Redirect, redirect};
use crate::core::retry_after::retry_after;

/// The most retries that can be asked for.
pub const RETRIES_MAX: u32 = 10;
/// The least spread of callers that were told when to come back.
const SPREAD_MIN: Duration = Duration::from_millis(900);

/// How long and how often a call is tried.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How often a call is sent again, 0 to [`RETRIES_MAX`]. 3 by default.
    pub retries_max: u32,
    /// The delays between: from 0.5 s, doubling up to 8 s, each times 0.4 to 1.6, by default.
    pub backoff: Backoff,
    /// The longest wait that a host may ask for; a longer one ends the call. 60 s by default.
    pub retry_after_max: Duration,
    /// How long one attempt may take. 30 s by default.
    pub attempt_timeout: Duration,
    /// How long the call may take with all its attempts and waits. 90 s by default.
    pub deadline: Duration,
    /// How many redirects within the origin are followed. 5 by default.
    pub redirects_max: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retries_max: 3,
            backoff: Backoff { base: Duration::from_millis(500), cap: Duration::from_secs(8) },
            retry_after_max: Duration::from_secs(60),
            attempt_timeout: Duration::from_secs(30),
            deadline: Duration::from_secs(90),
            redirects_max: 5,
        }
    }
}

/// Where time and chance come from. The system's is what adapters use; a test or a simulation brings its own.
pub trait World {
    /// Time since some fixed moment; never goes backwards.
    fn elapsed(&self) -> Duration;
    /// The time of day, for HTTP dates.
    fn wall(&self) -> SystemTime;
    /// Uniform over all of `u16`.
    fn random(&self) -> u16;
}

/// What is known about a call before it is sent.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The method.
    pub method: Method,
    /// Whether a key goes with it.
    pub keyed: bool,
    /// Whether the host honours keys, as the program has declared.
    pub trusted: bool,
    /// Whether the body can be sent a second time.
    pub body_again: bool,
    /// Whether redirects of calls without a key are followed here, and not by the client beneath.
    pub follows: bool,
}

/// A call under way.
#[derive(Clone, Debug)]
pub struct Call {
    plan: Plan,
    began: Duration,
    attempts: u32,
    retries: u32,
    redirects: u32,
    effect: Effect,
    all_unsent: bool,
}

/// What happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The attempt's answer is the call's.
    Done,
    /// Send the same again after this long.
    Wait(Duration),
    /// Send at once to this address, with the call's [`Call::method`].
    Follow(Url),
    /// There will be no further attempt.
    GiveUp(Ending),
}

/// How a call ended without success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The kind of error.
    pub kind: Kind,
    /// What the last attempt came to.
    pub last: Finding,
    /// Whether the effect happened, over all attempts.
    pub effect: Effect,
    /// How long the host asked to wait.
    pub retry_after: Option<Duration>,
    /// Whether sending the call again, with its key, does no harm and may help.
    pub retryable: bool,
}

/// What an error is, by what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// Not a byte was sent: the effect did not happen.
    NotSent,
    /// Sent, and nobody on this side knows whether the effect happened.
    Unknown,
    /// The host refused it for good.
    Rejected,
    /// The first call with this key still runs.
    InFlight,
    /// The key was used for another request.
    KeyReused,
    /// The host asks to come back later than the call may wait, or asked each time.
    Throttled,
    /// All retries were used.
    Exhausted,
    /// The host's retry budget is used up.
    BudgetEmpty,
    /// The call's time ended, or would have before the next attempt.
    Deadline,
    /// The host names an address outside the origin, or too many: not followed.
    Redirected,
    /// The effect happened, and its answer was too large to be kept.
    NotKept,
    /// The key, or what was asked, cannot be sent at all.
    Invalid,
    /// The journal could not keep the key, so nothing was sent.
    Journal,
    /// The answer came, and its body is not what was asked for.
    Decode,
}

impl Kind {
    /// The kind as it is written in logs, metrics and the vectors.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not-sent",
            Self::Unknown => "unknown",
            Self::Rejected => "rejected",
            Self::InFlight => "in-flight",
            Self::KeyReused => "key-reused",
            Self::Throttled => "throttled",
            Self::Exhausted => "exhausted",
            Self::BudgetEmpty => "budget-empty",
            Self::Deadline => "deadline",
            Self::Redirected => "redirected",
            Self::NotKept => "not-kept",
            Self::Invalid => "invalid",
            Self::Journal => "journal",
            Self::Decode => "decode",
        }
    }
}

impl Call {
    /// A call that was not sent yet. Pays into the host's budget.
    pub fn begin(plan: Plan, budget: &Budget, world: &impl World) -> Self {
        budget.deposit();
        Self {
            plan,
            began: world.elapsed(),
            attempts: 0,
            retries: 0,
            redirects: 0,
            effect: Effect::None,
            all_unsent: true,
        }
    }

    /// The method of the next attempt.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.plan.method
    }

    /// Whether the next attempt carries the key.
    #[must_use]
    pub fn keyed(&self) -> bool {
        self.plan.keyed
    }

    /// How many attempts were made.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How long the next attempt may take: its own time, or what is left of the call's.
    #[must_use]
    pub fn attempt_timeout(&self, policy: &Policy, world: &impl World) -> Duration {
        let spent = world.elapsed().saturating_sub(self.began);
        policy.attempt_timeout.min(policy.deadline.saturating_sub(spent))
    }

    /// Takes what an attempt came to, and says what happens next. `from` is where it went, asked for when the answer is
    /// a redirect.
    pub fn after(
        &mut self,
        policy: &Policy,
        budget: &Budget,
        outcome: &Outcome<'_>,
        from: impl FnOnce() -> Option<Url>,
        world: &impl World,
    ) -> Step {
        self.attempts += 1;
        let verdict = classify(outcome);
        self.effect = match verdict.effect {
            // A later refusal does not undo what an earlier attempt may have done.
            Effect::None => self.effect,
            known => known.max(self.effect),
        };
        self.all_unsent &= verdict.finding == Finding::NotSent;
        match (verdict.finding, outcome) {
            (Finding::Done, _) => Step::Done,
            (Finding::Moved, Outcome::Answer(answer)) => {
                self.moved(policy, answer.status.as_u16(), answer.headers, from())
            }
            _ => self.retry(policy, budget, verdict, outcome, world),
        }
    }

    fn retry(
        &mut self,
        policy: &Policy,
        budget: &Budget,
        verdict: Verdict,
        outcome: &Outcome<'_>,
        world: &impl World,
    ) -> Step {
        let asked = match outcome {
            Outcome::Answer(answer) => retry_after(answer.headers, world.wall()),
            _ => None,
        };
        let may = verdict.finding == Finding::NotSent || self.repeatable();
        let give_up = |kind| Step::GiveUp(self.ending(kind, verdict, asked));
        if !verdict.again || !may || !self.plan.body_again {
            return give_up(self.kind_of(verdict.finding));
        }
        if asked.is_some_and(|asked| asked > policy.retry_after_max) {
            return give_up(Kind::Throttled);
        }
        if self.retries >= policy.retries_max.min(RETRIES_MAX) {
            return give_up(match (self.kind_of(verdict.finding), self.retries) {
                (Kind::Unknown | Kind::Rejected, 1..) => Kind::Exhausted,
                (Kind::NotSent, 1..) if !self.all_unsent => Kind::Exhausted,
                (kind, _) => kind,
            });
        }
        let random = world.random();
        let delay = match asked {
            Some(asked) => {
                asked + SPREAD_MIN.max(asked / 10).mul_f64(f64::from(random) / f64::from(u16::MAX))
            }
            None => policy.backoff.delay(self.retries, random),
        };
        let spent = world.elapsed().saturating_sub(self.began);
        if spent.saturating_add(delay) >= policy.deadline {
            return give_up(Kind::Deadline);
        }
        if !budget.withdraw() {
            return give_up(Kind::BudgetEmpty);
        }
        self.retries += 1;
        Step::Wait(delay)
    }

    fn moved(&mut self, policy: &Policy, status: u16, headers: &http::HeaderMap, from: Option<Url>) -> Step {
        if !self.plan.keyed && !self.plan.follows {
            return Step::Done;
        }
        let to = from.map_or(Redirect::Nowhere, |from| redirect(&self.plan.method, &from, status, headers));
        let same = matches!(to, Redirect::Same(_));
        let (Redirect::Same(url) | Redirect::Get(url)) = to else { return self.refuse_move() };
        if self.redirects >= policy.redirects_max || (same && !self.plan.body_again) {
            return self.refuse_move();
        }
        self.redirects += 1;
        if !same {
            self.plan.method = Method::GET;
            self.plan.keyed = false;
            self.plan.follows = true;
        }
        Step::Follow(url)
    }

    fn refuse_move(&self) -> Step {
        let (kind, last, effect) = (Kind::Redirected, Finding::Moved, self.effect);
        Step::GiveUp(Ending { kind, last, effect, retry_after: None, retryable: false })
    }

    /// Whether sending twice is the same as sending once.
    fn repeatable(&self) -> bool {
        self.plan.method.is_idempotent() || (self.plan.keyed && self.plan.trusted)
    }

    /// The kind of a call that ends on this finding without having been retried.
    fn kind_of(&self, finding: Finding) -> Kind {
        match finding {
            Finding::NotSent if self.all_unsent => Kind::NotSent,
            Finding::InFlight => Kind::InFlight,
            Finding::Throttled => Kind::Throttled,
            Finding::KeyReused => Kind::KeyReused,
            Finding::NotKept => Kind::NotKept,
            Finding::Rejected | Finding::Done | Finding::Moved => Kind::Rejected,
            Finding::NotSent | Finding::Lost | Finding::Unavailable | Finding::Failed | Finding::InDoubt => {
                Kind::Unknown
            }
        }
    }

    fn ending(&self, kind: Kind, verdict: Verdict, retry_after: Option<Duration>) -> Ending {
        let harmless = self.repeatable() || self.effect == Effect::None;
        let helps = matches!(
            kind,
            Kind::NotSent
                | Kind::Unknown
                | Kind::InFlight
                | Kind::Throttled
                | Kind::Exhausted
                | Kind::BudgetEmpty
                | Kind::Deadline
        );
        let retryable = harmless && helps && verdict.again;
        Ending { kind, last: verdict.finding, effect: self.effect, retry_after, retryable }
    }
}
