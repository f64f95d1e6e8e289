//! The gateway beside its floor, a bare proxy on the same HTTP library, and beside nginx: requests per second, latency
//! and CPU time, interleaved in one run.
//!
//! Whatever is measured runs on core 0 with the server of its store, callers and upstream on core 1. Callers look at
//! every answer, and the upstream's ledger is held against theirs after every measurement. Next: `middle`, `load`.

use std::error::Error;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http::uri::Authority;
use serde::Serialize;

mod floor;
mod load;
mod middle;
mod outside;
mod upstream;

use load::{Load, Saw, Workload};
use middle::{Middle, Outside};
use upstream::Ledger;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What is measured, of none, floor, nginx, memory, embedded, redis and postgres.
    #[arg(long, value_delimiter = ',', default_value = "floor,nginx,memory,embedded,redis,postgres")]
    middles: Vec<String>,
    /// Which keys requests have.
    #[arg(long, value_delimiter = ',', default_value = "unkeyed,fresh,replay")]
    workloads: Vec<Workload>,
    /// Connections at once.
    #[arg(long, value_delimiter = ',', default_value = "1,32,256")]
    connections: Vec<u64>,
    /// Length of each measurement.
    #[arg(long, default_value_t = 3000)]
    milliseconds: u64,
    /// Interleaved rounds; medians are shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Whether callers speak HTTP/2.
    #[arg(long)]
    http2: bool,
    /// The `semel` program.
    #[arg(long, default_value = "target/release/semel")]
    semel: PathBuf,
    /// Where the embedded store's file is made.
    #[arg(long, default_value = "/tmp")]
    folder: PathBuf,
    /// Where the figures are written as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Processes of a measurement.
#[derive(clap::Subcommand)]
pub(crate) enum Part {
    /// Calls, and counts effects.
    Outside,
    /// Forwards and does nothing else.
    Floor {
        /// Where to.
        upstream: Authority,
    },
}

pub(crate) fn run_part(part: Part) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        match part {
            Part::Outside => outside::run().await,
            Part::Floor { upstream } => floor::run(upstream).await,
        }
    })
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    requests_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    max_us: f64,
    /// CPU time of the process in the middle, user and system.
    cpu_us: f64,
    /// CPU time of its store's server.
    store_us: f64,
}

/// All rounds of one thing under one load.
#[derive(Serialize)]
struct Row {
    workload: Workload,
    connections: u64,
    middle: &'static str,
    rounds: Vec<Figures>,
    resident_mib: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut outside = Outside::start()?;
    let port = outside.upstream;
    let start = |name: &String| Middle::start(name, port, &arguments.semel, &arguments.folder);
    let middles: Vec<Middle> = arguments.middles.iter().map(start).collect::<Result<_, _>>()?;
    println!("one fdatasync of 4 KiB: {:.0} us (median of 200)", fdatasync_us(&arguments.folder)?);
    let mut rows = Vec::new();
    for &workload in &arguments.workloads {
        for &connections in &arguments.connections {
            let mut rounds = vec![Vec::new(); middles.len()];
            for round in 0..arguments.rounds {
                for (middle, rounds) in middles.iter().zip(&mut rounds) {
                    rounds.push(measure(arguments, middle, &mut outside, (workload, connections, round))?);
                }
            }
            let new = middles.iter().zip(rounds).map(|(middle, rounds)| Row {
                workload,
                connections,
                middle: middle.name,
                rounds,
                resident_mib: middle.resident_mib(),
            });
            let new: Vec<Row> = new.collect();
            show(&new);
            rows.extend(new);
        }
    }
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&rows)?)?;
    }
    Ok(())
}

fn measure(
    arguments: &Arguments,
    middle: &Middle,
    outside: &mut Outside,
    (workload, connections, round): (Workload, u64, usize),
) -> Result<Figures, Box<dyn Error>> {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed()?.as_millis();
    let prefix = format!("{since_1970:x}-{round}");
    let load = Load {
        port: middle.port,
        workload,
        connections,
        milliseconds: arguments.milliseconds,
        http2: arguments.http2 && middle.name != "none",
        bare: middle.is_bare(),
        prefix,
    };
    let (before, ledger) = (middle.cpu(), ledger(outside.upstream)?);
    let saw = outside.call(&load)?;
    let (after, now) = (middle.cpu(), self::ledger(outside.upstream)?);
    hold_against(middle, workload, &saw, (ledger, now))?;
    let answers = saw.answers.max(1) as f64;
    let each = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() * 1e6 / answers;
    Ok(Figures {
        requests_per_s: answers / saw.seconds,
        p50_us: saw.p50_us,
        p99_us: saw.p99_us,
        max_us: saw.max_us,
        cpu_us: each(after.0, before.0),
        store_us: each(after.1, before.1),
    })
}

/// Each key took effect once, where somebody in the middle sees to it.
fn hold_against(
    middle: &Middle,
    workload: Workload,
    saw: &Saw,
    (then, now): (Ledger, Ledger),
) -> Result<(), String> {
    let effects = now.effects - then.effects;
    let meant = match workload {
        Workload::Unkeyed => saw.answers,
        _ if middle.is_bare() => return Ok(()),
        _ => saw.keys,
    };
    if effects != meant || now.doubled != then.doubled {
        return Err(format!(
            "{}: {effects} effects, {meant} were meant, {} doubled",
            middle.name, now.doubled
        ));
    }
    Ok(())
}

fn ledger(port: u16) -> Result<Ledger, Box<dyn Error>> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /ledger HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(serde_json::from_str(answer.rsplit("\r\n\r\n").next().unwrap_or_default())?)
}

/// A crowd beside the floor would be ten thousand effects, so ratios are to the first row, whatever it is.
fn show(rows: &[Row]) {
    let sorted = |rounds: &[Figures], of: fn(&Figures) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let median = |rounds: &[Figures], of| {
        let all = sorted(rounds, of);
        all[all.len() / 2]
    };
    println!(
        "{:<9} {:>5} {:<9} {:>9} {:>6} {:>13} {:>8} {:>8} {:>7} {:>6} {:>7} {:>6}",
        "workload",
        "conn",
        "",
        "req/s",
        "ratio",
        "(least-most)",
        "p50 us",
        "p99 us",
        "cpu us",
        "ratio",
        "store",
        "MiB"
    );
    for row in rows {
        let base = &rows[0].rounds;
        let mut ratios: Vec<f64> = row
            .rounds
            .iter()
            .zip(base)
            .map(|(ours, base)| ours.requests_per_s / base.requests_per_s)
            .collect();
        ratios.sort_by(f64::total_cmp);
        let of = |what| median(&row.rounds, what);
        println!(
            "{:<9} {:>5} {:<9} {:>9.0} {:>6.2} {:>13} {:>8.0} {:>8.0} {:>7.1} {:>6.2} {:>7.1} {:>6.1}",
            format!("{:?}", row.workload).to_lowercase(),
            row.connections,
            row.middle,
            of(|figures| figures.requests_per_s),
            ratios[ratios.len() / 2],
            format!("({:.2}-{:.2})", ratios[0], ratios[ratios.len() - 1]),
            of(|figures| figures.p50_us),
            of(|figures| figures.p99_us),
            of(|figures| figures.cpu_us),
            of(|figures| figures.cpu_us) / median(base, |figures| figures.cpu_us),
            of(|figures| figures.store_us),
            row.resident_mib,
        );
    }
}

fn fdatasync_us(folder: &Path) -> Result<f64, Box<dyn Error>> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut took = Vec::new();
    for _ in 0..200 {
        let begun = tokio::time::Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        took.push(begun.elapsed());
    }
    took.sort_unstable();
    Ok(took[took.len() / 2].as_secs_f64() * 1e6)
}
