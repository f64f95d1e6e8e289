//! Measures Semel beside its floors, in one run on one machine, so that every figure is a ratio.
//!
//! Not a test: no figure passes or fails, only a wrong answer does. Next: [`gateway`], [`store`] and [`client`], then
//! [`report`].

#![expect(clippy::cast_precision_loss, reason = "figures for people")]

mod client;
mod driver;
mod floor;
mod gateway;
mod plain;
mod postgres;
mod progress;
mod redis;
mod report;
mod results;
mod servers;
mod store;

use std::error::Error;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

/// As in `semel`: the floor and Semel are compared on the same allocator.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Measures Semel beside its floors.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The client: its cost when all goes well, and a crowd of them when nothing does.
    Client(client::Arguments),
    /// The gateway beside a bare proxy and nginx, with each store.
    Gateway(gateway::Arguments),
    /// One of the processes of that: the upstream, the callers, the bare proxy.
    #[command(hide = true)]
    GatewayPart {
        #[command(subcommand)]
        part: gateway::Part,
    },
    /// The embedded store beside an append-only log and a plain SQLite table, both with group commit.
    Store(store::Arguments),
    /// The Redis store beside pipelined SET NX and SET through the same driver, on a server of its own.
    Redis(redis::Arguments),
    /// The PostgreSQL store beside a prepared INSERT and UPDATE through the same driver, on a server of its own.
    Postgres(postgres::Arguments),
    /// Writes the tables and plots of docs/performance.md from the figures beside them.
    Report(report::Arguments),
    /// Claims and completes until it is killed: the other half of the crash measurement.
    #[command(hide = true)]
    Burn {
        /// The store's file.
        path: std::path::PathBuf,
    },
}

fn main() -> Result<(), Box<dyn Error>> {
    let what = Arguments::parse().what;
    let what = match what {
        What::Gateway(arguments) => return gateway::run(&arguments),
        What::GatewayPart { part } => return gateway::run_part(part),
        What::Report(arguments) => return report::run(&arguments),
        what => what,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match what {
        What::Gateway(_) | What::GatewayPart { .. } | What::Report(_) => {
            unreachable!("they have runtimes of their own or none")
        }
        What::Client(arguments) => runtime.block_on(client::run(arguments)),
        What::Store(arguments) => runtime.block_on(store::run(arguments)),
        What::Redis(arguments) => runtime.block_on(redis::run(arguments)),
        What::Postgres(arguments) => runtime.block_on(postgres::run(arguments)),
        What::Burn { path } => runtime.block_on(store::burn(path)),
    }
}
