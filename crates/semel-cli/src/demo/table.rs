//! The table of charges made against charges meant: live on a terminal, line by line elsewhere.
//!
//! Only looks are decided here; what is shown comes from `report.rs`. Lines are at most 100 characters wide, 80 in a
//! pipe and on any terminal that is not wider.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use terminal_size::{Height, Width, terminal_size_of};

use super::client::told;
use super::report::{Cell, Report, Row, Side, Stage};

const COLUMNS_MIN: u16 = 80;
const COLUMNS_MAX: u16 = 100;
/// The least that the two columns of answers need.
const TOLD_WITHOUT: usize = 12;
const TOLD_WITH: usize = 22;
/// What one row takes beside its two columns of answers.
const OTHER_COLUMNS: usize = 45;
const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const CLEAR_REST_OF_LINE: &str = "\x1b[K";
const SPINNER: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// The colours, or none.
#[derive(Clone, Copy, Default)]
struct Palette {
    strong: Style,
    dim: Style,
    good: Style,
    bad: Style,
}

impl Palette {
    fn coloured() -> Self {
        let colour = |colour: AnsiColor| Style::new().bold().fg_color(Some(colour.into()));
        Self {
            strong: Style::new().bold(),
            dim: Style::new().dimmed(),
            good: colour(AnsiColor::Green),
            bad: colour(AnsiColor::Red),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Redrawn in place while the days are played.
    Live,
    /// Each row once, when both days are known.
    Lines,
    Silent,
}

/// Where the table is shown: standard output.
pub(super) struct Screen {
    mode: Mode,
    palette: Palette,
    frame: usize,
    /// Lines of the last drawing, which the next one overwrites.
    drawn: usize,
}

impl Screen {
    /// The mode follows from what standard output is: live on a terminal with room for the table.
    pub(super) fn on_stdout() -> Self {
        let stdout = io::stdout();
        let moves = stdout.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let room = terminal_size_of(io::stdout()).is_some_and(|(Width(columns), Height(lines))| {
            columns >= COLUMNS_MIN
                && usize::from(lines) > drawing(&Report::new(), 0, "", Palette::default()).len()
        });
        let coloured = anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
        Self {
            mode: if moves && room { Mode::Live } else { Mode::Lines },
            palette: if coloured { Palette::coloured() } else { Palette::default() },
            frame: 0,
            drawn: 0,
        }
    }

    /// A screen that shows nothing.
    pub(super) fn silent() -> Self {
        Self { mode: Mode::Silent, palette: Palette::default(), frame: 0, drawn: 0 }
    }

    /// How long one scenario should be in view at least, so that a person can follow.
    pub(super) fn pace(&self) -> Duration {
        match self.mode {
            Mode::Live => Duration::from_millis(500),
            Mode::Lines | Mode::Silent => Duration::ZERO,
        }
    }

    /// What is about to happen, once.
    pub(super) fn open(&mut self) -> io::Result<()> {
        let mut text = introduction(self.palette);
        match self.mode {
            Mode::Live => text.push_str(HIDE_CURSOR),
            Mode::Lines => {
                text.push_str(&head(width(), self.palette).join("\n"));
                text.push('\n');
            }
            Mode::Silent => return Ok(()),
        }
        show(&text)
    }

    /// Shows the state of things; `now` is what is being played.
    pub(super) fn draw(&mut self, report: &Report, now: &str) -> io::Result<()> {
        if self.mode != Mode::Live {
            return Ok(());
        }
        self.frame += 1;
        let spinner = SPINNER[self.frame % SPINNER.len()];
        let status = if now.is_empty() { String::new() } else { format!(" {spinner} {now}") };
        let lines = drawing(report, width(), &status, self.palette);
        let mut text = String::new();
        if self.drawn > 0 {
            let _ = write!(text, "\x1b[{}A\r", self.drawn);
        }
        self.drawn = lines.len();
        // Written over and not cleared before, so that nothing flickers.
        for line in lines {
            let _ = writeln!(text, "{line}{CLEAR_REST_OF_LINE}");
        }
        show(&text)
    }

    /// A scenario has been played on both days.
    pub(super) fn row_done(&mut self, row: &Row) -> io::Result<()> {
        match self.mode {
            Mode::Lines => show(&format!("{}\n", line(row, width(), self.palette))),
            Mode::Live | Mode::Silent => Ok(()),
        }
    }

    /// The totals, and where to go from here.
    pub(super) fn close(&mut self, report: &Report) -> io::Result<()> {
        match self.mode {
            Mode::Live => self.draw(report, "")?,
            Mode::Lines => show(&(totals(report, width(), self.palette).join("\n") + "\n\n"))?,
            Mode::Silent => return Ok(()),
        }
        show(&closing(report, self.palette))
    }
}

/// Gives the cursor back, also when the demo ends in the middle.
impl Drop for Screen {
    fn drop(&mut self) {
        if self.mode == Mode::Live {
            // Standard output may be gone, and then there is no cursor either.
            let _ = show(SHOW_CURSOR);
        }
    }
}

fn show(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The width of a line: one less than the terminal's, which may wrap at its last column.
fn width() -> usize {
    let columns = terminal_size_of(io::stdout()).map_or(COLUMNS_MIN, |(Width(columns), _)| columns);
    usize::from(columns.clamp(COLUMNS_MIN, COLUMNS_MAX)) - 1
}

fn introduction(palette: Palette) -> String {
    let Palette { strong, dim, .. } = palette;
    format!(
        "{strong}semel demo{strong:#}: one bad day at a payments API, played twice\n{dim}\
        The API takes money and keeps a ledger; it knows nothing of idempotency keys.\n\
        Each payment has a key of its own and its retries carry the same, on both days.\n\
        Charges are counted in the API's ledger. This takes about 10 seconds.{dim:#}\n\n"
    )
}

/// The whole table with a line for what is being played.
fn drawing(report: &Report, width: usize, status: &str, palette: Palette) -> Vec<String> {
    let mut lines = head(width, palette);
    lines.extend(report.rows.iter().map(|row| line(row, width, palette)));
    lines.extend(totals(report, width, palette));
    lines.push(status.to_owned());
    lines
}

/// The widths of the two columns of answers.
fn told_columns(width: usize) -> (usize, usize) {
    let spare = width.saturating_sub(OTHER_COLUMNS + TOLD_WITHOUT + TOLD_WITH);
    (TOLD_WITHOUT + spare / 2, TOLD_WITH + spare - spare / 2)
}

fn head(width: usize, palette: Palette) -> Vec<String> {
    let Palette { strong, dim, .. } = palette;
    let without = told_columns(width).0 + 6;
    vec![
        format!(
            "{strong} {:>26} │ {:without$} │ through semel gateway{strong:#}",
            "charges", "without Semel"
        ),
        format!(
            "{dim} {:20} {:>5} │ {:without$} │ made  client was told{dim:#}",
            "the bad day", "meant", "made  client told"
        ),
        rule(width, palette),
    ]
}

fn rule(width: usize, palette: Palette) -> String {
    let dim = palette.dim;
    let (without, with) = told_columns(width);
    format!("{dim}{}┼{}┼{}{dim:#}", "─".repeat(28), "─".repeat(without + 8), "─".repeat(with + 7))
}

fn totals(report: &Report, width: usize, palette: Palette) -> Vec<String> {
    let dim = palette.dim;
    let columns = told_columns(width).0 + 6;
    let [without, with] = [Side::Without, Side::With].map(|side| {
        let cents = report.too_much_cents(side);
        match report.rows.iter().all(|row| row.cell(side).stage == Stage::Waiting) {
            true => ("·".to_owned(), dim),
            false => (money(cents), if cents == 0 { palette.good } else { palette.bad }),
        }
    });
    let (before, after) = (without.1, with.1);
    let sums = format!("{before}{:columns$}{before:#} {dim}│{dim:#} {after}{}{after:#}", without.0, with.0);
    vec![rule(width, palette), format!(" {:26} {dim}│{dim:#} {sums}", "charged too much")]
}

fn line(row: &Row, width: usize, palette: Palette) -> String {
    let (without, with) = told_columns(width);
    let dim = palette.dim;
    format!(
        " {:20} {:>5} {dim}│{dim:#} {:without$} {dim}│{dim:#} {:with$}",
        row.scenario.name,
        row.scenario.meant().charges,
        Shown { row, side: Side::Without, palette },
        Shown { row, side: Side::With, palette },
    )
    .trim_end()
    .to_owned()
}

/// One day of a row: charges made and what the client was told. The width is that of the latter.
struct Shown<'a> {
    row: &'a Row,
    side: Side,
    palette: Palette,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = f.width().unwrap_or_default();
        let Palette { dim, good, bad, .. } = self.palette;
        let Cell { stage, charged } = self.row.cell(self.side);
        let meant = self.row.scenario.meant();
        let (made, style, told) = match stage {
            Stage::Waiting => ("·".to_owned(), dim, String::new()),
            Stage::Playing if charged.charges <= meant.charges => {
                (charged.charges.to_string(), Style::new(), "…".to_owned())
            }
            Stage::Playing => (charged.charges.to_string(), bad, "…".to_owned()),
            Stage::Done(answers) => {
                let style = if *charged == meant { good } else { bad };
                (charged.charges.to_string(), style, told(answers))
            }
        };
        let told = fitted(&told, columns);
        write!(f, "{style}{made:>4}{style:#}  {told:columns$}")
    }
}

fn fitted(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(columns.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

fn closing(report: &Report, palette: Palette) -> String {
    let Palette { strong, dim, bad, .. } = palette;
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (side, day) in [(Side::Without, "without"), (Side::With, "with")] {
        let cents = report.too_little_cents(side);
        if cents > 0 {
            let _ = writeln!(text, "{bad}Meant and not charged, {day} Semel: {}.{bad:#}", money(cents));
        }
    }
    if !report.as_meant(Side::With) {
        let _ = writeln!(text, "{bad}This is not what Semel promises: please report it.{bad:#}");
    }
    if report.left_in_doubt() {
        let _ = writeln!(
            text,
            "{dim}In doubt: the answer was lost between the API and Semel, which does not guess.\n\
            It refuses a second charge until you say what happened (semel keys resolve).{dim:#}\n"
        );
    }
    let _ = writeln!(
        text,
        "Next: put your API behind it: {strong}semel gateway --upstream http://127.0.0.1:3000{strong:#}"
    );
    text
}

fn money(cents: u64) -> String {
    format!("${}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::client::{Answer, Heard};
    use super::super::payments::Tally;
    use super::super::scenarios::SCENARIOS;
    use super::*;

    const AT_80: &str = "
                    charges │ without Semel      │ through semel gateway
 the bad day          meant │ made  client told  │ made  client was told
────────────────────────────┼────────────────────┼─────────────────────────────
 10 good payments        10 │   10  10 × 201     │    7  …
 double click             1 │    2  2 × 201      │    ·
 slow answer, retried     1 │    3  …            │    ·
 lost answer, retried     1 │    2  cut off, 201 │    1  502, 409 in doubt
 50 racers on one key     1 │    ·               │    1  201, 49 × 201 replayed
 client crash, resent     1 │    ·               │    1  crash, 50 × 201 repla…
 changed amount           1 │    ·               │    ·
────────────────────────────┼────────────────────┼─────────────────────────────
 charged too much           │ $185.00            │ $0.00
 ⠋ now";

    const AT_100: &str = "
                    charges │ without Semel                │ through semel gateway
 the bad day          meant │ made  client told            │ made  client was told
────────────────────────────┼──────────────────────────────┼───────────────────────────────────────
 10 good payments        10 │   10  10 × 201               │    7  …
 double click             1 │    2  2 × 201                │    ·
 slow answer, retried     1 │    3  …                      │    ·
 lost answer, retried     1 │    2  cut off, 201           │    1  502, 409 in doubt
 50 racers on one key     1 │    ·                         │    1  201, 49 × 201 replayed
 client crash, resent     1 │    ·                         │    1  crash, 50 × 201 replayed
 changed amount           1 │    ·                         │    ·
────────────────────────────┼──────────────────────────────┼───────────────────────────────────────
 charged too much           │ $185.00                      │ $0.00
 ⠋ now";

    fn answer(status: u16, standing: Option<&str>) -> Answer {
        Answer::Heard(Heard {
            status,
            standing: standing.map(str::to_owned),
            replayed: standing == Some("replayed"),
            problem: None,
            body: Bytes::from_static(b"{}"),
        })
    }

    /// A report in the middle of things, with a line for each state that a cell can have.
    fn half_played() -> Report {
        let mut report = Report::new();
        let mut set = |row: usize, side, charges, stage| {
            let row = &mut report.rows[row];
            let each_cents = row.scenario.meant().cents / row.scenario.meant().charges;
            *row.cell_mut(side) = Cell { stage, charged: Tally { charges, cents: charges * each_cents } };
        };
        let plain = |count| Stage::Done(vec![answer(201, None); count]);
        let replays = |count| vec![answer(201, Some("replayed")); count];
        set(0, Side::Without, 10, plain(10));
        set(0, Side::With, 7, Stage::Playing);
        set(1, Side::Without, 2, plain(2));
        set(2, Side::Without, 3, Stage::Playing);
        set(3, Side::Without, 2, Stage::Done(vec![Answer::CutOff, answer(201, None)]));
        let doubt = [502, 409].map(|status| answer(status, Some("in-doubt")));
        set(3, Side::With, 1, Stage::Done(doubt.into()));
        set(4, Side::With, 1, Stage::Done([vec![answer(201, Some("executed"))], replays(49)].concat()));
        set(5, Side::With, 1, Stage::Done([vec![Answer::Crashed], replays(50)].concat()));
        report
    }

    #[test]
    fn the_table_fits_80_and_100_columns() {
        for (width, expected) in [(79, AT_80), (99, AT_100)] {
            let lines = drawing(&half_played(), width, " ⠋ now", Palette::default());
            assert_eq!(lines.join("\n"), expected.trim_start_matches('\n'));
        }
    }

    #[test]
    fn no_line_is_wider_than_the_narrowest_terminal() {
        let mut report = half_played();
        report.rows[1].with.stage = Stage::Done(vec![answer(409, Some("in-doubt"))]);
        let mut text = closing(&report, Palette::default()) + &introduction(Palette::default());
        for scenario in &SCENARIOS {
            assert!(scenario.name.chars().count() <= 20, "{}", scenario.name);
            text.push_str(&format!("\n X without Semel: {}", scenario.what));
        }
        for line in text.lines() {
            assert!(line.chars().count() < usize::from(COLUMNS_MIN), "{line}");
        }
    }

    #[test]
    fn colours_do_not_move_a_column() {
        let plain = drawing(&half_played(), 79, "", Palette::default()).join("\n");
        let coloured = drawing(&half_played(), 79, "", Palette::coloured()).join("\n");
        assert_ne!(coloured, plain);
        assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), plain);
    }
}
