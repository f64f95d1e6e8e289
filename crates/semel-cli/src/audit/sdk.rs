//! `semel audit sdk NAME…`: installs SDKs that adapters describe, and audits each with one call of its own.
//!
//! What an adapter is, and how it is installed and started, is in [`semel_auditor::sdk`].

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;

use clap::Args;
use semel_auditor::audit;
use semel_auditor::audit::Settings;
use semel_auditor::checks::CHECKS;
use semel_auditor::report::Audit;
use semel_auditor::sdk::{self, Adapter, SdkError, SdkErrorKind};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::progress::Bars;
use super::{Named, ReportOptions, stop_at_interrupt};
use crate::exit::{Exit, Failure};

/// All scenarios of an SDK are in one process, and most of their time is waiting.
const TOGETHER: usize = 40;

/// Install SDKs at pinned versions and judge what each sends when its server fails
///
/// An adapter names the packages and makes one call; `--list` shows those that are built in. Packages are installed
/// with pip and npm below `$XDG_CACHE_HOME/semel/audit`, and no network is needed once they are there.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  semel audit sdk --list\n  semel audit sdk python:stripe node:openai\n  \
    semel audit sdk --all --fail-on never --report html=sdks.html\n  \
    semel audit sdk --adapters ./adapters python:mine\n\n\
    The guide docs/guides/audit-adapters.md says how to write an adapter."
)]
pub(super) struct SdkArgs {
    /// The SDKs: `python:stripe`, `node:openai`, or by their package `node:@workos-inc/node`
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "list"], conflicts_with = "all")]
    names: Vec<String>,

    /// Audit every SDK that there is an adapter for
    #[arg(long)]
    all: bool,

    /// Name all adapters and end
    #[arg(long)]
    list: bool,

    /// A folder with adapters of your own: FOLDER/NAME/adapter.toml
    #[arg(long, value_name = "FOLDER")]
    adapters: Option<PathBuf>,

    /// Only these checks, for instance `C2,C3` [default: all 24]
    #[arg(long = "check", value_name = "CHECK", value_delimiter = ',')]
    checks: Vec<Named>,

    /// Write every byte of each scenario into files in this folder, one folder below it for each SDK
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,

    /// How many SDKs are audited at a time [default: two for each processor]
    #[arg(long, value_name = "NUMBER")]
    parallel: Option<usize>,

    #[command(flatten)]
    reports: ReportOptions,
}

pub(super) fn run(args: SdkArgs) -> Result<(), Failure> {
    let adapters = match &args.adapters {
        Some(folder) => sdk::from_folder(folder),
        None => sdk::built_in(),
    };
    let adapters = adapters.map_err(refused)?;
    if args.list {
        return list(&adapters);
    }
    let chosen: Result<Vec<Adapter>, SdkError> = match args.all {
        true => Ok(adapters),
        false => args.names.iter().map(|name| sdk::find(&adapters, name).cloned()).collect(),
    };
    let chosen = chosen.map_err(refused)?;
    let parallel = args.parallel.or_else(default_parallel).unwrap_or(1);
    let checks: Vec<_> = args.checks.iter().map(|named| named.0).collect();
    let settings = Settings {
        checks: if checks.is_empty() { CHECKS.to_vec() } else { checks },
        logs: args.logs.clone().or_else(|| args.reports.beside()),
        together: TOGETHER,
        ..Settings::new()
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let count = chosen.len();
    let audits = runtime.block_on(audit_all(chosen, settings, parallel.max(1)))?;
    let missing = count - audits.len();
    if !audits.is_empty() {
        args.reports.finish(&audits)?;
    }
    match missing {
        0 => Ok(()),
        _ => Err(Failure::new(Exit::Failed, format!("{missing} of {count} could not be audited"))),
    }
}

/// An SDK waits nine tenths of its time.
fn default_parallel() -> Option<usize> {
    available_parallelism().ok().map(|processors| processors.get() * 2)
}

fn refused(error: SdkError) -> Failure {
    let exit = match error.kind() {
        SdkErrorKind::Unknown | SdkErrorKind::BadAdapter => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, error)
}

fn list(adapters: &[Adapter]) -> Result<(), Failure> {
    let mut out = anstream::stdout();
    let widest = adapters.iter().map(|adapter| adapter.id().len()).max().unwrap_or(0);
    for adapter in adapters {
        let package = format!("{} {}", adapter.package(), adapter.version());
        writeln!(out, "{:widest$}  {package:<34}  {}", adapter.id(), adapter.call)?;
    }
    Ok(())
}

/// In the order of the adapters. Those that cannot be audited are told on standard error and left out.
async fn audit_all(
    adapters: Vec<Adapter>,
    settings: Settings,
    parallel: usize,
) -> Result<Vec<Audit>, Failure> {
    let places = Arc::new(Semaphore::new(parallel));
    let bars = Arc::new(Bars::new());
    let stop = stop_at_interrupt();
    let mut tasks = JoinSet::new();
    for (index, adapter) in adapters.into_iter().enumerate() {
        let (places, bars, stop) = (Arc::clone(&places), Arc::clone(&bars), stop.clone());
        let mut settings = settings.clone();
        settings.logs = settings.logs.map(|logs| logs.join(adapter.id().replace(':', "-")));
        settings.api = adapter.api.clone();
        tasks.spawn(async move {
            let Ok(_place) = places.acquire_owned().await else { return (index, None) };
            if *stop.borrow() {
                return (index, None);
            }
            let audit = audit_one(&adapter, settings, &bars, stop).await;
            bars.say(&match &audit {
                Ok(audit) => format!(
                    "{} ({}): {:.0} s, grade {:?}",
                    adapter.id(),
                    adapter.version(),
                    audit.took.as_secs_f64(),
                    audit.grade
                ),
                Err(why) => why.clone(),
            });
            (index, audit.ok())
        });
    }
    let mut audits = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let (index, audit) = ended.map_err(|error| Failure::caused(Exit::Failed, &error))?;
        audits.extend(audit.map(|audit| (index, audit)));
    }
    audits.sort_by_key(|(index, _)| *index);
    Ok(audits.into_iter().map(|(_, audit)| audit).collect())
}

async fn audit_one(
    adapter: &Adapter,
    settings: Settings,
    bars: &Bars,
    stop: watch::Receiver<bool>,
) -> Result<Audit, String> {
    let tell = bars.bar(&adapter.id());
    let installed = sdk::install(adapter, &sdk::cache_folder()).await.map_err(|error| error.to_string())?;
    let process = sdk::start(&installed).await.map_err(|error| error.to_string())?;
    audit(Arc::new(process), settings, tell, stop).await.map_err(|error| format!("{}: {error}", adapter.id()))
}
