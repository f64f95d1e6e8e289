//! The gateway beside its floor, a bare proxy on the same HTTP library, and beside nginx: requests per second, latency
//! and CPU time, interleaved in one run.
//!
//! Whatever is measured runs on one core with the server of its store, callers and upstream on another. Callers look at
//! every answer, and the ledger of effects is held against theirs after every measurement. Next: `middle`, `load`, `rows`.

use std::error::Error;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use http::uri::Authority;

mod axum_handler;
mod caller;
mod floor;
mod load;
mod middle;
mod outside;
mod peer;
mod process;
pub(crate) mod rows;
mod upstream;

use load::{Load, Saw};
use middle::{Middle, NAMES, Outside, Surroundings};
use peer::Peer;
use process::Cores;
use rows::Workload;
use rows::{Figures, Row};
use upstream::Ledger;

use crate::progress::Progress;
use crate::results::{Results, fdatasync_us};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What is measured: none, floor, nginx, memory, embedded, redis, postgres, axum and axum-memory,
    /// axum-redis and axum-postgres, or a folder of bench/peers. Ratios are to the first.
    #[arg(long, value_delimiter = ',', default_value = "floor,nginx,memory,embedded,redis,postgres")]
    middles: Vec<String>,
    /// Every installed peer too; one that gives a wrong answer is left out from there on.
    #[arg(long)]
    peers: bool,
    /// Which keys requests have.
    #[arg(long, value_delimiter = ',', default_value = "unkeyed,fresh,replay,mixed")]
    workloads: Vec<Workload>,
    /// Callers at once, each on a connection of its own.
    #[arg(long, value_delimiter = ',', default_value = "1,32,256")]
    connections: Vec<u64>,
    /// Length of each measurement.
    #[arg(long, default_value_t = 3000)]
    milliseconds: u64,
    /// Ends a measurement after so many requests instead.
    #[arg(long)]
    requests: Option<u64>,
    /// So many requests a second from all callers together, instead of as many as they get answered.
    #[arg(long, conflicts_with = "one_core")]
    rate: Option<u64>,
    /// How long each effect takes.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
    /// Interleaved rounds; medians are shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Callers speak HTTP/2, and so many share a connection.
    #[arg(long, value_name = "CALLERS")]
    http2: Option<u64>,
    /// The core of what is measured, and that of callers and upstream.
    #[arg(long, default_value = "0,1")]
    pin: Cores,
    /// Callers and upstream share the core of what is measured.
    #[arg(long)]
    one_core: bool,
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
    Outside {
        /// Leaves the core to others when there is nothing to do.
        #[arg(long)]
        sleeps: bool,
    },
    /// Forwards and does nothing else.
    Floor {
        /// Where to.
        upstream: Authority,
    },
    /// The effect inside an axum program.
    Axum {
        /// With Semel's layer over the store at this URL.
        #[arg(long)]
        store: Option<String>,
    },
}

pub(crate) fn run_part(part: Part) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        match part {
            Part::Outside { sleeps } => outside::run(sleeps).await,
            Part::Floor { upstream } => floor::run(upstream).await,
            Part::Axum { store } => axum_handler::run(store).await,
        }
    })
}

/// What one measurement is of.
#[derive(Clone, Copy)]
struct Case {
    workload: Workload,
    callers: u64,
    round: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let cores = if arguments.one_core { arguments.pin.one() } else { arguments.pin.clone() };
    let mut outside = Outside::start(&cores)?;
    let around = Surroundings {
        upstream: outside.upstream,
        semel: &arguments.semel,
        folder: &arguments.folder,
        cores: &cores,
        http2: arguments.http2.is_some(),
    };
    let mut names = arguments.middles.clone();
    if arguments.peers {
        names.extend(Peer::all()?);
    }
    let middles: Vec<Middle> =
        names.iter().map(|name| Middle::start(name, &around)).collect::<Result<_, _>>()?;
    println!("one fdatasync of 4 KiB: {:.0} us (median of 200)", fdatasync_us(&arguments.folder)?);
    let cases = arguments.workloads.len() * arguments.connections.len();
    let progress = Progress::of(cases * arguments.rounds * middles.len());
    let (mut rows, mut void) = (Vec::new(), Vec::new());
    for &workload in &arguments.workloads {
        for &callers in &arguments.connections {
            let new = compare(arguments, &progress, &middles, &mut outside, (workload, callers))?;
            progress.suspend(|| rows::show(&new));
            void.extend(rows::void(&new));
            rows.extend(new);
        }
    }
    drop(progress);
    if !void.is_empty() {
        return Err(format!("this run is void: {}", void.join("; ")).into());
    }
    Results::new(&arguments.folder, rows)?.write(arguments.json.as_deref())
}

/// All rounds of one workload. A peer whose answers are wrong loses its place; anybody else's end everything.
fn compare(
    arguments: &Arguments,
    progress: &Progress,
    middles: &[Middle],
    outside: &mut Outside,
    (workload, callers): (Workload, u64),
) -> Result<Vec<Row>, Box<dyn Error>> {
    let mut rounds = vec![Vec::new(); middles.len()];
    let mut failed = vec![None; middles.len()];
    for round in 0..arguments.rounds {
        for (nth, middle) in middles.iter().enumerate() {
            if failed[nth].is_some() {
                continue;
            }
            progress.begin(format!("{}, {callers} callers, {}", workload.called(), middle.name));
            match measure(arguments, middle, outside, Case { workload, callers, round }) {
                Ok(figures) => rounds[nth].push(figures),
                Err(error) if middle.peer.is_some() => failed[nth] = Some(error.to_string()),
                Err(error) => return Err(format!("{}: {error}", middle.name).into()),
            }
            progress.done();
        }
    }
    let rows = middles.iter().zip(rounds).zip(failed).map(|((middle, rounds), failed)| {
        let (resident_mib, peak_mib) = middle.memory_mib();
        Row {
            workload,
            http2: arguments.http2,
            connections: callers,
            pause_ms: arguments.pause_ms,
            middle: middle.name.clone(),
            rounds,
            failed,
            resident_mib,
            peak_mib,
            about: middle.peer.as_ref().map(|peer| peer.about.clone()),
        }
    });
    Ok(rows.collect())
}

fn measure(
    arguments: &Arguments,
    middle: &Middle,
    outside: &mut Outside,
    Case { workload, callers, round }: Case,
) -> Result<Figures, Box<dyn Error>> {
    let since_1970 = SystemTime::UNIX_EPOCH.elapsed()?.as_millis();
    let about = middle.peer.as_ref().map(|peer| &peer.about);
    let load = Load {
        port: middle.port,
        path: about.map_or("/charges", |about| &about.path).to_owned(),
        workload,
        callers,
        milliseconds: arguments.milliseconds,
        requests: arguments.requests,
        rate: arguments.rate,
        pause_ms: arguments.pause_ms,
        key_header: about.and_then(|about| about.key_header.clone()),
        http2: arguments.http2.filter(|_| middle.name != "none"),
        bare: middle.is_bare(),
        status: about.map_or(201, |about| about.status),
        lenient: about.is_some() && workload == Workload::Crowd,
        // Some peers want keys of 21 characters and more.
        prefix: format!("{since_1970:016x}-{round}"),
    };
    let ledger_at = middle.ledger(outside.upstream);
    let then = ledger(ledger_at)?;
    if matches!(workload, Workload::Replay | Workload::Mixed) {
        // The first effects of the keys that are repeated are not what is measured.
        outside.call(&Load { requests: Some(0), ..load.clone() })?;
    }
    let (cpu, calls) = (middle.cpu(), middle.store_calls()?);
    let saw = outside.call(&load)?;
    let (cpu_after, now, calls_after) = (middle.cpu(), ledger(ledger_at)?, middle.store_calls()?);
    let effects = now.effects - then.effects;
    if !load.lenient {
        hold_against(&load, &saw, effects, now.doubled - then.doubled)?;
    }
    let answers = saw.answers.max(1) as f64;
    let each = |now: Duration, then: Duration| now.saturating_sub(then).as_secs_f64() * 1e6 / answers;
    Ok(Figures {
        answers: saw.answers,
        requests_per_s: answers / saw.seconds,
        p50_us: saw.p50_us,
        p99_us: saw.p99_us,
        max_us: saw.max_us,
        cpu_us: each(cpu_after.0, cpu.0),
        store_us: each(cpu_after.1, cpu.1),
        effects,
        after_effect_ms: (ledger_at == outside.upstream).then_some(saw.after_effect_ms),
        store_calls: calls.zip(calls_after).map(|(then, now)| now - then),
        statuses: saw.statuses,
    })
}

/// Each key took effect once, where somebody in the middle sees to it.
fn hold_against(load: &Load, saw: &Saw, effects: u64, doubled: u64) -> Result<(), String> {
    let meant = match load.workload {
        Workload::Unkeyed => saw.answers,
        _ if load.bare => return Ok(()),
        _ => saw.keys,
    };
    if effects == meant && doubled == 0 {
        return Ok(());
    }
    Err(format!("{effects} effects, {meant} were meant, {doubled} keys had more than one"))
}

fn ledger(port: u16) -> Result<Ledger, Box<dyn Error>> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /ledger HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    // Some answer in one chunk, its length before it.
    let json = body.find('{').zip(body.rfind('}')).map_or(body, |(first, last)| &body[first..=last]);
    Ok(serde_json::from_str(json)?)
}
