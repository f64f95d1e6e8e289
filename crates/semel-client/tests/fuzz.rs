//! `Retry-After` as hosts should not send it.
//!
//! Next: `fuzz/targets.rs`.

use semel_testkit::fuzz;

#[path = "../fuzz/targets.rs"]
mod targets;

#[test]
fn what_a_host_says_is_never_waited_for_too_short_and_nonsense_is_nothing() {
    fuzz::run("Retry-After", targets::RETRY_AFTERS, &[], targets::retry_after);
}
