//! `semel keys`: look at records, release, resolve and purge them. Through the gateway that owns the store, or on the
//! file itself when nobody does.
//!
//! What each command may do is in [`semel_admin::inspect`]. Next: [`access`] (who is asked), [`table`] (what people
//! see).

mod access;
mod table;

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use semel_admin::view::{
    Body, FinishedAsk, Given, ListAsk, PurgeAsk, Resolution, ResolveAsk, Selector, ShowAsk,
};
use semel_admin::{Client, ClientError, Problem};
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::store_url::StoreArgs;
use table::Table;

/// How many records one call asks for.
const PAGE_RECORDS: usize = 1_000;

/// Look at records, release, resolve and purge them
#[derive(Args, Debug)]
#[command(
    after_help = "Asks the gateway that owns the store, over its owner-only socket; opens the store when nobody \
    owns it.\n\nExamples:\n  semel keys list --state in-doubt\n  semel keys show order-42\n  \
    semel keys resolve order-42 --completed --status 201 --body '{\"id\":7}'\n  \
    semel keys resolve order-42 --not-happened"
)]
pub(crate) struct KeysArgs {
    #[command(flatten)]
    store: StoreArgs,

    /// Print JSON: one document, or for `list` one line per record
    #[arg(long, global = true, help_heading = "Output")]
    json: bool,

    /// Say who is asked
    #[arg(long, short, global = true, help_heading = "Output")]
    verbose: bool,

    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    List(ListArgs),
    Show(ShowArgs),
    Release(OneArgs),
    Resolve(ResolveArgs),
    Purge(PurgeArgs),
}

/// List records, in no particular order
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  semel keys list --state in-doubt\n  semel keys list --tenant id:acme --limit 20\n  \
    semel keys list --all --json | jq -r .key"
)]
struct ListArgs {
    /// Only records in this state
    #[arg(long, value_parser = ["in-flight", "in-doubt", "completed", "failed"])]
    state: Option<String>,
    /// Only this tenant's, as `list` prints it
    #[arg(long)]
    tenant: Option<String>,
    /// Only this operation's: `http`, or the name that a route, job or workflow gave
    #[arg(long)]
    operation: Option<String>,
    /// At most so many records
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
    /// All records, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

/// A record by its key
#[derive(Args, Debug)]
struct Named {
    /// The key, exactly
    key: String,
    /// Whose key, as `list` prints it
    #[arg(long)]
    tenant: Option<String>,
    /// What the key is used for
    #[arg(long)]
    operation: Option<String>,
    /// The record's digest, as `show` prints it: tells records apart that differ by payload only
    #[arg(long, value_name = "DIGEST")]
    record: Option<String>,
}

impl From<Named> for Selector {
    fn from(named: Named) -> Self {
        let Named { key, tenant, operation, record } = named;
        Self { key, tenant, operation, record }
    }
}

/// Show one record, with the sizes of its outcome
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  semel keys show order-42\n  semel keys show order-42 --tenant id:acme --body"
)]
struct ShowArgs {
    #[command(flatten)]
    named: Named,
    /// Show the body of the outcome as well
    #[arg(long)]
    body: bool,
}

/// Free the key of an effect in doubt that certainly did not happen: the key may run again
#[derive(Args, Debug)]
#[command(
    after_help = "A record in flight is never released from here: its effect runs now.\n\nExample:\n  \
    semel keys release order-42"
)]
struct OneArgs {
    #[command(flatten)]
    named: Named,
}

/// Say what became of an effect in doubt
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("what").required(true).args(["completed", "not_happened"]),
    after_help = "Examples:\n  semel keys resolve order-42 --completed --status 201 \\\n      \
        --header 'Location: /charges/7' --body '{\"id\":7}'\n  \
        semel keys resolve order-42 --completed --body-file answer.json\n  \
        semel keys resolve order-42 --not-happened"
)]
struct ResolveArgs {
    #[command(flatten)]
    named: Named,
    /// It happened: whoever brings the key again gets this answer
    #[arg(long)]
    completed: bool,
    /// It did not happen: the key may run again
    #[arg(long, conflicts_with_all = ["status", "header", "body", "body_file", "retention"])]
    not_happened: bool,
    /// Status of the answer, 200 to 599
    #[arg(long, default_value_t = 200)]
    status: u16,
    /// A header of the answer; may be given several times
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(String, String)>,
    /// Body of the answer
    #[arg(long, value_name = "TEXT", conflicts_with = "body_file")]
    body: Option<String>,
    /// File with the body of the answer; `-` for standard input
    #[arg(long, value_name = "FILE")]
    body_file: Option<PathBuf>,
    /// How long the answer is replayed, 1s to 1year
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = humantime::parse_duration)]
    retention: Duration,
}

/// Remove finished records: their keys may run again
#[derive(Args, Debug)]
#[command(
    group = ArgGroup::new("which").required(true).args(["key", "expired", "finished"]),
    after_help = "Records in doubt are resolved, not purged.\n\nExamples:\n  semel keys purge order-42\n  \
        semel keys purge --expired\n  semel keys purge --finished --tenant id:acme"
)]
struct PurgeArgs {
    /// The key of one finished record
    key: Option<String>,
    /// All expired records now, which are otherwise removed in the background
    #[arg(long, conflicts_with = "owner")]
    expired: bool,
    /// All finished records of a tenant, of an operation, or of both
    #[arg(long, requires = "owner")]
    finished: bool,
    /// Only this tenant's, as `list` prints it
    #[arg(long, group = "owner")]
    tenant: Option<String>,
    /// Only this operation's
    #[arg(long, group = "owner")]
    operation: Option<String>,
    /// The record's digest, as `show` prints it
    #[arg(long, value_name = "DIGEST", requires = "key")]
    record: Option<String>,
}

/// Runs one command.
pub(crate) fn run(args: KeysArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = access::reach(&args.store, args.verbose).await?;
        let desk = Desk { client, json: args.json };
        match args.command {
            KeysCommand::List(list) => desk.list(list).await,
            KeysCommand::Show(show) => desk.show(show).await,
            KeysCommand::Release(one) => desk.release(one.named.into()).await,
            KeysCommand::Resolve(resolve) => desk.resolve(resolve).await,
            KeysCommand::Purge(purge) => desk.purge(purge).await,
        }
    })
}

struct Desk {
    client: Client,
    json: bool,
}

impl Desk {
    async fn list(&self, args: ListArgs) -> Result<(), Failure> {
        let mut left = if args.all { usize::MAX } else { args.limit };
        let mut ask = ListAsk {
            state: args.state,
            tenant: args.tenant,
            operation: args.operation,
            ..ListAsk::default()
        };
        let mut table = Table::default();
        while left > 0 {
            ask.limit = Some(left.min(PAGE_RECORDS));
            let page = self.client.list(&ask).await.map_err(|error| self.refused(error))?;
            left = left.saturating_sub(page.records.len());
            if self.json {
                page.records.iter().try_for_each(print_line)?;
            } else {
                table.print(&page.records)?;
            }
            ask.cursor = page.next;
            if ask.cursor.is_none() {
                break;
            }
        }
        if !self.json && table.is_empty() {
            anstream::eprintln!("no records");
        }
        if ask.cursor.is_some() {
            anstream::eprintln!("there may be more: --limit N or --all");
        }
        Ok(())
    }

    async fn show(&self, args: ShowArgs) -> Result<(), Failure> {
        let ask = ShowAsk::new(args.named.into(), args.body);
        let shown = self.client.show(&ask).await.map_err(|error| self.refused(error))?;
        if self.json { print_document(&shown) } else { Ok(table::print_one(&shown)?) }
    }

    async fn release(&self, selector: Selector) -> Result<(), Failure> {
        let changed = self.client.release(&selector).await.map_err(|error| self.refused(error))?;
        self.say(&changed, format_args!("{:?} is free again: it may run", changed.before.key))
    }

    async fn resolve(&self, args: ResolveArgs) -> Result<(), Failure> {
        let resolution = if args.not_happened {
            Resolution::NotHappened
        } else {
            Resolution::Completed(Given {
                status: args.status,
                headers: args.header,
                body: body(args.body, args.body_file.as_deref())?,
                retention_seconds: Some(args.retention.as_secs()),
            })
        };
        let ask = ResolveAsk { select: args.named.into(), resolution };
        let changed = self.client.resolve(&ask).await.map_err(|error| self.refused(error))?;
        let key = &changed.before.key;
        match &changed.after {
            Some(after) => self.say(
                &changed,
                format_args!("{key:?} is {}: whoever brings it again gets this answer", after.state),
            ),
            None => self.say(&changed, format_args!("{key:?} is free again: it may run")),
        }
    }

    async fn purge(&self, args: PurgeArgs) -> Result<(), Failure> {
        let PurgeArgs { key, expired, finished: _, tenant, operation, record } = args;
        let mut ask = match key {
            Some(key) => PurgeAsk::One(Selector { key, tenant, operation, record }),
            None if expired => PurgeAsk::Expired,
            None => PurgeAsk::Finished(FinishedAsk { tenant, operation, cursor: None }),
        };
        let live = io::stderr().is_terminal();
        let (mut removed, mut told) = (0, false);
        loop {
            let batch = self.client.purge(&ask).await.map_err(|error| self.refused(error))?;
            removed += batch.removed;
            if !batch.more {
                break;
            }
            if let PurgeAsk::Finished(filter) = &mut ask {
                filter.cursor = batch.next;
            }
            if live {
                anstream::eprint!("\r{removed} records removed so far");
                told = true;
            }
        }
        if told {
            anstream::eprintln!();
        }
        let said = format!("{removed} {} removed", if removed == 1 { "record" } else { "records" });
        self.say(&serde_json::json!({ "removed": removed }), said)
    }

    fn say(&self, document: &impl Serialize, text: impl std::fmt::Display) -> Result<(), Failure> {
        if self.json { print_document(document) } else { Ok(writeln!(anstream::stdout(), "{text}")?) }
    }

    /// The failure that a refused call is; several matches are listed.
    fn refused(&self, error: ClientError) -> Failure {
        let ClientError::Refused(problem) = error else {
            let exit = match error {
                ClientError::Unreachable(_) => Exit::Unreachable,
                _ => Exit::Failed,
            };
            return Failure::caused(exit, &error);
        };
        let exit = exit_of(&problem);
        if self.json {
            return Failure::document(exit, &problem);
        }
        if problem.matches.is_empty() {
            return Failure::new(exit, problem);
        }
        let lines: Vec<_> = problem
            .matches
            .iter()
            .map(|one| {
                format!("\n  --tenant {} --operation {} --record {}", one.tenant, one.operation, one.record)
            })
            .collect();
        Failure::new(exit, format!("{problem}:{}", lines.concat()))
    }
}

fn exit_of(problem: &Problem) -> Exit {
    match problem.status {
        400 => Exit::Usage,
        404 => Exit::NotFound,
        409 if !problem.matches.is_empty() => Exit::NotFound,
        503 => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

fn print_document(document: &impl Serialize) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, document).map_err(io::Error::from)?;
    Ok(writeln!(stdout)?)
}

fn print_line(document: &impl Serialize) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, document).map_err(io::Error::from)?;
    Ok(writeln!(stdout)?)
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => Err("a header is `name: value`".to_owned()),
    }
}

fn body(text: Option<String>, file: Option<&Path>) -> Result<Body, Failure> {
    let Some(file) = file else { return Ok(Body::Text(text.unwrap_or_default())) };
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().read_to_end(&mut bytes).map(|_| ())
    } else {
        fs::read(file).map(|read| bytes = read)
    };
    read.map_err(|error| Failure::new(Exit::Usage, format!("{} cannot be read: {error}", file.display())))?;
    Ok(Body::new(&bytes))
}
