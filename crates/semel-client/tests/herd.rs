//! A thousand clients that are told to come back, and ten thousand calls to a host that always fails: simulated over
//! the core, with time and chance of the test's own. `SEMEL_HERD_RUNS=10000` makes as many crowds as one likes.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, Method, StatusCode};
use semel_client::core::budget::{Budget, Share};
use semel_client::core::call::{Call, Plan, Policy, Step, World};
use semel_client::core::classify::{Answer, Outcome};

/// A small generator, so that a run can be repeated: SplitMix64.
struct Chance(Cell<u64>);

impl World for Chance {
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn random(&self) -> u16 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u16::try_from((mixed ^ (mixed >> 31)) >> 48).unwrap()
    }
}

const CLIENTS: usize = 1_000;
/// Of a hundred, how many may come back within any 50 ms.
const CROWD_PERCENT: usize = 13;

fn plan() -> Plan {
    Plan { method: Method::POST, keyed: true, trusted: true, body_again: true, follows: false }
}

/// The delay before the first retry of each client, shortest first.
fn first_retries(seed: u64, retry_after: Option<&'static str>) -> Vec<Duration> {
    let (world, policy) = (Chance(Cell::new(seed)), Policy::default());
    let mut headers = HeaderMap::new();
    if let Some(value) = retry_after {
        headers.insert("retry-after", HeaderValue::from_static(value));
    }
    let answer = Answer { status: StatusCode::SERVICE_UNAVAILABLE, headers: &headers, body: b"" };
    let delay = |_| {
        let budget = Budget::new(Some(Share::default()));
        let mut call = Call::begin(plan(), &budget, &world);
        match call.after(&policy, &budget, &Outcome::Answer(answer), || None, &world) {
            Step::Wait(delay) => delay,
            step => panic!("{step:?}"),
        }
    };
    let mut delays: Vec<Duration> = (0..CLIENTS).map(delay).collect();
    delays.sort();
    delays
}

/// The most that fall into any 50 ms.
fn crowd(sorted: &[Duration]) -> usize {
    let within = |from: usize| {
        let end = sorted[from] + Duration::from_millis(50);
        sorted[from..].partition_point(|delay| *delay <= end)
    };
    (0..sorted.len()).map(within).max().unwrap()
}

#[test]
fn a_thousand_clients_that_are_told_to_come_back_do_not_come_at_once() {
    let runs = std::env::var("SEMEL_HERD_RUNS").map_or(300, |runs| runs.parse().unwrap());
    for retry_after in [None, Some("0"), Some("2"), Some("30")] {
        let crowds = (0..runs).map(|seed| (crowd(&first_retries(seed, retry_after)), seed));
        let (most, seed) = crowds.max().unwrap();
        println!(
            "retry-after {retry_after:?}: {most} of {CLIENTS} in the fullest 50 ms of {runs} runs, seed {seed}"
        );
        assert!(
            most * 100 <= CLIENTS * CROWD_PERCENT,
            "{most} at once, retry-after {retry_after:?}, seed {seed}"
        );
    }
}

#[test]
fn nobody_comes_back_before_the_time_that_was_asked_for() {
    let delays = first_retries(7, Some("2"));
    assert!(delays[0] >= Duration::from_secs(2), "{:?}", delays[0]);
    assert!(delays[CLIENTS - 1] <= Duration::from_millis(2_900), "{:?}", delays[CLIENTS - 1]);
}

#[test]
fn ten_thousand_calls_to_a_host_that_always_fails_are_at_most_1_12_attempts_each() {
    const CALLS: u32 = 10_000;
    let (world, policy, budget) =
        (Chance(Cell::new(1)), Policy::default(), Budget::new(Some(Share::default())));
    let attempts: u32 = (0..CALLS)
        .map(|_| {
            let mut call = Call::begin(plan(), &budget, &world);
            while let Step::Wait(_) = call.after(&policy, &budget, &Outcome::Broken, || None, &world) {}
            call.attempts()
        })
        .sum();
    println!("{attempts} attempts for {CALLS} calls");
    assert!(attempts * 100 <= CALLS * 112, "{attempts} attempts for {CALLS} calls");
    assert!(attempts > CALLS, "and some are retried");
}
