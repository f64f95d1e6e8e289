//! A bar for people who watch, and nothing for others.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use semel_auditor::audit::{Progress, Tell};

/// How often the clock on the bar moves.
const TICK: Duration = Duration::from_millis(200);

/// A bar on standard error, where that is a terminal.
pub(super) fn bar(name: &str) -> Tell {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if !super::watched() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
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
