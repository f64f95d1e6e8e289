//! `semel store check`: the tier of a store, for people and for scripts.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use semel::Store;
use semel::store::Tier;
use serde_json::{Value, json};

use crate::check;
use crate::exit::Failure;
use crate::store_url::StoreUrl;

const BOLD: Style = Style::new().bold();
const WARNING: Style = AnsiColor::Yellow.on_default();

pub(super) fn print(url: &StoreUrl, store: &dyn Store, json: bool) -> Result<(), Failure> {
    let (capabilities, tier) = (store.capabilities(), store.tier());
    let durability = capabilities.durability;
    let mut out = anstream::stdout().lock();
    if json {
        let document = json!({
            "store": url.to_string(),
            "name": capabilities.name,
            "server": tier.server,
            "durability": durability.as_str(),
            "survives": survives(&tier),
            "shared": capabilities.shared,
            "warnings": tier.warnings,
        });
        return Ok(writeln!(out, "{document:#}")?);
    }
    writeln!(out, "{BOLD}{:12}{BOLD:#}{url}", "store")?;
    if let Some(server) = &tier.server {
        writeln!(out, "{BOLD}{:12}{BOLD:#}{server}", "server")?;
    }
    writeln!(out, "{BOLD}{:12}{BOLD:#}{}: {}", "durability", durability.as_str(), check::kept(durability))?;
    writeln!(out, "\n{BOLD}does an acknowledged write survive?{BOLD:#}")?;
    for (fault, survives) in tier.faults() {
        writeln!(out, "  {fault:24}{survives}")?;
    }
    for warning in &tier.warnings {
        writeln!(out, "{WARNING}! {warning}{WARNING:#}")?;
    }
    Ok(())
}

/// Each fault by its name, with `_` for spaces.
fn survives(tier: &Tier) -> Value {
    let faults =
        tier.faults().map(|(fault, survives)| (fault.replace(' ', "_"), survives.to_string().into()));
    Value::Object(faults.into_iter().collect())
}
