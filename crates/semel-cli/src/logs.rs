//! Logs on standard error, as text or as JSON lines. No request waits for whoever reads them: lines that nobody takes
//! are dropped once [`LINES_WAITING`] wait.

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// A few megabytes.
const LINES_WAITING: usize = 10_000;

/// What is logged, and how.
#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// What is logged: `error`, `warn`, `info`, `debug`, `trace`, or per module: `info,semel_tower=debug`
    #[arg(long, env = "SEMEL_LOG", default_value = "info", value_name = "LEVEL")]
    log: Targets,

    /// One line of text or one JSON object per event, on standard error
    #[arg(long, env = "SEMEL_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl LogArgs {
    /// Begins to log. What waits is written when the guard is dropped, which takes a second at most.
    pub(crate) fn start(self) -> WorkerGuard {
        let (lines, guard) = NonBlockingBuilder::default()
            .buffered_lines_limit(LINES_WAITING)
            .lossy(true)
            .finish(io::stderr());
        let to_stderr = fmt::layer().with_writer(lines);
        let lines = match self.log_format {
            LogFormat::Text => to_stderr.with_ansi(io::stderr().is_terminal()).boxed(),
            LogFormat::Json => to_stderr.json().flatten_event(true).with_span_list(false).boxed(),
        };
        tracing_subscriber::registry().with(lines.with_filter(self.log)).init();
        guard
    }
}
