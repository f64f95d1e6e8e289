//! Configuration files that nobody would write.
//!
//! The inputs of `tests/fuzz.rs` are made from a seed, those of `fuzz/guided.rs` by libFuzzer.

use semel_gateway::Config;

pub(crate) const CONFIGS: &str = include_str!("config.txt");

/// Any text is a configuration with promises, or refused with a place in it.
pub(crate) fn config(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return "no text".to_owned() };
    match Config::from_toml(text, "semel.toml") {
        Ok(config) => match config.promises() {
            Ok(promises) => {
                assert!(!promises.is_empty(), "every configuration has a route for what no other covers");
                format!("{} routes", promises.len())
            }
            Err(refused) => refused.to_string(),
        },
        Err(refused) => {
            assert!(!refused.refusals().is_empty());
            for refusal in refused.refusals() {
                let mut parts = refusal.splitn(4, ':');
                let mut next = || parts.next().unwrap_or_default().to_owned();
                let (file, line, column, what) = (next(), next(), next(), next());
                assert_eq!(file, "semel.toml", "{refusal}");
                let lines = text.split('\n').count();
                assert!((1..=lines).contains(&line.parse().unwrap_or(0)), "{refusal}");
                assert!(column.parse::<usize>().is_ok_and(|column| column >= 1), "{refusal}");
                assert!(what.len() > 1, "{refusal}");
            }
            refused.refusals()[0].splitn(4, ':').last().unwrap_or_default().to_owned()
        }
    }
}
