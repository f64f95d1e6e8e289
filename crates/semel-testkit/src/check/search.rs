//! The search: is there an order of the operations that explains every answer? Generic over what is specified.
//!
//! It walks through the history in real time and keeps every configuration that is still possible: the state, and
//! which of the calls that are open have taken effect already. An operation is put in order no earlier than an answer
//! demands it (Lowe's just-in-time linearization of Wing and Gong's search), and equal configurations are one.
//!
//! Not a model checker: it judges one history that was seen. Next: [`super::records`], the specification.

use std::collections::HashSet;
use std::hash::Hash;

/// One call, and its answer when there was one.
pub trait Operation: Clone {
    /// When it was made, in an order over the whole history.
    fn invoked(&self) -> u64;
    /// When it was answered, in the same order; `None` when the answer is not known.
    fn answered(&self) -> Option<u64>;
    /// The same call, its answer forgotten.
    #[must_use]
    fn forget(&self) -> Self;
}

/// What is allowed to happen.
pub trait Specification {
    /// Where the thing stands.
    type State: Clone + Eq + Hash;
    /// What is done to it.
    type Operation: Operation;

    /// The state after `operation` with its answer; `None` when it cannot have that answer here.
    fn explain(&self, state: &Self::State, operation: &Self::Operation) -> Option<Self::State>;

    /// Every other state that `operation`, whose answer is not known, may leave behind.
    fn effects(&self, state: &Self::State, operation: &Self::Operation) -> Vec<Self::State>;

    /// Whether `operation`, with its answer, changes nothing where it is explained without a change. True allows the
    /// search to put it in order at once where it fits: nothing is lost, because nothing else can tell.
    fn settles(&self, operation: &Self::Operation) -> bool;

    /// Whether the answer of `operation` says that it changed nothing, wherever it took effect.
    fn harmless(&self, operation: &Self::Operation) -> bool;

    /// Whether everything that can follow from `other` can follow from `state` as well.
    fn covers(&self, state: &Self::State, other: &Self::State) -> bool {
        state == other
    }

    /// Whether two calls without an answer can stand for each other: then only the earlier one is tried.
    fn twins(&self, one: &Self::Operation, other: &Self::Operation) -> bool;
}

/// What a search found.
#[derive(Clone, Debug)]
pub enum Verdict<S> {
    /// There is an order.
    Explained,
    /// There is none.
    Impossible(Bad<S>),
    /// There were too many configurations.
    GivenUp,
}

/// Where a history stops being possible.
#[derive(Clone, Debug)]
pub struct Bad<S> {
    /// The operation whose answer cannot be explained.
    pub at: usize,
    /// The last certain state before it.
    pub start: S,
    /// When that state was certain: operations answered before then are behind it.
    pub since: u64,
    /// Operations without an answer that have taken effect before then.
    pub spent: Vec<usize>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Config<S> {
    state: S,
    /// Open operations that have taken effect, in ascending order.
    ahead: Vec<usize>,
}

impl<S: Clone> Config<S> {
    fn with(&self, operation: usize, state: S) -> Self {
        let mut next = Self { state, ahead: self.ahead.clone() };
        next.put(operation);
        next
    }

    fn put(&mut self, operation: usize) {
        if let Err(place) = self.ahead.binary_search(&operation) {
            self.ahead.insert(place, operation);
        }
    }

    fn has(&self, operation: usize) -> bool {
        self.ahead.binary_search(&operation).is_ok()
    }
}

struct Search<'a, S: Specification> {
    spec: &'a S,
    operations: &'a [S::Operation],
    open: Vec<usize>,
    /// Of each call without an answer: the newest earlier one that can stand for it.
    twin: Vec<Option<usize>>,
    budget: usize,
}

/// Looks for an order of `operations` that explains every answer, from `start`, looking at no more than `budget`
/// configurations.
pub fn search<S: Specification>(
    spec: &S,
    start: &S::State,
    operations: &[S::Operation],
    budget: usize,
) -> Verdict<S::State> {
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(operations.len() * 2);
    for (index, operation) in operations.iter().enumerate() {
        events.push((operation.invoked(), false, index));
        events.extend(operation.answered().map(|at| (at, true, index)));
    }
    events.sort_unstable();
    let mut search = Search { spec, operations, open: Vec::new(), twin: twins(spec, operations), budget };
    let mut configs = vec![Config { state: start.clone(), ahead: Vec::new() }];
    let mut certain = (start.clone(), 0, Vec::new());
    for (time, is_answer, index) in events {
        if !is_answer {
            search.open.push(index);
            search.settle(&mut configs, index);
            continue;
        }
        configs = match search.answer(configs, index) {
            None => return Verdict::GivenUp,
            Some(left) if left.is_empty() => {
                let (start, since, spent) = certain;
                return Verdict::Impossible(Bad { at: index, start, since, spent });
            }
            Some(left) => left,
        };
        search.open.retain(|open| *open != index);
        let quiet = || search.open.iter().all(|open| operations[*open].answered().is_none());
        if let [only] = configs.as_slice()
            && quiet()
        {
            certain = (only.state.clone(), time, only.ahead.clone());
        }
    }
    Verdict::Explained
}

fn twins<S: Specification>(spec: &S, operations: &[S::Operation]) -> Vec<Option<usize>> {
    let mut unanswered: Vec<usize> =
        (0..operations.len()).filter(|index| operations[*index].answered().is_none()).collect();
    unanswered.sort_unstable_by_key(|index| operations[*index].invoked());
    let mut twin = vec![None; operations.len()];
    for (place, index) in unanswered.iter().enumerate() {
        let twins = |other: &&usize| spec.twins(&operations[**other], &operations[*index]);
        twin[*index] = unanswered[..place].iter().rev().find(twins).copied();
    }
    twin
}

impl<S: Specification> Search<'_, S> {
    /// Puts an operation that changes nothing in order where it fits.
    fn settle(&self, configs: &mut [Config<S::State>], index: usize) {
        if self.may_settle(index) {
            for config in configs {
                if self.stays(config, index) {
                    config.put(index);
                }
            }
        }
    }

    fn may_settle(&self, index: usize) -> bool {
        self.operations[index].answered().is_some() && self.spec.settles(&self.operations[index])
    }

    fn stays(&self, config: &Config<S::State>, index: usize) -> bool {
        self.spec.explain(&config.state, &self.operations[index]).as_ref() == Some(&config.state)
    }

    /// The configurations in which `index` has taken effect; `None` when the budget is used up.
    fn answer(&mut self, configs: Vec<Config<S::State>>, index: usize) -> Option<Vec<Config<S::State>>> {
        if let ([only], [open]) = (configs.as_slice(), self.open.as_slice())
            && *open == index
            && only.ahead.is_empty()
        {
            let state = self.spec.explain(&only.state, &self.operations[index]);
            return Some(state.map(|state| Config { state, ahead: Vec::new() }).into_iter().collect());
        }
        let (mut seen, mut left) = (HashSet::new(), HashSet::new());
        let mut work = configs;
        while let Some(mut config) = work.pop() {
            if config.has(index) {
                config.ahead.retain(|ahead| *ahead != index);
                left.insert(config);
                continue;
            }
            for next in self.successors(&config) {
                if seen.insert(next.clone()) {
                    self.budget = self.budget.checked_sub(1)?;
                    work.push(next);
                }
            }
        }
        Some(self.without_covered(left.into_iter().collect()))
    }

    /// Without those that can do nothing that another one cannot: it stands alike and has more calls left to take
    /// effect, none of which has to.
    fn without_covered(&self, mut configs: Vec<Config<S::State>>) -> Vec<Config<S::State>> {
        configs.sort_unstable_by_key(|config| config.ahead.len());
        let mut kept: Vec<Config<S::State>> = Vec::with_capacity(configs.len());
        for config in configs {
            let may_wait = |open: &usize| self.operations[*open].answered().is_none();
            let covered = kept.iter().any(|other| {
                self.spec.covers(&other.state, &config.state)
                    && other.ahead.iter().all(|open| config.has(*open))
                    && config.ahead.iter().all(|open| other.has(*open) || may_wait(open))
            });
            if !covered {
                kept.push(config);
            }
        }
        kept
    }

    fn successors(&self, config: &Config<S::State>) -> Vec<Config<S::State>> {
        let mut successors = Vec::new();
        let earlier_first = |open: &usize| self.twin[*open].is_none_or(|twin| config.has(twin));
        for open in self.open.iter().copied().filter(|open| !config.has(*open)).filter(earlier_first) {
            let operation = &self.operations[open];
            let states = match operation.answered() {
                Some(_) => self.spec.explain(&config.state, operation).into_iter().collect(),
                None => self.spec.effects(&config.state, operation),
            };
            for state in states {
                let mut next = config.with(open, state);
                for other in &self.open {
                    if !next.has(*other) && self.may_settle(*other) && self.stays(&next, *other) {
                        next.put(*other);
                    }
                }
                successors.push(next);
            }
        }
        successors
    }
}
