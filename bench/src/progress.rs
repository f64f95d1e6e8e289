//! How far a run is, on a terminal; elsewhere nothing.

use indicatif::{ProgressBar, ProgressStyle};

/// A line at the bottom of the terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Of so many measurements.
    pub(crate) fn of(measurements: usize) -> Self {
        let bar = ProgressBar::new(measurements as u64);
        let style = ProgressStyle::with_template("{bar:20} {pos}/{len}, {eta} left: {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    /// What is measured next.
    pub(crate) fn begin(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }

    pub(crate) fn done(&self) {
        self.0.inc(1);
    }

    /// Prints above the line.
    pub(crate) fn suspend(&self, print: impl FnOnce()) {
        self.0.suspend(print);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
