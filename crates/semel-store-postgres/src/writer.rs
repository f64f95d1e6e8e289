//! Many callers' steps in one statement: workers that take everything that waits, and what they do when the server
//! gives no answer.
//!
//! While a worker waits for its commit, the next batch gathers. Every step may be made again under the same guard, so a
//! batch whose answer was lost is made again on another connection, and the second answer says what became of the
//! first. Only when that gives no answer either is a caller told that nobody knows.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use semel::digest::Digest;
use semel::store::{StoreError, StoreErrorKind};
use tokio::sync::{Mutex, Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use crate::fault::Failure;
use crate::session::{Dialer, Session};

/// How often a step decides anew about a row that changed between two statements of it.
pub(crate) const ROUNDS: usize = 8;
/// How many callers one statement serves.
const BATCH: usize = 256;
const QUEUE: usize = 4096;
/// How long a worker waits for the batch of another one: the server may be held up by a lock or by its disk.
const LINGER: Duration = Duration::from_millis(2);
/// How often a worker lets others go first, once something waits.
const YIELDS: usize = 2;
/// How long an answer is sought; shorter than callers wait for the store.
const PATIENCE: Duration = Duration::from_secs(4);
/// A server that refused is left alone for so long.
const REDIAL_EVERY: Duration = Duration::from_millis(100);

/// A kind of step.
pub(crate) trait Work: Send + Sync + Sized + 'static {
    type Answer: Send + 'static;
    /// Whether two of one record may be in one statement.
    const REPEATS: bool = false;

    fn digest(&self) -> Digest;

    /// Makes the steps, ordered by digest, and answers each. `again`: they may have been made before.
    fn run(
        session: &Session,
        batch: &[Self],
        again: bool,
    ) -> impl Future<Output = Result<Vec<Self::Answer>, Failure>> + Send;
}

type Reply<T> = oneshot::Sender<Result<<T as Work>::Answer, StoreError>>;
type Job<T> = (T, Reply<T>);

/// Where steps of one kind wait.
pub(crate) struct Lane<T: Work>(mpsc::Sender<Job<T>>);

impl<T: Work> Lane<T> {
    /// A lane whose steps `workers` connections make.
    pub(crate) fn open(dialer: &Arc<Dialer>, workers: usize) -> Self {
        let (sender, waiting) = mpsc::channel(QUEUE);
        let gathering = Arc::new(Gathering {
            waiting: Mutex::new(waiting),
            under_way: AtomicUsize::new(0),
            ended: Notify::new(),
        });
        for _ in 0..workers {
            let worker = Worker {
                link: Link::new(Arc::clone(dialer), None),
                gathering: Arc::clone(&gathering),
                later: Vec::new(),
            };
            tokio::spawn(worker.serve());
        }
        Self(sender)
    }

    /// Hands a step over. From then on it is made whether or not anybody waits.
    pub(crate) async fn ask(&self, work: T) -> Result<T::Answer, StoreError> {
        let ended = |kind| StoreError::new(kind, "the store's worker has ended");
        let (reply, answer) = oneshot::channel();
        self.0.send((work, reply)).await.map_err(|_| ended(StoreErrorKind::Unavailable))?;
        answer.await.unwrap_or_else(|_| Err(ended(StoreErrorKind::Unknown)))
    }
}

/// How the workers of a lane take turns.
struct Gathering<T> {
    waiting: Mutex<mpsc::Receiver<T>>,
    /// Batches that are with the server.
    under_way: AtomicUsize,
    ended: Notify,
}

impl<T> Gathering<T> {
    /// Takes what waits. While another batch is with the server, more may gather: a statement costs as much as many
    /// rows. Returns false when nothing will come any more.
    async fn take(&self, jobs: &mut Vec<T>) -> bool {
        let mut waiting = self.waiting.lock().await;
        if waiting.recv_many(jobs, BATCH).await == 0 {
            return false;
        }
        let mut linger = pin!(sleep(LINGER));
        while jobs.len() < BATCH {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            if self.under_way.load(Ordering::SeqCst) == 0 {
                break;
            }
            let room = BATCH - jobs.len();
            tokio::select! {
                () = ended => {}
                () = &mut linger => break,
                more = waiting.recv_many(jobs, room) => if more == 0 { break },
            }
        }
        // The callers whom a batch has answered are about to ask for their next step, one after the other.
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
            while jobs.len() < BATCH
                && let Ok(job) = waiting.try_recv()
            {
                jobs.push(job);
            }
        }
        self.under_way.fetch_add(1, Ordering::SeqCst);
        true
    }

    /// What was taken is answered.
    fn end(&self) {
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        self.ended.notify_waiters();
    }
}

struct Worker<T: Work> {
    link: Link,
    gathering: Arc<Gathering<Job<T>>>,
    /// What was taken with another step of the same record.
    later: Vec<Job<T>>,
}

impl<T: Work> Worker<T> {
    async fn serve(mut self) {
        loop {
            let mut jobs = std::mem::take(&mut self.later);
            let taken = jobs.is_empty();
            if taken && !self.gathering.take(&mut jobs).await {
                return;
            }
            // In one order everywhere, so that no two statements wait for each other.
            jobs.sort_by_key(|(work, _)| work.digest());
            let (mut batch, mut replies) =
                (Vec::<T>::with_capacity(jobs.len()), Vec::with_capacity(jobs.len()));
            for (work, reply) in jobs {
                if !T::REPEATS && batch.last().is_some_and(|last| last.digest() == work.digest()) {
                    self.later.push((work, reply));
                } else {
                    batch.push(work);
                    replies.push(reply);
                }
            }
            self.answer(&batch, replies).await;
            if taken {
                self.gathering.end();
            }
        }
    }

    async fn answer(&mut self, batch: &[T], replies: Vec<Reply<T>>) {
        match self.link.make(batch).await {
            Ok(answers) => {
                for (answer, reply) in answers.into_iter().zip(replies) {
                    let _ = reply.send(Ok(answer));
                }
            }
            // One of them may be at fault for all.
            Err(Failure::NotDone(_) | Failure::Held(_)) if batch.len() > 1 && self.link.is_up() => {
                for (work, reply) in batch.iter().zip(replies) {
                    let answer = self.link.make(std::slice::from_ref(work)).await;
                    let answer = answer.map(|mut answers| answers.remove(0)).map_err(Failure::into_error);
                    let _ = reply.send(answer);
                }
            }
            Err(failure) => {
                let reason = failure.to_string();
                let kind = failure.into_error().kind();
                for reply in replies {
                    let _ = reply.send(Err(StoreError::new(kind, reason.clone())));
                }
            }
        }
    }
}

/// A connection that is made when it is needed, and made again when it was lost.
pub(crate) struct Link {
    dialer: Arc<Dialer>,
    session: Option<Session>,
    refused: Option<(Instant, String)>,
}

impl Link {
    pub(crate) fn new(dialer: Arc<Dialer>, session: Option<Session>) -> Self {
        Self { dialer, session, refused: None }
    }

    fn is_up(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_usable)
    }

    async fn session(&mut self) -> Result<&Session, String> {
        if !self.is_up() {
            self.session = None;
            if let Some((at, reason)) = &self.refused
                && at.elapsed() < REDIAL_EVERY
            {
                return Err(reason.clone());
            }
            match self.dialer.dial(None).await {
                Ok(session) => self.session = Some(session),
                Err(refused) => {
                    self.refused = Some((Instant::now(), refused.to_string()));
                    return Err(refused.to_string());
                }
            }
        }
        Ok(self.session.as_ref().expect("it was just made"))
    }

    /// Makes the steps of `batch`, and again for as long as it is unknown whether they were made.
    pub(crate) async fn make<T: Work>(&mut self, batch: &[T]) -> Result<Vec<T::Answer>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let (mut lost, mut pause) = (None::<String>, Duration::from_millis(2));
        loop {
            let failure = match timeout_at(deadline, self.session()).await {
                Ok(Ok(session)) => {
                    match timeout_at(deadline, attempt(session, batch, lost.is_some())).await {
                        Ok(Ok(answers)) => return Ok(answers),
                        Ok(Err(failure)) => failure,
                        Err(_) => {
                            session.abandon();
                            Failure::Unknown(format!("PostgreSQL did not answer within {PATIENCE:?}"))
                        }
                    }
                }
                Ok(Err(reason)) => unreachable(reason),
                Err(_) => unreachable("PostgreSQL cannot be reached in time".to_owned()),
            };
            match failure {
                Failure::Unknown(reason) => {
                    self.dialer.suspect();
                    self.session = None;
                    lost = Some(reason);
                }
                Failure::Again(_) => {}
                Failure::NotDone(error) if lost.is_none() => return Err(Failure::NotDone(error)),
                Failure::NotDone(_) => {}
                held @ Failure::Held(_) if lost.is_none() => return Err(held),
                Failure::Held(_) => {}
            }
            if Instant::now() + pause >= deadline {
                return Err(match lost {
                    Some(reason) => Failure::Unknown(reason),
                    None => Failure::Again("others kept changing the same records".to_owned()),
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(REDIAL_EVERY);
        }
    }
}

fn unreachable(reason: String) -> Failure {
    Failure::NotDone(StoreError::new(StoreErrorKind::Unavailable, reason))
}

/// Once. A commit that was acknowledged with a warning has not waited for its standby: what it did is known only when a
/// later commit has.
async fn attempt<T: Work>(session: &Session, batch: &[T], again: bool) -> Result<Vec<T::Answer>, Failure> {
    session.take_warning();
    let answers = T::run(session, batch, again).await?;
    if session.take_warning() {
        session.suspect();
        session.catch_up().await?;
    }
    Ok(answers)
}
