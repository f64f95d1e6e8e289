//! Callers who do everything to a few keys at once, by seed: what the checker is tried with, and a load for any store.
//!
//! Guards are shared among the callers, so that stale ones are used as much as good ones. The seed decides what is
//! asked; what it meets is up to the scheduler. Next: [`super::history::Recorder`], which this is usually run on.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use semel::record::{DoubtCause, ReleaseFrom};
use semel::store::{ClaimArgs, CompleteArgs, DoubtArgs, Ending, Guard, ReleaseArgs, RenewArgs};
use semel::{Fingerprint, Key, Operation, Outcome, Policy, RecordId, Store, Tenant, fingerprint};
use tokio::task::JoinSet;

use super::history::Call;

/// Numbers that look random and are the same for the same seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice thrown by `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, from 0 on and below `below`.
    pub fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = usize::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(0);
        mixed % below.max(1)
    }
}

/// What is done to a store.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Decides what is asked.
    pub seed: u64,
    /// How many ask at once.
    pub callers: usize,
    /// Of how many keys.
    pub keys: usize,
    /// How many calls are made in all.
    pub calls: usize,
    /// How long leases, outcomes and doubts last at most.
    pub unit: Duration,
}

type Guards = Arc<Vec<Mutex<Vec<Guard>>>>;

impl Load {
    /// Makes the calls. Errors of the store are of no interest here.
    pub async fn run(self, store: Arc<dyn Store>) {
        let guards: Guards = Arc::new((0..self.keys).map(|_| Mutex::default()).collect());
        let ids: Arc<Vec<RecordId>> = Arc::new((0..self.keys).map(|key| self.id(key)).collect());
        let mut callers = JoinSet::new();
        for caller in 0..self.callers {
            let (store, guards, ids) = (Arc::clone(&store), Arc::clone(&guards), Arc::clone(&ids));
            let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(u64::try_from(caller).unwrap_or(0));
            callers.spawn(async move {
                let mut dice = Dice::new(seed);
                for _ in 0..self.calls / self.callers {
                    // Callers meet: each stays in a small part of the keys for a while.
                    let key = dice.below(self.keys);
                    let guard = choose(&guards[key], &mut dice);
                    let call = self.call(&ids[key], guard, &mut dice);
                    if let Ok(answer) = call.make(&*store).await
                        && let Some(record) = answer.record()
                    {
                        remember(&guards[key], record.guard);
                    }
                }
            });
        }
        while callers.join_next().await.is_some() {}
    }

    fn id(self, key: usize) -> RecordId {
        let key =
            Key::new(&format!("seed {} key {key}", self.seed)).unwrap_or_else(|_| unreachable!("short"));
        RecordId::new(Tenant::public(), Operation::new("load"), key)
    }

    fn duration(self, dice: &mut Dice) -> Duration {
        self.unit * u32::try_from(dice.below(100)).unwrap_or(0) / 100
    }

    fn call(self, id: &RecordId, guard: Option<Guard>, dice: &mut Dice) -> Call {
        let Some(guard) = guard.filter(|_| dice.below(5) > 0) else { return self.claim(id, dice) };
        let id = id.clone();
        match dice.below(10) {
            0 | 1 => Call::Get(id),
            2 | 3 => Call::Renew(RenewArgs { id, guard, lease: self.duration(dice) }),
            4..=6 => {
                let text = format!("outcome {}", dice.below(1_000_000));
                let outcome = Outcome { code: 201, body: text.into(), body_kept: true, ..Outcome::default() };
                let ending = match dice.below(4) {
                    0 => Ending::Failed(outcome),
                    _ => Ending::Completed(outcome),
                };
                Call::Complete(CompleteArgs { id, guard, ending, retention: self.duration(dice) })
            }
            7 => Call::Doubt(DoubtArgs { id, guard, cause: DoubtCause::NoAnswer }),
            _ => {
                let from = [ReleaseFrom::Claim, ReleaseFrom::Doubt, ReleaseFrom::Finished][dice.below(3)];
                Call::Release(ReleaseArgs { id, guard, from })
            }
        }
    }

    fn claim(self, id: &RecordId, dice: &mut Dice) -> Call {
        let payload = [&b"100"[..], &b"900"[..]][usize::from(dice.below(10) == 0)];
        let request = Fingerprint {
            target: fingerprint::target("POST", "/charges", None),
            payload: fingerprint::payload(payload, &fingerprint::PayloadParts::Raw),
        };
        let mut args = ClaimArgs::new(id.clone(), request, &Policy::default());
        args.lease = self.duration(dice);
        args.max_execution = self.duration(dice) * 2;
        args.doubt_retention = self.duration(dice);
        args.takeover = dice.below(2) == 0;
        Call::Claim(args)
    }
}

fn choose(guards: &Mutex<Vec<Guard>>, dice: &mut Dice) -> Option<Guard> {
    let guards = guards.lock().unwrap_or_else(PoisonError::into_inner);
    // The newest half of the time.
    let back = if dice.below(2) == 0 { 0 } else { dice.below(guards.len()) };
    guards.iter().rev().nth(back).copied()
}

fn remember(guards: &Mutex<Vec<Guard>>, guard: Guard) {
    let mut guards = guards.lock().unwrap_or_else(PoisonError::into_inner);
    if !guards.contains(&guard) {
        guards.push(guard);
        if guards.len() > 4 {
            guards.remove(0);
        }
    }
}
