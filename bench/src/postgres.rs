//! The PostgreSQL store beside the least that would do on the same server: a prepared INSERT to claim and a prepared
//! UPDATE to complete, each a transaction, through the same driver, with a connection for each caller.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use semel::Store;
use semel_store_postgres::{PostgresConfig, PostgresStore};
use semel_testkit::server::postgres::PostgresServer;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls, Statement};
use uuid::Uuid;

use crate::driver::{self, Target};
use crate::results::Results;
use crate::store::{BODY_BYTES, IDENTITY_BYTES, Ours, RETENTION, Row, id, median, show};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Length of each measurement.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Callers at once.
    #[arg(long, value_delimiter = ',', default_value = "1,64,512")]
    callers: Vec<usize>,
    /// Interleaved rounds; medians are shown.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections that claim, and as many that complete.
    #[arg(long, default_value_t = 2)]
    writers: usize,
    /// Fills the table with so many records first, and shows what their expiry costs and leaves behind.
    #[arg(long, default_value_t = 0)]
    records: u64,
    /// Where the figures are written as JSON.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

/// The connections of the floor that are not in use.
struct Floor {
    idle: Mutex<Vec<(Client, Statement, Statement)>>,
    places: Semaphore,
}

impl Floor {
    async fn connect(url: &str, connections: usize) -> Result<Arc<Self>, tokio_postgres::Error> {
        let mut idle = Vec::new();
        for _ in 0..connections {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            if idle.is_empty() {
                let table = "CREATE TABLE plain (digest uuid PRIMARY KEY, identity bytea, body bytea)";
                client.batch_execute(table).await?;
            }
            let insert = client.prepare("INSERT INTO plain VALUES ($1, $2, NULL)").await?;
            let update = client.prepare("UPDATE plain SET body = $2 WHERE digest = $1").await?;
            idle.push((client, insert, update));
        }
        Ok(Arc::new(Self { places: Semaphore::new(idle.len()), idle: Mutex::new(idle) }))
    }
}

impl Target for Floor {
    fn pair(&self, number: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let _place = self.places.acquire().await.expect("it is never closed");
            let taken = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = taken.expect("there is one for each place");
            let (client, insert, update) = &connection;
            let digest = Uuid::from_bytes(*id(number).digest().as_bytes());
            let made = client.execute(insert, &[&digest, &vec![b'x'; IDENTITY_BYTES]]).await;
            made.expect("the server takes it");
            let made = client.execute(update, &[&digest, &vec![b'x'; BODY_BYTES]]).await;
            made.expect("the server takes it");
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        })
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let server = PostgresServer::start_with(&[
        ("shared_buffers", "1GB"),
        ("max_wal_size", "8GB"),
        ("checkpoint_timeout", "15min"),
        ("max_connections", "200"),
    ]);
    let url = server.url("postgres");
    let config = PostgresConfig::new(&url).migrate(true).writers(arguments.writers);
    let store = Arc::new(PostgresStore::open(config).await?);
    let ours = Ours::on(store.clone(), RETENTION);
    if arguments.records > 0 {
        return churn(&arguments, &server, &store, ours).await;
    }
    let root = root(&server);
    let targets: [(&str, Arc<dyn Target>); 2] =
        [("INSERT and UPDATE", Floor::connect(&url, 64).await?), ("postgres", ours)];
    let mut rows = Vec::new();
    let numbers = [AtomicU64::new(0), AtomicU64::new(0)];
    let time = Duration::from_secs(arguments.seconds);
    for callers in &arguments.callers {
        let mut rounds = [Vec::new(), Vec::new()];
        let mut work = [[0.0; WORK.len()]; 2];
        let first = numbers.each_ref().map(|number| number.load(Ordering::Relaxed));
        for _ in 0..arguments.rounds {
            for (nth, (_, target)) in targets.iter().enumerate() {
                let before = work_of(&server);
                let target = Arc::clone(target);
                let made = driver::closed_beside(&root, target, *callers, time, &numbers[nth]);
                rounds[nth].push(made.await);
                let after = work_of(&server);
                (0..WORK.len()).for_each(|at| work[nth][at] += after[at] - before[at]);
            }
        }
        for (nth, (what, _)) in targets.iter().enumerate() {
            let (figures, ratio) = median(&rounds[nth], Some(&rounds[0]));
            let row = Row::new("postgres", what, *callers, (figures, ratio));
            show(&mut rows, row);
            let pairs = (numbers[nth].load(Ordering::Relaxed) - first[nth]).max(1) as f64;
            let each = |at: usize| format!("{:.2} {}", work[nth][at] / pairs, WORK[at]);
            println!("  a pair: {}", (0..WORK.len()).map(each).collect::<Vec<_>>().join(", "));
        }
    }
    Results::new(&std::env::temp_dir(), rows)?.write(arguments.json.as_deref())
}

/// Over many records, then while they expire and as many come again, twice.
async fn churn(
    arguments: &Arguments,
    server: &PostgresServer,
    store: &Arc<PostgresStore>,
    ours: Arc<Ours>,
) -> Result<(), Box<dyn Error>> {
    let (mut rows, numbers, root) = (Vec::new(), AtomicU64::new(1 << 40), root(server));
    let time = Duration::from_secs(arguments.seconds);
    let mut measure = async |what: String| {
        let figures = driver::closed_beside(&root, ours.clone(), 64, time, &numbers).await;
        show(&mut rows, Row::new("postgres", &what, 64, (figures, None)));
    };
    measure("empty".to_owned()).await;
    for cycle in 1..=2 {
        fill(server, cycle, arguments.records);
        println!("{} records: {}", arguments.records, sizes(server));
        measure(format!("filled, cycle {cycle}")).await;
        let going = Arc::new(AtomicBool::new(true));
        let purging = tokio::spawn({
            let (store, going) = (Arc::clone(store), Arc::clone(&going));
            async move {
                let mut purged = 0;
                while going.load(Ordering::Relaxed) {
                    let removed = store.purge(1_000).await.unwrap_or(0);
                    purged += removed;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                purged
            }
        });
        measure(format!("purging, cycle {cycle}")).await;
        going.store(false, Ordering::Relaxed);
        println!("{} purged meanwhile", purging.await?);
        let begun = Instant::now();
        let mut purged = 0;
        loop {
            match store.purge(10_000).await? {
                0 => break,
                removed => purged += removed,
            }
        }
        println!("{purged} purged in {:.1} s with nothing else running", begun.elapsed().as_secs_f64());
        server.sql("postgres", "VACUUM semel_records");
        println!("after the purge and a vacuum: {}", sizes(server));
    }
    Ok(())
}

/// What the server counts.
const WORK: [&str; 5] = ["bytes of WAL", "records of WAL", "page images", "syncs of WAL", "commits"];

fn work_of(server: &PostgresServer) -> [f64; WORK.len()] {
    let ask = "SELECT pg_stat_force_next_flush(); SELECT wal_bytes, wal_records, wal_fpi, wal_sync, \
        (SELECT sum(xact_commit) FROM pg_stat_database) FROM pg_stat_wal";
    // Sessions tell the collector of their work a second later.
    std::thread::sleep(Duration::from_millis(1_200));
    let said = server.sql("postgres", ask);
    let mut numbers = said.lines().last().unwrap_or_default().split('|');
    std::array::from_fn(|_| numbers.next().and_then(|number| number.parse().ok()).unwrap_or(0.0))
}

/// The server's first process.
fn root(server: &PostgresServer) -> [String; 1] {
    let folder = server.sql("postgres", "SHOW data_directory");
    let file = std::fs::read_to_string(std::path::Path::new(&folder).join("postmaster.pid"));
    [file.unwrap_or_default().lines().next().unwrap_or_default().to_owned()]
}

/// Records as the store writes them, which have expired.
fn fill(server: &PostgresServer, cycle: u64, records: u64) {
    let fill = format!(
        "INSERT INTO semel_records (digest, attempt, target, payload, token, claimed_us, doubt_retention_us, settled_us, \
         expires_us, generation, code, state, body_kept, tenant, operation, key, head, body) \
         SELECT md5('{cycle} ' || n)::uuid, md5('a' || n)::uuid, md5('t')::uuid, md5('p')::uuid, n, n, 1, n, n, 1, 201, 2, \
         true, 'id:organisation-1234/user-987654', 'http', '7f3a52c9-6b1e-4d60-9a52-' || lpad(to_hex(n), 12, '0'), \
         convert_to(repeat('h', 88), 'UTF8'), convert_to(repeat('x', {BODY_BYTES}), 'UTF8') \
         FROM generate_series(1, {records}) AS n; ANALYZE semel_records"
    );
    server.sql("postgres", &fill);
}

fn sizes(server: &PostgresServer) -> String {
    server.sql(
        "postgres",
        "SELECT format('table %s, key index %s, expiry index %s', pg_size_pretty(pg_table_size('semel_records')), \
         pg_size_pretty(pg_relation_size('semel_records_pkey')), \
         pg_size_pretty(pg_relation_size('semel_records_by_expiry')))",
    )
}
