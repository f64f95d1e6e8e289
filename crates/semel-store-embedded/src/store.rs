//! The store: which requests go to the writer and which are answered beside it.
//!
//! A claim of a record that stands (a replay, or a duplicate of a live claim) changes nothing and is answered from
//! the index and a read connection; everything else waits for a frame of [`crate::writer`]. Lists and purges go to the
//! tables, by way of [`crate::fold`].

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

use semel::clock::{Clock, Timestamp};
use semel::record::{self, Ending, Outcome, Step};
use semel::store::{
    Capabilities, ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Durability, Page, ReleaseArgs, RenewArgs,
    ScanArgs, StoreError, StoreErrorKind, StoreFuture, Tier, Written, refuse_live_import,
};
use semel::{Record, RecordId, State, Store, Token};
use tokio::sync::{mpsc, oneshot};

use crate::codec::Body;
use crate::config::{EmbeddedConfig, OpenError, OpenErrorKind};
use crate::fault::Fault;
use crate::fold::Job;
use crate::index::{self, Candidate, Index, Known, Resolved};
use crate::near::ReadAt;
use crate::open::{self, Opened};
use crate::reader::{Readers, Scan};
use crate::watch::Watchers;
use crate::writer::{Answer, Envelope, QUEUE, Request};

/// How many rows of an expired segment are looked at in one go, while nothing is folded.
const PURGE_SLICE: u32 = 1_024;
/// Larger bodies are compressed off the async threads.
const PACK_INLINE_MAX_BYTES: usize = 256 * 1024;

/// Records in one SQLite file. Its methods must be called within a tokio runtime. Dropping it ends its threads after
/// what was asked of them, and closes the file.
#[derive(Debug)]
pub struct EmbeddedStore {
    requests: Option<mpsc::Sender<Envelope>>,
    jobs: Option<std::sync::mpsc::Sender<Job>>,
    /// In the order in which they end.
    threads: Vec<JoinHandle<()>>,
    index: Arc<RwLock<Index>>,
    watchers: Arc<Watchers>,
    readers: Arc<Readers>,
    clock: Arc<dyn Clock>,
    durability: Durability,
    compress_above_bytes: usize,
}

impl EmbeddedStore {
    /// Opens the file, making it when it does not exist. Every claim that was in flight when its process ended is in
    /// doubt from now on. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`OpenError`], whose kind says what stood in the way.
    pub fn open(config: EmbeddedConfig) -> Result<Self, OpenError> {
        let Opened { path, writer, folder, jobs } = open::open(&config)?;
        let (requests, waiting) = mpsc::channel(QUEUE);
        let (index, watchers, clock) =
            (Arc::clone(&writer.index), Arc::clone(&writer.watchers), Arc::clone(&writer.clock));
        let asked = writer.folder.clone();
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.into()).spawn(run);
            thread.map_err(|error| OpenError::new(OpenErrorKind::Io, &config.path, error))
        };
        let folder = spawn("semel-folder", Box::new(move || folder.run(jobs)))?;
        let writer = spawn("semel-writer", Box::new(move || writer.run(waiting)))?;
        Ok(Self {
            requests: Some(requests),
            jobs: Some(asked),
            threads: vec![writer, folder],
            index,
            watchers,
            readers: Arc::new(Readers::new(path)),
            clock,
            durability: config.durability,
            compress_above_bytes: config.compress_above_bytes,
        })
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a request to the writer. Once it is handed over, it is carried out whether or not anybody waits.
    async fn ask(&self, request: Request) -> Result<Answer, StoreError> {
        let ended = || StoreError::new(StoreErrorKind::Unavailable, "the store's writer has ended");
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(ended)?;
        requests.send(Envelope { request, reply }).await.map_err(|_| ended())?;
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::new(StoreErrorKind::Unknown, "the store's writer has ended")))
    }

    /// Hands a job to the folder.
    async fn tell<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let ended = || StoreError::new(StoreErrorKind::Unavailable, "the store's folder has ended");
        let (done, answer) = oneshot::channel();
        let jobs = self.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(job(done)).map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    async fn write(&self, request: Request) -> Result<Written, StoreError> {
        match self.ask(request).await? {
            Answer::Written(written) => Ok(written),
            other => unreachable!("a write was answered with {other:?}"),
        }
    }

    /// The record as it stands at `now`, read beside the writer.
    async fn read(&self, id: &RecordId, now: Timestamp) -> Result<Option<Record>, StoreError> {
        match self.look(id, now)? {
            Looked::Known(record) => Ok(record),
            Looked::Folded(folded) => self.resolve(id, now, folded).await,
        }
    }

    /// What is in memory.
    fn look(&self, id: &RecordId, now: Timestamp) -> Result<Looked, StoreError> {
        let index = self.index();
        Ok(match index.find(id, now, None).map_err(Fault::into_error)? {
            Known::Live(live) => Looked::Known(live.record.clone().at(now)),
            Known::Pending(pending) => {
                let settled = pending.settled.as_ref();
                Looked::Known(settled.and_then(|settled| settled.record.clone().at(now)))
            }
            Known::Folded(candidates) => {
                let near = index.near.get(&id.digest()).filter(|record| record.id == *id);
                match near.and_then(|record| record.at(now)) {
                    Some(record) => Looked::Known(Some(record)),
                    None => Looked::Folded(InTables { candidates, seals: index.seals, at: index.near.now() }),
                }
            }
        })
    }

    async fn resolve(
        &self,
        id: &RecordId,
        now: Timestamp,
        InTables { candidates, at, .. }: InTables,
    ) -> Result<Option<Record>, StoreError> {
        if candidates.is_empty() {
            return Ok(None);
        }
        let wanted = id.clone();
        match self.readers.run(move |conn| index::resolve(conn, &candidates, &wanted, now)).await {
            Ok(Resolved::Live(record)) => {
                self.index().near.put(&record, at);
                Ok(Some(*record))
            }
            Ok(Resolved::Absent) => Ok(None),
            // The writer has moved or dropped it since the index was read, or it is lost: the writer knows.
            Ok(Resolved::Removed) | Err(Fault::Missing(_)) => match self.ask(Request::Get(id.clone())).await?
            {
                Answer::Record(record) => Ok(record),
                other => unreachable!("a get was answered with {other:?}"),
            },
            Err(fault) => Err(fault.into_error()),
        }
    }

    async fn pack(&self, outcome: &Outcome) -> Body {
        let (body, above) = (outcome.body.clone(), self.compress_above_bytes);
        if body.len() <= PACK_INLINE_MAX_BYTES {
            return Body::pack(&body, above);
        }
        tokio::task::spawn_blocking(move || Body::pack(&body, above)).await.expect("packing does not panic")
    }
}

/// What the index says of a record.
enum Looked {
    Known(Option<Record>),
    Folded(InTables),
}

/// A record that is folded or absent.
struct InTables {
    /// Where it may be.
    candidates: Vec<Candidate>,
    /// As [`Index::seals`].
    seals: u64,
    at: ReadAt,
}

impl Store for EmbeddedStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "embedded",
            durability: self.durability,
            shared: false,
            watches_elsewhere: false,
        }
    }

    fn tier(&self) -> Tier {
        Tier::of_process(self.durability)
    }

    fn claim(&self, args: ClaimArgs) -> StoreFuture<'_, Claimed> {
        Box::pin(async move {
            let now = self.clock.now();
            let mut looked = None;
            let standing = match self.look(&args.id, now)? {
                Looked::Known(record) => record,
                Looked::Folded(folded) => {
                    looked = folded.candidates.is_empty().then_some(folded.seals);
                    self.resolve(&args.id, now, folded).await?
                }
            };
            if let Some(standing) = standing {
                match record::claim(Some(standing), &args, Token(0), now) {
                    Step::Already(record) => return Ok(Claimed::Won(record)),
                    Step::Refused(Some(record)) => return Ok(Claimed::Standing(record)),
                    Step::Write(_) | Step::Remove | Step::Refused(None) => {}
                }
            }
            match self.ask(Request::Claim(args, looked)).await? {
                Answer::Claimed(claimed) => Ok(claimed),
                other => unreachable!("a claim was answered with {other:?}"),
            }
        })
    }

    fn renew(&self, args: RenewArgs) -> StoreFuture<'_, Written> {
        Box::pin(self.write(Request::Renew(args)))
    }

    fn complete(&self, args: CompleteArgs) -> StoreFuture<'_, Written> {
        Box::pin(async move {
            let (Ending::Completed(outcome) | Ending::Failed(outcome)) = &args.ending;
            let body = self.pack(outcome).await;
            self.write(Request::Complete(args, body)).await
        })
    }

    fn doubt(&self, args: DoubtArgs) -> StoreFuture<'_, Written> {
        Box::pin(self.write(Request::Doubt(args)))
    }

    fn release(&self, args: ReleaseArgs) -> StoreFuture<'_, Written> {
        Box::pin(self.write(Request::Release(args)))
    }

    fn import(&self, record: Record) -> StoreFuture<'_, Written> {
        Box::pin(async move {
            let body = match &record.state {
                State::InFlight { .. } => return Err(refuse_live_import()),
                State::InDoubt { .. } => Body::default(),
                State::Completed { outcome, .. } | State::Failed { outcome, .. } => self.pack(outcome).await,
            };
            self.write(Request::Import(Box::new(record), body)).await
        })
    }

    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>> {
        let id = id.clone();
        Box::pin(async move { self.read(&id, self.clock.now()).await })
    }

    fn near(&self, id: &RecordId) -> Option<Record> {
        let now = self.clock.now();
        self.index().near(id, now)
    }

    fn scan(&self, args: ScanArgs) -> StoreFuture<'_, Page> {
        Box::pin(async move {
            // What is read below is in the tables then. Without room for it, what is there is better than nothing.
            let folded = self.tell(Job::Fold).await;
            folded.or_else(|error| if error.kind() == StoreErrorKind::Full { Ok(()) } else { Err(error) })?;
            let begun = Scan::begin(&self.index(), args, self.clock.now());
            let scan = begun.ok_or_else(|| {
                StoreError::new(StoreErrorKind::Unavailable, "the cursor was not given by this store")
            })?;
            self.readers.run(|conn| scan.finish(conn)).await.map_err(Fault::into_error)
        })
    }

    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        Box::pin(async move {
            let mut purged = 0;
            while purged < limit {
                match self.ask(Request::Lapse(limit - purged)).await? {
                    Answer::Lapsed { moved: 0, .. } => break,
                    Answer::Lapsed { gone, .. } => purged += gone,
                    other => unreachable!("a lapse was answered with {other:?}"),
                }
            }
            while purged < limit {
                let rows = u32::try_from(limit - purged).unwrap_or(u32::MAX).min(PURGE_SLICE);
                let (records, more) = self.tell(|done| Job::Drop(rows, done)).await?;
                purged += records;
                if !more {
                    break;
                }
            }
            Ok(purged)
        })
    }

    fn watch(&self, id: &RecordId, seen: semel::store::Guard) -> StoreFuture<'_, ()> {
        let watch = self.watchers.register(id.digest());
        let id = id.clone();
        Box::pin(async move {
            let standing = self.read(&id, self.clock.now()).await?;
            if standing.is_some_and(|record| record.guard == seen && record.outcome().is_none()) {
                watch.wait().await;
            }
            Ok(())
        })
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        (self.requests, self.jobs) = (None, None);
        for thread in self.threads.drain(..) {
            // A panic there was reported when it happened; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}
