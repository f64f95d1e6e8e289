//! What the user says of the API: where it is, which requests it takes, and how its effects are counted.
//!
//! Not what is sent in which order: that is a [`Case`](super::cases::Case).

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Uri};
use serde_json::Value;

use super::cases::{Expect, Need, Send, Which, WhichBody, WhichCredential};

/// Replaced by a text that is new for each case, in targets, headers and bodies.
pub const UNIQUE: &str = "{unique}";

/// An API and the requests it is asked with.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The resource that takes the request: an absolute `http` or `https` URL.
    pub url: Uri,
    /// The method of the request.
    pub method: Method,
    /// Headers of every request, besides the key and the credential.
    pub headers: Vec<(String, String)>,
    /// The body of the request.
    pub body: String,
    /// Another body that the API takes. `None`: one is made from `body`, where that is possible.
    pub body_other: Option<String>,
    /// A body that the API answers with 4xx.
    pub body_invalid: Option<String>,
    /// A request that is answered without a body.
    pub no_content: Option<Target>,
    /// A request that is answered 5xx.
    pub failing: Option<Target>,
    /// Headers that say who calls, of up to two callers.
    pub credentials: Vec<(String, String)>,
    /// What is expected.
    pub expect: Expect,
    /// The header that carries the key.
    pub key_header: String,
    /// The header that marks a replay, where it is not the usual one.
    pub marker: Option<String>,
    /// Whether requests without a key must be refused.
    pub key_required: bool,
    /// A resource that tells how many effects there have been, and where in its JSON.
    pub count: Option<(Uri, String)>,
    /// Where in an answer's JSON the name of what was made is.
    pub id: Option<String>,
    /// How many requests race.
    pub parallel: usize,
    /// How long one answer may take.
    pub timeout: Duration,
    /// Only points whose name holds this.
    pub only: Option<String>,
}

/// A method and a path with its query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The method.
    pub method: Method,
    /// The path with its query.
    pub path: String,
}

/// A request that cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl std::str::FromStr for Target {
    type Err = Refused;

    /// `DELETE /orders/7`.
    fn from_str(text: &str) -> Result<Self, Refused> {
        let refused = || Refused(format!("`{text}` is not a method and a path, such as DELETE /orders/7"));
        let (method, path) = text.trim().split_once(' ').ok_or_else(refused)?;
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| refused())?;
        let path = path.trim();
        if !path.starts_with('/') {
            return Err(refused());
        }
        Ok(Self { method, path: path.to_owned() })
    }
}

/// A request as it goes out.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The keys in it.
    pub(super) keys: Vec<String>,
    pub(super) body: String,
}

impl Plan {
    /// A POST of `{"amount": 4000}` to `url`, with nothing else known.
    #[must_use]
    pub fn new(url: Uri) -> Self {
        Self {
            url,
            method: Method::POST,
            headers: Vec::new(),
            body: r#"{"amount": 4000}"#.to_owned(),
            body_other: None,
            body_invalid: None,
            no_content: None,
            failing: None,
            credentials: Vec::new(),
            expect: Expect::Ietf,
            key_header: "Idempotency-Key".to_owned(),
            marker: None,
            key_required: false,
            count: None,
            id: None,
            parallel: 20,
            timeout: Duration::from_secs(30),
            only: None,
        }
    }

    /// The header that marks a replay, in lower case.
    pub(super) fn marker(&self) -> String {
        self.marker.as_deref().unwrap_or(self.expect.marker()).to_ascii_lowercase()
    }

    pub(super) fn other_body(&self) -> Option<String> {
        self.body_other.clone().or_else(|| other(&self.body))
    }

    pub(super) fn has(&self, need: Need) -> bool {
        match need {
            Need::Body => !self.body.is_empty(),
            Need::OtherBody => self.other_body().is_some(),
            Need::InvalidBody => self.body_invalid.is_some(),
            Need::NoContent => self.no_content.is_some(),
            Need::Failing => self.failing.is_some(),
            Need::Credential => !self.credentials.is_empty(),
            Need::TwoCredentials => self.credentials.len() > 1,
            Need::KeyRequired => self.key_required,
        }
    }

    /// The request of a step. `key` is the round's key, `unique` what stands for [`UNIQUE`].
    pub(super) fn request(&self, send: &Send, key: &str, unique: &str) -> Result<Outgoing, Refused> {
        let (method, mut target) = self.target(send.request);
        if let Some(path) = &send.path {
            target = with_path(&target, path);
        }
        if let Some(query) = &send.query {
            target.push(if target.contains('?') { '&' } else { '?' });
            target.push_str(query);
        }
        let body = match (send.request, send.body) {
            (Which::NoContent, _) => String::new(),
            (_, WhichBody::Main) => self.body.clone(),
            (_, WhichBody::Other) => self.other_body().unwrap_or_default(),
            (_, WhichBody::Invalid) => self.body_invalid.clone().unwrap_or_default(),
        };
        let body = body.replace(UNIQUE, unique);
        let mut headers = Vec::new();
        let credential = match send.credential {
            WhichCredential::First => self.credentials.first(),
            WhichCredential::Second => self.credentials.get(1),
            WhichCredential::None => None,
        };
        let marker = self.marker();
        let own = send.headers.iter().map(|(name, value)| (name.replace("{marker}", &marker), value.clone()));
        for (name, value) in self.headers.iter().chain(credential).cloned().chain(own) {
            headers.push(header(&name, &value.replace(UNIQUE, unique))?);
        }
        let typed = headers.iter().any(|(name, _)| name == http::header::CONTENT_TYPE);
        if !typed && (body.starts_with('{') || body.starts_with('[')) {
            headers.push((http::header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        }
        let keys = send.key.values(key);
        for value in &keys {
            headers.push(header(&self.key_header, value)?);
        }
        Ok(Outgoing { method, target: target.replace(UNIQUE, unique), headers, keys, body })
    }

    fn target(&self, which: Which) -> (Method, String) {
        let named = match which {
            Which::Main => None,
            Which::NoContent => self.no_content.as_ref(),
            Which::Failing => self.failing.as_ref(),
        };
        match named {
            Some(target) => (target.method.clone(), target.path.clone()),
            None => {
                let target = self.url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
                // The parser of URLs takes braces for what they are not.
                (self.method.clone(), target.replace("%7Bunique%7D", UNIQUE))
            }
        }
    }

    /// The GET that counts the effects.
    pub(super) fn counting(&self, uri: &Uri) -> Result<Outgoing, Refused> {
        let mut headers = Vec::new();
        for (name, value) in self.headers.iter().chain(self.credentials.first()) {
            headers.push(header(name, value)?);
        }
        let target = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        Ok(Outgoing { method: Method::GET, target, headers, keys: Vec::new(), body: String::new() })
    }
}

/// Each character up to U+00FF is one byte.
fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), Refused> {
    let bytes: Result<Vec<u8>, _> = value.chars().map(u8::try_from).collect();
    let value = bytes.ok().and_then(|bytes| HeaderValue::from_bytes(&bytes).ok());
    match (HeaderName::try_from(name), value) {
        (Ok(name), Some(value)) => Ok((name, value)),
        (Err(_), _) => Err(Refused(format!("`{name}` cannot be the name of a header"))),
        (_, None) => Err(Refused(format!("the value of the header {name} cannot be sent"))),
    }
}

/// `/a/b?c` and `other` is `/a/b/other?c`.
fn with_path(target: &str, more: &str) -> String {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let path = format!("{}/{more}", path.trim_end_matches('/'));
    query.map_or(path.clone(), |query| format!("{path}?{query}"))
}

/// Another body of the same shape: one number or text in it changed.
fn other(body: &str) -> Option<String> {
    if let Ok(mut json) = serde_json::from_str::<Value>(body) {
        return change(&mut json).then(|| json.to_string());
    }
    // A form: its last value is changed.
    let form = body.contains('=') && !body.contains(char::is_whitespace);
    form.then(|| format!("{body}1"))
}

/// Numbers are looked for first: a text may be a name that must exist.
fn change(json: &mut Value) -> bool {
    fn first(json: &mut Value, wanted: fn(&Value) -> bool) -> Option<&mut Value> {
        match json {
            json if wanted(json) => Some(json),
            Value::Array(items) => items.iter_mut().find_map(|item| first(item, wanted)),
            Value::Object(fields) => fields.values_mut().find_map(|field| first(field, wanted)),
            _ => None,
        }
    }
    if let Some(number) = first(json, |json| json.as_i64().is_some()) {
        *number = Value::from(number.as_i64().unwrap_or_default().saturating_add(1));
        return true;
    }
    if let Some(Value::String(text)) = first(json, Value::is_string) {
        text.push_str(" (other)");
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_body_differs_in_one_number_or_text() {
        assert_eq!(other(r#"{"name":"a","amount":4000}"#).unwrap(), r#"{"amount":4001,"name":"a"}"#);
        assert_eq!(other(r#"{"a":[{"b":"c"}]}"#).unwrap(), r#"{"a":[{"b":"c (other)"}]}"#);
        assert_eq!(other("amount=4000&currency=eur").unwrap(), "amount=4000&currency=eur1");
        for none in ["", "{}", "null", "plain text"] {
            assert_eq!(other(none), None, "{none}");
        }
    }

    #[test]
    fn a_path_is_put_before_the_query() {
        assert_eq!(with_path("/a/b?c=d", "other"), "/a/b/other?c=d");
        assert_eq!(with_path("/", "other"), "/other");
    }

    #[test]
    fn a_target_is_a_method_and_a_path() {
        let target: Target = "DELETE /orders/7?a=b".parse().unwrap();
        assert_eq!((target.method, target.path.as_str()), (Method::DELETE, "/orders/7?a=b"));
        for refused in ["DELETE", "/orders/7", "DELETE orders", ""] {
            assert!(refused.parse::<Target>().is_err(), "{refused}");
        }
    }

    #[test]
    fn unique_is_replaced_everywhere_and_keys_are_bytes() {
        let mut plan = Plan::new("http://127.0.0.1/orders/%7Bunique%7D".parse().unwrap());
        plan.headers.push(("x-order".into(), "o-{unique}".into()));
        plan.body = r#"{"order":"{unique}"}"#.into();
        let send: Send = serde_json::from_str(r#"{"send":"a","key":"{key}\u00e9"}"#).unwrap();
        let request = plan.request(&send, "k", "u1").unwrap();
        assert_eq!(request.target, "/orders/u1");
        assert_eq!(request.body, r#"{"order":"u1"}"#);
        assert_eq!(request.headers[0].1, "o-u1");
        assert_eq!(request.headers.last().unwrap().1.as_bytes(), b"k\xe9");
    }
}
