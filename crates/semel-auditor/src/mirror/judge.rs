//! Whether a promise was kept in one round of its case: pure functions over what came.
//!
//! Each says in a sentence what was seen, so that a verdict can be understood without the case's file.

use std::collections::BTreeSet;

use http::HeaderMap;
use serde_json::Value;

use super::cases::{Assertion, Case, Expect, Of, Part, Point, Status};
use super::effects::{identity, is_marked, is_success, success, told_of, visible};
use super::plan::Outgoing;
use super::run::{Reply, Round, Runner};
use super::wire::{Answer, Came};

/// What became of a promise, and why that is said.
pub(super) enum Held {
    Yes(String),
    No(String),
    /// It cannot be told.
    Untold(String),
}

impl Held {
    pub(super) fn kept(&self) -> Option<&String> {
        if let Self::Yes(why) = self { Some(why) } else { None }
    }

    pub(super) fn broken(&self) -> Option<&String> {
        if let Self::No(why) = self { Some(why) } else { None }
    }

    pub(super) fn untold(&self) -> Option<&String> {
        if let Self::Untold(why) = self { Some(why) } else { None }
    }
}

/// A point in one round: the first assertion that is broken, else the first that cannot be told, else what was seen.
pub(super) fn point(case: &Case, point: &Point, round: &Round, runner: &Runner<'_>) -> Held {
    if let Some(lacking) = lacking(case, round) {
        return Held::Untold(lacking);
    }
    let held: Vec<Held> =
        point.expect.iter().map(|assertion| assert(assertion, &Scene { round, runner })).collect();
    if let Some(why) = held.iter().find_map(Held::broken) {
        return Held::No(why.clone());
    }
    if let Some(why) = held.iter().find_map(Held::untold) {
        return Held::Untold(why.clone());
    }
    let seen: Vec<&str> = held.iter().filter_map(Held::kept).map(String::as_str).collect();
    Held::Yes(seen.join(" "))
}

/// What a step must have come to, and did not.
fn lacking(case: &Case, round: &Round) -> Option<String> {
    for send in case.steps.iter().flat_map(super::cases::Step::sends).filter(|send| !send.must.is_empty()) {
        for reply in round.replies.iter().filter(|reply| reply.name == send.send) {
            let status = status(reply);
            if !send.must.iter().any(|must| status.is_some_and(|status| must.holds(status))) {
                let must: Vec<String> = send.must.iter().map(ToString::to_string).collect();
                return Some(format!(
                    "Nothing to judge: the request `{}` {}, and {} was needed.",
                    reply.name,
                    told_of(&reply.came),
                    must.join(" or ")
                ));
            }
        }
    }
    None
}

struct Scene<'a> {
    round: &'a Round,
    runner: &'a Runner<'a>,
}

fn status(reply: &Reply) -> Option<u16> {
    match &reply.came {
        Came::Answer(answer) => Some(answer.status),
        _ => None,
    }
}

impl<'a> Scene<'a> {
    fn named(&self, name: &str) -> impl Iterator<Item = &'a Reply> {
        self.round.replies.iter().filter(move |reply| reply.name == name)
    }

    fn of(&self, of: &Of) -> Vec<&'a Reply> {
        let wanted = |reply: &&Reply| {
            of.only.is_empty()
                || status(reply).is_some_and(|status| of.only.iter().any(|only| only.holds(status)))
        };
        self.named(&of.of).filter(wanted).collect()
    }

    fn first(&self, name: &str) -> Result<(&'a Reply, &'a Answer), Held> {
        let Some(reply) = self.named(name).next() else {
            return Err(Held::Untold(format!("There was no request `{name}`.")));
        };
        match &reply.came {
            Came::Answer(answer) => Ok((reply, answer)),
            came => Err(Held::No(format!("The request `{name}` {}.", told_of(came)))),
        }
    }

    /// All answers of a name; a request without one breaks what is asserted.
    fn answers(&self, of: &Of) -> Result<Vec<(&'a Reply, &'a Answer)>, Held> {
        let mut answers = Vec::new();
        for reply in self.of(of) {
            match &reply.came {
                Came::Answer(answer) => answers.push((reply, answer)),
                came => return Err(Held::No(format!("The request `{}` {}.", of.of, told_of(came)))),
            }
        }
        if answers.is_empty() {
            let only: Vec<String> = of.only.iter().map(ToString::to_string).collect();
            return Err(Held::Untold(format!("No request was answered {}.", only.join(" or "))));
        }
        Ok(answers)
    }

    fn identity(&self, answer: &Answer) -> Option<String> {
        identity(answer, self.runner.plan.id.as_deref())
    }

    fn expect(&self) -> Expect {
        self.runner.plan.expect
    }
}

fn assert(assertion: &Assertion, scene: &Scene<'_>) -> Held {
    let held = match assertion {
        Assertion::Effects { count } => Ok(effects(*count, scene)),
        Assertion::Status { of, one_of } => Ok(statuses(of, one_of.get(scene.expect()), scene)),
        Assertion::Same { of, first, part } => same(of, first, *part, scene),
        Assertion::NotAnswerOf { of, first } => not_answer_of(of, first, scene),
        Assertion::OneAnswer { of } => Ok(one_answer(of, scene)),
        Assertion::OneSuccess { of } => Ok(one_success(of, scene)),
        Assertion::AllDifferent { of } => Ok(all_different(of, scene)),
        Assertion::Marked { of } => marked(of, true, scene),
        Assertion::Unmarked { of } => marked(of, false, scene),
        Assertion::Header { of, name, has } => header(of, name, has.as_deref(), scene),
        Assertion::NoCookie { of, first } => no_cookie(of, first, scene),
        Assertion::Echoed { of } => echoed(of, scene),
        Assertion::Expiry { of } => expiry(of, scene),
        Assertion::Explained { of } => explained(of, scene),
        Assertion::SilentAbout { of, first } => silent_about(of, first, scene),
        Assertion::Bodiless { of } => bodiless(of, scene),
        Assertion::Once { of } => once(of, scene),
    };
    held.unwrap_or_else(|held| held)
}

const UNTOLD: &str = "How many effects there were cannot be told from the answers; name a resource that counts them \
                      (--count-url) or where an answer has its id (--id-pointer).";

fn times(count: u64) -> String {
    match count {
        0 => "no effect".to_owned(),
        1 => "one effect".to_owned(),
        many => format!("{many} effects"),
    }
}

fn effects(count: u64, scene: &Scene<'_>) -> Held {
    let requests = scene.round.replies.len();
    match scene.round.effects {
        None => Held::Untold(UNTOLD.to_owned()),
        Some(effects) if effects == count => {
            let counted = if scene.runner.counter.is_some() { "counted" } else { "by the answers" };
            Held::Yes(format!("{requests} requests had {} ({counted}).", times(effects)))
        }
        Some(effects) => Held::No(format!(
            "{requests} requests had {} and were meant to have {}.",
            times(effects),
            times(count)
        )),
    }
}

fn statuses(of: &Of, one_of: Option<&Vec<Status>>, scene: &Scene<'_>) -> Held {
    let one_of = one_of.map(Vec::as_slice).unwrap_or_default();
    let words: Vec<String> = one_of.iter().map(ToString::to_string).collect();
    let words = words.join(" or ");
    let mut seen = BTreeSet::new();
    for reply in scene.of(of) {
        match status(reply) {
            Some(status) if one_of.iter().any(|one| one.holds(status)) => seen.insert(status),
            _ => {
                let what = told_of(&reply.came);
                return Held::No(format!("The request `{}` {what}, where {words} is expected.", of.of));
            }
        };
    }
    let seen: Vec<String> = seen.iter().map(ToString::to_string).collect();
    Held::Yes(format!("`{}` was answered {}.", of.of, seen.join(" and ")))
}

fn same(of: &Of, first: &str, part: Part, scene: &Scene<'_>) -> Result<Held, Held> {
    let (_, model) = scene.first(first)?;
    let answers = scene.answers(of)?;
    for (_, answer) in &answers {
        let wrong = match part {
            Part::StatusAndBody => other_status_or_body(model, answer),
            Part::ContentHeaders => other_content_header(&model.headers, &answer.headers),
            Part::HeaderNames => missing_header(&model.headers, &answer.headers),
        };
        if let Some(wrong) = wrong {
            return Ok(Held::No(format!("`{}` is not as `{first}`: {wrong}.", of.of)));
        }
    }
    let what = match part {
        Part::StatusAndBody => format!("{} and the same {} bytes", model.status, model.body.len()),
        Part::ContentHeaders => "the same values".to_owned(),
        Part::HeaderNames => "every header of the first answer".to_owned(),
    };
    let often = if answers.len() == 1 { String::new() } else { format!(", {} times", answers.len()) };
    Ok(Held::Yes(format!("`{}` has {what}{often}.", of.of)))
}

fn other_status_or_body(first: &Answer, answer: &Answer) -> Option<String> {
    if first.status != answer.status {
        return Some(format!("the status is {} and was {}", answer.status, first.status));
    }
    (first.body != answer.body)
        .then(|| format!("the body is {} and was {}", shown(&answer.body), shown(&first.body)))
}

fn shown(body: &[u8]) -> String {
    if body.is_empty() {
        return "empty".to_owned();
    }
    format!("`{}`", visible(body, 80))
}

/// What describes the answer rather than its way.
const CONTENT: [&str; 9] = [
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "content-type",
    "etag",
    "last-modified",
    "link",
    "location",
];

fn other_content_header(first: &HeaderMap, answer: &HeaderMap) -> Option<String> {
    CONTENT.iter().find_map(|name| {
        let [was, is] = [first, answer].map(|headers| headers.get_all(*name).iter().collect::<Vec<_>>());
        (was != is).then(|| format!("`{name}` is {} and was {}", values(&is), values(&was)))
    })
}

fn values(values: &[&http::HeaderValue]) -> String {
    if values.is_empty() {
        return "missing".to_owned();
    }
    let texts = values.iter().map(|value| format!("`{}`", value.as_bytes().escape_ascii()));
    texts.collect::<Vec<_>>().join(" and ")
}

/// What is made afresh for each answer, belongs to the connection, or must not be replayed.
fn is_of_one_answer(name: &str) -> bool {
    const OWN: [&str; 16] = [
        "age",
        "alt-svc",
        "cache-control",
        "connection",
        "content-length",
        "date",
        "expires",
        "keep-alive",
        "pragma",
        "proxy-authenticate",
        "server-timing",
        "set-cookie",
        "trailer",
        "transfer-encoding",
        "vary",
        "www-authenticate",
    ];
    OWN.contains(&name) || name.contains("ratelimit") || name.contains("rate-limit")
}

fn missing_header(first: &HeaderMap, answer: &HeaderMap) -> Option<String> {
    let count = |headers: &HeaderMap, name| headers.get_all(name).iter().count();
    first.keys().filter(|name| !is_of_one_answer(name.as_str())).find_map(|name| {
        let (was, is) = (count(first, name), count(answer, name));
        (is < was).then(|| match is {
            0 => format!("`{name}` is missing"),
            _ => format!("`{name}` is there {is} times and was {was} times"),
        })
    })
}

fn not_answer_of(of: &Of, first: &str, scene: &Scene<'_>) -> Result<Held, Held> {
    let (_, model) = scene.first(first)?;
    if !is_success(model) {
        return Ok(Held::Yes(format!(
            "`{first}` was refused with {}: there is no answer to get.",
            model.status
        )));
    }
    for (reply, answer) in scene.answers(of)? {
        if !is_success(answer) {
            continue;
        }
        if !scene.runner.answers_differ {
            return Err(Held::Untold(UNTOLD.to_owned()));
        }
        if scene.identity(answer) == scene.identity(model) {
            return Ok(Held::No(format!(
                "{} {} got the answer that belongs to `{first}`: {}.",
                reply.request.method,
                reply.request.target.escape_debug(),
                shown(&answer.body)
            )));
        }
    }
    Ok(Held::Yes(format!("`{}` did not get the answer of `{first}`.", of.of)))
}

fn one_answer(names: &[String], scene: &Scene<'_>) -> Held {
    let mut model: Option<(&str, &Answer)> = None;
    for name in names {
        for answer in scene.named(name).filter_map(|reply| success(&reply.came)) {
            match model {
                None => model = Some((name, answer)),
                Some((first, model)) => {
                    if let Some(wrong) = other_status_or_body(model, answer) {
                        return Held::No(format!("Not all got one answer, `{first}` and `{name}`: {wrong}."));
                    }
                }
            }
        }
    }
    Held::Yes("All successes are one answer.".to_owned())
}

fn one_success(names: &[String], scene: &Scene<'_>) -> Held {
    let succeeded = names.iter().filter(|name| scene.named(name).any(|reply| success(&reply.came).is_some()));
    let succeeded: Vec<&str> = succeeded.map(String::as_str).collect();
    match succeeded.as_slice() {
        [one] => Held::Yes(format!("Only `{one}` was answered with a success.")),
        [] => Held::Untold("No payload was answered with a success.".to_owned()),
        several => Held::No(format!(
            "Requests with {} different payloads under one key were answered with a success.",
            several.len()
        )),
    }
}

fn all_different(of: &Of, scene: &Scene<'_>) -> Held {
    if !scene.runner.answers_differ {
        return Held::Untold(UNTOLD.to_owned());
    }
    let mut known: Vec<(String, &Outgoing)> = Vec::new();
    for reply in scene.of(of) {
        let Some(identity) = success(&reply.came).and_then(|answer| scene.identity(answer)) else { continue };
        if let Some((_, other)) = known.iter().find(|(known, _)| *known == identity) {
            return Held::No(format!(
                "The keys `{}` and `{}` got one answer.",
                other.keys.concat().escape_debug(),
                reply.request.keys.concat().escape_debug()
            ));
        }
        known.push((identity, &reply.request));
    }
    Held::Yes(format!("{} keys had an answer each.", known.len()))
}

fn marked(of: &Of, wanted: bool, scene: &Scene<'_>) -> Result<Held, Held> {
    let marker = scene.runner.plan.marker();
    for (reply, answer) in scene.answers(of)? {
        if is_marked(answer, scene.runner.plan) != wanted {
            let has = if wanted { "has no" } else { "has the header" };
            return Ok(Held::No(format!(
                "The answer {} to `{}` {has} `{marker}: true`.",
                answer.status, reply.name
            )));
        }
    }
    let is = if wanted { "marked" } else { "not marked" };
    Ok(Held::Yes(format!("`{}` is {is}.", of.of)))
}

fn header(of: &Of, name: &str, has: Option<&str>, scene: &Scene<'_>) -> Result<Held, Held> {
    for (reply, answer) in scene.answers(of)? {
        let found: Vec<&http::HeaderValue> = answer.headers.get_all(name).iter().collect();
        let holds = |word: &str| {
            let text =
                |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
            found.iter().any(|value| text(value).split(',').any(|own| own.trim() == word))
        };
        if found.is_empty() || !has.is_none_or(holds) {
            let lacks = has.map_or(String::new(), |word| format!(" without `{word}`"));
            return Ok(Held::No(format!(
                "In the answer {} to `{}` the header `{name}` is {}{}.",
                answer.status,
                reply.name,
                values(&found),
                if found.is_empty() { "" } else { &lacks }
            )));
        }
    }
    Ok(Held::Yes(format!("`{}` has `{name}`.", of.of)))
}

fn no_cookie(of: &Of, first: &str, scene: &Scene<'_>) -> Result<Held, Held> {
    let (_, model) = scene.first(first)?;
    let set: Vec<_> = model.headers.get_all(http::header::SET_COOKIE).iter().collect();
    if set.is_empty() {
        return Ok(Held::Untold("The first answer sets no cookie.".to_owned()));
    }
    for (_, answer) in scene.answers(of)? {
        if answer.headers.get_all(http::header::SET_COOKIE).iter().any(|value| set.contains(&value)) {
            return Ok(Held::No("The replay sets the cookie that the first answer set.".to_owned()));
        }
    }
    Ok(Held::Yes("The replay does not set the cookie that the first answer set.".to_owned()))
}

fn echoed(of: &Of, scene: &Scene<'_>) -> Result<Held, Held> {
    let name = scene.runner.plan.key_header.to_ascii_lowercase();
    for (reply, answer) in scene.answers(of)? {
        let key = reply.request.keys.concat();
        let value = answer.headers.get(name.as_str()).map(|value| value.as_bytes().to_vec());
        let same = value.is_some_and(|value| {
            value.trim_ascii() == key.as_bytes() || value == format!("\"{key}\"").into_bytes()
        });
        if !same {
            return Ok(Held::No(format!("The answer to `{}` does not name its key.", reply.name)));
        }
    }
    Ok(Held::Yes(format!("`{}` names its key.", of.of)))
}

fn expiry(of: &Of, scene: &Scene<'_>) -> Result<Held, Held> {
    for (reply, answer) in scene.answers(of)? {
        let date = |name: &str| {
            let text = answer.headers.get(name)?.to_str().ok()?;
            Some(httpdate::parse_http_date(text).map_err(|_| text))
        };
        match (date("idempotency-expires"), date("date")) {
            (None, _) => {
                return Ok(Held::No(format!(
                    "The answer to `{}` does not say when its key is forgotten (Idempotency-Expires).",
                    reply.name
                )));
            }
            (Some(Err(text)), _) => {
                return Ok(Held::No(format!(
                    "Idempotency-Expires is `{}`, which is no HTTP date.",
                    text.escape_debug()
                )));
            }
            (Some(Ok(expires)), Some(Ok(now))) if expires <= now => {
                return Ok(Held::No(
                    "Idempotency-Expires is not later than the answer's own Date.".to_owned(),
                ));
            }
            (Some(Ok(_)), _) => {}
        }
    }
    Ok(Held::Yes("Idempotency-Expires is a date to come.".to_owned()))
}

fn explained(of: &Of, scene: &Scene<'_>) -> Result<Held, Held> {
    let shape = match scene.expect() {
        Expect::Ietf => "problem+json (RFC 9457) with a title, a type or a detail",
        Expect::Stripe => "JSON with error.type and error.message",
    };
    for (reply, answer) in scene.answers(of)? {
        let json: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let text = |pointer: &str| json.pointer(pointer).is_some_and(Value::is_string);
        let explained = match scene.expect() {
            Expect::Ietf => {
                let content_type = answer.headers.get(http::header::CONTENT_TYPE);
                let problem = content_type
                    .is_some_and(|value| value.as_bytes().starts_with(b"application/problem+json"));
                problem && ["/title", "/type", "/detail"].into_iter().any(text)
            }
            Expect::Stripe => text("/error/type") && text("/error/message"),
        };
        if !explained {
            return Ok(Held::No(format!(
                "The answer {} to `{}` is not {shape}: {}.",
                answer.status,
                reply.name,
                shown(&answer.body)
            )));
        }
    }
    Ok(Held::Yes(format!("`{}` is {shape}.", of.of)))
}

fn silent_about(of: &Of, first: &str, scene: &Scene<'_>) -> Result<Held, Held> {
    let (asked, model) = scene.first(first)?;
    for (reply, answer) in scene.answers(of)? {
        let mut secrets = BTreeSet::from([scene.round.unique.clone()]);
        secrets.extend(telling(asked.request.body.as_bytes()));
        secrets.extend(telling(&model.body));
        let own = format!("{} {}", reply.request.target, reply.request.body);
        secrets.retain(|secret| !own.contains(secret.as_str()));
        let mut text = String::from_utf8_lossy(&answer.body).into_owned();
        for (name, value) in &answer.headers {
            if !is_of_one_answer(name.as_str()) {
                text = format!("{text}\n{}", String::from_utf8_lossy(value.as_bytes()));
            }
        }
        let text = text.replace(&scene.round.key, "");
        if let Some(secret) = secrets.iter().find(|secret| holds_word(&text, secret)) {
            return Ok(Held::No(format!(
                "The refusal of `{}` shows `{}`, which only `{first}` had.",
                reply.name,
                secret.escape_debug()
            )));
        }
    }
    Ok(Held::Yes("Nothing of it is in the refusal.".to_owned()))
}

/// Texts and numbers of a body that would not be in another one by chance: four characters at least, and a digit, a
/// space or an `@` in them.
fn telling(body: &[u8]) -> BTreeSet<String> {
    fn leaves(json: &Value, found: &mut BTreeSet<String>) {
        match json {
            Value::Array(items) => items.iter().for_each(|item| leaves(item, found)),
            Value::Object(fields) => fields.values().for_each(|field| leaves(field, found)),
            Value::String(text) => drop(found.insert(text.clone())),
            Value::Number(number) => drop(found.insert(number.to_string())),
            Value::Null | Value::Bool(_) => {}
        }
    }
    let mut found = BTreeSet::new();
    match serde_json::from_slice::<Value>(body) {
        Ok(json) => leaves(&json, &mut found),
        Err(_) => {
            let text = String::from_utf8_lossy(body).into_owned();
            found.extend(text.split(['&', '=', ' ', '\n']).map(str::to_owned));
        }
    }
    found.retain(|text| {
        text.len() >= 4 && text.contains(|c: char| c.is_ascii_digit() || c == ' ' || c == '@')
    });
    found
}

fn holds_word(text: &str, word: &str) -> bool {
    let edge = |c: Option<char>| !c.is_some_and(char::is_alphanumeric);
    text.match_indices(word).any(|(at, word)| {
        edge(text[..at].chars().next_back()) && edge(text[at + word.len()..].chars().next())
    })
}

fn bodiless(of: &Of, scene: &Scene<'_>) -> Result<Held, Held> {
    for (_, answer) in scene.answers(of)? {
        if !answer.body.is_empty() {
            return Ok(Held::Untold(format!("The request was answered with {} bytes.", answer.body.len())));
        }
    }
    Ok(Held::Yes(format!("`{}` has no body.", of.of)))
}

/// By the counter, where there is one; else a replay says so, and a refusal ran nothing.
fn once(of: &Of, scene: &Scene<'_>) -> Result<Held, Held> {
    if let (Some(_), Some(effects)) = (&scene.runner.counter, scene.round.effects) {
        return Ok(match effects {
            0 | 1 => {
                Held::Yes(format!("{} requests had {} (counted).", scene.round.replies.len(), times(effects)))
            }
            _ => Held::No(format!("The request was run again: {} where one was meant.", times(effects))),
        });
    }
    for (_, answer) in scene.answers(of)? {
        if !is_marked(answer, scene.runner.plan) && answer.status != 409 {
            return Ok(Held::No(format!(
                "The retry was answered {} without a word that it is a replay: the request was run again, as far as \
                 answers tell.",
                answer.status
            )));
        }
    }
    Ok(Held::Yes("The retry is marked as a replay, or was refused.".to_owned()))
}
