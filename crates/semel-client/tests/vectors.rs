//! The language-neutral vectors of the repository, run against the core. How many there are is asserted, so that a
//! file that was not found is no success.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use std::cell::Cell;
use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use semel::backoff::Backoff;
use semel::key::KeyError;
use semel_client::core::budget::{Budget, Share};
use semel_client::core::call::{Call, Plan, Policy, Step, World};
use semel_client::core::classify::{Answer, Effect, Finding, Outcome, classify};
use semel_client::core::key::on_the_wire;
use semel_client::core::redirect::{Redirect, redirect};
use semel_client::core::retry_after::retry_after;
use semel_client::{Key, business, composite, hashed};
use serde_json::Value;
use url::Url;

/// Runs every case of a file; a failure names the case.
fn each(file: &str, cases: usize, run: impl Fn(&Value)) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let all: Value = serde_json::from_str(&text).unwrap();
    let all = all["cases"].as_array().unwrap();
    let mut names = HashSet::new();
    for case in all {
        let name = case["name"].as_str().unwrap();
        assert!(names.insert(name), "{file} has two cases called {name}");
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(case)));
        assert!(ran.is_ok(), "{file}: {name}");
    }
    assert_eq!(all.len(), cases, "the number of cases in {file}");
}

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_else(|| panic!("no text in {field}"))
}

fn number(case: &Value, field: &str) -> u64 {
    case[field].as_u64().unwrap_or_else(|| panic!("no number in {field}"))
}

fn ms(case: &Value, field: &str) -> Option<Duration> {
    case[field].as_f64().map(|ms| Duration::from_secs_f64(ms / 1_000.0))
}

fn headers(case: &Value) -> HeaderMap {
    let pairs = case["headers"].as_array().unwrap().iter();
    let pair = |pair: &Value| {
        let name = HeaderName::try_from(pair[0].as_str().unwrap()).unwrap();
        // Beyond ASCII each character is one byte, as HTTP has it.
        let value: Vec<u8> =
            pair[1].as_str().unwrap().chars().map(|one| u8::try_from(u32::from(one)).unwrap()).collect();
        (name, HeaderValue::from_bytes(&value).unwrap())
    };
    pairs.map(pair).collect()
}

/// The variants' names as the vectors spell them: `InFlight` is `in-flight`.
fn kebab(name: impl std::fmt::Debug) -> String {
    let mut text = String::new();
    for (nth, letter) in format!("{name:?}").chars().enumerate() {
        if letter.is_ascii_uppercase() && nth > 0 {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// Runs `check` with the outcome that a case describes.
fn with_outcome<T>(case: &Value, check: impl FnOnce(&Outcome<'_>) -> T) -> T {
    match text(case, "type") {
        "not-sent" => check(&Outcome::NotSent),
        "broken" => check(&Outcome::Broken),
        "timed-out" => check(&Outcome::TimedOut),
        "truncated" => check(&Outcome::Truncated),
        "answer" => {
            let status = StatusCode::from_u16(u16::try_from(number(case, "status")).unwrap()).unwrap();
            let (headers, body) = (headers(case), text(case, "body").as_bytes());
            check(&Outcome::Answer(Answer { status, headers: &headers, body }))
        }
        other => panic!("an outcome of type {other}"),
    }
}

#[test]
fn keys_are_built_sent_and_read_as_the_vectors_say() {
    let parts = |case: &Value| -> Vec<String> {
        case["parts"].as_array().unwrap().iter().map(|part| part.as_str().unwrap().to_owned()).collect()
    };
    each("keys.json", 84, |case| {
        let built = match text(case, "build") {
            "composite" => composite(parts(case)),
            "business" => business(&parts(case)[0], &parts(case)[1]),
            "hashed" => hashed(text(case, "prefix"), parts(case)),
            "explicit" => Key::explicit(text(case, "text")),
            "read" => Key::from_header(text(case, "value").as_bytes()),
            "minted" => return minted(case),
            other => panic!("a key built by {other}"),
        };
        match &built {
            Ok(key) => assert_eq!(key.as_str(), text(case, "key")),
            Err(error) => {
                let error = match error {
                    KeyError::Empty => "empty",
                    KeyError::TooLong { .. } => "too-long",
                    KeyError::NotPrintable { .. } => "not-printable",
                    KeyError::BadQuotes => "bad-quotes",
                    _ => "other",
                };
                assert_eq!(error, text(case, "error"));
            }
        }
        if let (Ok(key), Some(wire)) = (built, case["wire"].as_str()) {
            let sent = on_the_wire(&key);
            assert_eq!(sent, wire);
            assert_eq!(Key::from_header(sent.as_bytes()).unwrap(), key, "it is read as the same key");
        }
    });
}

fn minted(case: &Value) {
    let version = number(case, "version");
    let mint = if version == 4 { Key::v4 } else { Key::auto };
    let keys: HashSet<String> = (0..number(case, "count")).map(|_| mint().as_str().to_owned()).collect();
    assert_eq!(u64::try_from(keys.len()).unwrap(), number(case, "count"), "no two are the same");
    for key in keys {
        let bytes = key.as_bytes();
        assert_eq!(bytes.len(), 36);
        assert_eq!(u64::from(bytes[14] - b'0'), version, "the version of {key}");
        assert!(b"89ab".contains(&bytes[19]), "the variant of {key}");
        let digits = bytes.iter().enumerate().filter(|(at, _)| ![8, 13, 18, 23].contains(at));
        assert!(digits.map(|(_, byte)| byte).all(|byte| b"0123456789abcdef".contains(byte)), "{key}");
    }
}

#[test]
fn attempts_are_judged_as_the_vectors_say() {
    each("classify.json", 113, |case| {
        let verdict = with_outcome(&case["outcome"], classify);
        assert_eq!(kebab(verdict.finding), text(case, "finding"));
        assert_eq!(verdict.again, case["again"].as_bool().unwrap(), "whether it may help to send it again");
        assert_eq!(kebab(verdict.effect), text(case, "effect"));
    });
}

#[test]
fn retry_after_is_read_as_the_vectors_say() {
    each("retry_after.json", 73, |case| {
        let wall = httpdate::parse_http_date(text(case, "wall")).unwrap();
        let asked = retry_after(&headers(case), wall);
        match case["wait_ms"].as_str() {
            Some("forever") => assert!(asked.unwrap() > Duration::from_secs(100_000_000)),
            Some(other) => panic!("{other}"),
            None => assert_eq!(asked, ms(case, "wait_ms")),
        }
    });
}

/// Time and chance as a case has them.
struct Given {
    elapsed: Cell<Duration>,
    random: u16,
}

impl World for Given {
    fn elapsed(&self) -> Duration {
        self.elapsed.get()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn random(&self) -> u16 {
        self.random
    }
}

fn given(case: &Value) -> Given {
    Given { elapsed: Cell::default(), random: u16::try_from(number(case, "random")).unwrap() }
}

fn plan(method: Method) -> Plan {
    Plan { method, keyed: true, trusted: true, body_again: true, follows: false }
}

fn close(one: Duration, other: Duration) -> bool {
    one.abs_diff(other) <= Duration::from_micros(10)
}

#[test]
fn delays_are_as_the_vectors_say() {
    each("delays.json", 62, |case| {
        let expected = ms(case, "delay_ms").unwrap();
        let world = given(case);
        let delay = match ms(case, "asked_ms") {
            None => {
                let (base, cap) = (ms(case, "base_ms").unwrap(), ms(case, "cap_ms").unwrap());
                Backoff { base, cap }.delay(u32::try_from(number(case, "n")).unwrap(), world.random())
            }
            Some(asked) => {
                let policy = Policy { deadline: Duration::from_secs(1_000), ..Policy::default() };
                let mut headers = HeaderMap::new();
                headers
                    .insert("retry-after-ms", HeaderValue::try_from(asked.as_millis().to_string()).unwrap());
                let budget = Budget::new(None);
                let mut call = Call::begin(plan(Method::POST), &budget, &world);
                let answer = Answer { status: StatusCode::SERVICE_UNAVAILABLE, headers: &headers, body: b"" };
                match call.after(&policy, &budget, &Outcome::Answer(answer), || None, &world) {
                    Step::Wait(delay) => delay,
                    other => panic!("{other:?}"),
                }
            }
        };
        assert!(close(delay, expected), "{delay:?} and not {expected:?}");
    });
}

#[test]
fn budgets_are_as_the_vectors_say() {
    each("budget.json", 15, |case| {
        let share = case["percent"].as_u64().map(|percent| Share {
            percent: u32::try_from(percent).unwrap(),
            burst: u32::try_from(number(case, "burst")).unwrap(),
        });
        let budget = Budget::new(share);
        for step in case["steps"].as_array().into_iter().flatten() {
            let times = step[1].as_u64().unwrap();
            match step[0].as_str().unwrap() {
                "deposit" => (0..times).for_each(|_| budget.deposit()),
                _ => {
                    let granted = (0..times).filter(|_| budget.withdraw()).count();
                    assert_eq!(u64::try_from(granted).unwrap(), step[2].as_u64().unwrap(), "{step}");
                }
            }
        }
        if let Some(calls) = case["failing_calls"].as_u64() {
            let retries_max = u32::try_from(number(case, "retries_max")).unwrap();
            let policy = Policy { retries_max, ..Policy::default() };
            let world = Given { elapsed: Cell::default(), random: 0 };
            let retries = (0..calls).map(|_| {
                let mut call = Call::begin(plan(Method::POST), &budget, &world);
                let mut retries = 0;
                while let Step::Wait(_) = call.after(&policy, &budget, &Outcome::Broken, || None, &world) {
                    retries += 1;
                }
                retries
            });
            assert_eq!(retries.sum::<u64>(), number(case, "retries"));
        }
    });
}

#[test]
fn redirects_lead_where_the_vectors_say() {
    each("redirects.json", 34, |case| {
        let mut headers = HeaderMap::new();
        if let Some(location) = case["location"].as_str() {
            headers.insert("location", HeaderValue::from_str(location).unwrap());
        }
        let (method, from) = (text(case, "method").parse().unwrap(), text(case, "from").parse().unwrap());
        let status = u16::try_from(number(case, "status")).unwrap();
        let (to, url) = match redirect(&method, &from, status, &headers) {
            Redirect::Same(url) => ("same", Some(url)),
            Redirect::Get(url) => ("get", Some(url)),
            Redirect::OtherOrigin(_) => ("other-origin", None),
            Redirect::Nowhere => ("nowhere", None),
        };
        assert_eq!((to, url.as_ref().map(Url::as_str)), (text(case, "to"), case["url"].as_str()));
    });
}

#[test]
fn whole_calls_go_as_the_vectors_say() {
    each("calls.json", 91, |case| {
        let policy = policy(&case["policy"]);
        let left = u32::try_from(number(case, "budget_left")).unwrap();
        let budget = Budget::new(Some(Share { percent: 0, burst: left }));
        let world = given(case);
        let flag = |name: &str| case["plan"][name].as_bool().unwrap();
        let plan = Plan {
            method: text(&case["plan"], "method").parse().unwrap(),
            keyed: flag("keyed"),
            trusted: flag("trusted"),
            body_again: flag("body_again"),
            follows: flag("follows"),
        };
        let mut call = Call::begin(plan, &budget, &world);
        let mut at = Url::parse("https://api.example.com/charges").unwrap();
        for (nth, turn) in case["turns"].as_array().unwrap().iter().enumerate() {
            world.elapsed.set(ms(turn, "at_ms").unwrap());
            let from = at.clone();
            let step = with_outcome(&turn["outcome"], |outcome| {
                call.after(&policy, &budget, outcome, || Some(from), &world)
            });
            expect(&turn["expect"], &step, &call, nth);
            if let Step::Follow(url) = step {
                at = url;
            }
        }
    });
}

fn policy(case: &Value) -> Policy {
    let small = |name| u32::try_from(number(case, name)).unwrap();
    Policy {
        retries_max: small("retries_max"),
        backoff: Backoff { base: ms(case, "base_ms").unwrap(), cap: ms(case, "cap_ms").unwrap() },
        retry_after_max: ms(case, "retry_after_max_ms").unwrap(),
        deadline: ms(case, "deadline_ms").unwrap(),
        redirects_max: small("redirects_max"),
        ..Policy::default()
    }
}

fn expect(expected: &Value, step: &Step, call: &Call, nth: usize) {
    assert_eq!(usize::try_from(call.attempts()).unwrap(), nth + 1);
    match (text(expected, "step"), step) {
        ("done", Step::Done) => {}
        ("wait", Step::Wait(delay)) => {
            let expected = ms(expected, "delay_ms").unwrap();
            assert!(close(*delay, expected), "turn {nth}: {delay:?} and not {expected:?}");
        }
        ("follow", Step::Follow(url)) => {
            assert_eq!(url.as_str(), text(expected, "url"));
            assert_eq!(call.method().as_str(), text(expected, "method"));
            assert_eq!(call.keyed(), expected["keyed"].as_bool().unwrap());
        }
        ("give-up", Step::GiveUp(ending)) => {
            assert_eq!(ending.kind.as_str(), text(expected, "kind"));
            assert_eq!(kebab(ending.effect), text(expected, "effect"));
            assert_eq!(ending.retryable, expected["retryable"].as_bool().unwrap(), "retryable");
            assert_eq!(ending.retry_after, ms(expected, "retry_after_ms"));
        }
        (expected, step) => panic!("turn {nth}: {step:?} and not {expected}"),
    }
}

#[test]
fn every_finding_and_effect_is_in_the_vectors() {
    let findings = [
        Finding::Done,
        Finding::Moved,
        Finding::NotSent,
        Finding::Lost,
        Finding::Throttled,
        Finding::Unavailable,
        Finding::Failed,
        Finding::InFlight,
        Finding::KeyReused,
        Finding::InDoubt,
        Finding::NotKept,
        Finding::Rejected,
    ];
    let seen = std::sync::Mutex::new(HashSet::new());
    each("classify.json", 113, |case| {
        seen.lock().unwrap().insert(text(case, "finding").to_owned());
        seen.lock().unwrap().insert(text(case, "effect").to_owned());
    });
    let seen = seen.into_inner().unwrap();
    assert!(findings.iter().all(|finding| seen.contains(&kebab(finding))));
    assert!(
        [Effect::None, Effect::Unknown, Effect::Happened].iter().all(|effect| seen.contains(&kebab(effect)))
    );
}
