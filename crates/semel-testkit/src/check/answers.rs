//! The specification of one key as callers over a wire see it: once an outcome was told, only that outcome is told.
//!
//! Not what a record may do, which callers do not see: a key is unused, has an outcome, or is in doubt. For tests that
//! kill whole programs. Next: [`super::records`], for what a store answers.

use std::fmt;

use super::search::{self, Specification, Verdict, search};

/// What a caller was told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    /// The outcome, fresh.
    Executed(String),
    /// The outcome, once more.
    Replayed(String),
    /// That nobody knows the outcome.
    InDoubt,
}

/// One request of a caller.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it was sent, in the order of the whole history.
    pub invoked: u64,
    /// What came back and when; `None` when the connection broke.
    pub answer: Option<(u64, Told)>,
}

impl search::Operation for Request {
    fn invoked(&self) -> u64 {
        self.invoked
    }

    fn answered(&self) -> Option<u64> {
        self.answer.as_ref().map(|(at, _)| *at)
    }

    fn forget(&self) -> Self {
        Self { invoked: self.invoked, answer: None }
    }
}

/// Where a key stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// Nobody used it.
    Unused,
    /// It was used by a caller who was not told how it ended, and it ended with an outcome.
    Ended,
    /// It has this outcome.
    Outcome(String),
    /// Nobody knows.
    InDoubt,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unused => f.write_str("unused"),
            Self::Ended => f.write_str("an outcome that was not told"),
            Self::Outcome(outcome) => write!(f, "outcome {outcome}"),
            Self::InDoubt => f.write_str("in doubt"),
        }
    }
}

struct Wire;

impl Specification for Wire {
    type State = Key;
    type Operation = Request;

    fn explain(&self, key: &Key, request: &Request) -> Option<Key> {
        let (_, told) = request.answer.as_ref()?;
        match (key, told) {
            (Key::Unused, Told::Executed(outcome)) | (Key::Ended, Told::Replayed(outcome)) => {
                Some(Key::Outcome(outcome.clone()))
            }
            (Key::Outcome(first), Told::Replayed(again)) => (first == again).then(|| key.clone()),
            (Key::InDoubt, Told::InDoubt) => Some(Key::InDoubt),
            _ => None,
        }
    }

    fn effects(&self, key: &Key, _: &Request) -> Vec<Key> {
        match key {
            Key::Unused => vec![Key::Ended, Key::InDoubt],
            Key::Ended | Key::Outcome(_) | Key::InDoubt => Vec::new(),
        }
    }

    fn settles(&self, request: &Request) -> bool {
        matches!(request.answer, Some((_, Told::Replayed(_) | Told::InDoubt)))
    }

    fn harmless(&self, request: &Request) -> bool {
        request.answer.is_some() && self.settles(request)
    }

    fn twins(&self, _: &Request, _: &Request) -> bool {
        true
    }
}

/// Checks the requests that were made under one key.
///
/// # Errors
/// What was certain, and the answer that cannot follow from it.
pub fn check(requests: &[Request]) -> Result<(), String> {
    match search(&Wire, &Key::Unused, requests, 10_000) {
        Verdict::Explained => Ok(()),
        Verdict::Impossible(bad) => {
            let answer = requests[bad.at].answer.as_ref().map(|(_, told)| told);
            Err(format!("{answer:?} cannot follow from {}", bad.start))
        }
        Verdict::GivenUp => Err("the search was given up on".to_owned()),
    }
}
