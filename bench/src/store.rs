//! The embedded store: empty, over many live records, while records expire, and opened after a kill.

use std::error::Error;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use semel::clock::{Clock, SystemClock, Timestamp};
use semel::engine::Limits;
use semel::event::{Event, Observer};
use semel::record::{ClaimArgs, Ending};
use semel::store::{Claimed, CompleteArgs, Durability, Store, Written};
use semel::{Engine, Fingerprint, Key, Operation, Outcome, Policy, RecordId, Tenant, fingerprint};
use semel_store_embedded::{EmbeddedConfig, EmbeddedStore};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::driver::{self, Figures, Target};
use crate::floor::Log;
use crate::plain::Plain;
use crate::results::{Results, Spread};

/// What a claim's row takes in our store, about; the floor writes as much.
pub(crate) const IDENTITY_BYTES: usize = 300;
pub(crate) const BODY_BYTES: usize = 1024;
pub(crate) const RETENTION: Duration = Duration::from_secs(24 * 3600);
/// How many callers fill a file.
const FILLERS: usize = 1024;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Live records of the loaded modes.
    #[arg(long, default_value_t = 5_000_000)]
    records: u64,
    /// Length of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Callers at once.
    #[arg(long, value_delimiter = ',', default_value = "1,64,512")]
    callers: Vec<usize>,
    /// Interleaved rounds; medians are shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Which of empty, fill, loaded, steady, expiry and kill; fill only makes the file of the loaded modes.
    #[arg(long, value_delimiter = ',', default_value = "empty,loaded,steady,expiry,kill")]
    modes: Vec<String>,
    /// Where files are made; a filled one is used again.
    #[arg(long, default_value = "/tmp/semel-bench")]
    folder: PathBuf,
    /// Where the figures are written as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A row of the report.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) mode: String,
    pub(crate) what: String,
    pub(crate) callers: usize,
    /// Of pairs per second: to the mode's first row.
    pub(crate) ratio: Option<Spread>,
    /// Of the round with the median rate.
    pub(crate) figures: Figures,
    /// After a kill: milliseconds until it was open.
    pub(crate) opened_ms: Option<Spread>,
}

impl Row {
    pub(crate) fn new(
        mode: &str,
        what: &str,
        callers: usize,
        (figures, ratio): (Figures, Option<Spread>),
    ) -> Self {
        Self { mode: mode.to_owned(), what: what.to_owned(), callers, ratio, figures, opened_ms: None }
    }
}

/// The system's clock, set forward at will.
#[derive(Debug)]
struct ShiftedClock {
    clock: SystemClock,
    ahead_us: AtomicU64,
}

impl ShiftedClock {
    fn new() -> Arc<Self> {
        Arc::new(Self { clock: SystemClock::new(), ahead_us: AtomicU64::new(0) })
    }

    fn advance(&self, duration: Duration) {
        self.ahead_us.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> Timestamp {
        self.clock.now().plus(Duration::from_micros(self.ahead_us.load(Ordering::Relaxed)))
    }
}

pub(crate) fn id(number: u64) -> RecordId {
    let key = format!("7f3a52c9-6b1e-4d60-9a52-{number:012x}");
    let key = Key::new(&key).expect("hexadecimal digits are printable");
    RecordId::new(Tenant::id(&["organisation-1234/user-987654"]), Operation::http(), key)
}

pub(crate) struct Ours {
    store: Arc<dyn Store>,
    retention: Duration,
    outcome: Outcome,
    policy: Policy,
    fingerprint: Fingerprint,
}

impl Ours {
    fn open(config: EmbeddedConfig, retention: Duration) -> Result<Arc<Self>, Box<dyn Error>> {
        Ok(Self::on(Arc::new(EmbeddedStore::open(config)?), retention))
    }

    /// Pairs on any store.
    pub(crate) fn on(store: Arc<dyn Store>, retention: Duration) -> Arc<Self> {
        let head =
            "content-type: application/json\r\nlocation: /charges/1234\r\nx-request-id: 0123456789abcdef\r\n";
        let body = vec![b'x'; BODY_BYTES].into();
        Arc::new(Self {
            store,
            retention,
            outcome: Outcome { code: 201, head: head.into(), body, body_kept: true },
            policy: Policy::default(),
            fingerprint: Fingerprint {
                target: fingerprint::target("POST", "/charges", None),
                payload: fingerprint::payload(b"{}", &fingerprint::PayloadParts::Raw),
            },
        })
    }
}

impl Target for Ours {
    fn pair(&self, number: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let args = ClaimArgs::new(id(number), self.fingerprint, &self.policy);
            let Ok(Claimed::Won(record)) = self.store.claim(args).await else {
                panic!("a fresh claim is won")
            };
            let ending = Ending::Completed(self.outcome.clone());
            let args = CompleteArgs { id: record.id, guard: record.guard, ending, retention: self.retention };
            let Ok(Written::Done(_)) = self.store.complete(args).await else {
                panic!("the holder completes")
            };
        })
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(&arguments.folder)?;
    let mut rows = Vec::new();
    for mode in &arguments.modes {
        match mode.as_str() {
            "fill" => _ = filled(&arguments).await?,
            "empty" => empty(&arguments, &mut rows).await?,
            "loaded" => loaded(&arguments, &mut rows).await?,
            "steady" => steady(&arguments, &mut rows).await?,
            "expiry" => expiry(&arguments, &mut rows).await?,
            "kill" => kill(&arguments, &mut rows).await?,
            other => return Err(format!("there is no mode {other}").into()),
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    Results::new(&arguments.folder, rows)?.write(arguments.json.as_deref())
}

pub(crate) fn show(rows: &mut Vec<Row>, row: Row) {
    if rows.is_empty() {
        println!(
            "{:8} {:22} {:>7} {:>8} {:>16} {:>7} {:>7} {:>7} {:>7} {:>9}",
            "mode",
            "what",
            "callers",
            "pairs/s",
            "ratio",
            "p50 ms",
            "p99 ms",
            "max ms",
            "cpu µs",
            "server µs"
        );
    }
    let Figures { pairs_per_s, p50_ms, p99_ms, max_ms, cpu_us_per_pair, server_us_per_pair } = row.figures;
    let ratio = row.ratio.map_or(String::new(), |ratio| ratio.to_string());
    if let Some(opened) = row.opened_ms {
        println!("{:8} {:22} opened in {opened} ms", row.mode, row.what);
        rows.push(row);
        return;
    }
    println!(
        "{:8} {:22} {:7} {pairs_per_s:8.0} {ratio:>16} {p50_ms:7.2} {p99_ms:7.2} {max_ms:7.1} {cpu_us_per_pair:7.1} {server_us_per_pair:9.1}",
        row.mode, row.what, row.callers
    );
    rows.push(row);
}

/// The round with the median rate, and the ratios to `base` round by round.
pub(crate) fn median(rounds: &[Figures], base: Option<&[Figures]>) -> (Figures, Option<Spread>) {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(|a, b| a.pairs_per_s.total_cmp(&b.pairs_per_s));
    let ratio = base.map(|base| {
        Spread::of(rounds.iter().zip(base).map(|(ours, base)| ours.pairs_per_s / base.pairs_per_s))
    });
    (sorted[sorted.len() / 2].clone(), ratio)
}

async fn compare(
    arguments: &Arguments,
    rows: &mut Vec<Row>,
    mode: &str,
    targets: &[(&str, Arc<dyn Target>)],
) {
    // Numbers that no run before has used.
    let first = SystemClock::new().now().as_micros();
    let numbers: Vec<AtomicU64> = targets.iter().map(|_| AtomicU64::new(first)).collect();
    for callers in &arguments.callers {
        let mut rounds = vec![Vec::new(); targets.len()];
        for _ in 0..arguments.rounds {
            for (number, (_, target)) in targets.iter().enumerate() {
                let time = Duration::from_secs(arguments.seconds);
                rounds[number]
                    .push(driver::closed(Arc::clone(target), *callers, time, &numbers[number]).await);
            }
        }
        for (number, (what, _)) in targets.iter().enumerate() {
            let (figures, ratio) = median(&rounds[number], Some(&rounds[0]));
            show(rows, Row::new(mode, what, *callers, (figures, ratio)));
        }
    }
}

async fn empty(arguments: &Arguments, rows: &mut Vec<Row>) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir_in(&arguments.folder)?;
    let targets: [(&str, Arc<dyn Target>); 3] = [
        ("append-only log", Arc::new(Log::create(&folder.path().join("log"))?)),
        ("plain SQLite table", Arc::new(Plain::create(&folder.path().join("plain.db"))?)),
        ("embedded", Ours::open(EmbeddedConfig::new(folder.path().join("ours.db")), RETENTION)?),
    ];
    compare(arguments, rows, "empty", &targets).await;
    Ok(())
}

/// A file with `records` live ones.
async fn filled(arguments: &Arguments) -> Result<PathBuf, Box<dyn Error>> {
    let path = arguments.folder.join(format!("filled-{}.db", arguments.records));
    if !path.exists() {
        let half = arguments.folder.join("filling.db");
        for stale in ["filling.db", "filling.db-wal", "filling.db-shm"] {
            let _ = std::fs::remove_file(arguments.folder.join(stale));
        }
        let config = EmbeddedConfig::new(&half).durability(Durability::Process);
        // Longer than a day of measuring.
        fill(Ours::open(config, RETENTION * 30)?, arguments.records, None).await;
        std::fs::rename(half, &path)?;
    }
    Ok(path)
}

/// `paced` advances a clock by so much per record.
async fn fill(target: Arc<Ours>, records: u64, paced: Option<(Arc<ShiftedClock>, Duration)>) {
    let begun = Instant::now();
    let numbers = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..FILLERS {
        let (target, numbers, paced) = (Arc::clone(&target), Arc::clone(&numbers), paced.clone());
        tasks.spawn(async move {
            loop {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                if number >= records {
                    return;
                }
                target.pair(number).await;
                if let Some((clock, step)) = &paced {
                    clock.advance(*step);
                }
            }
        });
    }
    tasks.join_all().await;
    println!("filled with {records} records in {:.0} s", begun.elapsed().as_secs_f64());
}

async fn loaded(arguments: &Arguments, rows: &mut Vec<Row>) -> Result<(), Box<dyn Error>> {
    let path = filled(arguments).await?;
    let folder = tempfile::tempdir_in(&arguments.folder)?;
    let targets: [(&str, Arc<dyn Target>); 3] = [
        ("embedded, empty", Ours::open(EmbeddedConfig::new(folder.path().join("ours.db")), RETENTION)?),
        ("embedded, loaded", Ours::open(EmbeddedConfig::new(path), RETENTION)?),
        ("append-only log", Arc::new(Log::create(&folder.path().join("log"))?)),
    ];
    compare(arguments, rows, "loaded", &targets).await;
    Ok(())
}

/// Counts what a sweep removed.
#[derive(Debug, Default)]
struct Purged(AtomicU64);

impl Observer for Purged {
    fn observe(&self, event: &Event<'_>) {
        if let Event::Purged { records } = event {
            self.0.fetch_add(*records as u64, Ordering::Relaxed);
        }
    }
}

/// Purges as an engine does, as long as the returned one lives.
fn sweep(store: &Arc<dyn Store>, purged: &Arc<Purged>) -> Engine {
    let engine = Engine::with(Arc::clone(store), Arc::clone(purged) as Arc<dyn Observer>, Limits::default());
    engine.sweep_in_background(Duration::from_millis(100));
    engine
}

async fn steady(arguments: &Arguments, rows: &mut Vec<Row>) -> Result<(), Box<dyn Error>> {
    const RATE: u64 = 1_200;
    let live = arguments.records.min(2_000_000);
    let retention = Duration::from_secs(live / RATE);
    let folder = tempfile::tempdir_in(&arguments.folder)?;
    let clock = ShiftedClock::new();
    let config = EmbeddedConfig::new(folder.path().join("ours.db")).clock(clock.clone());
    let target = Ours::open(config, retention)?;
    fill(Arc::clone(&target), live, Some((clock.clone(), retention / u32::try_from(live)?))).await;
    let purged = Arc::new(Purged::default());
    let engine = sweep(&target.store, &purged);
    let numbers = AtomicU64::new(1 << 40);
    // Longer than the window of a segment, so that at least one is dropped.
    let time = Duration::from_secs(arguments.seconds.max(2) * 20);
    let figures = driver::open(target.clone(), RATE, time, &numbers).await;
    drop(engine);
    let what = format!("1,200/s, {} purged", purged.0.load(Ordering::Relaxed));
    show(rows, Row::new("steady", &what, 0, (figures, None)));
    Ok(())
}

async fn expiry(arguments: &Arguments, rows: &mut Vec<Row>) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir_in(&arguments.folder)?;
    let clock = ShiftedClock::new();
    let target =
        Ours::open(EmbeddedConfig::new(folder.path().join("ours.db")).clock(clock.clone()), RETENTION)?;
    fill(Arc::clone(&target), arguments.records.min(1_000_000), None).await;
    clock.advance(RETENTION * 2);
    let numbers = AtomicU64::new(1 << 40);
    let time = Duration::from_secs(arguments.seconds);
    let (mut resting, mut purging) = (Vec::new(), Vec::new());
    let purged = Arc::new(Purged::default());
    for _ in 0..arguments.rounds {
        resting.push(driver::closed(target.clone(), 64, time, &numbers).await);
        let engine = sweep(&target.store, &purged);
        purging.push(driver::closed(target.clone(), 64, time, &numbers).await);
        drop(engine);
    }
    let purged = purged.0.load(Ordering::Relaxed);
    let (figures, _) = median(&resting, None);
    show(rows, Row::new("expiry", "not purging", 64, (figures, None)));
    let (figures, ratio) = median(&purging, Some(&resting));
    show(rows, Row::new("expiry", &format!("{purged} purged"), 64, (figures, ratio)));
    Ok(())
}

async fn kill(arguments: &Arguments, rows: &mut Vec<Row>) -> Result<(), Box<dyn Error>> {
    let path = filled(arguments).await?;
    let (mut opened_ms, mut log_bytes) = (Vec::new(), Vec::new());
    for _ in 0..arguments.rounds {
        let mut child = Command::new(std::env::current_exe()?).arg("burn").arg(&path).spawn()?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        child.kill()?;
        child.wait()?;
        log_bytes.push(logs(&path));
        let begun = Instant::now();
        let store = EmbeddedStore::open(EmbeddedConfig::new(&path))?;
        opened_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        drop(store);
    }
    let mib = Spread::of(log_bytes.iter().map(|bytes| *bytes as f64 / 1024.0 / 1024.0));
    let what = format!("{} records, {mib} MiB of logs", arguments.records);
    show(
        rows,
        Row {
            opened_ms: Some(Spread::of(opened_ms)),
            ..Row::new("kill", &what, 64, (Figures::default(), None))
        },
    );
    Ok(())
}

/// What an opening reads beside the tables: the write-ahead log of SQLite and the store's own.
fn logs(path: &Path) -> u64 {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return 0;
    };
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let beside = files.filter(|file| {
        let file = file.file_name();
        file.to_str().is_some_and(|file| file != name && file.starts_with(name) && !file.ends_with("-shm"))
    });
    beside.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

/// Claims and completes until it is killed.
pub(crate) async fn burn(path: PathBuf) -> Result<(), Box<dyn Error>> {
    let target = Ours::open(EmbeddedConfig::new(path), RETENTION)?;
    // Numbers that no run before has used.
    let numbers = AtomicU64::new(SystemClock::new().now().as_micros());
    driver::closed(target, 64, Duration::from_secs(3600), &numbers).await;
    Ok(())
}
