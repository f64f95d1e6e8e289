//! `semel audit serve`: for people who drive their own client. One scenario after the other, all on one port.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use clap::Args;
use semel_auditor::audit;
use semel_auditor::audit::{Progress, Tell};
use semel_auditor::drive::person::Person;
use semel_auditor::plan::Planned;
use semel_auditor::scenario::Scenario;

use super::{AuditOptions, ReportOptions, stop_at_interrupt, whole};
use crate::exit::{Exit, Failure};

/// How long a person has for one scenario.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Serve one scenario after the other, and judge what a client driven by hand sends
///
/// Prints the base URL, and in turn what to do. A scenario is over when its calls have been answered with a
/// success, or when nothing came in for some seconds.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  semel audit serve --check C2\n  \
    semel audit serve --port 4010 --quiet-s 5 --report html=audit.html")]
pub(super) struct ServeArgs {
    #[command(flatten)]
    options: AuditOptions,

    #[command(flatten)]
    reports: ReportOptions,

    /// The port of all scenarios
    #[arg(long, value_name = "PORT", default_value_t = 4010)]
    port: u16,

    /// A scenario is over when nothing came in for so many seconds after its first request
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    quiet_s: u64,
}

pub(super) fn run(args: ServeArgs) -> Result<(), Failure> {
    let mut settings = args.options.settings(&args.reports)?;
    settings.together = 1;
    settings.port = Some(args.port);
    settings.watch = Some(PATIENCE);
    if let Some(tls) = &settings.tls {
        let path = std::env::temp_dir().join("semel-audit-authority.pem");
        tls.write_authority(&path)?;
        anstream::eprintln!("the client must trust {}", path.display());
    }
    let drive = Arc::new(Person::new(Duration::from_secs(args.quiet_s), say));
    let runtime = tokio::runtime::Runtime::new()?;
    let stop = runtime.block_on(async { stop_at_interrupt() });
    let audit = runtime.block_on(audit(drive, settings, counted(), stop.clone()));
    let audit = audit.map_err(|error| Failure::caused(Exit::Failed, &error))?;
    args.reports.finish(&[audit])?;
    whole(&stop)
}

/// What there is to do, on standard error: standard output is the report's.
fn say(scenario: &Scenario) {
    let script = Planned::named(&scenario.name).map_or("", |planned| planned.script);
    let mut wishes = Vec::new();
    if let Some(key) = &scenario.key {
        wishes.push(format!("with the key {key}"));
    }
    if let Some(ms) = scenario.timeout_ms {
        wishes.push(format!("with {ms} ms for an attempt"));
    }
    if let Some(retries) = scenario.max_retries {
        wishes.push(format!("with {retries} retries at most"));
    }
    if let Some(ms) = scenario.deadline_ms {
        wishes.push(format!("with {ms} ms for the call"));
    }
    let calls = match scenario.calls {
        1 => "make 1 call, `semel-audit-0` in its body".to_owned(),
        calls => format!(
            "make {calls} calls, {} at a time, `semel-audit-0` to `semel-audit-{}` in their bodies",
            scenario.parallel,
            calls - 1
        ),
    };
    let wishes = if wishes.is_empty() { String::new() } else { format!(", {}", wishes.join(", ")) };
    anstream::eprintln!(
        "{}: {calls}{wishes}\n    {}    the server does: {script}",
        scenario.name,
        scenario.url
    );
}

fn counted() -> Tell {
    let (all, begun) = (AtomicUsize::new(0), AtomicUsize::new(0));
    Arc::new(move |progress| match progress {
        Progress::Begins(scenarios) => all.store(scenarios, Ordering::SeqCst),
        Progress::Runs(_) => {
            let nth = begun.fetch_add(1, Ordering::SeqCst) + 1;
            anstream::eprint!("[{nth}/{}] ", all.load(Ordering::SeqCst));
        }
        Progress::Ended(_) => {}
    })
}
