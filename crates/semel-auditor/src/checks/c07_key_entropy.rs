//! C7: nobody guesses a key, and no two clients make the same one by chance.

use std::collections::HashMap;

use super::{Check, Evidence, Ruling, fail, not_applicable, pass};
use crate::report::Severity;

pub(super) const CHECK: Check = Check {
    id: "C7",
    title: "keys that nobody guesses",
    protects_from: "keys from a counter or a clock meet those of another machine, and one of two orders vanishes",
    severity: Severity::S2,
    needs: &["many-calls"],
    judge,
};

/// One sample proves nothing: random bytes look like a UUID v4 one time in 64.
const KEYS_MIN: usize = 64;
const BITS_MIN: f64 = 64.0;
/// Version 7 shares bits with its neighbours in the same millisecond, so that fewer are seen to change.
const BITS_SEEN_MIN_V7: f64 = 40.0;

fn judge(evidence: &Evidence<'_>) -> Ruling {
    let seen = match evidence.seen("many-calls") {
        Ok(seen) => seen,
        Err(ruling) => return ruling,
    };
    let keys: Vec<String> = seen
        .attempts
        .iter()
        .filter_map(|attempt| attempt.key())
        .map(|key| key.trim_matches('"').to_owned())
        .collect();
    if keys.is_empty() {
        return not_applicable("calls have no keys; see C1");
    }
    if keys.len() < KEYS_MIN {
        return not_applicable(format!("{} keys are too few to judge, {KEYS_MIN} are needed", keys.len()));
    }
    let (prefix, rest) = without_prefix(&keys);
    let form = Form::of(&rest);
    let bits = bits_that_change(&rest);
    let enough = match form {
        Form::Uuid('7') => bits >= BITS_SEEN_MIN_V7,
        _ => bits >= BITS_MIN,
    };
    let name = form.name(prefix);
    let ruling = match form {
        Form::FalseUuid(wrong) => fail(format!(
            "keys look like UUIDs, but in {wrong} of {} the version or variant bits are wrong: they are random bytes in \
             disguise, and a server that checks them refuses some",
            keys.len()
        )),
        _ if !enough => fail(format!(
            "over {} keys only about {bits:.0} bits change ({name}, for instance `{}`): two machines will make the same \
             key, and others can guess it",
            keys.len(),
            keys[0]
        )),
        _ => pass(format!("{} keys: {name}, about {bits:.0} bits change", keys.len())),
    };
    ruling.figure("form", name).figure("bits_seen_to_change", bits.round()).figure("example", keys[0].clone())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Uuid(char),
    /// So many have bits that no UUID has.
    FalseUuid(usize),
    Other,
}

impl Form {
    fn of(keys: &[&str]) -> Self {
        if !keys.iter().all(|key| shaped_like_a_uuid(key)) {
            return Self::Other;
        }
        let version = |key: &str| key.chars().nth(14).unwrap_or(' ');
        let variant =
            |key: &str| matches!(key.as_bytes().get(19), Some(b'8' | b'9' | b'a' | b'b' | b'A' | b'B'));
        let mut counts: HashMap<char, usize> = HashMap::new();
        for key in keys.iter().filter(|key| variant(key)) {
            *counts.entry(version(key)).or_default() += 1;
        }
        let best = counts
            .into_iter()
            .filter(|(version, _)| ('1'..='8').contains(version))
            .max_by_key(|(_, count)| *count);
        match best {
            Some((version, count)) if count == keys.len() => Self::Uuid(version),
            Some((_, count)) => Self::FalseUuid(keys.len() - count),
            None => Self::FalseUuid(keys.len()),
        }
    }

    fn name(self, prefix: &str) -> String {
        let name = match self {
            Self::Uuid(version) => format!("UUID v{version}"),
            Self::FalseUuid(_) => "no UUID, though it looks like one".to_owned(),
            Self::Other => "no known form".to_owned(),
        };
        if prefix.is_empty() { name } else { format!("prefix `{prefix}`, then {name}") }
    }
}

fn shaped_like_a_uuid(key: &str) -> bool {
    key.len() == 36
        && key.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// What all keys begin with, up to the last `-`, `_` or `:` in it, and what follows in each. A UUID has none.
fn without_prefix(keys: &[String]) -> (&str, Vec<&str>) {
    let whole = || keys.iter().map(String::as_str).collect::<Vec<_>>();
    if whole().iter().all(|key| shaped_like_a_uuid(key)) {
        return ("", whole());
    }
    let first = &keys[0];
    let same = |at: &usize| keys.iter().all(|key| key.as_bytes().get(*at) == first.as_bytes().get(*at));
    let common = (0..first.len()).take_while(same).count();
    // With the random part in the form of a UUID, the prefix is what stands before it.
    let tail = first
        .len()
        .checked_sub(36)
        .filter(|at| keys.iter().all(|key| key.get(*at..).is_some_and(shaped_like_a_uuid)));
    let end = tail.or_else(|| first.get(..common)?.rfind(['-', '_', ':', '.']).map(|at| at + 1)).unwrap_or(0);
    let rest = keys.iter().map(|key| key.get(end..).unwrap_or_default());
    (first.get(..end).unwrap_or_default(), rest.collect())
}

/// The entropy of each place, summed: an upper bound of what is random, as far as so many samples can show.
fn bits_that_change(keys: &[&str]) -> f64 {
    let longest = keys.iter().map(|key| key.len()).max().unwrap_or(0);
    (0..longest).map(|at| entropy(keys.iter().map(|key| key.as_bytes().get(at).copied()))).sum()
}

fn entropy(letters: impl Iterator<Item = Option<u8>>) -> f64 {
    let mut counts: HashMap<Option<u8>, u32> = HashMap::new();
    for letter in letters {
        *counts.entry(letter).or_default() += 1;
    }
    let all = f64::from(counts.values().sum::<u32>());
    counts.values().map(|count| f64::from(*count) / all).map(|share| -share * share.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_in_the_shape_of_a_uuid_are_told_from_uuids() {
        let uuid =
            |version: char, variant: char| format!("0123abcd-0000-{version}000-{variant}000-0123456789ab");
        let form = |keys: &[String]| Form::of(&keys.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(form(&[uuid('4', '8'), uuid('4', 'b')]), Form::Uuid('4'));
        assert_eq!(form(&[uuid('7', 'a')]), Form::Uuid('7'));
        assert_eq!(form(&[uuid('4', '8'), uuid('4', '7'), uuid('c', '9')]), Form::FalseUuid(2));
        assert_eq!(form(&["key-1".to_owned()]), Form::Other);
    }

    #[test]
    fn prefix_is_set_apart() {
        let keys = ["stripe-node-retry-a1b2".to_owned(), "stripe-node-retry-ffff".to_owned()];
        assert_eq!(without_prefix(&keys), ("stripe-node-retry-", vec!["a1b2", "ffff"]));
        let one = ["abc".to_owned(), "abd".to_owned()];
        assert_eq!(without_prefix(&one), ("", vec!["abc", "abd"]));
    }

    #[test]
    fn counter_has_few_bits() {
        let keys: Vec<String> = (1..=64).map(|number| format!("{number:036}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        assert!(bits_that_change(&keys) < 7.0);
    }
}
