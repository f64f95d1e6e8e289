//! The store: each step is made by the script at the one key of its record, sent once.
//!
//! Repeating a step is safe: a claim is recognised by its attempt, the other writes by their guard. Next: `claim`
//! (what the script is given), `gather` (many callers' steps in one call), `link` (how it gets there), `scan`.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use semel::clock::Clock;
use semel::record::{DoubtCause, Ending, Outcome, ReleaseFrom, StateKind};
use semel::store::{
    Capabilities, ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Durability, Guard, Page, ReleaseArgs,
    RenewArgs, ScanArgs, StoreError, StoreErrorKind, StoreFuture, Tier, Written, refuse_live_import,
};
use semel::{Record, RecordId, Store};

use crate::claim::{self, Answer, Call, Step, Verdict};
use crate::codec;
use crate::config::{OpenError, RedisConfig};
use crate::gather::Gather;
use crate::link::{Lane, Link, read_error};
use crate::open;
use crate::scan;
use crate::script::{Kind, Script};
use crate::upkeep::Upkeep;
use crate::watch::Watchers;

/// Records on a Redis server or Cluster. Its methods must be called within a tokio runtime.
#[derive(Debug)]
pub struct RedisStore {
    pub(crate) link: Link,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) script: Arc<Script>,
    /// Where claims and completions share calls.
    pub(crate) shared: Option<Gather>,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) prefix: String,
    pub(crate) wait_replicas: usize,
    pub(crate) timeout: Duration,
    pub(crate) clock: Option<Arc<dyn Clock>>,
    pub(crate) durability: Durability,
    pub(crate) hears: bool,
    pub(crate) tier: Arc<RwLock<Tier>>,
    pub(crate) _upkeep: Upkeep,
}

impl RedisStore {
    /// Connects, and reads from the servers' settings what an acknowledged write survives.
    ///
    /// # Errors
    /// [`OpenError`], whose kind says what stood in the way.
    pub async fn open(config: RedisConfig) -> Result<Self, OpenError> {
        open::open(config).await
    }

    pub(crate) fn key(&self, id: &RecordId) -> Vec<u8> {
        format!("{}:{}", self.prefix, id.digest()).into_bytes()
    }

    fn step(&self, kind: Kind, id: &RecordId, (who, terms): (Vec<u8>, Vec<u8>), rest: Vec<u8>) -> Step {
        Step { kind, key: self.key(id), who, terms, rest }
    }

    fn call<'a>(&'a self, step: &'a Step) -> Call<'a> {
        Call::new(&self.script, self.clock.as_ref().map(|clock| clock.now()), vec![step])
    }

    /// Makes a step that writes. With replicas to wait for, an answer that they have not confirmed is an error with
    /// [`Unconfirmed`] as its source, and the write stands.
    async fn write(&self, id: &RecordId, step: Step) -> Result<Answer, StoreError> {
        if let (Kind::Claim | Kind::Complete, Some(shared)) = (step.kind, &self.shared) {
            return shared.ask(step).await;
        }
        let (call, wanted) = (self.call(&step), self.wait_replicas);
        let sent = match self.lane(id) {
            None => call.send(&self.link).await.map(|value| (value, wanted)),
            Some(lane) => {
                let patience = self.timeout / 4;
                let free = tokio::time::timeout(patience * 2, lane.free.acquire()).await;
                let _free = free.map_err(|late| StoreError::new(StoreErrorKind::Unavailable, late))?;
                call.send_and_wait(&lane.link, wanted, patience).await
            }
        };
        let (value, confirmed) = sent.map_err(|error| self.link.write_error(error))?;
        let answer = Answer::read(value)?;
        if confirmed < wanted && answer.verdict != Verdict::Refused {
            return Err(StoreError::new(StoreErrorKind::Unknown, Unconfirmed { confirmed, wanted }));
        }
        Ok(answer)
    }

    /// The same lane for the same record, if replicas are waited for.
    fn lane(&self, id: &RecordId) -> Option<&Lane> {
        let nth = usize::from(id.digest().as_bytes()[0]).checked_rem(self.lanes.len())?;
        self.lanes.get(nth)
    }

    /// Makes a guarded write and says what it came to.
    async fn guarded(
        &self,
        kind: Kind,
        id: &RecordId,
        what: (Vec<u8>, Vec<u8>),
        outcome: Option<&Outcome>,
    ) -> Result<Written, StoreError> {
        let rest = match outcome {
            Some(outcome) => codec::finished(id, outcome),
            None => codec::identity(id, 0),
        };
        let answer = self.write(id, self.step(kind, id, what, rest)).await?;
        Ok(match answer.verdict {
            Verdict::Done => Written::Done(Some(answer.written(id, outcome)?)),
            Verdict::Already => Written::Done(answer.standing(id)?),
            Verdict::Removed => Written::Done(None),
            Verdict::Refused => Written::Refused(answer.standing(id)?),
        })
    }

    /// The same, for a write that those who wait want to hear of.
    async fn settle(
        &self,
        kind: Kind,
        id: &RecordId,
        what: (Vec<u8>, Vec<u8>),
        outcome: Option<&Outcome>,
    ) -> Result<Written, StoreError> {
        let written = self.guarded(kind, id, what, outcome).await;
        self.watchers.wake(&id.digest());
        written
    }

    async fn read(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        let step = self.step(Kind::Get, id, Default::default(), codec::identity(id, 0));
        let answer = self.call(&step).send(&self.link).await;
        Answer::read(answer.map_err(read_error)?)?.standing(id)
    }

    /// Takes back a claim that too few replicas have confirmed, so that nothing runs that a failover would forget.
    /// What was in doubt before stays in doubt.
    async fn withdraw(&self, args: &ClaimArgs, unconfirmed: StoreError) -> StoreError {
        let Ok(Some(record)) = self.read(&args.id).await else { return unconfirmed };
        if record.guard.attempt != args.attempt {
            return unconfirmed;
        }
        let (kind, terms) = if record.generation > 1 {
            (Kind::Doubt, vec![codec::cause(DoubtCause::NoAnswer)])
        } else {
            (Kind::Release, claim::allowed(ReleaseFrom::Claim).to_vec())
        };
        let what = (codec::guard(record.guard), terms);
        let step = self.step(kind, &args.id, what, codec::identity(&args.id, 0));
        match self.call(&step).send(&self.link).await.map(Answer::read) {
            Ok(Ok(answer)) if answer.verdict != Verdict::Refused => {
                StoreError::new(StoreErrorKind::Unavailable, unconfirmed)
            }
            _ => unconfirmed,
        }
    }
}

/// Fewer replicas than wanted have confirmed a write in time. The write stands on the server that made it.
#[derive(Debug)]
struct Unconfirmed {
    confirmed: usize,
    wanted: usize,
}

impl std::fmt::Display for Unconfirmed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} replicas have confirmed the write", self.confirmed, self.wanted)
    }
}

impl std::error::Error for Unconfirmed {}

impl Store for RedisStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "redis",
            durability: self.durability,
            shared: true,
            watches_elsewhere: self.hears,
        }
    }

    fn tier(&self) -> Tier {
        self.tier.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn claim(&self, args: ClaimArgs) -> StoreFuture<'_, Claimed> {
        Box::pin(async move {
            let identity = codec::identity(&args.id, 0);
            let step = self.step(Kind::Claim, &args.id, claim::claim(&args), identity);
            let answer = match self.write(&args.id, step).await {
                Err(error)
                    if std::error::Error::source(&error).is_some_and(|why| why.is::<Unconfirmed>()) =>
                {
                    return Err(self.withdraw(&args, error).await);
                }
                answer => answer?,
            };
            if answer.verdict == Verdict::Done {
                self.watchers.wake(&args.id.digest());
                return match answer.is_fresh() {
                    true => Ok(Claimed::Won(claim::begun(&args, answer.now))),
                    false => answer.written(&args.id, None).map(Claimed::Won),
                };
            }
            let standing = answer.standing(&args.id)?;
            let standing =
                standing.ok_or_else(|| codec::damaged("a claim that was neither won nor refused"))?;
            Ok(match answer.verdict {
                Verdict::Already => Claimed::Won(standing),
                _ => Claimed::Standing(standing),
            })
        })
    }

    fn renew(&self, args: RenewArgs) -> StoreFuture<'_, Written> {
        Box::pin(async move {
            let terms = codec::micros(args.lease).to_be_bytes().to_vec();
            let what = (codec::guard(args.guard), terms);
            self.guarded(Kind::Renew, &args.id, what, None).await
        })
    }

    fn complete(&self, args: CompleteArgs) -> StoreFuture<'_, Written> {
        Box::pin(async move {
            let what = (codec::guard(args.guard), claim::complete(&args));
            let (Ending::Completed(outcome) | Ending::Failed(outcome)) = &args.ending;
            self.settle(Kind::Complete, &args.id, what, Some(outcome)).await
        })
    }

    fn doubt(&self, args: DoubtArgs) -> StoreFuture<'_, Written> {
        Box::pin(async move {
            let what = (codec::guard(args.guard), vec![codec::cause(args.cause)]);
            self.settle(Kind::Doubt, &args.id, what, None).await
        })
    }

    fn release(&self, args: ReleaseArgs) -> StoreFuture<'_, Written> {
        Box::pin(async move {
            let what = (codec::guard(args.guard), claim::allowed(args.from).to_vec());
            self.settle(Kind::Release, &args.id, what, None).await
        })
    }

    fn import(&self, record: Record) -> StoreFuture<'_, Written> {
        Box::pin(async move {
            if record.state.kind() == StateKind::InFlight {
                return Err(refuse_live_import());
            }
            let what = (codec::head(&record), Vec::new());
            self.settle(Kind::Import, &record.id, what, record.outcome()).await
        })
    }

    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>> {
        let id = id.clone();
        Box::pin(async move { self.read(&id).await })
    }

    fn scan(&self, args: ScanArgs) -> StoreFuture<'_, Page> {
        Box::pin(scan::scan(self, args))
    }

    /// Removes nothing: the server drops expired records by itself, each at its own time.
    fn purge(&self, _limit: usize) -> StoreFuture<'_, usize> {
        Box::pin(std::future::ready(Ok(0)))
    }

    fn watch(&self, id: &RecordId, seen: Guard) -> StoreFuture<'_, ()> {
        let watch = self.watchers.register(&self.link, self.key(id), id.digest());
        let id = id.clone();
        Box::pin(async move {
            watch.subscribe().await;
            let standing = self.read(&id).await?;
            if standing.is_some_and(|record| record.guard == seen && record.outcome().is_none()) {
                watch.wait().await;
            }
            Ok(())
        })
    }
}
