//! What may not be, whatever struck: the promises, asked of what the upstream did, of what callers were told and of the
//! records that were left.
//!
//! Not how it came to pass: the log says that. What a seed allows for (lies of the upstream, expiry, a person who
//! releases) is counted and nothing else is.

use std::collections::{BTreeMap, BTreeSet};

use semel::record::{Record, StateKind};
use semel_client::Kind;
use semel_testkit::check::check;
use semel_tower::replay;

use crate::client::{Heard, Told};
use crate::fault::Fault;
use crate::options::Mode;
use crate::upstream::{ENTRY, Entry};
use crate::world::Outcome;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Broken {
    /// Which.
    pub promise: &'static str,
    /// How it shows.
    pub how: String,
}

struct Judge<'a> {
    outcome: &'a Outcome,
    broken: Vec<Broken>,
}

/// Every promise that was broken.
#[must_use]
pub fn judge(outcome: &Outcome) -> Vec<Broken> {
    let mut judge = Judge { outcome, broken: Vec::new() };
    judge.nothing_is_stuck();
    judge.effects_are_counted();
    judge.answers_are_ones_own();
    judge.answers_are_one();
    judge.records_tell_what_happened();
    judge.calm_answers_are_right();
    judge.outcomes_are_stored_with_patience();
    judge.gentle_worlds_leave_no_doubt();
    judge.histories_have_an_order();
    judge.broken
}

impl Judge<'_> {
    fn breaks(&mut self, promise: &'static str, how: impl Into<String>) {
        self.broken.push(Broken { promise, how: how.into() });
    }

    fn mode(&self) -> Mode {
        self.outcome.sim.options.mode
    }

    /// How often the key may rightly have been run again: its outcome had expired, a person had released it, or the
    /// upstream had said that nothing happened.
    fn again(&self, key: &str) -> usize {
        let lies = self.outcome.entries.iter().filter(|entry| entry.key == key && entry.lie).count();
        lies + self.expired(key) + count(&self.outcome.released_by_hand, key)
    }

    fn expired(&self, key: &str) -> usize {
        self.outcome.service.expired(key, self.outcome.now)
    }

    fn rested<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Record> {
        self.outcome.rested.iter().filter(move |record| record.id.key().as_str() == key)
    }

    fn nothing_is_stuck(&mut self) {
        if self.outcome.stuck {
            self.breaks("everything ends", "calls were still open after an hour");
        }
        if self.outcome.live_claims > 0 {
            let how = format!("{} claims are held when all is calm", self.outcome.live_claims);
            self.breaks("everything ends", how);
        }
    }

    fn effects_are_counted(&mut self) {
        let mut entries: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        // A pass-through upstream may refuse one request as often as it comes.
        let counts = |entry: &&Entry| entry.effect || self.mode() != Mode::PassThrough;
        for Entry { tenant, key, .. } in self.outcome.entries.iter().filter(counts) {
            *entries.entry((tenant, key)).or_default() += 1;
        }
        if !matches!(self.mode(), Mode::Retry | Mode::Fenced) {
            for ((tenant, key), count) in entries {
                let allowed = 1 + self.again(key);
                if count > allowed {
                    let how = format!("{key} of {tenant}: {count} times, {allowed} allowed");
                    self.breaks("at most one effect", how);
                }
            }
        }
        for ((tenant, key, token), sent) in &self.outcome.sent {
            if *sent > 1 {
                let how = format!("{key} of {tenant}: token {token} was sent {sent} times");
                self.breaks("a claim is sent once", how);
            }
        }
        for heard in self.outcome.heard.iter().filter(|heard| heard.told == Err(Kind::NotSent)) {
            if self
                .outcome
                .entries
                .iter()
                .any(|entry| entry.caller == heard.caller && heard.caller != "after all")
            {
                let how = format!("{} was told that nothing was sent, and it was acted on", heard.caller);
                self.breaks("not sent means not sent", how);
            }
        }
    }

    /// An answer about an entry goes to whoever asked for it.
    fn answers_are_ones_own(&mut self) {
        let mut broken = Vec::new();
        for Heard { caller, asked, told, .. } in &self.outcome.heard {
            let Ok(told) = told else { continue };
            let Some(number) = told.entry else {
                if told.body.as_ref().is_some_and(|body| body.starts_with(b"entry ")) {
                    broken.push(format!("{caller}: an answer without its entry: {told:?}"));
                }
                continue;
            };
            let Some(entry) = self.outcome.entries.get(number) else {
                broken.push(format!("{caller}: entry {number} was never written"));
                continue;
            };
            let own = entry.tenant == asked.tenant
                && entry.key == asked.key
                && entry.path == asked.path
                && entry.payload == asked.payload;
            // A probe names the key alone: an upstream that remembers what the gateway has rightly forgotten tells of
            // an older request.
            let older = self.mode() == Mode::Probe && self.again(&asked.key) > 0;
            if !own && !older {
                broken.push(format!("{caller} asked {asked:?} and was told of {entry:?}"));
            }
            let ran_it =
                told.said != "executed" || entry.caller == *caller || self.mode() == Mode::PassThrough;
            if !ran_it {
                broken.push(format!("{caller} is told executed of what {} ran", entry.caller));
            }
            if !body_fits(told, number, entry) {
                broken.push(format!("{caller}: entry {number} is not what its body says: {:?}", told.body));
            }
        }
        for how in broken {
            self.breaks("never another's answer", how);
        }
    }

    /// What is executed or replayed for a key is one outcome, byte for byte, until it expires.
    fn answers_are_one(&mut self) {
        let mut outcomes: BTreeMap<(&str, &str), BTreeSet<(usize, u16)>> = BTreeMap::new();
        let mut bodies: BTreeMap<(usize, &[u8]), ()> = BTreeMap::new();
        for Heard { asked, told, .. } in &self.outcome.heard {
            let Ok(told) = told else { continue };
            if !matches!(told.said.as_str(), "executed" | "replayed") {
                continue;
            }
            if let Some(entry) = told.entry {
                outcomes.entry((&asked.tenant, &asked.key)).or_default().insert((entry, told.status));
                // Run again after it had expired, a pass-through upstream may word the same entry otherwise.
                if let Some(body) = told.body.as_ref().filter(|_| self.expired(&asked.key) == 0) {
                    bodies.insert((entry, body), ());
                }
            }
        }
        let mut broken = Vec::new();
        for ((tenant, key), outcomes) in outcomes {
            if outcomes.len() > 1 + self.expired(key) {
                broken.push(format!("{key} of {tenant}: entries and statuses {outcomes:?}"));
            }
        }
        let mut of_entry: BTreeMap<usize, usize> = BTreeMap::new();
        for (entry, _) in bodies.into_keys() {
            *of_entry.entry(entry).or_default() += 1;
        }
        for (entry, count) in of_entry.into_iter().filter(|(_, count)| *count > 1) {
            broken.push(format!("entry {entry} was told in {count} ways"));
        }
        for how in broken {
            self.breaks("all answers are the first one", how);
        }
    }

    fn records_tell_what_happened(&mut self) {
        let mut broken = Vec::new();
        for record in &self.outcome.rested {
            if record.state.kind() == StateKind::InFlight {
                broken.push(format!("{} is in flight when all is calm", record.id.key()));
            }
            broken.extend(self.stale(record));
        }
        let mut acted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for entry in &self.outcome.entries[..self.outcome.entries_rested] {
            acted.entry(&entry.key).or_default().insert(&entry.tenant);
        }
        for (key, tenants) in acted {
            let standing = self.rested(key).count();
            if self.again(key) == 0 && standing < tenants.len() {
                broken.push(format!("{key}: {} tenants acted and {standing} records stand", tenants.len()));
            }
        }
        let mut told: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for heard in self.outcome.heard.iter().filter(|heard| !heard.calm) {
            if heard.told.as_ref().is_ok_and(|told| matches!(told.said.as_str(), "executed" | "replayed")) {
                told.entry(&heard.asked.key).or_default().insert(&heard.asked.tenant);
            }
        }
        for (key, tenants) in told {
            let finished = self.rested(key).filter(|record| record.outcome().is_some()).count();
            if self.expired(key) == 0 && finished < tenants.len() {
                let told = tenants.len();
                broken
                    .push(format!("{key}: {told} tenants were told its outcome, {finished} outcomes stand"));
            }
        }
        for how in broken {
            self.breaks("what happened is on record", how);
        }
    }

    /// An outcome that another claim than the record's has brought.
    fn stale(&self, record: &Record) -> Option<String> {
        let key = record.id.key().as_str();
        let by_hand = count(&self.outcome.completed_by_hand, key) > 0;
        if by_hand || matches!(self.mode(), Mode::PassThrough | Mode::Probe) {
            return None;
        }
        let headers = replay::stored_headers(record.outcome()?);
        let number: usize = headers.get(ENTRY)?.to_str().ok()?.parse().ok()?;
        let entry = self.outcome.entries.get(number)?;
        (entry.token != record.guard.token.0).then(|| {
            format!("{key} stands under token {} with what token {} did", record.guard.token, entry.token)
        })
    }

    fn calm_answers_are_right(&mut self) {
        let mut broken = Vec::new();
        for Heard { caller, asked, told, .. } in &self.outcome.heard {
            if !caller.starts_with("after all") {
                continue;
            }
            let told = match told {
                Ok(told) => told,
                Err(kind) => {
                    broken.push(format!("{}: {kind:?} when all is calm", asked.key));
                    continue;
                }
            };
            let problem = told.problem.as_deref();
            let refused = told.status == 422 && problem == Some("mismatch");
            let doubted = problem == Some("outcome-unknown") && self.mode() == Mode::Hold;
            let kept = told.entry.is_some() || problem == Some("answer-not-kept") || told.status == 204;
            let expired = self.expired(&asked.key) > 0;
            let right = match caller.as_str() {
                "after all, other" => refused || expired,
                _ => refused || doubted || kept || (told.status == 422 && self.again(&asked.key) > 0),
            };
            if !right {
                broken.push(format!("{caller}: {} was told {told:?}", asked.key));
            }
            if doubted && !self.rested(&asked.key).any(|record| record.state.kind() == StateKind::InDoubt) {
                broken.push(format!("{} is called in doubt and is not", asked.key));
            }
        }
        for how in broken {
            self.breaks("calm answers are right", how);
        }
    }

    /// An outcome goes unrecorded only when the store failed again and again.
    fn outcomes_are_stored_with_patience(&mut self) {
        let options = &self.outcome.sim.options;
        let excuses = [
            Fault::StoreDown,
            Fault::StorePause,
            Fault::GatewayFreeze,
            Fault::GatewayCrash,
            Fault::OperatorResolves,
            Fault::ClockAhead,
            Fault::ClockBack,
        ];
        if self.mode() != Mode::Hold || excuses.into_iter().any(|fault| options.has(fault)) {
            return;
        }
        let mut broken = Vec::new();
        for Heard { caller, asked, told, .. } in &self.outcome.heard {
            let unrecorded = told.as_ref().is_ok_and(|told| told.said == "unrecorded");
            let failed = self.outcome.service.failed(&asked.key);
            if unrecorded && failed < 3 {
                broken.push(format!("{caller}: {} after {failed} calls that failed", asked.key));
            }
        }
        for how in broken {
            self.breaks("outcomes are stored with patience", how);
        }
    }

    /// Where nothing strikes that leaves one, a doubt is a claim that somebody gave up too early, and a second effect a
    /// claim that was taken from its holder.
    fn gentle_worlds_leave_no_doubt(&mut self) {
        if !self.outcome.sim.options.gentle {
            return;
        }
        let mut broken = Vec::new();
        for record in &self.outcome.rested {
            let key = record.id.key().as_str();
            if record.state.kind() == StateKind::InDoubt && self.outcome.service.failed(key) < 3 {
                broken.push(format!("{key} is left in doubt: {:?}", record.state));
            }
        }
        let mut effects: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for Entry { tenant, key, .. } in &self.outcome.entries {
            *effects.entry((tenant, key)).or_default() += 1;
        }
        for ((tenant, key), count) in effects {
            if count > 1 + self.expired(key) {
                broken.push(format!("{key} of {tenant} was run {count} times"));
            }
        }
        for how in broken {
            self.breaks("gentle worlds leave no doubt", how);
        }
    }

    fn histories_have_an_order(&mut self) {
        if self.outcome.sim.options.has(Fault::ClockBack) {
            return;
        }
        if let Err(found) = check(self.outcome.history.clone()) {
            let mut shown: Vec<String> = found.iter().map(ToString::to_string).collect();
            shown.sort();
            for how in shown {
                self.breaks("the store's history has an order", how);
            }
        }
    }
}

fn count(keys: &[String], key: &str) -> usize {
    keys.iter().filter(|held| *held == key).count()
}

fn body_fits(told: &Told, number: usize, entry: &Entry) -> bool {
    let Some(body) = &told.body else { return true };
    let Entry { tenant, key, path, payload, .. } = entry;
    let whole = format!("entry {number}: {tenant} {key} {path} {payload}");
    let by_hand = format!("entry {number}: by hand");
    // What follows is the padding of an answer that is too large to keep.
    body.is_empty() || body.starts_with(whole.as_bytes()) || *body == by_hand.as_bytes()
}
