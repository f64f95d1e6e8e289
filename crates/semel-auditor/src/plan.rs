//! The scenarios: how the server fails, what the client is asked, how long it is watched.
//!
//! Checks name the ones they need; several use the same. Not what is judged: that is in [`checks`](crate::checks).

use std::time::Duration;

use crate::scenario::Scenario;
use crate::script::Script;

/// The key for scenarios that give one.
pub const OWN_KEY: &str = "semel-audit-own-key-0123456789";

/// How long a call may take in scenarios that say so.
pub const DEADLINE: Duration = Duration::from_secs(6);

/// How long one attempt may take in the scenario that says so.
pub const TIMEOUT: Duration = Duration::from_millis(1500);

/// A scenario before it has a server.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// Its name.
    pub name: &'static str,
    /// How the server fails, a script.
    pub script: &'static str,
    /// How many calls.
    pub calls: u32,
    /// How many of them at a time.
    pub parallel: u32,
    /// Whether [`OWN_KEY`] is given.
    pub own_key: bool,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// How often a call may be sent again.
    pub max_retries: Option<u32>,
    /// How long a call may take.
    pub deadline: Option<Duration>,
    /// When the watchdog ends it.
    pub watch: Duration,
    /// How many attempts of one call are enough to judge it.
    pub enough: Option<usize>,
    /// When it runs.
    pub turn: Turn,
}

/// Scenarios of one turn run side by side, those whose delays are measured apart from the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// With many others: only what happens counts.
    Together,
    /// With few others: delays are measured in seconds.
    Measured,
    /// Alone: delays are measured in hundredths of seconds.
    Alone,
    /// Alone, because it is a load that others would feel.
    Load,
}

const ONE: Planned = Planned {
    name: "",
    script: "200",
    calls: 1,
    parallel: 1,
    own_key: false,
    timeout: None,
    max_retries: None,
    deadline: None,
    watch: Duration::from_secs(20),
    enough: None,
    turn: Turn::Together,
};

const fn one(name: &'static str, script: &'static str) -> Planned {
    Planned { name, script, ..ONE }
}

/// A value of Retry-After that makes no sense, or is rare.
const fn hostile(name: &'static str, script: &'static str) -> Planned {
    Planned { deadline: Some(DEADLINE), watch: Duration::from_secs(9), ..told(name, script) }
}

/// Five calls whose delays are measured: one alone may be short by chance.
const fn told(name: &'static str, script: &'static str) -> Planned {
    Planned { calls: 5, parallel: 5, turn: Turn::Measured, ..one(name, script) }
}

const fn with_retries(max_retries: u32, planned: Planned) -> Planned {
    Planned { max_retries: Some(max_retries), ..planned }
}

/// All of them. The first one tells whether the client can be driven at all.
pub const SCENARIOS: &[Planned] = &[
    Planned { calls: 2, ..one("plain", "200") },
    Planned { calls: 64, parallel: 8, ..one("many-calls", "200") },
    Planned { own_key: true, ..one("own-key", "503, 200") },
    one("retry-503", "503, 503, 200"),
    one("retry-429", "429, 429, 200"),
    one("retry-502", "502, 200"),
    one("retry-reset", "reset, reset, 200"),
    Planned { timeout: Some(TIMEOUT), ..one("retry-timeout", "hang 6, 200") },
    one("acted-then-failed", "dup-effect 500, 200"),
    one("lost-answer", "cut, 200"),
    Planned { enough: Some(7), ..one("steady-503", "503") },
    Planned {
        deadline: Some(DEADLINE),
        watch: Duration::from_secs(9),
        ..one("wait-an-hour", "429|retry-after=3600")
    },
    hostile("hostile-negative", "503|retry-after=-5, 200"),
    hostile("hostile-infinite", "503|retry-after=1e309, 200"),
    hostile("hostile-word", "503|retry-after=abc, 200"),
    hostile("hostile-far", "503|retry-after=99999999999, 200"),
    hostile("hostile-past", "503|retry-after='Sat, 01 Jan 2000 00:00:00 GMT', 200"),
    hostile("hostile-rfc850", "503|retry-after=rfc850+2, 200"),
    hostile("hostile-asctime", "503|retry-after=asctime+2, 200"),
    one("status-400", "400, 200"),
    one("status-401", "401, 200"),
    one("status-403", "403, 200"),
    one("status-404", "404, 200"),
    one("status-422", "422, 200"),
    one("conflict", "409, 200"),
    told(
        "conflict-outstanding",
        "409|content-type=application/problem+json|body='{\"type\":\"https://example.com/problems/outstanding\",\
         \"title\":\"A request is outstanding for this Idempotency-Key\",\"status\":409}', 200",
    ),
    with_retries(1, one("error-503", "503")),
    with_retries(1, one("error-429", "429|retry-after=1")),
    with_retries(1, one("error-reset", "reset")),
    with_retries(0, one("no-retry-503", "503, 200")),
    with_retries(0, one("no-retry-reset", "reset, 200")),
    one("redirect-307", "307|location={base}/moved, 200"),
    one("redirect-308", "308|location={base}/moved, 200"),
    one("redirect-307-away", "307|location={other}/moved, 200"),
    one("redirect-308-away", "308|location={other}/moved, 200"),
    told("retry-after-429", "429|retry-after=2, 200"),
    told("retry-after-503", "503|retry-after=2, 200"),
    told("retry-after-date", "429|retry-after=date+4, 200"),
    // Few enough for a budget of a hundred retries, as for the herd.
    Planned {
        calls: 25,
        parallel: 25,
        turn: Turn::Measured,
        ..with_retries(4, one("growth", "503, 503, 503, 200"))
    },
    Planned { calls: 40, parallel: 40, turn: Turn::Alone, ..one("herd", "503, 503, 200") },
    Planned {
        calls: 1000,
        parallel: 200,
        watch: Duration::from_secs(30),
        turn: Turn::Load,
        ..one("outage", "503")
    },
];

impl Planned {
    /// The scenario with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|planned| planned.name == name)
    }

    /// How the server fails.
    ///
    /// # Errors
    /// When the script cannot be read.
    pub fn script(&self) -> Result<Script, crate::script::ScriptError> {
        self.script.parse()
    }

    /// What a client is asked.
    #[must_use]
    pub fn scenario(&self, url: &str) -> Scenario {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Scenario {
            name: self.name.to_owned(),
            url: url.to_owned(),
            calls: self.calls,
            parallel: self.parallel,
            key: self.own_key.then(|| OWN_KEY.to_owned()),
            timeout_ms: self.timeout.map(ms),
            max_retries: self.max_retries,
            deadline_ms: self.deadline.map(ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_script_can_be_read_and_every_name_is_there_once() {
        let mut names = HashSet::new();
        for planned in SCENARIOS {
            assert!(planned.script().is_ok(), "{}: {}", planned.name, planned.script);
            assert!(names.insert(planned.name), "{} is there twice", planned.name);
        }
    }
}
