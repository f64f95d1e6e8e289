//! CPU time of server processes, as the kernel counts it.
//!
//! Not of this process: the driver measures that. Next: `driver`.

use std::fs;
use std::time::Duration;

/// The CPU time that the processes `roots` and their children have used, without children that have ended.
pub(crate) fn cpu(roots: &[String]) -> Duration {
    let Ok(all) = fs::read_dir("/proc") else { return Duration::ZERO };
    let processes = all.flatten().filter(|entry| {
        let name = entry.file_name();
        let stat = || fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The parent is the second field behind the name, which stands in brackets.
        let is_child = |stat: String| {
            let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
            parent.is_some_and(|parent| roots.iter().any(|root| root == parent))
        };
        name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
            && (roots.iter().any(|root| root.as_str() == name) || is_child(stat()))
    });
    let threads = processes.filter_map(|process| fs::read_dir(process.path().join("task")).ok()).flatten();
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let stat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanoseconds.sum())
}
