//! Configuration files that nobody would write.
//!
//! Next: `fuzz/targets.rs`.

use semel_testkit::fuzz;

#[path = "../fuzz/targets.rs"]
mod targets;

#[test]
fn any_text_is_a_configuration_with_promises_or_refused_with_a_place_in_it() {
    fuzz::run("semel.toml", targets::CONFIGS, &[], targets::config);
}
