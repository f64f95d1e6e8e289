//! The conformance suite: what every store must do, one test for each numbered guarantee of [`semel::store`].
//!
//! A store's `tests/conformance.rs` is one function that makes an empty store, and the macro:
//!
//! ```
//! use std::sync::Arc;
//! use semel::clock::ManualClock;
//! use semel::store::memory::MemoryStore;
//! use semel_testkit::conformance::Subject;
//!
//! async fn make(clock: Arc<ManualClock>) -> Subject {
//!     Subject::on_clock(Arc::new(MemoryStore::with_clock(clock.clone())), clock)
//! }
//! semel_testkit::conformance_suite!(make);
//! # fn main() {}
//! ```
//!
//! Not here: what only one store promises (its durability, its file, its server). Next: the modules, by guarantee.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::any::Any;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::check::Recorder;
use semel::clock::{ManualClock, Timestamp};
use semel::record::{ClaimArgs, DoubtCause, Ending, ReleaseFrom};
use semel::store::{Claimed, CompleteArgs, DoubtArgs, ReleaseArgs, RenewArgs, Store, Written};
use semel::{Fingerprint, Key, Operation, Outcome, Policy, Record, RecordId, Tenant, fingerprint};

pub mod claims;
pub mod listing;
pub mod model;
pub mod moving;
pub mod replies;
pub mod time;
pub mod waiting;
pub mod writes;

/// An empty store under test. What is asked of it and what it answers is recorded.
pub struct Subject {
    store: Recorder,
    clock: Option<Arc<ManualClock>>,
    purges_itself: bool,
    _keep: Box<dyn Any + Send + Sync>,
}

impl Subject {
    /// A store whose time is `clock`'s.
    pub fn on_clock(store: Arc<dyn Store>, clock: Arc<ManualClock>) -> Self {
        let store = Recorder::on_clock(store, clock.clone());
        Self { store, clock: Some(clock), purges_itself: false, _keep: Box::new(()) }
    }

    /// A store on a clock that cannot be moved, such as a server's: tests of time take as long as they say.
    pub fn on_real_time(store: Arc<dyn Store>) -> Self {
        let store = Recorder::new(store);
        Self { store, clock: None, purges_itself: false, _keep: Box::new(()) }
    }

    /// The store's server removes what has expired by itself, and a purge has nothing to do.
    #[must_use]
    pub fn purging_itself(mut self) -> Self {
        self.purges_itself = true;
        self
    }

    /// Keeps `what` (a folder, a server) until the test ends.
    #[must_use]
    pub fn keeping(mut self, what: impl Any + Send + Sync) -> Self {
        self._keep = Box::new(what);
        self
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.store.clone())
    }

    /// What was recorded, also after the subject is gone; see [`Recorder::verify`].
    #[must_use]
    pub fn recorder(&self) -> Recorder {
        self.store.clone()
    }

    async fn advance(&self, duration: Duration) {
        match &self.clock {
            Some(clock) => clock.advance(duration),
            None => tokio::time::sleep(duration).await,
        }
    }
}

/// The time at which the suite's manual clocks start.
#[must_use]
pub fn start() -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000)
}

fn id(key: &str) -> RecordId {
    id_of("tenant", "http", key)
}

fn id_of(tenant: &str, operation: &str, key: &str) -> RecordId {
    RecordId::new(Tenant::id(&[tenant]), Operation::new(operation), Key::new(key).unwrap())
}

fn request(payload: &str) -> Fingerprint {
    Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(payload.as_bytes(), &fingerprint::PayloadParts::Raw),
    }
}

fn claim_of(id: &RecordId) -> ClaimArgs {
    ClaimArgs::new(id.clone(), request("100"), &Policy::default())
}

fn takeover_of(id: &RecordId) -> ClaimArgs {
    let mut args = claim_of(id);
    args.takeover = true;
    args
}

fn outcome(text: &str) -> Outcome {
    Outcome {
        code: 201,
        head: "content-type: text/plain".into(),
        body: text.to_owned().into(),
        body_kept: true,
    }
}

fn completion(record: &Record, text: &str, retention: Duration) -> CompleteArgs {
    CompleteArgs {
        id: record.id.clone(),
        guard: record.guard,
        ending: Ending::Completed(outcome(text)),
        retention,
    }
}

fn renewal(record: &Record, lease: Duration) -> RenewArgs {
    RenewArgs { id: record.id.clone(), guard: record.guard, lease }
}

fn releasing(record: &Record, from: ReleaseFrom) -> ReleaseArgs {
    ReleaseArgs { id: record.id.clone(), guard: record.guard, from }
}

async fn won(store: &dyn Store, args: ClaimArgs) -> Record {
    match store.claim(args).await.unwrap() {
        Claimed::Won(record) => record,
        Claimed::Standing(record) => panic!("the claim was not won: {record:?} stands"),
    }
}

async fn standing(store: &dyn Store, args: ClaimArgs) -> Record {
    match store.claim(args).await.unwrap() {
        Claimed::Standing(record) => record,
        Claimed::Won(record) => panic!("a second claim was won: {record:?}"),
    }
}

async fn done(written: impl Future<Output = Result<Written, semel::store::StoreError>>) -> Option<Record> {
    match written.await.unwrap() {
        Written::Done(record) => record,
        Written::Refused(record) => panic!("refused: {record:?} stands"),
    }
}

async fn refused(written: impl Future<Output = Result<Written, semel::store::StoreError>>) -> Option<Record> {
    match written.await.unwrap() {
        Written::Refused(record) => record,
        Written::Done(record) => panic!("a write that must be refused was made: {record:?}"),
    }
}

fn doubting(record: &Record) -> DoubtArgs {
    DoubtArgs { id: record.id.clone(), guard: record.guard, cause: DoubtCause::NoAnswer }
}

/// Until nothing is left of what is dead; PostgreSQL's rows stay for two seconds.
async fn purge_all(subject: &Subject) {
    subject.advance(Duration::from_secs(3)).await;
    while subject.store().purge(100).await.unwrap() > 0 {}
}

const MILLI: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Makes one test of each guarantee, and checks the history of each, for the store that `$make` returns: an `async fn(Arc<ManualClock>) -> Subject`.
#[macro_export]
macro_rules! conformance_suite {
    ($make:path) => {
        $crate::conformance_suite! { @ $make;
            claims: s01_one_of_64_racing_claims_is_won, s01_one_of_three_takers_over_wins_every_round,
                s01_duplicates_are_shown_what_stands, s01_mismatch_never_takes_over,
                s02_tokens_grow_over_release_expiry_and_takeover, s08_a_repeated_claim_is_won_again;
            writes: s03_a_stale_guard_changes_nothing, s03_each_state_allows_only_its_own_writes,
                s04_what_was_acknowledged_is_read_back, s04_outcomes_come_back_byte_for_byte,
                s08_repeated_writes_are_answered_as_the_first, s10_a_dropped_future_happens_wholly_or_not_at_all;
            time: s05_in_flight_never_expires_but_lapses, s05_renewal_ends_at_the_longest_execution,
                s05_a_lease_of_nothing_is_over_at_once,
                s06_outcomes_are_absent_from_their_expiry_on, s06_doubts_are_absent_from_their_expiry_on,
                s06_failures_stand_until_their_expiry_and_are_listed, s06_what_is_near_is_finished_and_stands,
                s07_purge_takes_what_expired_and_nothing_else, s07_purge_racing_claims_takes_no_live_record;
            listing: s09_tenants_operations_keys_and_variants_are_apart, s09_scan_filters_hold,
                s09_scan_shows_each_record_once, s09_long_names_and_heads_are_listed_like_short_ones;
            waiting: s12_a_thousand_watchers_see_the_outcome, s12_a_watch_of_what_has_changed_resolves_at_once,
                s12_a_release_wakes, s12_a_doubt_and_a_takeover_wake;
            moving: s13_an_imported_record_stands_as_it_was, s13_import_replaces_no_record,
                s13_tokens_grow_past_an_imported_one;
            replies: s08_lost_replies_cost_neither_an_effect_nor_a_record;
            model: s11_random_steps_answer_as_the_pure_transitions,
                s11_answers_of_racing_callers_have_an_order;
        }
    };
    (@ $make:path; $($module:ident: $($test:ident),+;)+) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                let clock = ::std::sync::Arc::new(::semel::clock::ManualClock::at($crate::conformance::start()));
                let subject = $make(clock).await;
                let recorder = subject.recorder();
                $crate::conformance::$module::$test(subject).await;
                recorder.verify();
            }
        )+)+
    };
}
