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
    let mut said = Promise {
        path: path.to_owned(),
        methods: route.methods.iter().map(ToString::to_string).collect(),
        profile: route.profile.name.to_owned(),
        mode: "not covered".to_owned(),
        promises: Vec::new(),
        warnings: Vec::new(),
    };
    if !route.methods.is_empty() {
        let keep = humantime::format_duration(route.policy.retention);
        said.promise(format!("an outcome is kept for {keep} and replayed to whoever brings the key again"));
        said.say_mode(route);
        said.say_missing(route);
        said.say_mismatch(route);
        said.say_answers(route);
        said.say_tenant(route);
    }
    said
}

impl Promise {
    fn promise(&mut self, text: impl Into<String>) {
        self.promises.push(text.into());
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    fn say_mode(&mut self, route: &Route) {
        let mode = match route.policy.on_doubt {
            OnDoubt::Hold => {
                let doubt = humantime::format_duration(route.policy.doubt_retention);
                self.promise(format!(
                    "when nobody knows whether the effect happened, the key answers 409 until it is resolved, or \
                     for {doubt}"
                ));
                "at most once"
            }
            OnDoubt::Retry => {
                self.warn(
                    "on_doubt = \"retry\": a record in doubt is run again; unless the upstream honours the key or \
                     checks the token, TWO EFFECTS are possible",
                );
                "at least once"
            }
            OnDoubt::Probe => {
                self.promise("a record in doubt is asked about at probe_url before it runs again");
                "once if the upstream answers the probe"
            }
        };
        let mode = if route.on_5xx == On5xx::Release { "at least once" } else { mode };
        mode.clone_into(&mut self.mode);
    }

    fn say_missing(&mut self, route: &Route) {
        match route.missing {
            Missing::Pass => self.warn("requests without a key pass unprotected"),
            Missing::Require => self.promise("requests without a key are refused with 400"),
            Missing::Generate => {
                self.warn("requests without a key get one: a client that does not read it cannot retry");
            }
            Missing::Derive => {
                let window = humantime::format_duration(route.derive_window);
                self.promise(format!("the same request without a key within {window} takes effect once"));
            }
        }
    }

    fn say_mismatch(&mut self, route: &Route) {
        match route.policy.on_mismatch {
            OnMismatch::Reject => self.promise("a key with another payload is refused"),
            OnMismatch::Replay => {
                self.warn("a key with another payload gets the first outcome, and its payload is ignored");
            }
            OnMismatch::Distinct => self.promise("a key with another payload is another record"),
        }
    }

    fn say_answers(&mut self, route: &Route) {
        if route.on_5xx == On5xx::Release {
            self.warn(
                "on_5xx = \"release\": after a 5xx the key runs again; an upstream that fails after it acted gives \
                 TWO EFFECTS",
            );
        }
        let failures =
            route.released.iter().filter(|status| status.is_server_error() && status.as_u16() != 503);
        for status in failures {
            let code = status.as_u16();
            self.warn(format!(
                "released has {code}: after it the key runs again; an upstream that acted before it gives TWO EFFECTS"
            ));
        }
        if route.on_store_down == OnStoreDown::Run {
            self.warn("on_store_down = \"run\": while the store is down, requests run UNPROTECTED");
        }
    }

    fn say_tenant(&mut self, route: &Route) {
        match &route.tenant {
            TenantRule::Credential => self.warn(
                "no tenant is configured: callers are told apart by a digest of their credential, and one that \
                 rotates its credential between a request and its retry runs twice",
            ),
            TenantRule::Shared => self.warn("tenant = \"shared\": all callers share their keys"),
            TenantRule::Parts(_) => {}
        }
    }
}
