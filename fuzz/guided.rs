//! The targets of `crates/*/fuzz/targets.rs` for libFuzzer, which keeps an input when it reaches what none before it did.
//!
//! Not a list of its own: the tests of the crates give the same targets inputs made from a seed. `SEMEL_FUZZ_TARGET`
//! names the one. Next: `xtask/src/fuzz.rs`, which runs all.

#![no_main]

use std::sync::LazyLock;
use std::{env, fs};

use libfuzzer_sys::fuzz_target;
use semel_store_embedded::fuzz as embedded;
use semel_store_redis::fuzz as redis;
use semel_testkit::fuzz::inputs_of;

#[path = "../crates/semel-client/fuzz/targets.rs"]
mod client;
#[path = "../crates/semel-gateway/fuzz/targets.rs"]
mod gateway;
#[path = "../crates/semel/fuzz/targets.rs"]
mod heart;

struct Target {
    name: String,
    corpus: &'static str,
    /// Inputs that no corpus has, because the code writes them.
    made: Vec<Vec<u8>>,
    run: fn(&[u8]) -> String,
}

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = env::var("SEMEL_FUZZ_TARGET").expect("SEMEL_FUZZ_TARGET names a target");
    type Chosen = (&'static str, Vec<Vec<u8>>, fn(&[u8]) -> String);
    let (corpus, made, run): Chosen = match name.as_str() {
        "key" => (heart::KEYS, vec![], heart::key),
        "header" => (heart::HEADERS, vec![], heart::header),
        "fingerprint" => (heart::FINGERPRINTS, vec![], heart::fingerprint),
        "retry_after" => (client::RETRY_AFTERS, vec![], client::retry_after),
        "config" => (gateway::CONFIGS, vec![], gateway::config),
        "record" => (redis::RECORDS, redis::records(), redis::record),
        "entry" => (embedded::ENTRIES, embedded::made_entries(), embedded::entry),
        "log" => (embedded::LOGS, embedded::made_logs(), embedded::log),
        _ => panic!("SEMEL_FUZZ_TARGET={name}: there is no such target"),
    };
    Target { name, corpus, made, run }
});

/// What libFuzzer begins with: the corpus and what the code makes, as files, which is what it reads.
fn lay_out() {
    let folder = format!("{}/corpus/{}", env!("CARGO_MANIFEST_DIR"), TARGET.name);
    fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{folder}: {error}"));
    for (number, input) in inputs_of(TARGET.corpus).iter().chain(&TARGET.made).enumerate() {
        let file = format!("{folder}/{number}");
        fs::write(&file, input).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

fuzz_target!(init: lay_out(), |input: &[u8]| {
    (TARGET.run)(input);
});
