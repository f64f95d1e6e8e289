//! A bar for people who watch, and nothing for others.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use semel_auditor::audit::{Progress, Tell};

/// How often the clock on the bar moves.
const TICK: Duration = Duration::from_millis(200);

/// One bar for each client that is audited, on standard error, where that is a terminal.
pub(super) struct Bars(MultiProgress);

impl Bars {
    pub(super) fn new() -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        if !super::watched() {
            bars.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self(bars)
    }

    /// The bar of one client.
    pub(super) fn bar(&self, name: &str) -> Tell {
        let bar = self.0.add(ProgressBar::new(0));
        let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {elapsed} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(TICK);
        Arc::new(move |progress| match progress {
            Progress::Begins(scenarios) => bar.set_length(u64::try_from(scenarios).unwrap_or(u64::MAX)),
            Progress::Runs(scenario) => bar.set_message(scenario),
            Progress::Ended(_) => {
                bar.inc(1);
                if Some(bar.position()) == bar.length() {
                    bar.finish_and_clear();
                }
            }
        })
    }

    /// A line that stays.
    pub(super) fn say(&self, line: &str) {
        self.0.suspend(|| anstream::eprintln!("{line}"));
    }
}

/// The bar of the only client.
pub(super) fn bar(name: &str) -> Tell {
    Bars::new().bar(name)
}
