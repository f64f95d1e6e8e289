//! `semel audit`: would this client pay twice? The options that its commands share, and how a verdict becomes an exit
//! code.
//!
//! The commands are in `audit/`; what they do is in [`semel_auditor`].

use std::fs;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use semel_auditor::api::Api;
use semel_auditor::audit::Settings;
use semel_auditor::checks::{CHECKS, Check};
use semel_auditor::report::{Audit, Form, Severity, Verdict, terminal};
use semel_auditor::server::tls::Tls;
use tokio::sync::watch;

use crate::exit::{Exit, Failure};

mod progress;
mod run;
mod sdk;
mod serve;
mod server;

const COLUMNS: usize = 100;

/// Find out whether a client in any language would pay twice
///
/// A client is pointed at a server that fails by script; what it does is judged from the server's log. `server` is the
/// other way round: an API is asked.
#[derive(Args, Debug)]
#[command(
    after_help = "Exit codes: 5 when somebody would pay twice (severity S0), 6 when another check fails that \
    --fail-on names, 1 when there is no audit.\n\nExamples:\n  semel audit run -- python3 client.py\n  \
    semel audit run --check C2,C3 --json -- node client.mjs
  semel audit sdk python:stripe node:openai
  \
    semel audit serve
  semel audit server http://127.0.0.1:8787/charges"
)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    Run(run::RunArgs),
    Sdk(sdk::SdkArgs),
    Serve(serve::ServeArgs),
    Server(Box<server::ServerArgs>),
}

pub(crate) fn run(args: AuditArgs) -> Result<(), Failure> {
    match args.command {
        AuditCommand::Run(args) => run::run(args),
        AuditCommand::Sdk(args) => sdk::run(args),
        AuditCommand::Serve(args) => serve::run(args),
        AuditCommand::Server(args) => server::run(*args),
    }
}

/// What is checked, and what the server stands for.
#[derive(Args, Debug)]
pub(crate) struct AuditOptions {
    /// Only these checks, for instance `C2,C3` [default: all 24]
    #[arg(long = "check", value_name = "CHECK", value_delimiter = ',')]
    checks: Vec<Named>,

    /// A header that carries a key, besides those whose name contains `idempot`
    #[arg(long, value_name = "NAME")]
    key_header: Vec<String>,

    /// A field of the body that carries a key: of JSON (`a.b` for one within another) or of a form
    #[arg(long, value_name = "FIELD")]
    key_field: Vec<String>,

    /// What a success is answered with, for clients that read it
    #[arg(long, value_name = "JSON")]
    answer: Option<String>,

    /// Serve HTTPS, with an authority of its own whose certificate the client must be told to trust
    #[arg(long)]
    tls: bool,

    /// Write every byte of each scenario into files in this folder
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
}

impl AuditOptions {
    /// The settings that follow from it; `reports` have a folder for the bytes beside them.
    pub(crate) fn settings(&self, reports: &ReportOptions) -> Result<Settings, Failure> {
        let tls = self.tls.then(Tls::make).transpose()?;
        let mut api = Api {
            key_headers: self.key_header.clone(),
            key_fields: self.key_field.clone(),
            ..Api::default()
        };
        if let Some(answer) = &self.answer {
            api.body.clone_from(answer);
        }
        let checks: Vec<_> = self.checks.iter().map(|named| named.0).collect();
        Ok(Settings {
            checks: if checks.is_empty() { CHECKS.to_vec() } else { checks },
            api,
            tls: tls.map(Arc::new),
            logs: self.logs.clone().or_else(|| reports.beside()),
            ..Settings::new()
        })
    }
}

/// A check by its name.
#[derive(Clone, Copy, Debug)]
struct Named(&'static Check);

impl FromStr for Named {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Check::named(name).map(Self).ok_or_else(|| format!("there is no check `{name}`: they are C1 to C24"))
    }
}

/// Where the findings go to, and which of them make the exit code.
#[derive(Args, Debug)]
pub(crate) struct ReportOptions {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// Write a report into a file: `html=FILE`, `junit=FILE`, `sarif=FILE` or `json=FILE`
    #[arg(long = "report", value_name = "FORM=FILE")]
    reports: Vec<ReportFile>,

    /// End with code 6 when a check of this severity or a worse one fails; `never` ends with 0 whatever is found
    #[arg(long, value_name = "SEVERITY", default_value = "s0")]
    fail_on: Threshold,
}

#[derive(Clone, Debug)]
struct ReportFile {
    form: Form,
    path: PathBuf,
}

impl FromStr for ReportFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (form, path) = text.split_once('=').unwrap_or((text, ""));
        let form = match form {
            "html" => Form::Page,
            "junit" => Form::Junit,
            "sarif" => Form::Sarif,
            "json" => Form::Json,
            form => return Err(format!("`{form}` is none of html, junit, sarif and json")),
        };
        if path.is_empty() {
            return Err("the file is missing: write for instance html=audit.html".to_owned());
        }
        Ok(Self { form, path: path.into() })
    }
}

/// What makes the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Threshold {
    /// Money or duplicates
    S0,
    /// Overload or a hang
    S1,
    /// Wrong but bounded
    S2,
    /// Anything
    S3,
    /// Nothing
    Never,
}

impl Threshold {
    fn counts(self, severity: Severity) -> bool {
        match self {
            Self::S0 => severity <= Severity::S0,
            Self::S1 => severity <= Severity::S1,
            Self::S2 => severity <= Severity::S2,
            Self::S3 => true,
            Self::Never => false,
        }
    }
}

impl ReportOptions {
    /// A folder beside the first page.
    fn beside(&self) -> Option<PathBuf> {
        let page = self.reports.iter().find(|report| report.form == Form::Page)?;
        Some(page.path.with_extension("logs"))
    }

    /// Prints and writes the reports, and says by the exit code what was found.
    pub(crate) fn finish(&self, audits: &[Audit]) -> Result<(), Failure> {
        for report in &self.reports {
            let written = fs::write(&report.path, report.form.render_for(&report.path, audits));
            written.map_err(|error| {
                Failure::new(Exit::Failed, format!("{} cannot be written: {error}", report.path.display()))
            })?;
        }
        if self.json {
            anstream::stdout().write_all(Form::Json.render(audits).as_bytes())?;
        } else {
            let columns = terminal_size::terminal_size().map_or(COLUMNS, |(width, _)| usize::from(width.0));
            // Colours are taken out again by anstream where nobody sees them.
            anstream::stdout().write_all(terminal::render(audits, columns, true).as_bytes())?;
        }
        self.exit(audits)
    }

    fn exit(&self, audits: &[Audit]) -> Result<(), Failure> {
        let findings = audits.iter().flat_map(|audit| &audit.findings);
        let failed = findings
            .filter(|finding| finding.verdict == Verdict::Fail && self.fail_on.counts(finding.severity));
        let failed: Vec<_> = failed.collect();
        let Some(worst) = failed.iter().map(|finding| finding.severity).min() else { return Ok(()) };
        let mut names: Vec<&str> = failed.iter().map(|finding| finding.check.as_str()).collect();
        names.dedup();
        let exit = if worst == Severity::S0 { Exit::PaidTwice } else { Exit::Faulty };
        Err(Failure::new(exit, format!("{} failed", names.join(", "))))
    }
}

/// Becomes true at the first SIGINT; the second one ends the program.
fn stop_at_interrupt() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_err() {
            return;
        }
        anstream::eprintln!("stopping; what was seen is judged. Again to end at once");
        sender.send_replace(true);
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    receiver
}

/// An audit that was stopped is no proof of anything.
fn whole(stop: &watch::Receiver<bool>) -> Result<(), Failure> {
    match *stop.borrow() {
        true => Err(Failure::new(Exit::Failed, "interrupted: what was not seen was not judged")),
        false => Ok(()),
    }
}

/// Whether a person watches.
fn watched() -> bool {
    std::io::stderr().is_terminal()
}
