//! What strangers send, at random: `Retry-After`, keys in headers, error bodies, redirects, and whole calls made of
//! them. Nothing panics, and what a host says never makes a call unsafe.
//!
//! Cases that are known by name are in `vectors/`; these look for the others. `PROPTEST_CASES=100000` looks longer.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proptest::prelude::*;
use semel_client::core::budget::{Budget, Share};
use semel_client::core::call::{Call, Kind, Plan, Policy, RETRIES_MAX, Step, World};
use semel_client::core::classify::{Answer, Effect, Finding, Outcome, classify, must_be_read};
use semel_client::core::key::on_the_wire;
use semel_client::core::problem::problem;
use semel_client::core::redirect::{Redirect, redirect};
use semel_client::core::retry_after::retry_after;
use semel_client::{Key, composite, hashed};
use serde_json::{Value, json};
use url::Url;

/// A failure prints its case; none is written into the tree.
fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

/// Any value that can be in a header.
fn value() -> impl Strategy<Value = HeaderValue> {
    let bytes = prop::collection::vec(prop_oneof![Just(b'\t'), 0x20..=0x7e_u8, 0x80..=0xff_u8], 0..60);
    bytes.prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap())
}

/// Values that look like something a client reads.
fn near() -> impl Strategy<Value = HeaderValue> {
    let text = prop_oneof![
        "[ \t]{0,2}[-+]?[0-9]{0,25}([.,][0-9]{0,25})?(e[0-9]{1,3})?[ \t]{0,2}",
        "(Mon|Tue|Sun|Sunday), [0-9]{2}[ -](Jan|Feb|Dec|Foo)[ -]([0-9]{2}|[0-9]{4}) [0-9]{2}:[0-9]{2}:[0-9]{2} (GMT|UTC|\\+0000)?",
        "(Mon|Sun) (Jan|Feb) [ 0-9][0-9] [0-9]{2}:[0-9]{2}:[0-9]{2} [0-9]{1,6}",
        "(true|false|TRUE|1|inf|NaN|Infinity|0x10|١٢)",
        "(in-progress|in-doubt|refused|executed|application/json|application/problem\\+json; charset=x)",
    ];
    text.prop_map(|text| HeaderValue::from_bytes(text.as_bytes()).unwrap())
}

/// Values that are understood.
fn understood() -> impl Strategy<Value = HeaderValue> {
    prop_oneof![(0..70_u32).prop_map(HeaderValue::from), any::<u64>().prop_map(HeaderValue::from)]
}

fn any_value() -> impl Strategy<Value = HeaderValue> {
    prop_oneof![value(), near(), understood()]
}

const NAMES: [&str; 9] = [
    "retry-after",
    "retry-after-ms",
    "date",
    "location",
    "content-type",
    "idempotency-status",
    "x-should-retry",
    "stripe-should-retry",
    "x-other",
];

/// Each name with whatever, and now and then with what belongs there.
fn headers() -> impl Strategy<Value = HeaderMap> {
    let kinds = ["application/json", "application/problem+json"];
    let pair = prop_oneof![
        (prop::sample::select(&NAMES[..]), any_value()),
        (Just("retry-after"), understood()),
        (Just("content-type"), prop::sample::select(kinds.to_vec()).prop_map(HeaderValue::from_static)),
        (Just("location"), location()),
    ];
    prop::collection::vec(pair, 0..8).prop_map(|pairs| {
        pairs.into_iter().map(|(name, value)| (HeaderName::from_static(name), value)).collect()
    })
}

/// Addresses near and far, well formed and nearly so.
fn location() -> impl Strategy<Value = HeaderValue> {
    let pick = |from: &'static [&'static str]| prop::sample::select(from);
    let parts = (
        pick(&["", "https:", "https:", "http:", "HTTPS:", "ftp:", "javascript:"]),
        pick(&["", "/", "//", "//", "///", "\\\\", "/\\"]),
        pick(&["", "", "user@", "user:pw@", "@"]),
        pick(&[
            "",
            "api.example.com",
            "api.example.com",
            "API.EXAMPLE.COM",
            "evil.test",
            "api.example.com.evil.test",
        ]),
        pick(&["", "", ":443", ":8443", ":80", ":", ":99999"]),
        "[/@?#.%a-z]{0,8}",
    );
    let text = parts.prop_map(|(scheme, slashes, user, host, port, path)| {
        format!("{scheme}{slashes}{user}{host}{port}{path}")
    });
    prop_oneof![text, "/[a-z]{1,5}"].prop_map(|text| HeaderValue::try_from(text).unwrap())
}

fn one(name: &'static str, value: &[u8]) -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())])
}

fn wall() -> impl Strategy<Value = SystemTime> {
    (0..253_402_300_800_u64).prop_map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// JSON of any shape, with the names that are looked for in it.
fn json() -> impl Strategy<Value = Value> {
    let words = prop_oneof![
        "(urn:semel:error:|https://x/|)(in-progress|outcome-unknown|mismatch|answer-not-kept|idempotency_error)",
        "(idempotency_key_in_use|IDEMPOTENCY-KEY-REUSED|A request is outstanding|idempotency-key is already used)",
        ".{0,20}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        words.prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        let name = prop_oneof!["(type|title|detail|code|error|message)", ".{0,5}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..5).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

/// An error body in one of the shapes that are read.
fn said() -> impl Strategy<Value = Value> {
    let words = [
        "urn:semel:error:in-progress",
        "urn:semel:error:outcome-unknown",
        "urn:semel:error:mismatch",
        "urn:semel:error:answer-not-kept",
        "https://x.test/e#mismatch",
        "idempotency_error",
        "idempotency_key_in_use",
        "IDEMPOTENCY-KEY-REUSED",
        "A request is outstanding",
        "Idempotency-Key is already used",
        "other",
    ];
    let names = ["type", "title", "detail", "code", "message"];
    let field = (prop::sample::select(names.to_vec()), prop::sample::select(words.to_vec()));
    let fields = prop::collection::vec(field, 1..4);
    (fields, any::<bool>()).prop_map(|(fields, inner)| {
        let object: Value =
            fields.into_iter().map(|(name, word)| (name.to_owned(), Value::from(word))).collect();
        if inner { json!({ "error": object }) } else { object }
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => said().prop_map(|said| said.to_string().into_bytes()),
        1 => json().prop_map(|json| json.to_string().into_bytes()),
        // Cut off somewhere.
        1 => (json(), any::<prop::sample::Index>()).prop_map(|(json, at)| {
            let text = json.to_string().into_bytes();
            text[..at.index(text.len() + 1)].to_vec()
        }),
        1 => prop::collection::vec(any::<u8>(), 0..100),
        // Deeper than anybody nests.
        1 => (0..5_000_usize).prop_map(|depth| [vec![b'['; depth], b"{\"type\":".repeat(depth)].concat()),
    ]
}

const STATUSES: [u16; 22] = [
    200, 201, 204, 301, 302, 303, 307, 308, 400, 401, 404, 408, 409, 422, 425, 429, 500, 501, 502, 503, 504,
    505,
];

fn status() -> impl Strategy<Value = StatusCode> {
    let any = prop_oneof![5 => prop::sample::select(&STATUSES[..]), 1 => 200..=999_u16];
    any.prop_map(|status| StatusCode::from_u16(status).unwrap())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_retry_after_is_understood_or_ignored(headers in headers(), wall in wall()) {
        let asked = retry_after(&headers, wall);
        prop_assert_eq!(asked, retry_after(&headers, wall), "it depends on nothing else");
        if !headers.contains_key("retry-after") && !headers.contains_key("retry-after-ms") {
            prop_assert_eq!(asked, None);
        }
    }

    #[test]
    fn seconds_are_what_they_say_and_never_less(whole in any::<u64>(), fraction in "[0-9]{1,12}") {
        let plain = retry_after(&one("retry-after", whole.to_string().as_bytes()), SystemTime::UNIX_EPOCH).unwrap();
        prop_assert!(plain == Duration::from_secs(whole) || plain == Duration::from_micros(u64::MAX));
        let decimal = format!("{}.{fraction}", whole % 1_000_000);
        let asked = retry_after(&one("retry-after", decimal.as_bytes()), SystemTime::UNIX_EPOCH).unwrap();
        let exact = Duration::from_secs(whole % 1_000_000)
            + Duration::from_nanos(format!("{fraction:0<9}")[..9].parse().unwrap());
        prop_assert!(asked >= exact && asked < exact + Duration::from_micros(2), "{:?} of {}", asked, decimal);
    }

    #[test]
    fn what_is_no_number_and_no_date_is_as_if_it_were_not_there(text in "[-+a-zA-Z,:;. ]{0,30}") {
        prop_assert_eq!(retry_after(&one("retry-after", text.as_bytes()), SystemTime::UNIX_EPOCH), None);
    }

    #[test]
    fn of_several_values_the_longest_that_is_understood_counts(
        values in prop::collection::vec(any_value(), 1..6), wall in wall(),
    ) {
        let alone = values.iter().filter_map(|value| retry_after(&one("retry-after", value.as_bytes()), wall)).max();
        let all = values.into_iter().map(|value| (http::header::RETRY_AFTER, value)).collect();
        prop_assert_eq!(retry_after(&all, wall), alone);
    }

    #[test]
    fn dates_count_from_the_answers_own_date_whatever_the_clients_clock_says(
        now in 0..253_000_000_000_u64, later in 0..100_000_000_u64, wall in wall(),
    ) {
        let date = |seconds| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        let mut headers = one("retry-after", date(now + later).as_bytes());
        headers.insert("date", HeaderValue::try_from(date(now)).unwrap());
        prop_assert_eq!(retry_after(&headers, wall), Some(Duration::from_secs(later)));
        headers.insert("date", HeaderValue::try_from(date(now + later)).unwrap());
        headers.insert("retry-after", HeaderValue::try_from(date(now)).unwrap());
        prop_assert_eq!(retry_after(&headers, wall), Some(Duration::ZERO), "a date that has passed");
    }

    #[test]
    fn any_header_is_a_key_of_printable_ascii_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for value in [bytes.clone(), [b"\"", &bytes[..], b"\""].concat()] {
            if let Ok(key) = Key::from_header(&value) {
                let text = key.as_str();
                prop_assert!((1..=255).contains(&text.len()));
                prop_assert!(text.bytes().all(|byte| (0x20..=0x7e).contains(&byte)));
                prop_assert_eq!(Key::from_header(on_the_wire(&key).as_bytes()), Ok(key), "it reads back");
            }
        }
    }

    #[test]
    fn a_key_reads_back_from_the_wire_raw_or_quoted(text in r#"[ "\\a-z~!]{1,255}"#) {
        let key = Key::new(&text).unwrap();
        prop_assert_eq!(&Key::from_header(on_the_wire(&key).as_bytes()), &Ok(key.clone()));
        let quoted = format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        prop_assert_eq!(Key::from_header(quoted.as_bytes()), Ok(key));
    }

    #[test]
    fn different_parts_make_different_keys(
        one in prop::collection::vec("[a:%é/-]{0,3}", 1..4), cut in any::<prop::sample::Index>(), merge in any::<bool>(),
    ) {
        // The same text, cut elsewhere: by a separator that is in it, or two parts that become one.
        let text = one.join(":");
        let other: Vec<String> = match merge {
            true => {
                let mut other = one.clone();
                let last = other.pop().unwrap();
                match other.last_mut() {
                    Some(before) => before.push_str(&format!(":{last}")),
                    None => other.push(last),
                }
                other
            }
            false => {
                let at = text.char_indices().map(|(at, _)| at).nth(cut.index(text.chars().count().max(1)));
                let (head, rest) = text.split_at(at.unwrap_or_default());
                vec![head.to_owned(), rest.trim_start_matches(':').to_owned()]
            }
        };
        let same = one == other;
        if let (Ok(one), Ok(other)) = (composite(&one), composite(&other)) {
            prop_assert_eq!(one == other, same);
        }
        prop_assert_eq!(hashed("p", &one) == hashed("p", &other), same);
    }

    #[test]
    fn any_error_body_is_read_or_ignored(status in status(), headers in headers(), body in body()) {
        let answer = Answer { status, headers: &headers, body: &body };
        if let Some(read) = problem(&answer) {
            let json: Value = serde_json::from_slice(&body).unwrap();
            let said = |text: &Option<String>| text.is_none() || json.to_string().contains(&Value::from(text.clone()).to_string());
            prop_assert!(said(&read.kind) && said(&read.title) && said(&read.detail) && said(&read.code), "{:?}", read);
        }
    }

    #[test]
    fn no_body_makes_a_refusal_a_success_or_a_final_one_a_passing_one(
        status in status(),
        headers in headers(),
        body in prop_oneof![3 => said().prop_map(|said| said.to_string().into_bytes()), 1 => body()],
        problem_json in prop::bool::weighted(0.8),
    ) {
        let mut headers = headers;
        if problem_json {
            headers.insert("content-type", HeaderValue::from_static("application/problem+json"));
        }
        let verdict = classify(&Outcome::Answer(Answer { status, headers: &headers, body: &body }));
        let said = headers.iter().any(|(name, value)| {
            name.as_str().ends_with("-should-retry") && matches!(value.as_bytes(), b"true" | b"false")
        });
        let status = status.as_u16();
        match status {
            ..400 => prop_assert!(matches!(verdict.finding, Finding::Done | Finding::Moved) && !verdict.again),
            _ => prop_assert!(!matches!(verdict.finding, Finding::Done | Finding::Moved)),
        }
        if verdict.again && !said {
            prop_assert!(matches!(status, 408 | 409 | 429 | 500 | 502 | 503 | 504), "{status}: {verdict:?}");
            prop_assert!(status != 409 || verdict.finding == Finding::InFlight, "{verdict:?}");
        }
        if verdict.effect == Effect::Happened {
            prop_assert!(status < 400 || (status == 409 && verdict.finding == Finding::NotKept), "{verdict:?}");
        }
        let refused = headers.get("idempotency-status").is_some_and(|value| value == "refused");
        if (status >= 500 || status == 408) && !refused {
            prop_assert_eq!(verdict.effect, Effect::Unknown, "a server that failed may have acted");
        }
        let whole = Answer { status: StatusCode::from_u16(status).unwrap(), headers: &headers, body: &body };
        if !must_be_read(whole.status) {
            let unread = classify(&Outcome::Answer(Answer { body: b"", ..whole }));
            prop_assert_eq!((unread.again, unread.effect), (verdict.again, verdict.effect), "judged by its head");
        }
    }

    #[test]
    fn a_redirect_never_leads_out_of_the_origin(
        status in prop::sample::select(&[301_u16, 302, 303, 307, 308][..]),
        location in prop_oneof![1 => any_value(), 4 => location()],
        method in prop::sample::select(&[Method::GET, Method::POST, Method::PUT, Method::DELETE][..]),
    ) {
        let from = Url::parse("https://api.example.com/charges").unwrap();
        let headers = HeaderMap::from_iter([(http::header::LOCATION, location)]);
        let (to, same) = match redirect(&method, &from, status, &headers) {
            Redirect::Same(to) => (to, true),
            Redirect::Get(to) => (to, false),
            Redirect::OtherOrigin(to) => {
                prop_assert_ne!(to.origin(), from.origin());
                return Ok(());
            }
            Redirect::Nowhere => return Ok(()),
        };
        prop_assert_eq!(to.origin(), from.origin());
        prop_assert!(to.username().is_empty() && to.password().is_none() && to.fragment().is_none());
        prop_assert!(same || (status != 307 && status != 308 && method != Method::GET));
    }
}

/// Time that passes as the test says, and chance of its own.
struct Test {
    elapsed: Cell<Duration>,
    random: u16,
}

impl World for Test {
    fn elapsed(&self) -> Duration {
        self.elapsed.get()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000)
    }

    fn random(&self) -> u16 {
        self.random
    }
}

/// What one attempt comes to, owned.
#[derive(Clone, Debug)]
enum Came {
    NotSent,
    Broken,
    TimedOut,
    Truncated,
    Answer(StatusCode, HeaderMap, Vec<u8>),
}

fn came() -> impl Strategy<Value = Came> {
    prop_oneof![
        1 => Just(Came::NotSent),
        1 => Just(Came::Broken),
        1 => Just(Came::TimedOut),
        1 => Just(Came::Truncated),
        1 => prop::sample::select(&[302_u16, 303, 307][..]).prop_map(|status| {
            Came::Answer(StatusCode::from_u16(status).unwrap(), one("location", b"/elsewhere"), Vec::new())
        }),
        4 => (status(), headers(), body()).prop_map(|(status, headers, body)| Came::Answer(status, headers, body)),
    ]
}

fn outcome(came: &Came) -> Outcome<'_> {
    match came {
        Came::NotSent => Outcome::NotSent,
        Came::Broken => Outcome::Broken,
        Came::TimedOut => Outcome::TimedOut,
        Came::Truncated => Outcome::Truncated,
        Came::Answer(status, headers, body) => Outcome::Answer(Answer { status: *status, headers, body }),
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_host_makes_a_call_unsafe_endless_or_early(
        // A few that come again and again, so that each limit is reached.
        few in prop::collection::vec(came(), 1..4),
        turns in prop::collection::vec((any::<prop::sample::Index>(), 0..20_000_u64), 40),
        (keyed, trusted, body_again, follows) in any::<(bool, bool, bool, bool)>(),
        method in prop::sample::select(&[Method::POST, Method::PATCH, Method::PUT, Method::GET][..]),
        (retries_max, random, burst) in (0..20_u32, any::<u16>(), 0..12_u32),
    ) {
        let world = Test { elapsed: Cell::new(Duration::ZERO), random };
        let policy = Policy { retries_max, ..Policy::default() };
        let budget = Budget::new(Some(Share { percent: 0, burst }));
        let plan = Plan { method: method.clone(), keyed, trusted, body_again, follows };
        let mut call = Call::begin(plan, &budget, &world);
        let from = || Url::parse("https://api.example.com/charges").ok();
        let (mut waits, mut follows, mut may_have_acted, mut ended) = (0, 0, false, false);
        for (which, took_ms) in &turns {
            let came = &few[which.index(few.len())];
            prop_assert!(call.attempt_timeout(&policy, &world) <= policy.attempt_timeout);
            world.elapsed.set(world.elapsed() + Duration::from_millis(*took_ms));
            let outcome = outcome(came);
            let (verdict, same) = (classify(&outcome), call.method() == method);
            may_have_acted |= same && verdict.finding != Finding::NotSent;
            match call.after(&policy, &budget, &outcome, from, &world) {
                Step::Done => ended = true,
                Step::Wait(delay) => {
                    waits += 1;
                    let asked = match &outcome {
                        Outcome::Answer(answer) => retry_after(answer.headers, world.wall()),
                        _ => None,
                    };
                    prop_assert!(delay >= asked.unwrap_or_default(), "never early");
                    prop_assert!(asked.is_none_or(|asked| asked <= policy.retry_after_max));
                    prop_assert!(world.elapsed() + delay < policy.deadline, "never beyond the deadline");
                    prop_assert!(body_again || !same, "what can be read once is sent once");
                    let harmless = call.method().is_idempotent() || (keyed && trusted);
                    prop_assert!(harmless || verdict.finding == Finding::NotSent, "{method} {verdict:?}");
                    world.elapsed.set(world.elapsed() + delay);
                }
                Step::Follow(to) => {
                    follows += 1;
                    prop_assert_eq!(to.origin(), from().unwrap().origin());
                }
                Step::GiveUp(ending) => {
                    ended = true;
                    prop_assert!(!(ending.kind == Kind::NotSent && may_have_acted), "{ending:?}");
                    let harmless = call.method().is_idempotent() || (keyed && trusted);
                    prop_assert!(!ending.retryable || harmless || ending.effect == Effect::None, "{ending:?}");
                }
            }
            if ended {
                break;
            }
        }
        prop_assert!(ended, "it ends");
        prop_assert!(waits <= retries_max.min(RETRIES_MAX).min(burst) && follows <= policy.redirects_max);
        prop_assert_eq!(call.attempts(), 1 + waits + follows);
    }
}

#[test]
fn a_body_of_a_megabyte_is_not_looked_into() {
    let headers = one("content-type", b"application/json");
    let large = json!({ "type": "urn:semel:error:in-progress", "detail": "x".repeat(1 << 20) }).to_string();
    let status = StatusCode::CONFLICT;
    assert_eq!(problem(&Answer { status, headers: &headers, body: large.as_bytes() }), None);
    let small = json!({ "type": "urn:semel:error:in-progress" }).to_string();
    assert!(problem(&Answer { status, headers: &headers, body: small.as_bytes() }).is_some());
}
