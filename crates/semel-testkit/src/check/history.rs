//! What is recorded of a store: each call with its arguments, its answer, and where both stand in the order of the
//! whole history.
//!
//! [`Recorder`] is a store around any other. A call that is dropped, or answered with *unknown*, has no answer here; one
//! that was certainly not carried out is not in the history at all. Next: [`super::records`], which judges it.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use semel::clock::{Clock, Timestamp};
use semel::record::{self, Step};
use semel::store::{
    Capabilities, ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Guard, Page, ReleaseArgs, RenewArgs, ScanArgs,
    Store, StoreError, StoreErrorKind, StoreFuture, Tier, Written,
};
use semel::{Record, RecordId, Token};

use super::search;

/// What is asked of a store about one record.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "they are the methods of the trait")]
pub enum Call {
    Claim(ClaimArgs),
    Renew(RenewArgs),
    Complete(CompleteArgs),
    Doubt(DoubtArgs),
    Release(ReleaseArgs),
    Import(Record),
    Get(RecordId),
}

impl Call {
    /// The record it is about.
    #[must_use]
    pub fn id(&self) -> &RecordId {
        match self {
            Self::Claim(args) => &args.id,
            Self::Renew(args) => &args.id,
            Self::Complete(args) => &args.id,
            Self::Doubt(args) => &args.id,
            Self::Release(args) => &args.id,
            Self::Import(record) => &record.id,
            Self::Get(id) => id,
        }
    }

    /// What the pure transitions make of it: the one specification of everything in this crate.
    #[must_use]
    pub fn step(&self, current: Option<Record>, last: Token, now: Timestamp) -> Step {
        match self {
            Self::Claim(args) => record::claim(current, args, last, now),
            Self::Renew(args) => record::renew(current, args.guard, args.lease, now),
            Self::Complete(args) => {
                record::complete(current, args.guard, args.ending.clone(), args.retention, now)
            }
            Self::Doubt(args) => record::doubt(current, args.guard, args.cause, now),
            Self::Release(args) => record::release(current, args.guard, args.from, now),
            Self::Import(record) => record::import(current, record.clone(), now),
            Self::Get(_) => Step::Refused(current.and_then(|record| record.at(now))),
        }
    }

    /// Makes it at `store`.
    ///
    /// # Errors
    /// The store's.
    pub async fn make(self, store: &dyn Store) -> Result<Answer, StoreError> {
        Ok(match self {
            Self::Claim(args) => Answer::Claimed(store.claim(args).await?),
            Self::Renew(args) => Answer::Written(store.renew(args).await?),
            Self::Complete(args) => Answer::Written(store.complete(args).await?),
            Self::Doubt(args) => Answer::Written(store.doubt(args).await?),
            Self::Release(args) => Answer::Written(store.release(args).await?),
            Self::Import(record) => Answer::Written(store.import(record).await?),
            Self::Get(id) => Answer::Read(store.get(&id).await?),
        })
    }
}

/// What a store answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To a claim.
    Claimed(Claimed),
    /// To a write.
    Written(Written),
    /// To a read.
    Read(Option<Record>),
}

impl Answer {
    /// The record it shows.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Claimed(Claimed::Won(record) | Claimed::Standing(record)) => Some(record),
            Self::Written(Written::Done(record) | Written::Refused(record)) | Self::Read(record) => {
                record.as_ref()
            }
        }
    }
}

/// A call, and between which times of the store's clock it was made and answered.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What was asked.
    pub call: Call,
    /// The store's clock read itself somewhere in here. All of time when its clock is not known.
    pub window: RangeInclusive<Timestamp>,
}

/// All of time.
pub const ANY_TIME: RangeInclusive<Timestamp> = Timestamp::from_micros(0)..=Timestamp::from_micros(u64::MAX);

/// One call of a history.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What was asked.
    pub asked: Asked,
    /// When, in the order of the whole history.
    pub invoked: u64,
    /// What was answered and when; `None` when nobody knows.
    pub answer: Option<(u64, Answer)>,
}

impl search::Operation for Operation {
    fn invoked(&self) -> u64 {
        self.invoked
    }

    fn answered(&self) -> Option<u64> {
        self.answer.as_ref().map(|(at, _)| *at)
    }

    fn forget(&self) -> Self {
        Self { answer: None, ..self.clone() }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.asked.call {
            Call::Claim(args) => {
                let takeover = if args.takeover { ", taking over" } else { "" };
                write!(f, "claim by {}{takeover}", attempt(args.attempt))?;
            }
            Call::Renew(args) => write!(f, "renew {} for {:?}", guard(args.guard), args.lease)?,
            Call::Complete(args) => {
                write!(f, "complete {} for {:?}", guard(args.guard), args.retention)?;
            }
            Call::Doubt(args) => write!(f, "doubt {} ({})", guard(args.guard), args.cause.as_str())?,
            Call::Release(args) => write!(f, "release {} from {:?}", guard(args.guard), args.from)?,
            Call::Import(record) => write!(f, "import {}", shown(record))?,
            Call::Get(_) => write!(f, "get")?,
        }
        let Some((answered, answer)) = &self.answer else {
            return write!(f, " [{}..] -> unknown", self.invoked);
        };
        let (word, record) = match answer {
            Answer::Claimed(Claimed::Won(record)) => ("won", Some(record)),
            Answer::Claimed(Claimed::Standing(record)) => ("standing", Some(record)),
            Answer::Written(Written::Done(record)) => ("done", record.as_ref()),
            Answer::Written(Written::Refused(record)) => ("refused", record.as_ref()),
            Answer::Read(record) => ("read", record.as_ref()),
        };
        let record = record.map_or_else(|| "absent".to_owned(), shown);
        write!(f, " [{}..{answered}] -> {word}: {record}", self.invoked)
    }
}

fn attempt(attempt: record::AttemptId) -> String {
    let bytes = attempt.to_bytes();
    let tail = [12, 13, 14, 15].map(|at| bytes[at]);
    format!("attempt {}", u32::from_be_bytes(tail))
}

fn guard(guard: Guard) -> String {
    format!("token {} of {}", guard.token, attempt(guard.attempt))
}

/// A record in a few words.
pub(super) fn shown(record: &Record) -> String {
    let kind = record.state.kind().as_str();
    let until = match &record.state {
        semel::State::InFlight { lease_until, .. } => format!("until {}", lease_until.as_micros()),
        _ => record.expires_at().map_or_else(String::new, |at| format!("until {}", at.as_micros())),
    };
    let outcome = record.outcome().map_or_else(String::new, |outcome| {
        let start = &outcome.body[..outcome.body.len().min(24)];
        format!(" {} {:?}", outcome.code, String::from_utf8_lossy(start))
    });
    format!("{kind} {} generation {} {until}{outcome}", guard(record.guard), record.generation)
}

#[derive(Debug, Default)]
struct Log {
    order: AtomicU64,
    operations: Mutex<Vec<Operation>>,
}

impl Log {
    fn next(&self) -> u64 {
        self.order.fetch_add(1, Ordering::SeqCst)
    }

    fn push(&self, operation: Operation) {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).push(operation);
    }
}

/// A store that remembers every call and its answer. Clones share what they remember.
#[derive(Clone, Debug)]
pub struct Recorder {
    inner: Arc<dyn Store>,
    clock: Option<Arc<dyn Clock>>,
    log: Arc<Log>,
}

impl Recorder {
    /// Around a store whose clock cannot be read from here: times are taken from its answers.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, clock: None, log: Arc::default() }
    }

    /// Around a store that reads `clock`, so that times are checked as well.
    #[must_use]
    pub fn on_clock(inner: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { inner, clock: Some(clock), log: Arc::default() }
    }

    /// The same history, at another store value: what a store is after its process was killed and it was opened again.
    #[must_use]
    pub fn continued(&self, inner: Arc<dyn Store>) -> Self {
        Self { inner, clock: self.clock.clone(), log: Arc::clone(&self.log) }
    }

    /// The store that is recorded.
    #[must_use]
    pub fn inner(&self) -> Arc<dyn Store> {
        Arc::clone(&self.inner)
    }

    /// Everything so far. Calls that are open are not in it.
    #[must_use]
    pub fn history(&self) -> Vec<Operation> {
        self.log.operations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Checks everything so far.
    ///
    /// # Panics
    /// With the counter-examples, when no order of the calls explains their answers.
    pub fn verify(&self) -> super::Checked {
        match super::check(self.history()) {
            Ok(checked) => checked,
            Err(found) => {
                let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
                panic!("{} keys with answers that cannot be:\n{}", found.len(), lines.join("\n"))
            }
        }
    }

    fn now(&self, unknown: Timestamp) -> Timestamp {
        self.clock.as_ref().map_or(unknown, |clock| clock.now())
    }

    /// Records `call`, made by `make`, with what `answer` makes of its answer.
    fn through<'a, T: Send + 'a>(
        &'a self,
        call: Call,
        make: impl FnOnce(&'a dyn Store) -> StoreFuture<'a, T>,
        answer: impl FnOnce(&T) -> Answer + Send + 'a,
    ) -> StoreFuture<'a, T> {
        let window = self.now(*ANY_TIME.start())..=*ANY_TIME.end();
        let operation = Operation { asked: Asked { call, window }, invoked: self.log.next(), answer: None };
        let mut open = Open { recorder: self, operation: Some(operation) };
        let made = make(&*self.inner);
        Box::pin(async move {
            let made = made.await;
            match &made {
                Ok(made) => open.answered(answer(made)),
                Err(error) if matches!(error.kind(), StoreErrorKind::Unavailable | StoreErrorKind::Full) => {
                    open.not_made();
                }
                Err(_) => {}
            }
            made
        })
    }
}

/// A call without an answer so far. Dropped, it is one whose answer nobody knows.
struct Open<'a> {
    recorder: &'a Recorder,
    operation: Option<Operation>,
}

impl Open<'_> {
    fn not_made(&mut self) {
        self.operation = None;
    }

    fn answered(&mut self, answer: Answer) {
        if let Some(operation) = &mut self.operation {
            operation.answer = Some((self.recorder.log.next(), answer));
            let until = self.recorder.now(*ANY_TIME.end());
            operation.asked.window = *operation.asked.window.start()..=until;
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some(operation) = self.operation.take() {
            self.recorder.log.push(operation);
        }
    }
}

fn written(written: &Written) -> Answer {
    Answer::Written(written.clone())
}

impl Store for Recorder {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn tier(&self) -> Tier {
        self.inner.tier()
    }
    fn claim(&self, args: ClaimArgs) -> StoreFuture<'_, Claimed> {
        let call = Call::Claim(args.clone());
        self.through(call, move |store| store.claim(args), |claimed| Answer::Claimed(claimed.clone()))
    }
    fn renew(&self, args: RenewArgs) -> StoreFuture<'_, Written> {
        self.through(Call::Renew(args.clone()), move |store| store.renew(args), written)
    }
    fn complete(&self, args: CompleteArgs) -> StoreFuture<'_, Written> {
        self.through(Call::Complete(args.clone()), move |store| store.complete(args), written)
    }
    fn doubt(&self, args: DoubtArgs) -> StoreFuture<'_, Written> {
        self.through(Call::Doubt(args.clone()), move |store| store.doubt(args), written)
    }
    fn release(&self, args: ReleaseArgs) -> StoreFuture<'_, Written> {
        self.through(Call::Release(args.clone()), move |store| store.release(args), written)
    }
    fn import(&self, record: Record) -> StoreFuture<'_, Written> {
        self.through(Call::Import(record.clone()), move |store| store.import(record), written)
    }
    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>> {
        let asked = id.clone();
        let read = |read: &Option<Record>| Answer::Read(read.clone());
        self.through(Call::Get(id.clone()), move |store| store.get(&asked), read)
    }
    fn near(&self, id: &RecordId) -> Option<Record> {
        self.inner.near(id)
    }
    fn scan(&self, args: ScanArgs) -> StoreFuture<'_, Page> {
        self.inner.scan(args)
    }
    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        self.inner.purge(limit)
    }
    fn watch(&self, id: &RecordId, seen: Guard) -> StoreFuture<'_, ()> {
        self.inner.watch(id, seen)
    }
}
