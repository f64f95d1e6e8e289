//! What reads a caller's bytes first, given bytes nobody sends: keys, the header they come in, JSON that is digested.
//!
//! Each target compares what was read with a second reading, and says in a word what it made of the input. The inputs of
//! `tests/fuzz.rs` are made from a seed, those of `fuzz/guided.rs` by libFuzzer.

#![allow(clippy::unwrap_used, reason = "a target fails by panicking")]

use std::cell::RefCell;
use std::collections::HashMap;

use semel::Key;
use semel::digest::Digest;
use semel::fingerprint::{PayloadParts, payload};
use semel::key::{KEY_MAX_CHARS, KeyError};

pub(crate) const KEYS: &str = include_str!("key.txt");
pub(crate) const HEADERS: &str = include_str!("header.txt");
pub(crate) const FINGERPRINTS: &str = include_str!("fingerprint.txt");

/// Digests that are remembered, so that the millionth input needs no more memory than the thousandth.
const SEEN_MAX: usize = 20_000;

thread_local! {
    /// What each digest was first made of.
    static SEEN: RefCell<HashMap<Digest, Vec<u8>>> = RefCell::default();
}

fn is_key(text: &[u8]) -> bool {
    (1..=KEY_MAX_CHARS).contains(&text.len()) && text.iter().all(|byte| (0x20..=0x7e).contains(byte))
}

fn kind(read: &Result<Key, KeyError>) -> String {
    match read {
        Ok(_) => "a key".to_owned(),
        Err(error) => format!("{error:?}").split(' ').next().unwrap_or_default().to_owned(),
    }
}

/// A structured field's string, by its grammar: what is between the quotes, unescaped, and what follows.
fn quoted(value: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let (mut text, mut at) = (Vec::new(), 1);
    loop {
        match value.get(at)? {
            b'"' => return Some((text, &value[at + 1..])),
            b'\\' => {
                at += 1;
                text.push(*value.get(at).filter(|byte| matches!(byte, b'"' | b'\\'))?);
            }
            byte => text.push(*byte),
        }
        at += 1;
    }
}

/// Any text is a key or is not, and a key is kept as it is.
pub(crate) fn key(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return "no text".to_owned() };
    let read = Key::new(text);
    assert_eq!(read.is_ok(), is_key(input), "{read:?}");
    if let Ok(key) = &read {
        assert_eq!(key.as_str(), text);
    }
    kind(&read)
}

/// Any header names the key that its grammar says, or none.
pub(crate) fn header(input: &[u8]) -> String {
    let (read, value) = (Key::from_header(input), input.trim_ascii());
    let Ok(key) = &read else {
        assert!(value.first() == Some(&b'"') || !is_key(value), "{read:?}");
        if let (true, Some((text, b""))) = (value.starts_with(b"\""), quoted(value)) {
            assert!(!is_key(&text), "{read:?}");
        }
        return kind(&read);
    };
    if value.first() != Some(&b'"') {
        assert_eq!(key.as_str().as_bytes(), value);
        return "raw".to_owned();
    }
    let (text, rest) = quoted(value).expect("what was read is a quoted string");
    assert_eq!(key.as_str().as_bytes(), text);
    assert!(rest.is_empty() || rest.starts_with(b";"), "something follows the string that is no parameter");
    let again = format!("\"{}\"", key.as_str().replace('\\', "\\\\").replace('"', "\\\""));
    assert_eq!(Key::from_header(again.as_bytes()).unwrap(), *key);
    if rest.is_empty() { "quoted" } else { "quoted, with parameters" }.to_owned()
}

/// The same value written in another way: members in the other order, white space, every character escaped.
fn rewritten(value: &serde_json::Value, into: &mut String) {
    use serde_json::Value::{Array, Object, String as Text};
    let string = |text: &str, into: &mut String| {
        into.push('"');
        text.encode_utf16().for_each(|unit| *into += &format!("\\u{unit:04X}"));
        into.push('"');
    };
    match value {
        Object(members) => {
            *into += "{ ";
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by(|one, two| two.0.cmp(one.0));
            for (at, (name, member)) in members.into_iter().enumerate() {
                *into += if at == 0 { "\n" } else { " ,\t" };
                string(name, into);
                *into += " : ";
                rewritten(member, into);
            }
            *into += " }";
        }
        Array(items) => {
            *into += "[\r\n";
            for (at, item) in items.iter().enumerate() {
                *into += if at == 0 { "" } else { " , " };
                rewritten(item, into);
            }
            *into += "]";
        }
        Text(text) => string(text, into),
        plain => *into += &plain.to_string(),
    }
}

/// A digest is that of one JSON value, however it is written.
pub(crate) fn fingerprint(input: &[u8]) -> String {
    let some = PayloadParts::Pointers(vec!["/a".into(), "/a~1b/0".into(), String::new()]);
    let digest = payload(input, &PayloadParts::Json);
    let raw = digest == payload(input, &PayloadParts::Raw);
    let parts_raw = payload(input, &some) == payload(input, &PayloadParts::Raw);
    assert_eq!(raw, parts_raw, "one way of reading it takes it for JSON, the other does not");
    let meant = if raw {
        [b"bytes ", input].concat()
    } else {
        let value: serde_json::Value = serde_json::from_slice(input).expect("what was read strictly is JSON");
        let mut otherwise = String::new();
        rewritten(&value, &mut otherwise);
        assert_eq!(payload(otherwise.as_bytes(), &PayloadParts::Json), digest, "written as {otherwise}");
        otherwise.into_bytes()
    };
    SEEN.with_borrow_mut(|seen| {
        if seen.len() == SEEN_MAX {
            seen.clear();
        }
        let first = seen.entry(digest).or_insert_with(|| meant.clone());
        assert_eq!(
            first.escape_ascii().to_string(),
            meant.escape_ascii().to_string(),
            "two bodies, one digest"
        );
    });
    if raw {
        "bytes".to_owned()
    } else {
        meant.iter().map(|byte| byte & 0x60).take(6).map(char::from).collect()
    }
}
