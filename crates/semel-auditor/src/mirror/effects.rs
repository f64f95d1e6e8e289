//! How many effects there were: by a resource that counts them, or else by the answers, of which each effect has its own.

use http::Uri;
use serde_json::Value;

use super::plan::{Outgoing, Plan, Refused};
use super::run::Reply;
use super::wire::{Answer, Came, Host};

/// A resource that tells how many effects there have been.
pub(super) struct Counter {
    host: Host,
    request: Outgoing,
    uri: Uri,
    pointer: String,
}

impl Counter {
    pub(super) fn of(plan: &Plan) -> Result<Option<Self>, Refused> {
        let Some((uri, pointer)) = &plan.count else { return Ok(None) };
        let host = Host::of(uri, plan.timeout).map_err(Refused)?;
        Ok(Some(Self { host, request: plan.counting(uri)?, uri: uri.clone(), pointer: pointer.clone() }))
    }

    /// How many there have been until now.
    pub(super) async fn read(&self) -> Result<u64, Refused> {
        let (uri, pointer) = (&self.uri, &self.pointer);
        let answer = match self.host.send(&self.request, None).await {
            Came::Answer(answer) if answer.status == 200 => answer,
            came => {
                return Err(Refused(format!(
                    "GET {uri}, which should count the effects, {}",
                    told_of(&came)
                )));
            }
        };
        let json: Value = serde_json::from_slice(&answer.body).map_err(|error| {
            Refused(format!("GET {uri}, which should count the effects, is no JSON: {error}"))
        })?;
        json.pointer(pointer)
            .and_then(|value| {
                value.as_u64().or_else(|| value.as_array().and_then(|all| u64::try_from(all.len()).ok()))
            })
            .ok_or_else(|| {
                Refused(format!("GET {uri} has neither a number nor a list at `{pointer}`: {json}"))
            })
    }
}

/// How many different successes there are. `None` when a request may have acted without an answer that tells.
pub(super) fn told(replies: &[Reply], pointer: Option<&str>) -> Option<u64> {
    let mut known = Vec::new();
    for reply in replies {
        match &reply.came {
            Came::Answer(answer) if is_success(answer) => {
                let identity = identity(answer, pointer)?;
                if !known.contains(&identity) {
                    known.push(identity);
                }
            }
            Came::Answer(_) | Came::NotConnected(_) => {}
            Came::Broken(_) | Came::Left => return None,
        }
    }
    u64::try_from(known.len()).ok()
}

/// What distinguishes the answer to one effect from the answer to another: the id at `pointer`, else `/id`, else where
/// the new thing is, else the whole body.
pub(super) fn identity(answer: &Answer, pointer: Option<&str>) -> Option<String> {
    let json: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let id = json.as_ref().and_then(|json| json.pointer(pointer.unwrap_or("/id")));
    if let Some(id) = id.filter(|id| id.is_string() || id.is_number()) {
        return Some(format!("id {id}"));
    }
    if pointer.is_some() {
        return None;
    }
    if let Some(location) = answer.headers.get(http::header::LOCATION) {
        return Some(format!("location {}", location.as_bytes().escape_ascii()));
    }
    (!answer.body.is_empty()).then(|| format!("body {}", answer.body.escape_ascii()))
}

pub(super) fn is_success(answer: &Answer) -> bool {
    (200..300).contains(&answer.status)
}

pub(super) fn success(came: &Came) -> Option<&Answer> {
    match came {
        Came::Answer(answer) if is_success(answer) => Some(answer),
        _ => None,
    }
}

/// Whether an answer says that it is a replay. Where no marker was named, any header about replays will do for `ietf`,
/// whose draft names none.
pub(super) fn is_marked(answer: &Answer, plan: &Plan) -> bool {
    let marker = plan.marker();
    let any = plan.marker.is_none() && plan.expect == super::cases::Expect::Ietf;
    answer.headers.iter().any(|(name, value)| {
        let named = *name == *marker || (any && name.as_str().contains("replay"));
        named && value.as_bytes().eq_ignore_ascii_case(b"true")
    })
}

/// What came, for a sentence that begins with who asked.
pub(super) fn told_of(came: &Came) -> String {
    match came {
        Came::Answer(answer) => format!("was answered {}", answer.status),
        Came::NotConnected(why) => format!("could not be sent ({why})"),
        Came::Broken(why) => format!("got no whole answer ({why})"),
        Came::Left => "hung up".to_owned(),
    }
}

/// The beginning of what an API sent, for a sentence: control characters are shown, not obeyed.
pub(super) fn visible(bytes: &[u8], chars_max: usize) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes).chars().take(chars_max) {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}
