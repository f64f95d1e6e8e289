//! What reads a caller's bytes first, given bytes nobody sends.
//!
//! Next: `fuzz/targets.rs`.

use semel_testkit::fuzz;

#[path = "../fuzz/targets.rs"]
mod targets;

#[test]
fn any_text_is_a_key_or_is_not_and_a_key_is_kept_as_it_is() {
    fuzz::run("key", targets::KEYS, &[], targets::key);
}

#[test]
fn any_header_names_the_key_that_its_grammar_says_or_none() {
    fuzz::run("header", targets::HEADERS, &[], targets::header);
}

#[test]
fn a_digest_is_that_of_one_json_value_however_it_is_written() {
    fuzz::run("fingerprint", targets::FINGERPRINTS, &[], targets::fingerprint);
}
