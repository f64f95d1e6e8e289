//! Single-flight waiting: all callers in this process that bring one record share a [`Flight`], so that ten
//! thousand duplicates cost the store one claim and one watcher.
//!
//! A flight lives in the table from the first caller until its record is finished, in doubt or unreadable. A
//! released claim passes a baton to ONE waiter, which claims; the others go on waiting. A waiter never changes the
//! record it waits for. Next: [`super::claim`], which ends flights.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Inner;
use super::board::{Board, Shown};
use crate::digest::Digest;
use crate::error::Code;
use crate::fingerprint::Fingerprint;
use crate::record::{Guard, Record, StateKind};
use crate::scope::RecordId;

/// How often a record that runs elsewhere is read when nothing is heard of it.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// Enough that two cores rarely meet in one.
const SHARDS: usize = 32;

/// What the callers of one record are waiting for.
#[derive(Debug)]
pub(super) enum Phase {
    /// One of them asks the store.
    Claiming,
    /// One of them runs the effect, under this guard.
    Running(Fingerprint, Guard),
    /// Another user of the store runs it.
    Elsewhere(Arc<Record>),
    /// The claim was released; the next holder of the baton claims.
    Vacant,
    /// The record is finished or in doubt.
    Over(Arc<Record>),
    /// The effect ran and the store could not be told.
    Unknown,
    /// The store could not be read, for this reason.
    Unreadable(Code, String),
}

impl Phase {
    fn is_led_by(&self, guard: Guard) -> bool {
        matches!(self, Self::Running(_, leader) if *leader == guard)
    }
}

/// The callers in this process that bring one record.
#[derive(Debug)]
pub(super) struct Flight {
    id: RecordId,
    phase: Board<Phase>,
    baton: Notify,
    /// How many wait. Who takes a seat looks at the phase afterwards, so where there is none nobody needs to be woken,
    /// which would cost as much as the rest of a flight.
    seats: Mutex<usize>,
}

impl Flight {
    /// A flight that is in no table and that nobody joins.
    pub(super) fn apart(id: RecordId) -> Arc<Self> {
        Arc::new(Self { id, phase: Board::new(Phase::Claiming), baton: Notify::new(), seats: Mutex::new(0) })
    }

    /// What is known now, and how often it has changed.
    pub(super) fn phase(&self) -> Shown<'_, Phase> {
        self.phase.look()
    }

    /// Resolves once the phase has changed more than `seen` times.
    pub(super) async fn changed(&self, seen: u64) {
        self.phase.changed(seen).await;
    }

    pub(super) fn publish(&self, phase: Phase) {
        self.replace_when(phase, |_| true);
    }

    /// As [`Flight::publish`], if the standing phase `may` be replaced.
    fn replace_when(&self, phase: Phase, may: impl FnOnce(&Phase) -> bool) -> bool {
        let seats = lock(&self.seats);
        self.phase.change_if(*seats > 0, |standing| {
            let replaced = may(standing);
            if replaced {
                *standing = phase;
            }
            replaced
        })
    }

    pub(super) fn baton(&self) -> impl Future<Output = ()> {
        self.baton.notified()
    }

    /// Vacant -> claiming, for the holder of the baton. False when there is nothing to take over.
    pub(super) fn take_over(&self) -> bool {
        self.phase.change_if(true, |phase| {
            let vacant = matches!(phase, Phase::Vacant);
            if vacant {
                *phase = Phase::Claiming;
            }
            vacant
        })
    }
}

/// A waiter's place at a flight. The last one to leave a vacant flight takes it down.
#[derive(Debug)]
pub(super) struct Seat {
    flight: Arc<Flight>,
    flights: Flights,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut shard = self.flights.shard(&self.flight.id);
        let mut seats = lock(&self.flight.seats);
        *seats -= 1;
        if *seats == 0 && matches!(*self.flight.phase(), Phase::Vacant) {
            remove(&mut shard, &self.flight);
        }
    }
}

pub(super) enum Entered {
    Leader(Arc<Flight>),
    Follower(Arc<Flight>, Seat),
    Full,
}

type Shard = HashMap<Digest, Arc<Flight>>;

/// The flights of this process, by record.
#[derive(Clone, Debug)]
pub(super) struct Flights(Arc<[Mutex<Shard>; SHARDS]>);

impl Default for Flights {
    fn default() -> Self {
        Self(Arc::new(std::array::from_fn(|_| Mutex::default())))
    }
}

impl Flights {
    fn shard(&self, id: &RecordId) -> MutexGuard<'_, Shard> {
        lock(&self.0[usize::from(id.digest().as_bytes()[0]) % SHARDS])
    }

    /// Joins the flight of `id`, or starts one and leads it.
    pub(super) fn enter(&self, id: &RecordId, seats_max: usize) -> Entered {
        let mut shard = self.shard(id);
        if let Some(flight) = shard.get(&id.digest()) {
            let flight = Arc::clone(flight);
            let mut seats = lock(&flight.seats);
            if *seats >= seats_max {
                return Entered::Full;
            }
            *seats += 1;
            drop(seats);
            let seat = Seat { flight: Arc::clone(&flight), flights: self.clone() };
            return Entered::Follower(flight, seat);
        }
        let flight = Flight::apart(id.clone());
        shard.insert(id.digest(), Arc::clone(&flight));
        Entered::Leader(flight)
    }

    /// A place for the leader, when it has to wait like the others.
    pub(super) fn seat(&self, flight: &Arc<Flight>) -> Seat {
        *lock(&flight.seats) += 1;
        Seat { flight: Arc::clone(flight), flights: self.clone() }
    }

    /// Takes the flight down and tells its waiters why.
    pub(super) fn end(&self, flight: &Arc<Flight>, phase: Phase) {
        remove(&mut self.shard(&flight.id), flight);
        flight.publish(phase);
    }

    /// The record is absent again: one waiter claims; without waiters the flight goes.
    pub(super) fn vacate(&self, flight: &Arc<Flight>) {
        self.vacate_when(flight, |_| true);
    }

    /// As [`Flights::end`], when the claim under `guard` still leads the flight: its renewal and its holder may both
    /// find that it is over, and only the first is heard.
    pub(super) fn end_by(&self, flight: &Arc<Flight>, guard: Guard, phase: Phase) {
        let mut shard = self.shard(&flight.id);
        if flight.replace_when(phase, |standing| standing.is_led_by(guard)) {
            remove(&mut shard, flight);
        }
    }

    /// As [`Flights::vacate`], when the claim under `guard` still leads the flight.
    pub(super) fn vacate_by(&self, flight: &Arc<Flight>, guard: Guard) {
        self.vacate_when(flight, |standing| standing.is_led_by(guard));
    }

    fn vacate_when(&self, flight: &Arc<Flight>, may: impl FnOnce(&Phase) -> bool) {
        let mut shard = self.shard(&flight.id);
        if !flight.replace_when(Phase::Vacant, may) {
            return;
        }
        if *lock(&flight.seats) == 0 {
            remove(&mut shard, flight);
        }
        flight.baton.notify_one();
    }

    /// Takes the flight down when nobody waits at it.
    fn end_unwatched(&self, flight: &Arc<Flight>) -> bool {
        let mut shard = self.shard(&flight.id);
        let deserted = *lock(&flight.seats) == 0;
        if deserted {
            remove(&mut shard, flight);
        }
        deserted
    }
}

fn remove(shard: &mut Shard, flight: &Arc<Flight>) {
    if shard.get(&flight.id.digest()).is_some_and(|held| Arc::ptr_eq(held, flight)) {
        shard.remove(&flight.id.digest());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches a record that another user of the store runs, for as long as somebody waits for it.
pub(super) fn watch_elsewhere(inner: Arc<Inner>, flight: Arc<Flight>, record: Record) {
    tokio::spawn(async move {
        let seen = record.guard;
        loop {
            let hint = inner.store.watch(&flight.id, seen);
            let _ = tokio::time::timeout(POLL_EVERY, hint).await;
            if inner.flights.end_unwatched(&flight) {
                return;
            }
            let (id, limit) = (flight.id.clone(), inner.limits.store_timeout);
            match inner.call("get", limit, move |store| store.get(&id)).await {
                Ok(Some(record)) if record.state.kind() == StateKind::InFlight => {
                    flight.publish(Phase::Elsewhere(Arc::new(record)));
                }
                Ok(Some(record)) => return inner.flights.end(&flight, Phase::Over(Arc::new(record))),
                Ok(None) => return inner.flights.vacate(&flight),
                // One read that fails says nothing of the record: the waiters have deadlines of their own.
                Err(_) => tokio::time::sleep(POLL_EVERY).await,
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use crate::scope::{Operation, Tenant};

    fn enter(flights: &Flights) -> Entered {
        flights.enter(&RecordId::new(Tenant::public(), Operation::http(), Key::new("k").unwrap()), 9)
    }

    fn leader(flights: &Flights) -> Arc<Flight> {
        match enter(flights) {
            Entered::Leader(flight) => flight,
            Entered::Follower(..) | Entered::Full => panic!("the flight is still there"),
        }
    }

    fn follower(flights: &Flights) -> Seat {
        match enter(flights) {
            Entered::Follower(_, seat) => seat,
            Entered::Leader(_) | Entered::Full => panic!("the flight is gone"),
        }
    }

    #[test]
    fn a_vacant_flight_goes_with_the_last_of_its_waiters() {
        let flights = Flights::default();
        let flight = leader(&flights);
        let (first, second) = (follower(&flights), follower(&flights));
        flights.vacate(&flight);
        drop(first);
        let third = follower(&flights);
        drop((second, third));
        leader(&flights);
    }

    #[test]
    fn a_flight_that_nobody_waits_at_goes_when_it_is_vacant() {
        let flights = Flights::default();
        flights.vacate(&leader(&flights));
        leader(&flights);
    }

    #[test]
    fn a_flight_that_is_led_outlives_its_waiters() {
        let flights = Flights::default();
        let _flight = leader(&flights);
        drop(follower(&flights));
        drop(follower(&flights));
    }

    #[test]
    fn only_what_is_vacant_is_taken_over_and_only_once() {
        let flights = Flights::default();
        let flight = leader(&flights);
        let _waiting = follower(&flights);
        assert!(!flight.take_over());
        flights.vacate(&flight);
        assert!(flight.take_over());
        assert!(!flight.take_over());
    }
}
