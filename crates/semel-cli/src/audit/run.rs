//! `semel audit run -- COMMAND`: the command is run once for each scenario.

use std::sync::Arc;

use clap::Args;
use semel_auditor::audit;
use semel_auditor::drive::command::Command;
use tempfile::TempDir;

use super::{AuditOptions, ReportOptions, progress, stop_at_interrupt, whole};
use crate::exit::{Exit, Failure};

/// Run a command once for each way a server can fail, and judge what it sends
///
/// The command makes a call that is not idempotent, such as a POST, to the URL in SEMEL_AUDIT_URL, with
/// `semel-audit-0` somewhere in the body. With SEMEL_AUDIT_CALLS it makes so many, numbered on, and
/// SEMEL_AUDIT_PARALLEL of them at a time; a command that makes one is run again as often as needed.
/// SEMEL_AUDIT_KEY, SEMEL_AUDIT_TIMEOUT_MS, SEMEL_AUDIT_MAX_RETRIES and SEMEL_AUDIT_DEADLINE_MS are wishes
/// that it may fulfil. It may print a line of JSON for each call.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  semel audit run -- python3 client.py\n  \
    semel audit run --check C2,C3 -- node client.mjs\n  \
    semel audit run --supports key,timeout,max_retries --fail-on s1 \\\n      \
    --report html=audit.html --report junit=audit.xml -- ./client\n\n\
    The guide docs/guides/auditing.md has each check and what to print.")]
pub(super) struct RunArgs {
    #[command(flatten)]
    options: AuditOptions,

    #[command(flatten)]
    reports: ReportOptions,

    /// What of key, timeout, max_retries and deadline the command reads from its environment; checks that need it
    /// fail then, where they else would not apply
    #[arg(long, value_name = "WISH", value_delimiter = ',')]
    supports: Option<Vec<String>>,

    /// How many scenarios run side by side
    #[arg(long, value_name = "NUMBER", default_value_t = 8)]
    parallel: usize,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) fn run(args: RunArgs) -> Result<(), Failure> {
    let mut settings = args.options.settings(&args.reports)?;
    settings.together = args.parallel;
    let folder = TempDir::new()?;
    let mut environment = Vec::new();
    if let Some(tls) = &settings.tls {
        let authority = folder.path().join("authority.pem");
        tls.write_authority(&authority)?;
        let names = [
            "SEMEL_AUDIT_CA",
            "SSL_CERT_FILE",
            "NODE_EXTRA_CA_CERTS",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
        ];
        environment.extend(names.map(|name| (name.to_owned(), authority.display().to_string())));
    }
    let drive = Arc::new(Command::new(args.command, environment, args.supports));
    let runtime = tokio::runtime::Runtime::new()?;
    let stop = runtime.block_on(async { stop_at_interrupt() });
    let audit = runtime.block_on(audit(drive, settings, progress::bar("audit"), stop.clone()));
    let audit = audit.map_err(|error| Failure::caused(Exit::Failed, &error))?;
    args.reports.finish(&[audit])?;
    whole(&stop)
}
