//! Records as people read them: a table, or one by itself. What comes from callers is escaped, so that it can neither
//! move the cursor nor break the columns.

use std::io::{self, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use semel_admin::view::{Body, RecordView, Shown};

const HEADINGS: [&str; 8] =
    ["STATE", "TENANT", "OPERATION", "CODE", "AGE", "EXPIRES IN", "GENERATION", "KEY"];
const COLUMNS: usize = HEADINGS.len();
const BOLD: Style = Style::new().bold();

/// A table that is printed page by page: its columns may widen, and never narrow.
#[derive(Debug, Default)]
pub(super) struct Table {
    widths: [usize; COLUMNS],
    rows: usize,
}

impl Table {
    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(super) fn print(&mut self, records: &[RecordView]) -> io::Result<()> {
        let mut out = anstream::stdout().lock();
        let rows: Vec<_> = records.iter().map(row).collect();
        for cells in
            rows.iter().map(|(cells, _)| cells.each_ref().map(String::len)).chain([HEADINGS.map(str::len)])
        {
            for (width, len) in self.widths.iter_mut().zip(cells) {
                *width = len.max(*width);
            }
        }
        if self.rows == 0 && !rows.is_empty() {
            self.line(&mut out, &HEADINGS.map(str::to_owned), BOLD)?;
        }
        for (cells, style) in &rows {
            self.line(&mut out, cells, *style)?;
        }
        self.rows += rows.len();
        Ok(())
    }

    /// The first cell is styled; the last has no width, because a key may be long.
    fn line(&self, out: &mut impl Write, cells: &[String; COLUMNS], style: Style) -> io::Result<()> {
        let [state, middle @ .., key] = cells;
        let [first, widths @ .., _] = &self.widths;
        write!(out, "{style}{state:first$}{style:#}")?;
        for (cell, width) in middle.iter().zip(widths) {
            write!(out, "  {cell:width$}")?;
        }
        writeln!(out, "  {key}")
    }
}

fn row(record: &RecordView) -> ([String; COLUMNS], Style) {
    let cells = [
        record.state.clone(),
        escaped(&record.tenant),
        escaped(&record.operation),
        record.code.map_or_else(|| "-".to_owned(), |code| code.to_string()),
        short(record.age_seconds),
        record.expires_in_seconds.map_or_else(|| "-".to_owned(), short),
        record.generation.to_string(),
        escaped(&record.key),
    ];
    (cells, style_of(&record.state))
}

/// Prints one record, a line for each thing known about it.
pub(super) fn print_one(shown: &Shown) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    let record = &shown.record;
    let style = style_of(&record.state);
    let mut line = |name: &str, value: String| writeln!(out, "{BOLD}{name:12}{BOLD:#}{value}");
    line("key", escaped(&record.key))?;
    line("tenant", escaped(&record.tenant))?;
    line("operation", escaped(&record.operation))?;
    line("record", record.record.clone())?;
    line("state", format!("{style}{}{style:#}", record.state))?;
    if let (Some(since), Some(cause)) = (&record.in_doubt_since, &record.doubt_cause) {
        line("in doubt", format!("since {since}: {cause}"))?;
    }
    line("claimed", format!("{} ({} ago)", record.claimed_at, short(record.age_seconds)))?;
    if let (Some(lease), Some(last)) = (&record.lease_until, &record.execute_until) {
        line("lease", format!("until {lease}, renewed until {last} at most"))?;
    }
    line("generation", record.generation.to_string())?;
    line("token", record.token.to_string())?;
    if let Some(at) = &record.completed_at {
        line("completed", at.clone())?;
    }
    if let (Some(at), Some(seconds)) = (&record.expires_at, record.expires_in_seconds) {
        line("expires", format!("{at} (in {})", short(seconds)))?;
    }
    line("target", shown.target_digest.clone())?;
    line("payload", shown.payload_digest.clone())?;
    let Some(outcome) = &shown.outcome else { return Ok(()) };
    let kept = if outcome.body_kept { "" } else { ", which was too large to keep" };
    let code = record.code.unwrap_or_default();
    line(
        "outcome",
        format!("{code}, head {} bytes, body {} bytes{kept}", outcome.head_bytes, outcome.body_bytes),
    )?;
    match &outcome.body {
        None => Ok(()),
        Some(Body::Text(text)) => text.lines().try_for_each(|text| line("", escaped(text))),
        Some(Body::Base64(_)) => line("", "the body is not text: --json shows it".to_owned()),
    }
}

fn style_of(state: &str) -> Style {
    let color = match state {
        "in-doubt" => AnsiColor::Yellow,
        "in-flight" => AnsiColor::Cyan,
        "failed" => AnsiColor::Red,
        _ => AnsiColor::Green,
    };
    color.on_default()
}

/// `text` with everything but printable ASCII escaped: each character is one column wide.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, letter| {
        match letter {
            ' '..='~' => escaped.push(letter),
            other => escaped.extend(other.escape_default()),
        }
        escaped
    })
}

/// A duration by its two largest units.
fn short(seconds: u64) -> String {
    let whole = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callers_send_cannot_move_the_cursor() {
        assert_eq!(escaped("order-42 \"x\" \\"), "order-42 \"x\" \\");
        assert_eq!(escaped("\u{1b}[2Jé\t\u{202e}"), "\\u{1b}[2J\\u{e9}\\t\\u{202e}");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(short(0), "0s");
        assert_eq!(short(86_399), "23h 59m");
        assert_eq!(short(2_592_000), "30days");
    }
}
