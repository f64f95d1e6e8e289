//! The calls that are measured, by name.

use std::hint::black_box;

use semel::fingerprint::{PayloadParts, payload, target};
use semel::{Engine, Key, store::memory::MemoryStore};

use crate::{layer, once};

/// One call, each time it is called.
pub type Call = Box<dyn FnMut()>;

/// A name, and what makes the call ready.
pub type Case = (&'static str, fn() -> Call);

/// All of them.
pub const ALL: [Case; 13] = [
    ("key", || {
        Box::new(|| drop(black_box(Key::from_header(black_box(b"7f3a52c9-6b1e-4d60-9a52-0123456789ab")))))
    }),
    ("key, quoted", || {
        Box::new(|| drop(black_box(Key::from_header(black_box(b"\"7f3a52c9-6b1e-4d60-9a52-0123456789ab\"")))))
    }),
    ("fingerprint", || fingerprint(vec![b'x'; 200], PayloadParts::Raw)),
    ("fingerprint, 64 KiB", || fingerprint(vec![b'x'; 64 * 1024], PayloadParts::Raw)),
    ("fingerprint, JSON", || fingerprint(ORDER.into(), PayloadParts::Json)),
    ("engine once, fresh", once::fresh),
    ("engine once, replay", once::replay),
    ("axum handler alone", || layer::call(None, layer::Keys::Fresh, 200)),
    ("axum handler and layer, no key", || layer::call(Some(engine), layer::Keys::None, 200)),
    ("axum handler and layer, fresh", || layer::call(Some(engine), layer::Keys::Fresh, 200)),
    ("axum handler and layer, replay", || layer::call(Some(engine), layer::Keys::Same, 200)),
    ("axum handler alone, 64 KiB", || layer::call(None, layer::Keys::Fresh, 64 * 1024)),
    ("axum handler and layer, fresh, 64 KiB", || layer::call(Some(engine), layer::Keys::Fresh, 64 * 1024)),
];

/// A new engine takes the place of one that holds so many records, so that a long measurement is not one of a full memory.
pub(crate) const RECORDS: u64 = 4096;

pub(crate) fn engine() -> Engine {
    Engine::new(MemoryStore::new())
}

/// Key number `number`.
pub(crate) fn key(number: u64) -> String {
    format!("7f3a52c9-6b1e-4d60-9a52-{number:012x}")
}

const ORDER: &str = concat!(
    r#"{"amount":4000,"currency":"eur","customer":"cus_0123456789abcdef","description":"#,
    r#""one hundred and fifty bytes of a description, as an order has it, with the names of things that "#,
    r#"somebody buys","n":12}"#
);

fn fingerprint(body: Vec<u8>, parts: PayloadParts) -> Call {
    Box::new(move || {
        black_box(target(black_box("POST"), black_box("/charges"), None));
        black_box(payload(black_box(&body), &parts));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_can_be_called_again_and_again() {
        for (_, make) in ALL {
            let mut call = make();
            (0..3).for_each(|_| call());
        }
    }

    #[test]
    fn names_are_told_apart() {
        let names: std::collections::HashSet<_> = ALL.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
