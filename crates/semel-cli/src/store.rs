//! `semel store`: what a store promises, bringing it to this version's format, and moving records to another one.
//!
//! On the stores themselves, not through a gateway. Next: [`check`], [`copy`]; [`crate::store_url`] opens them.

mod check;
mod copy;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use semel::Store;

use crate::exit::{Exit, Failure};
use crate::store_url::{StoreArgs, StoreUrl};

/// Check a store, migrate it, or copy its records to another one
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  semel store check embedded:/var/lib/semel/keys.sqlite\n  \
    semel store migrate embedded:/var/lib/semel/keys.sqlite\n  \
    semel store copy embedded:old.sqlite embedded:new.sqlite")]
pub(crate) struct StoreCommandArgs {
    /// Print one JSON document
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,

    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    Check(CheckArgs),
    Migrate(MigrateArgs),
    Copy(CopyArgs),
}

/// Say what a store promises: what an acknowledged write survives, and which settings of its server lower that
#[derive(Args, Debug)]
#[command(
    after_help = "A store whose settings are refused ends this with an exit code other than 0.\n\nExamples:\n  \
    semel store check embedded:/var/lib/semel/keys.sqlite\n  semel store check --config semel.toml --json"
)]
struct CheckArgs {
    #[command(flatten)]
    which: Which,
}

/// Bring a store to the format of this version
#[derive(Args, Debug)]
#[command(
    after_help = "A gateway that opens an older file does the same. A newer one is refused.\n\nExample:\n  \
    semel store migrate embedded:/var/lib/semel/keys.sqlite"
)]
struct MigrateArgs {
    #[command(flatten)]
    which: Which,
}

/// Copy every live record of one store to another: outcomes with the time they have left, and doubts
#[derive(Args, Debug)]
#[command(
    after_help = "Stop the gateways of FROM first: what is in flight there is in doubt in TO, and what happens in \
    FROM afterwards is not in TO. A record that stands in TO already under the same key is left as it is, and counted. \
    After an error the same command goes on where it stopped. FROM is not changed.\n\nExit code 1 means that TO has \
    other records under keys of FROM.\n\nExamples:\n  semel store copy embedded:old.sqlite embedded:new.sqlite\n  \
    semel store copy embedded:old.sqlite embedded:new.sqlite --json"
)]
struct CopyArgs {
    /// Where the records are
    from: StoreUrl,
    /// Where they go
    to: StoreUrl,
    /// The gateway's configuration file, for the settings of the stores
    #[arg(long, env = "SEMEL_CONFIG", value_name = "FILE", help_heading = "Store")]
    config: Option<PathBuf>,
}

/// Which store.
#[derive(Args, Debug)]
struct Which {
    /// The store; without it the one that the gateway would open
    #[arg(env = "SEMEL_STORE", value_name = "URL")]
    url: Option<StoreUrl>,
    /// The gateway's configuration file (TOML)
    #[arg(long, env = "SEMEL_CONFIG", value_name = "FILE", help_heading = "Store")]
    config: Option<PathBuf>,
}

impl Which {
    /// Opens a store that is there.
    async fn open(self) -> Result<(StoreUrl, Arc<dyn Store>), Failure> {
        let args = StoreArgs { store: self.url, config: self.config };
        let config = args.config()?;
        let url = args.url(&config)?;
        let store = existing(&url)?.open(&config).await?;
        Ok((url, store))
    }
}

/// The same, when it is there: looking at a store makes none.
fn existing(url: &StoreUrl) -> Result<&StoreUrl, Failure> {
    match url {
        StoreUrl::Embedded(path) if !path.exists() => {
            Err(Failure::new(Exit::Unreachable, format!("there is no store {url}")))
        }
        _ => Ok(url),
    }
}

pub(crate) fn run(args: StoreCommandArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match args.command {
            StoreCommand::Check(CheckArgs { which }) => {
                let (url, store) = which.open().await?;
                check::print(&url, store.as_ref(), args.json)
            }
            StoreCommand::Migrate(MigrateArgs { which }) => migrate(which, args.json).await,
            StoreCommand::Copy(copying) => copy::run(copying, args.json).await,
        }
    })
}

async fn migrate(which: Which, json: bool) -> Result<(), Failure> {
    use std::io::Write;
    // Opening an embedded store brings it to the newest format.
    let (url, _) = which.open().await?;
    let mut out = anstream::stdout().lock();
    if json {
        let document = serde_json::json!({ "store": url.to_string(), "migrated": true });
        return Ok(writeln!(out, "{document}")?);
    }
    let said = match url {
        StoreUrl::Memory => "has no format: there is nothing to do",
        StoreUrl::Redis(_) => "keeps records in one format: there is nothing to do",
        StoreUrl::Embedded(_) => "has the format of this version",
    };
    Ok(writeln!(out, "{url} {said}")?)
}
