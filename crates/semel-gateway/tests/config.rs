//! The configuration file: what is read, and what is refused where.

use semel_gateway::Config;

fn refused(text: &str) -> String {
    match Config::from_toml(text, "semel.toml") {
        Ok(_) => panic!("not refused: {text}"),
        Err(refused) => refused.to_string(),
    }
}

#[test]
fn an_unknown_field_is_refused_with_line_and_column() {
    let said = refused("upstream = \"http://127.0.0.1:3000\"\nupstraem = 1\n");
    assert!(said.starts_with("semel.toml:2:1: unknown field `upstraem`"), "{said}");
    let said = refused("[defaults]\nretantion = \"1h\"\n");
    assert!(said.starts_with("semel.toml:2:1: unknown field `retantion`"), "{said}");
    let said = refused("[[routes]]\npath = \"/a\"\ntenant = [{ heder = \"x\" }]\n");
    assert!(said.starts_with("semel.toml:3:"), "{said}");
}

#[test]
fn values_that_cannot_be_read_say_what_was_expected() {
    for (text, place, expected) in [
        ("upstream = \"127.0.0.1:3000\"", "semel.toml:1:12", "not an upstream"),
        ("admin = \"maybe\"", "semel.toml:1:9", "write \"127.0.0.1:8788\" or \"off\""),
        ("profile = \"square\"", "semel.toml:1:11", "ietf, stripe, audit-log, control-plane, form"),
        ("[defaults]\nretention = \"forever\"", "semel.toml:2:13", "write \"500ms\", \"10s\" or \"24h\""),
        ("[defaults]\nmethods = [\"post\"]", "semel.toml:2:11", "not a method"),
        ("[defaults]\nmissing = \"maybe\"", "semel.toml:2:11", "unknown variant"),
        ("[defaults]\npayload = [\"cents\"]", "semel.toml:2:11", "starts with `/`"),
        ("[defaults]\ntenant = \"everyone\"", "semel.toml:2:10", "\"shared\""),
        ("[defaults]\nreleased = [42]", "semel.toml:2:12", "not an HTTP status"),
        ("listen = ", "semel.toml:1:", ""),
    ] {
        let said = refused(text);
        assert!(said.starts_with(place) && said.contains(expected), "{text:?} gave {said:?}");
    }
}

#[test]
fn every_setting_that_cannot_work_is_listed() {
    let said = refused(
        "[defaults]\nretention = \"0s\"\nlease = \"10ms\"\n[[routes]]\npath = \"/a\"\non_doubt = \"probe\"\n\
         response_max_bytes = 99999999999\n[[routes]]\nmethods = [\"POST\"]\n",
    );
    let places: Vec<&str> = said.lines().filter_map(|line| line.split(": ").next()).collect();
    assert_eq!(
        places,
        ["semel.toml:2:13", "semel.toml:3:9", "semel.toml:7:22", "semel.toml:6:12", "semel.toml:9:11"],
        "{said}"
    );
}

#[test]
fn a_tenant_part_names_one_source_and_a_claim_needs_its_keys() {
    for tenant in [
        "[{}]",
        "[{ header = \"a\", authorization = true }]",
        "[{ claim = \"sub\" }]",
        "[{ key_prefix = \"a\" }]",
    ] {
        let said = refused(&format!("[defaults]\ntenant = {tenant}\n"));
        assert!(said.starts_with("semel.toml:2:10: "), "{tenant} gave {said}");
    }
}

#[test]
fn routes_lie_over_defaults_and_defaults_over_the_profile() {
    let config = Config::from_toml(
        "profile = \"stripe\"\n[defaults]\nretention = \"1h\"\n[[routes]]\npath = \"/pay/*\"\nmissing = \"require\"\n\
         [[routes]]\npath = \"/open\"\nmethods = []\n[[routes]]\npath = \"/audit\"\nprofile = \"audit-log\"\n",
        "semel.toml",
    )
    .expect("it is a good configuration");
    let promises = config.promises().expect("it is a good configuration");
    let of = |path: &str| {
        promises.iter().find(|promise| promise.path == path).expect("it is a good configuration")
    };
    assert_eq!((of("/pay/*").profile.as_str(), of("*").profile.as_str()), ("stripe", "stripe"));
    assert!(of("/pay/*").promises.iter().any(|text| text.contains("1h")));
    assert!(of("/pay/*").promises.iter().any(|text| text.contains("refused with 400")));
    assert!(of("*").warnings.iter().any(|text| text.contains("pass unprotected")));
    assert_eq!(of("/open").mode, "not covered");
    assert_eq!(of("/audit").profile, "audit-log");
    assert!(of("/audit").promises.iter().any(|text| text.contains("1h")));
}

#[test]
fn a_policy_that_can_double_an_effect_says_so() {
    let config = Config::from_toml(
        "[defaults]\non_doubt = \"retry\"\non_5xx = \"release\"\non_store_down = \"run\"\n",
        "semel.toml",
    )
    .expect("it is a good configuration");
    let promise = &config.promises().expect("it is there")[0];
    assert_eq!(promise.mode, "at least once");
    assert_eq!(promise.warnings.iter().filter(|text| text.contains("TWO EFFECTS")).count(), 2);
    assert!(promise.warnings.iter().any(|text| text.contains("UNPROTECTED")));
}
