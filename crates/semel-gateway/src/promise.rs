//! What a configuration promises, in words: the text behind `semel check`.

use semel::policy::{OnDoubt, OnMismatch};
use semel_tower::Route;
use semel_tower::route::{Missing, On5xx, OnStoreDown};
use semel_tower::tenant::TenantRule;
use serde::Serialize;

use crate::config::Config;
use crate::hooks::Parts;

/// What one route promises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Promise {
    /// The path, or `*` for whatever no other route matches.
    pub path: String,
    /// The covered methods.
    pub methods: Vec<String>,
    /// The profile it started from.
    pub profile: String,
    /// How often the effect can happen: `at most once`, `at least once`, `once if the upstream answers the probe`.
    pub mode: String,
    /// What is promised, a sentence each.
    pub promises: Vec<String>,
    /// Where a reader could be hurt, a sentence each.
    pub warnings: Vec<String>,
}

impl Config {
    /// What each route promises, the listed ones first.
    ///
    /// # Errors
    /// When the files that the configuration names cannot be read.
    pub fn promises(&self) -> std::io::Result<Vec<Promise>> {
        let mut parts = Parts::new(crate::proxy::hook_client(self)?);
        Ok(self.routes(&mut parts).iter().map(|(path, route)| promise(path, route)).collect())
    }
}

fn promise(path: &str, route: &Route) -> Promise {
    let policy = &route.policy;
    let mut promises = Vec::new();
    let mut warnings = Vec::new();
    let keep = humantime::format_duration(policy.retention);
    promises.push(format!("an outcome is kept for {keep} and replayed to whoever brings the key again"));
    let mode = match policy.on_doubt {
        OnDoubt::Hold => {
            let doubt = humantime::format_duration(policy.doubt_retention);
            promises.push(format!(
                "when nobody knows whether the effect happened, the key answers 409 until it is resolved, or for {doubt}"
            ));
            "at most once"
        }
        OnDoubt::Retry => {
            warnings.push(
                "on_doubt = \"retry\": a record in doubt is run again; unless the upstream honours the key or checks \
                 the token, TWO EFFECTS are possible"
                    .to_owned(),
            );
            "at least once"
        }
        OnDoubt::Probe => {
            promises.push("a record in doubt is asked about at probe_url before it runs again".to_owned());
            "once if the upstream answers the probe"
        }
    };
    match route.missing {
        Missing::Pass => warnings.push("requests without a key pass unprotected".to_owned()),
        Missing::Require => promises.push("requests without a key are refused with 400".to_owned()),
        Missing::Generate => {
            warnings.push(
                "requests without a key get one: a client that does not read it cannot retry".to_owned(),
            );
        }
        Missing::Derive => promises.push(format!(
            "the same request without a key within {} takes effect once",
            humantime::format_duration(route.derive_window)
        )),
    }
    match policy.on_mismatch {
        OnMismatch::Reject => promises.push("a key with another payload is refused".to_owned()),
        OnMismatch::Replay => {
            warnings.push(
                "a key with another payload gets the first outcome, and its payload is ignored".to_owned(),
            );
        }
        OnMismatch::Distinct => promises.push("a key with another payload is another record".to_owned()),
    }
    if route.on_5xx == On5xx::Release {
        warnings.push(
            "on_5xx = \"release\": after a 5xx the key runs again; an upstream that fails after it acted gives TWO \
             EFFECTS"
                .to_owned(),
        );
    }
    if route.on_store_down == OnStoreDown::Run {
        warnings
            .push("on_store_down = \"run\": while the store is down, requests run UNPROTECTED".to_owned());
    }
    match &route.tenant {
        TenantRule::Credential => warnings.push(
            "no tenant is configured: callers are told apart by a digest of their credential, and one that rotates \
             its credential between a request and its retry runs twice"
                .to_owned(),
        ),
        TenantRule::Shared => warnings.push("tenant = \"shared\": all callers share their keys".to_owned()),
        TenantRule::Parts(_) => {}
    }
    Promise {
        path: path.to_owned(),
        methods: route.methods.iter().map(ToString::to_string).collect(),
        profile: route.profile.name.to_owned(),
        mode: if route.methods.is_empty() { "not covered" } else { mode }.to_owned(),
        promises: if route.methods.is_empty() { Vec::new() } else { promises },
        warnings: if route.methods.is_empty() { Vec::new() } else { warnings },
    }
}
