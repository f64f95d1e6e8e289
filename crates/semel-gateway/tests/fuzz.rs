//! Configuration files that nobody would write.

use semel_gateway::Config;
use semel_testkit::fuzz;

#[test]
fn any_text_is_a_configuration_with_promises_or_refused_with_a_place_in_it() {
    fuzz::run("semel.toml", include_str!("../fuzz/config.txt"), &[], |input| {
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
    });
}
