//! S11, and all others at once: random steps at random times are answered as the pure transitions answer them.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use semel::record::{self, DoubtCause, ReleaseFrom, Step};
use semel::store::DoubtArgs;
use semel::{State, Token, clock::Clock};

use super::*;
use crate::check::load::Load;
use crate::faulty_store::FaultyStore;

#[derive(Clone, Debug)]
enum Move {
    Claim { key: usize, takeover: bool, other_payload: bool },
    Renew { claim: usize },
    Complete { claim: usize, failed: bool, retention_s: u64 },
    Doubt { claim: usize },
    Release { claim: usize, from: ReleaseFrom },
    Purge,
    Wait { seconds: u64 },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let claim = 0_usize..6;
    let from = prop_oneof![Just(ReleaseFrom::Claim), Just(ReleaseFrom::Doubt), Just(ReleaseFrom::Finished)];
    let one = prop_oneof![
        4 => (0_usize..3, any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(key, takeover, other_payload)| Move::Claim { key, takeover, other_payload }),
        1 => claim.clone().prop_map(|claim| Move::Renew { claim }),
        3 => (claim.clone(), any::<bool>(), prop_oneof![Just(0_u64), Just(1), Just(30), Just(7200)])
            .prop_map(|(claim, failed, retention_s)| Move::Complete { claim, failed, retention_s }),
        2 => claim.clone().prop_map(|claim| Move::Doubt { claim }),
        2 => (claim, from).prop_map(|(claim, from)| Move::Release { claim, from }),
        1 => Just(Move::Purge),
        2 => prop_oneof![Just(1_u64), Just(5), Just(29), Just(4000)].prop_map(|seconds| Move::Wait { seconds }),
    ];
    prop::collection::vec(one, 1..40)
}

struct Model {
    records: [Option<Record>; 3],
    /// The newest claims that were won, of any key.
    claims: Vec<(usize, Record)>,
    ids: [RecordId; 3],
}

/// S11. Needs a clock that can be moved.
pub async fn s11_random_steps_answer_as_the_pure_transitions(subject: Subject) {
    let Some(clock) = subject.clock.clone() else { return };
    let runtime = tokio::runtime::Handle::current();
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let round = std::sync::atomic::AtomicU32::new(0);
    tokio::task::block_in_place(|| {
        runner
            .run(&moves(), |moves| {
                let round = round.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let ids = [0, 1, 2].map(|key| id(&format!("{round} {key}")));
                let model = Model { records: [None, None, None], claims: Vec::new(), ids };
                runtime.block_on(play(&subject, &clock, model, moves));
                Ok(())
            })
            .unwrap();
    });
}

async fn play(subject: &Subject, clock: &ManualClock, mut model: Model, moves: Vec<Move>) {
    let store = subject.store();
    for step in moves {
        let now = clock.now();
        match step {
            Move::Wait { seconds } => clock.advance(Duration::from_secs(seconds)),
            Move::Purge => {
                store.purge(100).await.unwrap();
            }
            Move::Claim { key, takeover, other_payload } => {
                let mut args = claim_of(&model.ids[key]);
                args.takeover = takeover;
                args.fingerprint = request(if other_payload { "900" } else { "100" });
                args.doubt_retention = Duration::from_secs(60);
                let answer = store.claim(args.clone()).await.unwrap();
                model.claim(key, &args, now, answer);
            }
            Move::Renew { claim } => {
                let Some((key, held)) = model.pick(claim) else { continue };
                let lease = Duration::from_secs(20);
                let expected = record::renew(model.records[key].clone(), held.guard, lease, now);
                model.check(key, expected, store.renew(renewal(&held, lease)).await.unwrap());
            }
            Move::Complete { claim, failed, retention_s } => {
                let Some((key, held)) = model.pick(claim) else { continue };
                let mut args = completion(&held, "outcome", Duration::from_secs(retention_s));
                if failed {
                    args.ending = Ending::Failed(outcome("failure"));
                }
                let current = model.records[key].clone();
                let expected =
                    record::complete(current, held.guard, args.ending.clone(), args.retention, now);
                model.check(key, expected, store.complete(args).await.unwrap());
            }
            Move::Doubt { claim } => {
                let Some((key, held)) = model.pick(claim) else { continue };
                let cause = DoubtCause::FailedAnswer;
                let expected = record::doubt(model.records[key].clone(), held.guard, cause, now);
                let args = DoubtArgs { id: held.id.clone(), guard: held.guard, cause };
                model.check(key, expected, store.doubt(args).await.unwrap());
            }
            Move::Release { claim, from } => {
                let Some((key, held)) = model.pick(claim) else { continue };
                let expected = record::release(model.records[key].clone(), held.guard, from, now);
                model.check(key, expected, store.release(releasing(&held, from)).await.unwrap());
            }
        }
        for (id, expected) in model.ids.iter().zip(&model.records) {
            let expected = expected.clone().and_then(|record| record.at(clock.now()));
            assert_eq!(store.get(id).await.unwrap(), expected);
        }
    }
}

/// S11, under real concurrency and with lost replies: the history that the suite records of every test is the test.
pub async fn s11_answers_of_racing_callers_have_an_order(subject: Subject) {
    for seed in 0..5 {
        let faulty = Arc::new(FaultyStore::by_seed(subject.store.inner(), seed));
        let store: Arc<dyn Store> = Arc::new(subject.store.continued(faulty));
        let load = Load { seed, callers: 16, keys: 8, calls: 1_000, unit: Duration::from_millis(200) };
        let running = tokio::spawn(load.run(Arc::clone(&store)));
        while !running.is_finished() {
            store.purge(10).await.ok();
            if let Some(clock) = &subject.clock {
                clock.advance(MILLI);
            }
            tokio::task::yield_now().await;
        }
        running.await.unwrap();
    }
}

impl Model {
    fn pick(&self, claim: usize) -> Option<(usize, Record)> {
        self.claims.iter().rev().nth(claim).cloned()
    }

    fn claim(&mut self, key: usize, args: &ClaimArgs, now: Timestamp, answer: Claimed) {
        match (record::claim(self.records[key].clone(), args, Token(0), now), answer) {
            (Step::Write(mut expected), Claimed::Won(won)) => {
                let before =
                    self.claims.iter().filter(|(other, _)| *other == key).map(|(_, held)| held.guard.token);
                assert!(before.max() < Some(won.guard.token), "a token repeats");
                assert!(won.guard.token >= expected.guard.token, "a token behind the clock");
                expected.guard.token = won.guard.token;
                assert_eq!(won, expected);
                assert!(matches!(won.state, State::InFlight { .. }));
                self.records[key] = Some(won.clone());
                self.claims.push((key, won));
            }
            (Step::Refused(Some(expected)), Claimed::Standing(standing)) => assert_eq!(standing, expected),
            (expected, answer) => panic!("expected {expected:?}, got {answer:?}"),
        }
    }

    fn check(&mut self, key: usize, expected: Step, answer: Written) {
        match (expected, answer) {
            (Step::Write(expected), Written::Done(Some(written))) => {
                assert_eq!(written, expected);
                self.records[key] = Some(written);
            }
            (Step::Remove, Written::Done(None)) => self.records[key] = None,
            (Step::Already(expected), Written::Done(Some(standing))) => assert_eq!(standing, expected),
            (Step::Refused(expected), Written::Refused(standing)) => assert_eq!(standing, expected),
            (expected, answer) => panic!("expected {expected:?}, got {answer:?}"),
        }
    }
}
