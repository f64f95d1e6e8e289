//! What a run counted: printed, and a line for each in the file that `SEMEL_FIGURES` names, for whoever started it.
//!
//! Next: `xtask/src/torture.rs`, which adds up what the tests of one harness say.

use std::fs::File;
use std::io::Write as _;

/// Tells figures of one run, once what it demands was held to: a 0 was asserted. Those of the same name are added up over
/// the runs of a harness.
///
/// # Panics
/// When the file cannot be written.
pub fn tell(figures: &[(&str, usize)]) {
    let said: Vec<String> = figures.iter().map(|(name, number)| format!("{number} {name}")).collect();
    println!("figures: {}", said.join(", "));
    let Some(path) = std::env::var_os("SEMEL_FIGURES") else { return };
    let lines: String = said.iter().map(|line| format!("{line}\n")).collect();
    let told = File::options().append(true).create(true).open(&path);
    // One write, so that the lines of tests that run side by side do not mix.
    let told = told.and_then(|mut file| file.write_all(lines.as_bytes()));
    told.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Says how far a long run is, at each tenth of it.
pub fn progress(what: &str, done: usize, of: usize) {
    if done > 0 && done.is_multiple_of((of / 10).max(1)) {
        println!("{what}: {done} of {of}");
    }
}
