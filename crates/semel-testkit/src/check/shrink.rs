//! How a history without an explanation is made small enough to read.
//!
//! What is left out never makes the contradiction: an operation whose answer says that it changed nothing is dropped,
//! any other answer is forgotten, and its call may then have taken effect or not. Next: [`super::Violation`].

use super::search::{Bad, Operation, Specification, Verdict, search};

/// Configurations that one attempt at leaving something out may cost.
const BUDGET: usize = 8_000;

/// A small history, and where it begins.
#[derive(Clone, Debug)]
pub struct Small<S, O> {
    /// What stood when it began.
    pub start: S,
    /// What was called.
    pub operations: Vec<O>,
}

/// `operations` without what its contradiction does not need. `bad` is what the search said of it; `spec_of` makes the
/// specification of a history.
pub fn shrink<S, P: Specification<State = S>>(
    operations: &[P::Operation],
    bad: &Bad<S>,
    spec_of: impl Fn(&[P::Operation]) -> P,
) -> Small<S, P::Operation>
where
    S: Clone,
{
    let end = operations[bad.at].answered().unwrap_or(u64::MAX);
    let spec = spec_of(operations);
    let mut left = Vec::new();
    for (index, operation) in operations.iter().enumerate() {
        let over = operation.answered().is_some_and(|answered| answered <= bad.since);
        if over || operation.invoked() > end || bad.spent.contains(&index) {
            continue;
        }
        match operation.answered() {
            Some(answered) if answered > end && spec.harmless(operation) => {}
            Some(answered) if answered > end => left.push(operation.forget()),
            _ => left.push(operation.clone()),
        }
    }
    without(&mut left, |operation| spec.harmless(operation).then_some(None), &bad.start, &spec_of);
    let forgotten = |operation: &P::Operation| operation.answered().map(|_| Some(operation.forget()));
    without(&mut left, forgotten, &bad.start, &spec_of);
    Small { start: bad.start.clone(), operations: left }
}

/// Replaces what `weaker` can replace, half of it at first and one by one in the end, as long as the rest stays
/// impossible.
fn without<P: Specification>(
    left: &mut Vec<P::Operation>,
    weaker: impl Fn(&P::Operation) -> Option<Option<P::Operation>>,
    start: &P::State,
    spec_of: impl Fn(&[P::Operation]) -> P,
) {
    let mut chunk = left.len().div_ceil(2);
    while chunk > 0 {
        let mut from = 0;
        while from < left.len() {
            let to = (from + chunk).min(left.len());
            let mut changed = false;
            let fewer: Vec<P::Operation> = left
                .iter()
                .enumerate()
                .filter_map(|(index, operation)| {
                    match weaker(operation).filter(|_| (from..to).contains(&index)) {
                        Some(replaced) => {
                            changed = true;
                            replaced
                        }
                        None => Some(operation.clone()),
                    }
                })
                .collect();
            let impossible =
                || matches!(search(&spec_of(&fewer), start, &fewer, BUDGET), Verdict::Impossible(_));
            if changed && impossible() {
                let dropped = left.len() - fewer.len();
                *left = fewer;
                from = to - dropped.min(to);
            } else {
                from = to;
            }
        }
        chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
    }
}
