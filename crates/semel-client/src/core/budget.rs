//! How many retries a host may be sent: a share of the calls to it, and a burst. Whole numbers only, shared by all
//! calls to the host. Pure but for the counter itself.
//!
//! A host that fails is asked at most 1.1 times as often as one that does not, after the burst: retries cannot keep
//! it down. Next: [`crate::core::call`], which withdraws.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What one retry costs, in hundredths: a call pays in `percent` of them.
const RETRY: u64 = 100;
/// Above this many hosts those whose budget is full are forgotten: a fresh one is full as well.
const HOSTS_MAX: usize = 4_096;

/// The share and the burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Retries per hundred calls. 10 by default.
    pub percent: u32,
    /// Retries that are there from the start, and the most that can be saved up. 100 by default.
    pub burst: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self { percent: 10, burst: 100 }
    }
}

/// The budget of one host.
#[derive(Debug)]
pub struct Budget {
    share: Option<Share>,
    saved: AtomicU64,
}

impl Budget {
    /// A full budget; without a share it never runs out.
    #[must_use]
    pub fn new(share: Option<Share>) -> Self {
        Self { share, saved: AtomicU64::new(share.map_or(0, full)) }
    }

    /// A call was begun.
    pub fn deposit(&self) {
        let Some(share) = self.share else { return };
        let add = |saved: u64| Some(saved.saturating_add(share.percent.into()).min(full(share)));
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Takes one retry out; false when there is none left.
    pub fn withdraw(&self) -> bool {
        let take = |saved: u64| saved.checked_sub(RETRY);
        self.share.is_none() || self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Whole retries that are left; `None` when it never runs out.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        self.share.map(|_| self.saved.load(Ordering::Relaxed) / RETRY)
    }

    fn is_full(&self) -> bool {
        self.share.is_none_or(|share| self.saved.load(Ordering::Relaxed) == full(share))
    }
}

fn full(share: Share) -> u64 {
    u64::from(share.burst) * RETRY
}

/// The budgets of all hosts.
#[derive(Debug)]
pub struct Budgets {
    share: Option<Share>,
    hosts: Mutex<HashMap<Box<str>, Arc<Budget>>>,
}

impl Budgets {
    /// Budgets with this share each; without one they never run out.
    #[must_use]
    pub fn new(share: Option<Share>) -> Self {
        Self { share, hosts: Mutex::default() }
    }

    /// The budget of `host`, in lower case, with its port where it has one.
    #[must_use]
    pub fn of(&self, host: &str) -> Arc<Budget> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = hosts.get(host) {
            return Arc::clone(budget);
        }
        if hosts.len() >= HOSTS_MAX {
            hosts.retain(|_, budget| !budget.is_full());
        }
        let budget = Arc::new(Budget::new(self.share));
        hosts.insert(host.into(), Arc::clone(&budget));
        budget
    }
}
