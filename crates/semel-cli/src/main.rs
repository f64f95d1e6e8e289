//! The `semel` program: reads the command line, runs one command, ends with the code it documents.
//!
//! Thin by intent: what a command does is in the crate it belongs to. [`gateway`] serves, [`check`] says what a
//! configuration promises, [`keys`] is the operator's side, [`store`] moves and checks stores,
//! [`audit`] judges other people's clients, [`demo`] shows what it is all for; [`store_url`] is the
//! only place that names every store.

mod audit;
mod check;
mod demo;
mod exit;
mod gateway;
mod keys;
mod logs;
mod store;
mod store_url;

use std::io;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use mimalloc::MiMalloc;

use exit::{Exit, Failure};

/// Requests are made of small things that live as long as they do: docs/decisions/allocator.md has the figures.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Makes retried HTTP requests take effect once
#[derive(Debug, Parser)]
#[command(name = "semel", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed
  2  a flag, a variable or the configuration is refused
  3  no such record, or several
  4  the store or the gateway cannot be reached
  5  an audit found that somebody would pay twice
  6  an audit found another fault that --fail-on names";

#[derive(Debug, Subcommand)]
enum Command {
    Gateway(gateway::GatewayArgs),
    Audit(audit::AuditArgs),
    Check(check::CheckArgs),
    Keys(keys::KeysArgs),
    Store(store::StoreCommandArgs),
    Demo(demo::DemoArgs),
    /// Print the completions of a shell
    #[command(
        after_help = "Examples:\n  semel completions bash > ~/.local/share/bash-completion/completions/semel\n  \
        semel completions fish > ~/.config/fish/completions/semel.fish"
    )]
    Completions {
        /// The shell
        shell: Shell,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Gateway(args) => gateway::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Check(args) => check::run(args),
        Command::Keys(args) => keys::run(args),
        Command::Store(args) => store::run(args),
        Command::Demo(args) => run_demo(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "semel", &mut script);
            Ok(io::Write::write_all(&mut io::stdout(), &script)?)
        }
    }
}

fn run_demo(args: demo::DemoArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Runtime::new()?;
    let as_meant = runtime.block_on(demo::run(args, demo::Gateway::start))?;
    if as_meant { Ok(()) } else { Err(Failure::new(Exit::Failed, "charges were made that nobody meant")) }
}
