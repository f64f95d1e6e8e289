//! What a part of `cargo xtask bench` writes: figures with the machine and the command they are from.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A file of figures.
#[derive(Debug, Deserialize)]
pub(crate) struct Results<R> {
    pub(crate) machine: String,
    pub(crate) command: String,
    /// One fdatasync of 4 KiB on the disk that stores were on, median of 200.
    pub(crate) fdatasync_us: f64,
    pub(crate) rows: Vec<R>,
}

impl<R: Serialize> Results<R> {
    /// What was measured just now by this process, with files in `folder`.
    pub(crate) fn new(folder: &Path, rows: Vec<R>) -> Result<Self, Box<dyn Error>> {
        let words = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let command = format!("semel-bench {words}");
        Ok(Self { machine: machine(), command, fdatasync_us: fdatasync_us(folder)?, rows })
    }

    /// As JSON with a line for each row.
    pub(crate) fn write(&self, path: Option<&Path>) -> Result<(), Box<dyn Error>> {
        let Some(path) = path else { return Ok(()) };
        let mut rows = Vec::new();
        for row in &self.rows {
            rows.push(serde_json::to_string(row)?);
        }
        let text = format!(
            "{{\"machine\":{},\n\"command\":{},\n\"fdatasync_us\":{:.1},\n\"rows\":[\n{}\n]}}\n",
            serde_json::to_string(&self.machine)?,
            serde_json::to_string(&self.command)?,
            self.fdatasync_us,
            rows.join(",\n")
        );
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
    }
}

/// Processors and kernel.
fn machine() -> String {
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let model = field(&cpus, "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let virtual_one = if cpus.contains(" hypervisor") { ", virtual machine" } else { "" };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{count} cores of {model}{virtual_one}, Linux {}", kernel.trim())
}

pub(crate) fn fdatasync_us(folder: &Path) -> Result<f64, Box<dyn Error>> {
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

/// The middle, the least and the greatest of some figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of none, all are 0.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = figures.into_iter().collect();
        all.sort_by(f64::total_cmp);
        let at = |index: usize| all.get(index).copied().unwrap_or_default();
        Self { median: at(all.len() / 2), least: at(0), most: at(all.len().saturating_sub(1)) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{:.2} ({:.2}-{:.2})", self.median, self.least, self.most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let path = tempfile::NamedTempFile::new().expect("a file");
        let rows = vec![Spread::of([3.0, 1.0, 2.0]), Spread::of([])];
        let results = Results::new(Path::new("/tmp"), rows).expect("a disk");
        results.write(Some(path.path())).expect("a disk");
        let text = std::fs::read(path.path()).expect("it is there");
        let read: Results<Spread> = serde_json::from_slice(&text).expect("it is JSON");
        assert_eq!((read.rows, read.command), (results.rows, results.command));
    }
}
