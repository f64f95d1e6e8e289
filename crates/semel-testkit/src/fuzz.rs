//! Inputs for what reads bytes from outside: a corpus, and as many more made from it by a seed.
//!
//! A target is given one input after the other, fails by panicking, and says in a word what it made of each; an input
//! whose word is new is changed further. That is all it is guided by: `fuzz/guided.rs` gives the same targets to libFuzzer,
//! which measures coverage. A corpus is a text with an input a line, escaped as [`slice::escape_ascii`] does.
//!
//! `SEMEL_FUZZ_INPUTS` says how many inputs are made, `SEMEL_SEED` from what number.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::figures;
use crate::seeded::{Seeded, number};

const INPUTS: u64 = 5_000;
const INPUT_BYTES_MAX: usize = 4_096;
/// Inputs with a new word that are kept; texts with places in them have new words for ever.
const KEPT_MAX: usize = 2_000;

/// What parsers stumble over.
const PIECES: [&[u8]; 22] = [
    b"",
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\"",
    b"\\",
    b";",
    b",",
    b"=",
    b" ",
    b"\t",
    b"\r\n",
    b"\n",
    b"{",
    b"[",
    b"0",
    b"-1",
    b"18446744073709551616",
    b"1e309",
    b"\xc3\xa9",
    b".",
];

/// The inputs of a corpus.
///
/// # Panics
/// When a line is not escaped.
#[must_use]
pub fn inputs_of(corpus: &str) -> Vec<Vec<u8>> {
    corpus.lines().filter(|line| !line.starts_with('#')).map(unescape).collect()
}

/// Gives `target` every input of `corpus` and of `more`, and then others made from them. Returns how many there were.
///
/// # Panics
/// When the target does; what is printed before names the input.
pub fn run(name: &str, corpus: &str, more: &[Vec<u8>], target: impl Fn(&[u8]) -> String) -> u64 {
    let seed = number("SEMEL_SEED", 1);
    let inputs = number("SEMEL_FUZZ_INPUTS", INPUTS);
    let mut pool = inputs_of(corpus);
    pool.extend_from_slice(more);
    assert!(!pool.is_empty(), "{name} has no corpus");
    let mut words = HashSet::new();
    let one =
        |input: &[u8], words: &mut HashSet<String>| match catch_unwind(AssertUnwindSafe(|| target(input))) {
            Ok(word) => words.insert(word),
            Err(panic) => {
                eprintln!("fuzz {name}, SEMEL_SEED={seed}: the input is\n{}", input.escape_ascii());
                resume_unwind(panic);
            }
        };
    for input in &pool {
        one(input, &mut words);
    }
    let mut random = Seeded::new(seed);
    for _ in 0..inputs {
        let input = made(&mut random, &pool);
        if one(&input, &mut words) && pool.len() < KEPT_MAX {
            pool.push(input);
        }
    }
    let all = inputs + u64::try_from(pool.len()).unwrap_or(0);
    println!(
        "fuzz {name}: {inputs} inputs of seed {seed}, {} kinds of ends, {} kept",
        words.len(),
        pool.len()
    );
    figures::tell(&[("targets", 1), ("inputs", usize::try_from(all).unwrap_or(usize::MAX))]);
    all
}

fn made(random: &mut Seeded, pool: &[Vec<u8>]) -> Vec<u8> {
    let mut input = random.of(pool).clone();
    for _ in 0..=random.below(4) {
        change(random, &mut input, pool);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn change(random: &mut Seeded, input: &mut Vec<u8>, pool: &[Vec<u8>]) {
    let from = random.below(input.len() + 1);
    let to = from + random.below((input.len() - from).min(32) + 1);
    match random.below(9) {
        0 if from < input.len() => input[from] ^= 1 << random.below(8),
        1 if from < input.len() => input[from] = random.byte(),
        2 => input.insert(from, random.byte()),
        3 => drop(input.drain(from..to)),
        4 => {
            let twice = input[from..to].to_vec();
            let times = 1 + random.below(40);
            input.splice(from..from, twice.repeat(times));
        }
        5 => {
            let other = random.of(pool);
            let start = random.below(other.len() + 1);
            input.splice(from..to, other[start..].iter().copied());
        }
        6 => input.truncate(from),
        7 => {
            input.splice(from..to, (0..random.below(16)).map(|_| random.byte()).collect::<Vec<_>>());
        }
        _ => {
            input.splice(from..to, random.of(&PIECES).iter().copied());
        }
    }
}

/// What [`slice::escape_ascii`] made of bytes.
///
/// # Panics
/// When it did not make this.
#[must_use]
pub fn unescape(line: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), line.bytes());
    while let Some(byte) = rest.next() {
        let escaped = if byte == b'\\' { rest.next() } else { None };
        bytes.push(match escaped {
            None => byte,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'x') => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).unwrap_or_else(|error| panic!("{line}: {digits}: {error}"))
            }
            Some(itself) => itself,
        });
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_is_the_same_afterwards() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unescape(&all.escape_ascii().to_string()), all);
    }

    #[test]
    fn a_fault_behind_two_words_is_found() {
        let found = catch_unwind(|| {
            run("planted", "ab", &[], |input| {
                assert!(!input.starts_with(b"\"\\"), "planted");
                input.first().map_or(String::new(), |first| (*first == b'"').to_string())
            })
        });
        assert!(found.is_err());
    }
}
