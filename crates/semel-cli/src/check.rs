//! `semel check`: reads a configuration as the gateway would, starts nothing, and says aloud what each route promises.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use clap::Args;
use semel::store::Durability;
use semel_gateway::Promise;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::gateway::Settings;
use crate::store_url::StoreUrl;

const BOLD: Style = Style::new().bold();
const WARNING: Style = AnsiColor::Yellow.on_default();

/// Say what a configuration promises, without starting anything
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  semel check --config semel.toml\n  \
    semel check --upstream http://127.0.0.1:3000 --json")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    settings: Settings,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What a configuration promises as a whole.
#[derive(Serialize)]
struct Report {
    upstream: String,
    listen: String,
    store: String,
    durability: &'static str,
    kept: &'static str,
    routes: Vec<Promise>,
}

/// Prints the report.
pub(crate) fn run(args: CheckArgs) -> Result<(), Failure> {
    let (config, url) = args.settings.read()?;
    let routes = config.promises().map_err(|error| Failure::caused(Exit::Usage, &error))?;
    let (durability, kept) = match url {
        StoreUrl::Memory => (Durability::None.as_str(), kept(Durability::None)),
        StoreUrl::Embedded(_) => {
            let durability = Durability::from(config.durability).max(Durability::Process);
            (durability.as_str(), kept(durability))
        }
        StoreUrl::Postgres(_) | StoreUrl::Redis(_) => ("the server's", SERVER_KEEPS),
    };
    let report = Report {
        upstream: config.upstream.as_ref().map(ToString::to_string).unwrap_or_default(),
        listen: config.listen.to_string(),
        store: url.to_string(),
        durability,
        kept,
        routes,
    };
    if args.json {
        let mut stdout = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut stdout, &report).map_err(std::io::Error::from)?;
        return Ok(writeln!(stdout)?);
    }
    print(&report)
}

const SERVER_KEEPS: &str = "what an acknowledged outcome survives is set at the server; the gateway reads it and says it when it starts";

/// What becomes of records when the gateway ends.
pub(crate) fn kept(durability: Durability) -> &'static str {
    match durability {
        Durability::None => "ALL RECORDS ARE FORGOTTEN when the gateway ends; retries then run again",
        Durability::Process => "an acknowledged outcome survives kill -9, NOT a power cut",
        Durability::Power => "an acknowledged outcome survives kill -9 and a power cut",
    }
}

fn print(report: &Report) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{BOLD}{:12}{BOLD:#}{}", "upstream", report.upstream)?;
    writeln!(out, "{BOLD}{:12}{BOLD:#}{}", "listen", report.listen)?;
    writeln!(out, "{BOLD}{:12}{BOLD:#}{}", "store", report.store)?;
    writeln!(out, "{BOLD}{:12}{BOLD:#}{}: {}", "durability", report.durability, report.kept)?;
    for route in &report.routes {
        let methods = route.methods.join(" ");
        writeln!(out, "\n{BOLD}route {}{BOLD:#}  {methods}  (profile {})", route.path, route.profile)?;
        writeln!(out, "  the effect happens {}", route.mode)?;
        for promise in &route.promises {
            writeln!(out, "  - {promise}")?;
        }
        for warning in &route.warnings {
            writeln!(out, "  {WARNING}! {warning}{WARNING:#}")?;
        }
    }
    Ok(())
}
