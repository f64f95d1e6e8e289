//! The linearizability checker: whether the answers that callers got from a store can all be explained by *some* order
//! of their calls, one at a time, each between its invocation and its answer.
//!
//! Records do not touch each other, so each key's history is checked apart (linearizability is compositional). A call
//! whose answer was lost may have taken effect at any time after it was made, or never. What a record may do is not
//! restated here: [`records`] asks the pure transitions of [`semel::record`].
//!
//! Not a generator of load: put a [`Recorder`] around any store and run what you like. Next: [`history`] (what is
//! recorded), [`mod@search`] (how an order is looked for), [`mod@shrink`] (how a history that has none is made small).

pub mod answers;
pub mod history;
pub mod load;
pub mod records;
pub mod search;
pub mod shrink;

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use semel::RecordId;

pub use history::{Answer, Asked, Call, Operation, Recorder};
pub use search::{Specification, Verdict};

use records::Records;
use search::search;

/// How many configurations the search of one key may look at.
const BUDGET: usize = 50_000;

/// What a check found when all is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// How many records were used.
    pub keys: usize,
    /// How many calls were made of them.
    pub operations: usize,
    /// Of how many the answer is not known.
    pub unanswered: usize,
}

/// A key whose answers no order explains.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which record.
    pub id: RecordId,
    /// What stood before: all the answers before the counter-example leave no other choice.
    pub start: records::State,
    /// Answers that contradict each other, as few as were found; see [`shrink`].
    pub answered: Vec<Operation>,
    /// Calls that may have been made meanwhile, or not: none of it explains the answers.
    pub unanswered: usize,
    /// False when the search was given up: then nothing is proven, for or against.
    pub proven: bool,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict =
            if self.proven { "no order of the calls explains" } else { "the search was given up on" };
        writeln!(f, "{:?}: {verdict} these answers, from {}:", self.id, self.start)?;
        for operation in &self.answered {
            writeln!(f, "    {operation}")?;
        }
        write!(f, "    and {} calls that may have taken effect or not", self.unanswered)
    }
}

/// Checks every key of a history.
///
/// # Errors
/// Every key that no order explains.
pub fn check(operations: Vec<Operation>) -> Result<Checked, Vec<Violation>> {
    let mut checked = Checked { operations: operations.len(), ..Checked::default() };
    let mut keys: HashMap<RecordId, Vec<Operation>> = HashMap::new();
    for operation in operations {
        checked.unanswered += usize::from(operation.answer.is_none());
        keys.entry(operation.asked.call.id().clone()).or_default().push(operation);
    }
    checked.keys = keys.len();
    let keys: Vec<_> = keys.into_iter().collect();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((id, operations)) = keys.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(violation) = check_key(id, operations) {
                        found.lock().unwrap_or_else(PoisonError::into_inner).push(violation);
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    if found.is_empty() { Ok(checked) } else { Err(found) }
}

fn check_key(id: &RecordId, operations: &[Operation]) -> Option<Violation> {
    let spec = Records::of(operations);
    match search(&spec, &records::State::default(), operations, BUDGET) {
        Verdict::Explained => None,
        Verdict::Impossible(bad) => {
            let small = shrink::shrink(operations, &bad, Records::of);
            let (answered, unanswered): (Vec<_>, Vec<_>) =
                small.operations.into_iter().partition(|operation| operation.answer.is_some());
            let unanswered = unanswered.len();
            Some(Violation { id: id.clone(), start: small.start, answered, unanswered, proven: true })
        }
        Verdict::GivenUp => Some(Violation {
            id: id.clone(),
            start: records::State::default(),
            answered: operations.to_vec(),
            unanswered: 0,
            proven: false,
        }),
    }
}
