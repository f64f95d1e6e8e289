//! One call between the core, which decides, and an adapter, which sends: its key, its place in the journal, its
//! events and its errors. The same for every adapter.
//!
//! Not a loop: [`crate::drive`] has those. Nothing here waits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use semel::{Key, wire};
use url::Url;

use crate::core::budget::Budget;
use crate::core::call::{Call, Ending, Kind, Plan, Policy, Step};
use crate::core::classify::{Answer, Effect, Finding, Outcome};
use crate::core::key::on_the_wire;
use crate::error::{BoxError, Error};
use crate::idempotency::{Choice, Idempotency};
use crate::journal::{EntryId, Held, Saved};
use crate::observe::{Event, What, tell};
use crate::once::Once;

/// What an adapter knows of a call before it is sent.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) said: Option<&'a Idempotency>,
    /// Whether the body can be sent a second time.
    pub(crate) body_again: bool,
    /// Whether redirects of calls without a key are followed here too.
    pub(crate) follows: bool,
}

/// Where the next attempt goes.
pub(crate) trait Place {
    /// The host, with its port where it has one.
    fn host(&self) -> &str;
    /// The path, without the query.
    fn path(&self) -> &str;
    /// All of it, where it is a URL.
    fn url(&self) -> Option<Url>;
}

/// What an adapter got back.
pub(crate) trait Seen {
    /// The answer, as far as it was read.
    fn seen(&self) -> Answer<'_>;
    /// The answer as an error keeps it; `None` when its body was not read.
    fn kept(&self) -> Option<Response<Bytes>>;
    /// Where the program finds what became of the call.
    fn attach(&mut self, report: Report);
}

/// Why an attempt has no answer.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) what: Lost,
    pub(crate) source: BoxError,
}

/// How far an attempt without an answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// It is not a request that can be sent.
    Invalid,
    NotSent,
    Broken,
    TimedOut,
    Truncated,
}

/// What to do to the request's headers before an attempt.
pub(crate) enum Stamp {
    Leave,
    Set(HeaderName, HeaderValue),
    Remove(HeaderName),
}

/// What became of a call that has an answer; in the extensions of the answer.
#[derive(Clone, Debug)]
pub struct Report {
    /// The call's key.
    pub key: Option<Key>,
    /// How many attempts were made.
    pub attempts: u32,
    /// Whether the host says that the answer is an earlier one's.
    pub replayed: bool,
    /// How the call ended, when the answer is not a success.
    pub ending: Option<Ending>,
}

/// What an adapter does next.
pub(crate) enum Next<A> {
    Land(A, Option<Ending>),
    Wait(Duration),
    Follow(Url),
    Fail(Error),
}

/// A call under way.
pub(crate) struct Session {
    once: Once,
    policy: Policy,
    call: Call,
    budget: Arc<Budget>,
    key: Option<Key>,
    /// The key is in the request's headers already, as its caller wrote it.
    written: bool,
    resumes: Option<EntryId>,
    pub(crate) held: Option<Held>,
}

impl Session {
    pub(crate) fn begin(once: &Once, asked: &Asked<'_>, place: &impl Place) -> Result<Self, Error> {
        let (key, written) = choose(once, asked)?;
        let trusted = once.trusts(place.host());
        let budget = once.budget_of(place.host());
        let plan = Plan {
            method: asked.method.clone(),
            keyed: key.is_some(),
            trusted,
            body_again: asked.body_again,
            follows: asked.follows,
        };
        let resumes = asked.said.and_then(Idempotency::resumes);
        if resumes.is_some() && !trusted && !asked.method.is_idempotent() {
            return Err(unsure(key));
        }
        let mut policy = once.policy;
        let call = Call::begin(plan, &budget, &once.world);
        let entered = asked.said.map_or(0, Idempotency::enter);
        let session = Self { once: once.clone(), policy, call, budget, key, written, resumes, held: None };
        if entered > 0 {
            session.tell(What::ForeignRetry, place, None);
            // Two layers that retry would multiply; the one around has begun and goes on.
            policy.retries_max = 0;
        }
        Ok(Self { policy, ..session })
    }

    /// Whether the call is to be written down now, with [`Session::keep`].
    pub(crate) fn must_be_kept(&self) -> bool {
        self.once.journal.is_some() && self.key.is_some() && self.held.is_none()
    }

    /// How to write it down: may wait for a disk, so an asynchronous adapter runs it elsewhere. `saved` is what the
    /// adapter knows; without a body that can be kept there is none.
    pub(crate) fn keep(&self, saved: Option<Saved>) -> impl FnOnce() -> Result<Held, Error> + Send + 'static {
        let (journal, resumes, key) = (self.once.journal.clone(), self.resumes, self.key.clone());
        move || {
            let refuse = |source: BoxError| Error::unsent(Kind::Journal, key.clone(), source);
            let journal = journal.ok_or_else(|| refuse("there is no journal".into()))?;
            if let Some(id) = resumes {
                return journal.take(id).ok_or_else(|| refuse("the call is being worked on already".into()));
            }
            let saved =
                saved.ok_or_else(|| refuse("a body that can be read only once cannot be kept".into()))?;
            journal.begin(&saved).map_err(refuse)
        }
    }

    /// The call as the journal keeps it.
    pub(crate) fn saved(&self, url: Option<Url>, headers: &HeaderMap, body: Option<Bytes>) -> Option<Saved> {
        Some(Saved {
            key: self.key.clone()?,
            method: self.call.method().clone(),
            url: url?,
            headers: crate::journal::without_credentials(headers, &self.once.key_header),
            body: body?,
        })
    }

    pub(crate) fn method(&self) -> &Method {
        self.call.method()
    }

    pub(crate) fn keyed(&self) -> bool {
        self.call.keyed()
    }

    pub(crate) fn attempt_timeout(&self) -> Duration {
        self.call.attempt_timeout(&self.policy, &self.once.world)
    }

    /// What the next attempt's headers need.
    pub(crate) fn stamp(&self) -> Stamp {
        match &self.key {
            Some(_) if !self.call.keyed() => Stamp::Remove(self.once.key_header.clone()),
            Some(key) if !self.written => Stamp::Set(self.once.key_header.clone(), on_the_wire(key)),
            _ => Stamp::Leave,
        }
    }

    /// Takes what an attempt came to and says what happens next.
    pub(crate) fn after<A: Seen>(&mut self, sent: Result<A, Failure>, place: &impl Place) -> Next<A> {
        let outcome = match &sent {
            Ok(answer) => Outcome::Answer(answer.seen()),
            Err(Failure { what, .. }) => match what {
                Lost::NotSent | Lost::Invalid => Outcome::NotSent,
                Lost::Broken => Outcome::Broken,
                Lost::TimedOut => Outcome::TimedOut,
                Lost::Truncated => Outcome::Truncated,
            },
        };
        if let Err(Failure { what: Lost::Invalid, source }) = sent {
            return Next::Fail(Error::unsent(Kind::Invalid, self.key.clone(), source));
        }
        let because = crate::core::classify::classify(&outcome).finding;
        let step = self.call.after(&self.policy, &self.budget, &outcome, || place.url(), &self.once.world);
        let what = match &step {
            Step::Done => What::Done,
            Step::Wait(delay) => What::Retry { delay: *delay, because },
            Step::Follow(_) => What::Followed,
            Step::GiveUp(ending) => What::GaveUp { kind: ending.kind, because },
        };
        let answer = sent.as_ref().ok().map(Seen::seen);
        self.tell(what, place, answer.as_ref().map(|answer| answer.headers));
        match (step, sent) {
            (Step::Wait(delay), _) => Next::Wait(delay),
            (Step::Follow(url), _) => Next::Follow(url),
            (Step::Done, Ok(answer)) => self.land(answer, None),
            (Step::GiveUp(ending), Ok(answer)) if ending.kind == Kind::Redirected => {
                Next::Fail(self.error(&ending, answer.kept(), None))
            }
            (Step::GiveUp(ending), Ok(answer)) => self.land(answer, Some(ending)),
            (Step::GiveUp(ending), Err(failure)) => {
                Next::Fail(self.error(&ending, None, Some(failure.source)))
            }
            (Step::Done, Err(failure)) => {
                Next::Fail(Error::unsent(Kind::Unknown, self.key.clone(), failure.source))
            }
        }
    }

    fn land<A: Seen>(&self, mut answer: A, ending: Option<Ending>) -> Next<A> {
        let replayed = answer
            .seen()
            .headers
            .keys()
            .any(|name| *name == wire::REPLAYED || name.as_str() == "idempotent-replayed");
        let (key, attempts) = (self.key.clone(), self.call.attempts());
        answer.attach(Report { key, attempts, replayed, ending: ending.clone() });
        Next::Land(answer, ending)
    }

    pub(crate) fn error(
        &self,
        ending: &Ending,
        answer: Option<Response<Bytes>>,
        source: Option<BoxError>,
    ) -> Error {
        Error::ended(ending, self.key.clone(), self.call.attempts(), answer, source)
    }

    /// The entry to strike out of the journal, if the call has its final answer. May wait for a disk.
    pub(crate) fn finished(&mut self, kind: Option<Kind>) -> Option<Held> {
        let last = matches!(
            kind,
            None | Some(Kind::Rejected | Kind::KeyReused | Kind::NotKept | Kind::Redirected | Kind::Invalid)
        );
        self.held.take().filter(|_| last)
    }

    fn tell(&self, what: What, place: &impl Place, headers: Option<&HeaderMap>) {
        if self.once.observer.is_none()
            && !tracing::enabled!(tracing::Level::DEBUG)
            && what != What::ForeignRetry
        {
            return;
        }
        let id = |name| headers.and_then(|headers| headers.get(name)).and_then(|value| value.to_str().ok());
        let event = Event {
            what,
            method: self.call.method(),
            host: place.host(),
            path: place.path(),
            key: self.key.as_ref(),
            attempt: self.call.attempts(),
            request_id: id("x-request-id").or_else(|| id("request-id")),
        };
        tell(self.once.observer.as_ref(), &event);
    }
}

/// The call's key, and whether its caller has written it into the headers.
fn choose(once: &Once, asked: &Asked<'_>) -> Result<(Option<Key>, bool), Error> {
    let mint = || asked.said.map_or_else(|| once.mint(), |said| said.mint(|| once.mint()));
    match asked.said.map(Idempotency::choice) {
        Some(Choice::Off) => return Ok((None, false)),
        Some(Choice::Auto) => return Ok((Some(mint()), false)),
        Some(Choice::Own(key)) => return Ok((Some(key.clone()?), false)),
        Some(Choice::Unsaid) | None => {}
    }
    let mut written = asked.headers.get_all(&once.key_header).iter();
    match (written.next(), written.next()) {
        (Some(value), None) => Ok((Some(Key::from_header(value.as_bytes())?), true)),
        (Some(_), Some(_)) => Err(Error::unsent(Kind::Invalid, None, "the request has several keys")),
        (None, _) => Ok((Once::mints_for(asked.method).then(mint), false)),
    }
}

/// A call of another life of the program, for a host that may not honour its key.
fn unsure(key: Option<Key>) -> Error {
    let ending = Ending {
        kind: Kind::Unknown,
        last: Finding::Lost,
        effect: Effect::Unknown,
        retry_after: None,
        retryable: false,
    };
    let why = "it may have been sent before, and its host was not said to honour keys";
    Error::ended(&ending, key, 0, None, Some(why.into()))
}

impl Stamp {
    pub(crate) fn put(self, headers: &mut HeaderMap) {
        match self {
            Self::Leave => {}
            // One value, whatever was there.
            Self::Set(name, value) => {
                headers.insert(name, value);
            }
            Self::Remove(name) => {
                headers.remove(name);
            }
        }
    }
}
