//! Callers in a closed loop, and what they measure.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cpu_time::ProcessTime;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use crate::servers;

/// What is measured: something that claims a number and then completes it.
pub(crate) trait Target: Send + Sync + 'static {
    /// One claim and its completion, both acknowledged.
    fn pair(&self, number: u64) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// One measurement.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) pairs_per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// Of this process.
    pub(crate) cpu_us_per_pair: f64,
    /// Of the server's processes, where there is a server.
    pub(crate) server_us_per_pair: f64,
}

/// The same as [`closed`], with the CPU time of the server whose first processes are `roots`.
pub(crate) async fn closed_beside(
    roots: &[String],
    target: Arc<dyn Target>,
    callers: usize,
    time: Duration,
    from: &AtomicU64,
) -> Figures {
    let (before, first) = (servers::cpu(roots), from.load(Ordering::Relaxed));
    let figures = closed(target, callers, time, from).await;
    let pairs = (from.load(Ordering::Relaxed) - first).max(1) as f64;
    let cpu = servers::cpu(roots).saturating_sub(before);
    Figures { server_us_per_pair: cpu.as_secs_f64() * 1e6 / pairs, ..figures }
}

/// As many pairs as `callers` can make in `time`, each beginning the next when it has an answer.
pub(crate) async fn closed(
    target: Arc<dyn Target>,
    callers: usize,
    time: Duration,
    from: &AtomicU64,
) -> Figures {
    let numbers = Arc::new(AtomicU64::new(from.load(Ordering::Relaxed)));
    let (begun, cpu) = (Instant::now(), ProcessTime::now());
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (target, numbers) = (Arc::clone(&target), Arc::clone(&numbers));
        tasks.spawn(async move {
            let mut latencies = Vec::new();
            while begun.elapsed() < time {
                let started = Instant::now();
                target.pair(numbers.fetch_add(1, Ordering::Relaxed)).await;
                latencies.push(started.elapsed());
            }
            latencies
        });
    }
    let latencies = tasks.join_all().await.concat();
    from.store(numbers.load(Ordering::Relaxed), Ordering::Relaxed);
    figures(latencies, begun.elapsed(), cpu.elapsed())
}

/// `rate` pairs per second in every hundredth of a second, whether or not earlier ones are done.
pub(crate) async fn open(target: Arc<dyn Target>, rate: u64, time: Duration, from: &AtomicU64) -> Figures {
    let (begun, cpu) = (Instant::now(), ProcessTime::now());
    let mut tasks = JoinSet::new();
    let mut ticks = interval(Duration::from_millis(10));
    while begun.elapsed() < time {
        ticks.tick().await;
        for _ in 0..rate / 100 {
            let (target, number) = (Arc::clone(&target), from.fetch_add(1, Ordering::Relaxed));
            tasks.spawn(async move {
                let started = Instant::now();
                target.pair(number).await;
                started.elapsed()
            });
        }
    }
    figures(tasks.join_all().await, begun.elapsed(), cpu.elapsed())
}

fn figures(mut latencies: Vec<Duration>, elapsed: Duration, cpu: Duration) -> Figures {
    latencies.sort_unstable();
    let at = |share: usize| {
        latencies.get(latencies.len() * share / 1000).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    let pairs = latencies.len().max(1) as f64;
    Figures {
        pairs_per_s: pairs / elapsed.as_secs_f64(),
        p50_ms: at(500),
        p99_ms: at(990),
        max_ms: latencies.last().map_or(0.0, |time| time.as_secs_f64() * 1e3),
        cpu_us_per_pair: cpu.as_secs_f64() * 1e6 / pairs,
        server_us_per_pair: 0.0,
    }
}
