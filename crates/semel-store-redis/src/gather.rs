//! Many callers' claims and completions in one script call, where there is one server.
//!
//! What a call costs beside its steps, at the driver and at the server, is shared by everybody who waits: while one
//! call is under way the next one gathers. Not for a Cluster, where a script may touch one slot only, nor where
//! replicas are waited for. Next: `claim`, which knows what is sent.

use std::sync::Arc;

use semel::clock::Clock;
use semel::store::{StoreError, StoreErrorKind};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::claim::{Answer, Call, Step};
use crate::link::Link;
use crate::script::Script;

/// How many steps one call makes. It keeps the server from others for so long.
const STEPS: usize = 64;
/// And how many bytes it has, unless one step has more.
const BYTES: usize = 256 * 1024;
const QUEUE: usize = 4096;
/// How many calls are under way at once.
const CALLS: usize = 2;
/// How often a worker lets others go first, once something waits.
const YIELDS: usize = 2;

type Reply = oneshot::Sender<Result<Answer, StoreError>>;
type Job = (Step, Reply);

/// Where steps wait.
#[derive(Debug)]
pub(crate) struct Gather(mpsc::Sender<Job>);

impl Gather {
    pub(crate) fn open(link: &Link, script: &Arc<Script>, clock: Option<&Arc<dyn Clock>>) -> Self {
        let (sender, waiting) = mpsc::channel(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..CALLS {
            let worker = Worker {
                link: link.clone(),
                script: Arc::clone(script),
                clock: clock.cloned(),
                waiting: Arc::clone(&waiting),
            };
            tokio::spawn(worker.serve());
        }
        Self(sender)
    }

    /// Hands a step over. From then on it is made whether or not anybody waits.
    pub(crate) async fn ask(&self, step: Step) -> Result<Answer, StoreError> {
        let ended = |kind| StoreError::new(kind, "the store's worker has ended");
        let (reply, answer) = oneshot::channel();
        self.0.send((step, reply)).await.map_err(|_| ended(StoreErrorKind::Unavailable))?;
        answer.await.unwrap_or_else(|_| Err(ended(StoreErrorKind::Unknown)))
    }
}

struct Worker {
    link: Link,
    script: Arc<Script>,
    clock: Option<Arc<dyn Clock>>,
    waiting: Arc<Mutex<mpsc::Receiver<Job>>>,
}

impl Worker {
    async fn serve(self) {
        let mut jobs = Vec::with_capacity(STEPS);
        while self.take(&mut jobs).await {
            while !jobs.is_empty() {
                let mut bytes = 0;
                let fits = jobs.iter().take_while(|(step, _)| {
                    bytes += step.bytes();
                    bytes <= BYTES
                });
                let some = fits.count().max(1);
                self.answer(jobs.drain(..some).collect()).await;
            }
        }
    }

    /// Takes what waits. False when nothing will come any more.
    async fn take(&self, jobs: &mut Vec<Job>) -> bool {
        let mut waiting = self.waiting.lock().await;
        if waiting.recv_many(jobs, STEPS).await == 0 {
            return false;
        }
        // The callers whom a call has answered are about to ask for their next step, one after the other.
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
            while jobs.len() < STEPS
                && let Ok(job) = waiting.try_recv()
            {
                jobs.push(job);
            }
        }
        true
    }

    async fn answer(&self, jobs: Vec<Job>) {
        let (steps, replies): (Vec<Step>, Vec<Reply>) = jobs.into_iter().unzip();
        match self.make(&steps).await {
            Ok(answers) => {
                for (answer, reply) in answers.into_iter().zip(replies) {
                    let _ = reply.send(answer);
                }
            }
            // The server has refused all because of one, as when it is full: others may need no room.
            Err(error) if steps.len() > 1 && error.kind() != StoreErrorKind::Unknown => {
                for (step, reply) in steps.iter().zip(replies) {
                    let answer = self.make(std::slice::from_ref(step)).await;
                    let _ = reply.send(answer.and_then(|mut answers| answers.remove(0)));
                }
            }
            Err(error) => {
                let (kind, why) = (error.kind(), Arc::new(error));
                for reply in replies {
                    let _ = reply.send(Err(StoreError::new(kind, Arc::clone(&why))));
                }
            }
        }
    }

    async fn make(&self, steps: &[Step]) -> Result<Vec<Result<Answer, StoreError>>, StoreError> {
        let now = self.clock.as_ref().map(|clock| clock.now());
        let sent = Call::new(&self.script, now, steps.iter().collect()).send(&self.link).await;
        Answer::read_all(sent.map_err(|error| self.link.write_error(error))?, steps.len())
    }
}
