//! What was seen, sorted the way that checks ask for it: by call, with keys and delays.

use std::time::Duration;

use super::{Ruling, not_applicable};
use crate::attempt::{Attempt, Origin};
use crate::report::Subject;
use crate::scenario::{Said, Seen};

/// What a check judges from.
#[derive(Debug)]
pub struct Evidence<'a> {
    /// The client, and what it can be asked for.
    pub subject: &'a Subject,
    /// All scenarios that were run.
    pub seen: &'a [Seen],
    /// The client can make only one call for each of its runs.
    pub one_call: bool,
}

/// The attempts of one call, in order of arrival.
#[derive(Debug)]
pub struct Call<'a> {
    /// The scenario.
    pub seen: &'a Seen,
    /// Its number, or none where calls could be told apart by their keys only.
    pub number: Option<u32>,
    /// The attempts, on both ports.
    pub attempts: Vec<&'a Attempt>,
}

impl<'a> Evidence<'a> {
    /// A scenario. It is there when the check names it.
    pub(super) fn seen(&self, name: &str) -> Result<&'a Seen, Ruling> {
        let found = self.seen.iter().find(|seen| seen.scenario == name);
        found.ok_or_else(|| not_applicable(format!("the scenario `{name}` was not run")))
    }

    /// The calls of these scenarios.
    pub(super) fn calls(&self, names: &[&str]) -> Vec<Call<'a>> {
        let seen = self.seen.iter().filter(|seen| names.contains(&seen.scenario.as_str()));
        seen.flat_map(calls).collect()
    }

    /// Whether the client can be asked for this; `None` when nobody said.
    pub(super) fn supports(&self, wish: &str) -> Option<bool> {
        self.subject.supports.as_ref().map(|supports| supports.iter().any(|can| can == wish))
    }
}

/// The calls of one scenario. Requests that are no calls are left out; those without a number count by their key, and
/// without a key not at all.
pub fn calls(seen: &Seen) -> Vec<Call<'_>> {
    let mut calls: Vec<Call<'_>> = Vec::new();
    for attempt in seen.attempts.iter().filter(|attempt| attempt.step != "aside") {
        let same = |call: &&mut Call<'_>| match attempt.call {
            Some(_) => call.number == attempt.call,
            None => call.number.is_none() && call.attempts[0].key() == attempt.key(),
        };
        match calls.iter_mut().find(same) {
            Some(call) => call.attempts.push(attempt),
            None if attempt.call.is_none() && attempt.key().is_none() => {}
            None => calls.push(Call { seen, number: attempt.call, attempts: vec![attempt] }),
        }
    }
    calls
}

impl<'a> Call<'a> {
    /// The attempts at the port that the client was pointed at.
    pub(super) fn here(&self) -> impl Iterator<Item = &'a Attempt> {
        self.attempts.iter().copied().filter(|attempt| attempt.origin == Origin::Main)
    }

    pub(super) fn retried(&self) -> bool {
        self.here().count() > 1
    }

    /// The different keys of its attempts; `None` among them for attempts without.
    pub(super) fn keys(&self) -> Vec<Option<&'a str>> {
        let mut keys = Vec::new();
        for key in self.here().map(Attempt::key) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        keys
    }

    /// Between the moment that the server began to answer, or broke off, and the next attempt. Never shorter than what
    /// the client waited.
    pub(super) fn delays(&self) -> Vec<Duration> {
        let attempts: Vec<_> = self.here().collect();
        let pairs = attempts.windows(2);
        pairs.filter_map(|pair| Some(pair[1].at.saturating_sub(pair[0].ended_at?))).collect()
    }

    /// What the client said of it.
    pub(super) fn said(&self) -> Option<&'a Said> {
        self.seen.said.iter().find(|said| Some(said.call) == self.number)
    }

    /// Where it was seen, for messages.
    pub(super) fn place(&self) -> &'a str {
        &self.seen.scenario
    }
}
