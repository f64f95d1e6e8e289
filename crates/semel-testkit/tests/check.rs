//! The checker: histories that happened are explained, planted lies are found and made small, and it is quick.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use semel::clock::{ManualClock, SystemClock, Timestamp};
use semel::record::{ClaimArgs, Ending};
use semel::store::memory::MemoryStore;
use semel::store::{Claimed, CompleteArgs, DoubtArgs, RenewArgs, Written};
use semel::{Fingerprint, Key, Outcome, Policy, Record, RecordId, Tenant, Token, fingerprint};
use semel_testkit::check::history::ANY_TIME;
use semel_testkit::check::load::Load;
use semel_testkit::check::{Answer, Asked, Call, Operation, Recorder, Violation, check};
use semel_testkit::faulty_store::FaultyStore;

const SECOND: Duration = Duration::from_secs(1);

async fn recorded(load: Load) -> Recorder {
    let clock = Arc::new(SystemClock::new());
    let memory = Arc::new(MemoryStore::with_clock(clock.clone()));
    let faulty = Arc::new(FaultyStore::by_seed(memory, load.seed));
    let recorder = Recorder::on_clock(faulty, clock);
    load.run(Arc::new(recorder.clone())).await;
    recorder
}

fn load(seed: u64) -> Load {
    Load { seed, callers: 16, keys: 10, calls: 2_000, unit: Duration::from_millis(2) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_memory_store_answers_to_racing_callers_is_explained() {
    for seed in 0..10 {
        let checked = recorded(load(seed)).await.verify();
        assert!(checked.keys == 10 && checked.operations > 1_500 && checked.unanswered > 30, "{checked:?}");
    }
}

fn id() -> RecordId {
    RecordId::new(Tenant::public(), semel::Operation::http(), Key::new("k").unwrap())
}

fn claiming() -> ClaimArgs {
    let request = Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(b"100", &fingerprint::PayloadParts::Raw),
    };
    let mut args = ClaimArgs::new(id(), request, &Policy::default());
    args.takeover = true;
    args
}

fn outcome(text: &str) -> Outcome {
    Outcome { code: 201, body: text.to_owned().into(), body_kept: true, ..Outcome::default() }
}

/// A history told by hand, at a time that stands unless told.
#[derive(Default)]
struct Tale {
    order: u64,
    operations: Vec<Operation>,
}

impl Tale {
    fn open(&mut self, call: Call, now: Timestamp) -> usize {
        self.order += 1;
        let asked = Asked { call, window: now..=now };
        self.operations.push(Operation { asked, invoked: self.order, answer: None });
        self.operations.len() - 1
    }

    fn answer(&mut self, operation: usize, answer: Answer) {
        self.order += 1;
        self.operations[operation].answer = Some((self.order, answer));
    }

    fn one(&mut self, call: Call, now: Timestamp, answer: Answer) {
        let operation = self.open(call, now);
        self.answer(operation, answer);
    }

    fn wins(&mut self, now: Timestamp) -> Record {
        let (operation, record) = self.wins_at(now, None);
        self.answer(operation, Answer::Claimed(Claimed::Won(record.clone())));
        record
    }

    fn wins_at(&mut self, now: Timestamp, current: Option<Record>) -> (usize, Record) {
        let call = Call::Claim(claiming());
        let semel::record::Step::Write(record) = call.step(current, Token(0), now) else {
            panic!("it stands")
        };
        (self.open(call, now), record)
    }

    fn completes(&mut self, record: &Record, text: &str, now: Timestamp) -> Record {
        let call = completing(record, text);
        let semel::record::Step::Write(done) = call.step(Some(record.clone()), Token(0), now) else {
            panic!("refused")
        };
        self.one(call, now, Answer::Written(Written::Done(Some(done.clone()))));
        done
    }

    fn violation(self) -> Violation {
        let mut found = check(self.operations).expect_err("a lie was believed");
        assert_eq!(found.len(), 1);
        let violation = found.remove(0);
        assert!(violation.proven, "{violation}");
        println!("{violation}");
        violation
    }
}

fn completing(record: &Record, text: &str) -> Call {
    let ending = Ending::Completed(outcome(text));
    Call::Complete(CompleteArgs { id: id(), guard: record.guard, ending, retention: 10 * SECOND })
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_000_000_000 + seconds * 1_000_000)
}

#[test]
fn two_winners_among_fifty_who_claim_at_once_are_found_and_nobody_else_is_shown() {
    let mut tale = Tale::default();
    let mut open: Vec<(usize, Record)> = (0..50).map(|_| tale.wins_at(at(0), None)).collect();
    let (second, mut twice) = open.swap_remove(30);
    let (first, winner) = open.swap_remove(7);
    twice.guard.token = Token(winner.guard.token.0 + 1);
    for (other, (operation, _)) in open.iter().enumerate() {
        if other % 3 > 0 {
            tale.answer(*operation, Answer::Claimed(Claimed::Standing(winner.clone())));
        }
    }
    tale.answer(first, Answer::Claimed(Claimed::Won(winner)));
    tale.answer(second, Answer::Claimed(Claimed::Won(twice)));
    let violation = tale.violation();
    assert_eq!(violation.answered.len(), 2, "{violation}");
    assert!(violation.answered.iter().all(|shown| shown.to_string().contains("won")), "{violation}");
}

#[test]
fn a_stale_completion_that_is_let_through_is_found() {
    let mut tale = Tale::default();
    let first = tale.wins(at(0));
    let (operation, second) = tale.wins_at(at(20), Some(first.clone()));
    tale.answer(operation, Answer::Claimed(Claimed::Won(second.clone())));
    let call = completing(&first, "stale");
    let semel::record::Step::Write(done) = call.step(Some(first), Token(0), at(21)) else {
        panic!("refused")
    };
    tale.one(call, at(21), Answer::Written(Written::Done(Some(done))));
    let violation = tale.violation();
    assert_eq!(violation.answered.len(), 1, "{violation}");
    assert!(violation.start.to_string().contains("generation 2"), "{violation}");
}

#[test]
fn an_outcome_that_changes_is_found() {
    let mut tale = Tale::default();
    let record = tale.wins(at(0));
    let mut done = tale.completes(&record, "one", at(1));
    tale.one(Call::Get(id()), at(2), Answer::Read(Some(done.clone())));
    if let semel::State::Completed { outcome: stored, .. } = &mut done.state {
        *stored = outcome("two");
    }
    tale.one(Call::Get(id()), at(3), Answer::Read(Some(done)));
    assert_eq!(tale.violation().answered.len(), 1);
}

#[test]
fn a_record_that_vanishes_before_its_expiry_is_found_and_after_it_is_not() {
    let tale = |seconds| {
        let mut tale = Tale::default();
        let record = tale.wins(at(0));
        tale.completes(&record, "one", at(1));
        tale.one(Call::Get(id()), at(seconds), Answer::Read(None));
        tale
    };
    assert!(check(tale(11).operations).is_ok(), "it expires after 10 s");
    assert_eq!(tale(10).violation().answered.len(), 1);
}

#[test]
fn a_claim_that_takes_a_live_lease_is_found_and_one_that_takes_a_lapsed_one_is_not() {
    let tale = |seconds, lapsed| {
        let mut tale = Tale::default();
        let record = tale.wins(at(0));
        let doubt = record.clone().at(at(lapsed));
        let (operation, mut taken) = tale.wins_at(at(seconds), doubt.filter(|_| lapsed >= 10));
        (taken.guard.token, taken.generation) = (Token(at(seconds).as_micros()), 2);
        tale.answer(operation, Answer::Claimed(Claimed::Won(taken)));
        tale
    };
    assert!(check(tale(10, 10).operations).is_ok());
    assert_eq!(tale(9, 9).violation().answered.len(), 1);
}

#[test]
fn a_first_claim_that_says_it_is_the_second_is_found() {
    let mut tale = Tale::default();
    let (operation, mut record) = tale.wins_at(at(0), None);
    record.generation = 2;
    tale.answer(operation, Answer::Claimed(Claimed::Won(record)));
    assert_eq!(tale.violation().answered.len(), 1);
}

#[test]
fn a_token_that_repeats_is_found() {
    let mut tale = Tale::default();
    let record = tale.wins(at(0));
    let release =
        semel::store::ReleaseArgs { id: id(), guard: record.guard, from: semel::record::ReleaseFrom::Claim };
    tale.one(Call::Release(release), at(1), Answer::Written(Written::Done(None)));
    let (operation, again) = tale.wins_at(at(0), None);
    tale.answer(operation, Answer::Claimed(Claimed::Won(again)));
    assert_eq!(tale.violation().answered.len(), 1);
}

#[test]
fn a_lost_completion_may_have_happened_or_not_but_not_both() {
    let lost = |shown: &[bool]| {
        let mut tale = Tale::default();
        let record = tale.wins(at(0));
        let call = completing(&record, "late");
        let semel::record::Step::Write(done) = call.step(Some(record.clone()), Token(0), at(2)) else {
            panic!("refused")
        };
        let lost = tale.open(call, at(1));
        tale.operations[lost].asked.window = at(1)..=*ANY_TIME.end();
        for shown in shown {
            let read = if *shown { done.clone() } else { record.clone() };
            tale.one(Call::Get(id()), at(3), Answer::Read(Some(read)));
        }
        tale
    };
    for possible in [&[][..], &[false], &[true, true], &[false, true]] {
        assert!(check(lost(possible).operations).is_ok(), "{possible:?}");
    }
    assert!(!lost(&[true, false]).violation().answered.is_empty());
}

#[test]
fn a_bad_key_of_fifty_who_do_everything_at_once_is_made_small() {
    let mut tale = Tale::default();
    let record = tale.wins(at(0));
    let mut open = Vec::new();
    for nth in 0..50_u64 {
        let guard = record.guard;
        let call = match nth % 5 {
            0 => Call::Renew(RenewArgs { id: id(), guard, lease: Duration::from_secs(nth.max(20)) }),
            1 => completing(&record, "same"),
            2 => Call::Doubt(DoubtArgs { id: id(), guard, cause: semel::record::DoubtCause::NoAnswer }),
            3 => Call::Claim(claiming()),
            _ => Call::Get(id()),
        };
        open.push(tale.open(call, at(1)));
    }
    let semel::record::Step::Write(done) = completing(&record, "same").step(Some(record), Token(0), at(1))
    else {
        panic!("refused")
    };
    for (nth, operation) in open.into_iter().enumerate() {
        let shown = Some(done.clone());
        match nth % 5 {
            // Lost, or refused by the outcome.
            0 | 2 if nth < 25 => {}
            0 | 2 => tale.answer(operation, Answer::Written(Written::Refused(shown))),
            1 if nth == 26 => tale.answer(operation, Answer::Written(Written::Refused(None))),
            1 => tale.answer(operation, Answer::Written(Written::Done(shown))),
            3 => tale.answer(operation, Answer::Claimed(Claimed::Standing(done.clone()))),
            _ => tale.answer(operation, Answer::Read(shown)),
        }
    }
    let violation = tale.violation();
    assert_eq!(violation.answered.len(), 1, "{violation}");
    assert!(violation.answered[0].to_string().contains("refused: absent"), "{violation}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_answer_swapped_in_a_history_that_happened_is_found() {
    for seed in 100..110 {
        let mut history = recorded(load(seed)).await.history();
        let lied = history.iter_mut().filter(|operation| operation.invoked > 500).find_map(|operation| {
            match &mut operation.answer {
                Some((_, Answer::Claimed(Claimed::Won(record)))) => {
                    record.generation += 1;
                    Some(operation.asked.call.id().clone())
                }
                _ => None,
            }
        });
        let found = check(history).expect_err("a lie was believed");
        assert_eq!(found.len(), 1, "seed {seed}");
        assert_eq!(Some(&found[0].id), lied.as_ref(), "seed {seed}");
        assert!(found[0].proven, "seed {seed}: {}", found[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_thousand_calls_of_a_thousand_keys_are_checked_in_seconds() {
    let clock = Arc::new(ManualClock::at(at(0)));
    let recorder = Recorder::on_clock(Arc::new(MemoryStore::with_clock(clock.clone())), clock);
    let load = Load { seed: 1, callers: 8, keys: 1_000, calls: 100_000, unit: SECOND };
    load.run(Arc::new(recorder.clone())).await;
    let checked = recorder.verify();
    assert_eq!((checked.keys, checked.operations), (1_000, 100_000));
}
