//! The cases as data: which requests are sent, in which order, and what is expected of their answers.
//!
//! The files in `cases/` are language-neutral; their README says what each word means to a runner. Not how a case is
//! run ([`super::run`]) or judged ([`super::judge`]).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::report::Severity;

/// What is expected of a server: whose documentation it follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// draft-ietf-httpapi-idempotency-key-header-07.
    Ietf,
    /// What Stripe documents for its own API.
    Stripe,
}

impl Expect {
    /// Its name in the case files and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ietf => "ietf",
            Self::Stripe => "stripe",
        }
    }

    /// The header that marks a replay, in lower case.
    pub(super) const fn marker(self) -> &'static str {
        match self {
            Self::Ietf => "idempotency-replayed",
            Self::Stripe => "idempotent-replayed",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[expect(dead_code, reason = "for whoever reads the file")]
    about: String,
    cases: Vec<Case>,
}

/// A sequence of requests and what is looked for in their answers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Case {
    /// Unique over all files.
    pub name: String,
    /// What is sent, in one sentence.
    pub about: String,
    #[serde(default)]
    pub(super) needs: Vec<Need>,
    #[serde(default = "one")]
    pub(super) rounds: u32,
    pub(super) steps: Vec<Step>,
    /// What is looked for.
    pub points: Vec<Point>,
}

/// One promise that a server keeps or does not.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Point {
    /// Unique over all files. `fm40_…` quotes the number of a failure that was seen in other projects.
    pub name: String,
    /// The promise.
    pub title: String,
    /// How bad it is when it is broken.
    pub severity: Severity,
    /// Where it is expected; everywhere when this is empty.
    #[serde(default)]
    pub profiles: Vec<Expect>,
    /// Whether breaking it is worth knowing and no fault.
    #[serde(default)]
    pub(super) note: By<bool>,
    /// Breaking it is a fault only if this is so.
    #[serde(default)]
    pub(super) note_unless: Option<Need>,
    pub(super) expect: Vec<Assertion>,
}

/// What the user has to give for a case to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Need {
    Body,
    OtherBody,
    InvalidBody,
    NoContent,
    Failing,
    Credential,
    TwoCredentials,
    KeyRequired,
}

impl Need {
    /// What to do so that the case can be run.
    pub(super) const fn advice(self) -> &'static str {
        match self {
            Self::Body => "give the request a body (--body)",
            Self::OtherBody => "give a second valid body (--body-other)",
            Self::InvalidBody => "give a body that the API answers with 4xx (--body-invalid)",
            Self::NoContent => {
                "name a request that is answered without a body (--no-content 'DELETE /orders/7')"
            }
            Self::Failing => "name a request that is answered 5xx (--failing 'POST /fails')",
            Self::Credential => "give a credential (--credential 'Authorization: Bearer …')",
            Self::TwoCredentials => "give the credentials of two callers (--credential twice)",
            Self::KeyRequired => "say that a key is required (--key-required)",
        }
    }
}

/// One value for all expectations, or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum By<T> {
    Each(BTreeMap<Expect, T>),
    All(T),
}

impl<T: Default> Default for By<T> {
    fn default() -> Self {
        Self::All(T::default())
    }
}

impl<T> By<T> {
    pub(super) fn get(&self, expect: Expect) -> Option<&T> {
        match self {
            Self::All(value) => Some(value),
            Self::Each(values) => values.get(&expect),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum Step {
    AtOnce {
        #[serde(rename = "at-once")]
        at_once: Vec<Send>,
    },
    One(Box<Send>),
}

impl Step {
    pub(super) fn sends(&self) -> &[Send] {
        match self {
            Self::AtOnce { at_once } => at_once,
            Self::One(one) => std::slice::from_ref(one),
        }
    }
}

/// A request, and the name under which its answer is spoken of. Several may have one name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Send {
    pub(super) send: String,
    #[serde(default)]
    pub(super) key: Keys,
    #[serde(default)]
    pub(super) request: Which,
    #[serde(default)]
    pub(super) body: WhichBody,
    #[serde(default)]
    pub(super) query: Option<String>,
    #[serde(default)]
    pub(super) path: Option<String>,
    #[serde(default)]
    pub(super) headers: Vec<(String, String)>,
    #[serde(default)]
    pub(super) credential: WhichCredential,
    #[serde(default)]
    pub(super) times: Times,
    #[serde(default)]
    pub(super) hang_up: Option<HangUp>,
    /// Sent again while the answer is 409.
    #[serde(default)]
    pub(super) settled: bool,
    /// Without such an answer nothing of the case can be judged.
    #[serde(default)]
    pub(super) must: Vec<Status>,
}

/// The values of the key's header. `{key}` is new in each round; each character up to U+00FF is one byte.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(untagged)]
pub(super) enum Keys {
    #[default]
    None,
    One(String),
    Several(Vec<String>),
    Padded {
        pad: String,
        to: usize,
        #[serde(default)]
        then: String,
    },
}

impl Keys {
    pub(super) fn values(&self, key: &str) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::One(text) => vec![text.replace("{key}", key)],
            Self::Several(texts) => texts.iter().map(|text| text.replace("{key}", key)).collect(),
            Self::Padded { pad, to, then } => {
                let text = pad.replace("{key}", key);
                vec![format!("{text:k<to$}{then}", to = to)]
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Which {
    #[default]
    Main,
    NoContent,
    Failing,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum WhichBody {
    #[default]
    Main,
    Other,
    Invalid,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum WhichCredential {
    #[default]
    First,
    Second,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum HangUp {
    /// Once the request is on its way.
    Sent,
    /// In the middle of the body.
    Half,
}

/// How often a request is sent at once.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Times {
    Fixed(usize),
    /// `{parallel}`: as the user says.
    Asked(#[expect(dead_code, reason = "there is one such word")] String),
}

impl Default for Times {
    fn default() -> Self {
        Self::Fixed(1)
    }
}

impl Times {
    pub(super) fn count(&self, parallel: usize) -> usize {
        match self {
            Self::Fixed(times) => *times,
            Self::Asked(_) => parallel,
        }
    }
}

/// A status, or a class of them: `409`, `"2xx"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Status {
    Exact(u16),
    Class(String),
}

impl Status {
    pub(super) fn holds(&self, status: u16) -> bool {
        match self {
            Self::Exact(exact) => *exact == status,
            Self::Class(class) => {
                class.chars().next().and_then(|digit| digit.to_digit(10)) == Some(u32::from(status / 100))
            }
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(status) => write!(f, "{status}"),
            Self::Class(class) => f.write_str(class),
        }
    }
}

/// Which answers an assertion speaks of: all of a name, or those with a status.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Of {
    pub(super) of: String,
    #[serde(default, rename = "where")]
    pub(super) only: Vec<Status>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub(super) enum Assertion {
    /// So many effects in the round.
    Effects { count: u64 },
    /// Each answer has one of these statuses.
    Status {
        #[serde(flatten)]
        of: Of,
        #[serde(rename = "one-of")]
        one_of: By<Vec<Status>>,
    },
    /// Each answer is as the one named.
    Same {
        #[serde(flatten)]
        of: Of,
        #[serde(rename = "as")]
        first: String,
        #[serde(rename = "in")]
        part: Part,
    },
    /// No answer is the success that was given to the one named.
    NotAnswerOf {
        #[serde(flatten)]
        of: Of,
        #[serde(rename = "as")]
        first: String,
    },
    /// All successes of these names are one.
    OneAnswer { of: Vec<String> },
    /// Only requests of one of these names have a success.
    OneSuccess { of: Vec<String> },
    /// No two successes are one.
    AllDifferent {
        #[serde(flatten)]
        of: Of,
    },
    /// Each success is marked as a replay.
    Marked {
        #[serde(flatten)]
        of: Of,
    },
    /// None is marked.
    Unmarked {
        #[serde(flatten)]
        of: Of,
    },
    /// A header is there, and has this word.
    Header {
        #[serde(flatten)]
        of: Of,
        name: String,
        #[serde(default)]
        has: Option<String>,
    },
    /// No `Set-Cookie` of the one named is in the answer.
    NoCookie {
        #[serde(flatten)]
        of: Of,
        #[serde(rename = "as")]
        first: String,
    },
    /// The key's header comes back with the key.
    Echoed {
        #[serde(flatten)]
        of: Of,
    },
    /// `Idempotency-Expires` is there, a date, and not over.
    Expiry {
        #[serde(flatten)]
        of: Of,
    },
    /// The error body has the shape that is documented.
    Explained {
        #[serde(flatten)]
        of: Of,
    },
    /// Nothing that only the request or the answer named has is in the answer.
    SilentAbout {
        #[serde(flatten)]
        of: Of,
        #[serde(rename = "as")]
        first: String,
    },
    /// There is no body.
    Bodiless {
        #[serde(flatten)]
        of: Of,
    },
    /// The request was not run again: by the counter, else by the marker or a refusal.
    Once {
        #[serde(flatten)]
        of: Of,
    },
}

#[cfg(test)]
impl Assertion {
    /// The names of the answers it speaks of.
    pub(super) fn names(&self) -> Vec<&str> {
        match self {
            Self::Effects { .. } => Vec::new(),
            Self::Status { of, .. }
            | Self::AllDifferent { of }
            | Self::Marked { of }
            | Self::Unmarked { of }
            | Self::Header { of, .. }
            | Self::Echoed { of }
            | Self::Expiry { of }
            | Self::Explained { of }
            | Self::Bodiless { of }
            | Self::Once { of } => vec![&of.of],
            Self::Same { of, first, .. }
            | Self::NotAnswerOf { of, first }
            | Self::NoCookie { of, first }
            | Self::SilentAbout { of, first } => vec![&of.of, first],
            Self::OneAnswer { of } | Self::OneSuccess { of } => of.iter().map(String::as_str).collect(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Part {
    StatusAndBody,
    ContentHeaders,
    HeaderNames,
}

const FILES: [(&str, &str); 7] = [
    ("replay.json", include_str!("../../cases/replay.json")),
    ("race.json", include_str!("../../cases/race.json")),
    ("mismatch.json", include_str!("../../cases/mismatch.json")),
    ("key.json", include_str!("../../cases/key.json")),
    ("tenant.json", include_str!("../../cases/tenant.json")),
    ("answer.json", include_str!("../../cases/answer.json")),
    ("hang_up.json", include_str!("../../cases/hang_up.json")),
];

const fn one() -> u32 {
    1
}

/// All cases, in the order in which they are run.
///
/// # Errors
/// With the file that cannot be read, which a build of this crate has tested.
pub fn all() -> Result<Vec<Case>, String> {
    let mut cases = Vec::new();
    for (name, text) in FILES {
        let file: File = serde_json::from_str(text).map_err(|error| format!("{name}: {error}"))?;
        cases.extend(file.cases);
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_files_are_read_and_names_are_unique() {
        let cases = all().unwrap();
        let points: Vec<&str> =
            cases.iter().flat_map(|case| &case.points).map(|point| point.name.as_str()).collect();
        assert_eq!((cases.len(), points.len()), (29, 59));
        assert_eq!(points.iter().collect::<BTreeSet<_>>().len(), points.len());
        assert_eq!(cases.iter().map(|case| &case.name).collect::<BTreeSet<_>>().len(), cases.len());
    }

    #[test]
    fn every_answer_that_is_spoken_of_is_asked_for() {
        for case in all().unwrap() {
            let named: BTreeSet<&str> =
                case.steps.iter().flat_map(Step::sends).map(|send| send.send.as_str()).collect();
            for point in &case.points {
                for name in point.expect.iter().flat_map(Assertion::names) {
                    assert!(named.contains(name), "{}: {name}", point.name);
                }
            }
        }
    }

    #[test]
    fn every_file_in_the_folder_is_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cases");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".json"))
            .collect();
        assert_eq!(there, FILES.iter().map(|(name, _)| (*name).to_owned()).collect());
    }

    #[test]
    fn a_misspelt_word_is_refused() {
        let text = r#"{"about": "", "cases": [{"name": "a", "about": "", "stepz": [], "points": []}]}"#;
        assert!(serde_json::from_str::<File>(text).is_err());
        let send = r#"{"send": "a", "keey": "k"}"#;
        assert!(serde_json::from_str::<Step>(send).is_err());
    }

    #[test]
    fn keys_are_padded_to_their_length() {
        let keys = Keys::Padded { pad: "{key}".into(), to: 255, then: String::new() };
        assert_eq!(keys.values("abc")[0].len(), 255);
        assert!(keys.values("abc")[0].starts_with("abc"));
    }
}
