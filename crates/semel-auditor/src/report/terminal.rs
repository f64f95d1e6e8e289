//! The report for a terminal: who fails what at a glance, then a line for each check, with a reason where it matters.
//!
//! Only looks are decided here. Whether there are colours is the caller's choice: text for a pipe has none. What a
//! server or a client sent is shown without its control characters.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::{Audit, Finding, Grade, Severity, Verdict};

/// Ids that stand before their title; longer ones are names and stand below it.
const SHORT_ID: usize = 4;
const INDENT: usize = 11;

/// The colours, or none.
#[derive(Clone, Copy, Default)]
struct Palette {
    strong: Style,
    dim: Style,
    good: Style,
    bad: Style,
    note: Style,
}

impl Palette {
    fn coloured() -> Self {
        let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
        Self {
            strong: Style::new().bold(),
            dim: Style::new().dimmed(),
            good: colour(AnsiColor::Green),
            bad: colour(AnsiColor::Red).bold(),
            note: colour(AnsiColor::Yellow),
        }
    }

    fn of(self, verdict: Verdict) -> Style {
        match verdict {
            Verdict::Pass => self.good,
            Verdict::Fail => self.bad,
            Verdict::Info => self.note,
            Verdict::NotApplicable => self.dim,
        }
    }
}

/// The report in lines of at most `columns` characters, where words allow it.
#[must_use]
pub fn render(audits: &[Audit], columns: usize, coloured: bool) -> String {
    let palette = if coloured { Palette::coloured() } else { Palette::default() };
    let mut text = String::new();
    for (place, audit) in audits.iter().enumerate() {
        if place > 0 {
            text.push('\n');
        }
        one(&mut text, audit, columns, palette);
    }
    if audits.len() > 1 {
        text.push('\n');
        comparison(&mut text, audits, columns, palette);
    }
    text
}

fn one(text: &mut String, audit: &Audit, columns: usize, palette: Palette) {
    let Palette { strong, dim, .. } = palette;
    let grade = grade_style(audit.grade, palette);
    let named = fitted(&name(audit), columns.saturating_sub(26));
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "{strong}{named}{strong:#}  {grade}grade {:?}{grade:#}  {dim}{} of 100, {:.1} s{dim:#}",
        audit.grade,
        audit.score,
        audit.took.as_secs_f64()
    );
    let money = if audit.made > audit.meant { palette.bad } else { Style::new() };
    for line in wrapped(&clean(&audit.sentence), columns) {
        let _ = writeln!(text, "{money}{line}{money:#}");
    }
    text.push('\n');
    let short = audit.findings.iter().all(|finding| finding.check.chars().count() <= SHORT_ID);
    for finding in &audit.findings {
        line(text, finding, short, columns, palette);
    }
    let count = |verdict| audit.findings.iter().filter(|finding| finding.verdict == verdict).count();
    let _ = writeln!(
        text,
        "\n{} kept, {} broken, {} noted, {} not judged",
        count(Verdict::Pass),
        count(Verdict::Fail),
        count(Verdict::Info),
        count(Verdict::NotApplicable)
    );
}

fn line(text: &mut String, finding: &Finding, short: bool, columns: usize, palette: Palette) {
    let (style, dim) = (palette.of(finding.verdict), palette.dim);
    let severity = match finding.verdict {
        Verdict::Fail => format!("{:?}", finding.severity),
        _ => String::new(),
    };
    let id = if short { format!("{:<SHORT_ID$} ", clean(&finding.check)) } else { String::new() };
    let room = columns.saturating_sub(INDENT + id.chars().count());
    let mut titles = wrapped(&clean(&finding.title), room).into_iter();
    let title = titles.next().unwrap_or_default();
    let _ = writeln!(text, " {style}{:<4}{style:#}  {severity:<2}  {id}{title}", verdict(finding.verdict));
    let indent = " ".repeat(INDENT + id.chars().count());
    for more in titles {
        let _ = writeln!(text, "{indent}{more}");
    }
    if finding.verdict == Verdict::Pass {
        return;
    }
    let own = if finding.verdict == Verdict::Fail { Style::new() } else { dim };
    for line in wrapped(&clean(&finding.message), room) {
        let _ = writeln!(text, "{indent}{own}{line}{own:#}");
    }
    if !short && finding.verdict == Verdict::Fail {
        let _ = writeln!(text, "{indent}{dim}{}{dim:#}", clean(&finding.check));
    }
}

/// A line for each audit: what it would have cost, and which checks fail.
fn comparison(text: &mut String, audits: &[Audit], columns: usize, palette: Palette) {
    let Palette { strong, dim, .. } = palette;
    let widest = audits.iter().map(|audit| name(audit).chars().count()).max().unwrap_or(0).min(40);
    let _ = writeln!(text, "{strong}{:widest$}  grade  made/meant  fails{strong:#}", "");
    for audit in audits {
        let grade = grade_style(audit.grade, palette);
        let money = if audit.made > audit.meant { palette.bad } else { Style::new() };
        let made = format!("{}/{}", audit.made, audit.meant);
        let failed = audit.findings.iter().filter(|finding| finding.verdict == Verdict::Fail);
        let failed: Vec<String> = failed.map(|finding| clean(&finding.check)).collect();
        let indent = widest + 21;
        let mut lines = wrapped(&failed.join(" "), columns.saturating_sub(indent)).into_iter();
        let first = lines.next().unwrap_or_default();
        let _ = writeln!(
            text,
            "{:widest$}  {grade}{:^5}{grade:#}  {money}{made:>10}{money:#}  {first}",
            fitted(&name(audit), widest),
            format!("{:?}", audit.grade)
        );
        for line in lines {
            let _ = writeln!(text, "{:indent$}{line}", "");
        }
    }
    let _ = writeln!(text, "{dim}made/meant: payments made for calls that took effect{dim:#}");
}

/// A verdict as a word.
pub(super) const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Fail => "FAIL",
        Verdict::Info => "info",
        Verdict::NotApplicable => "n/a",
    }
}

fn grade_style(grade: Grade, palette: Palette) -> Style {
    match grade {
        Grade::A | Grade::B => palette.good,
        Grade::C | Grade::D => palette.note,
        Grade::E | Grade::F => palette.bad,
    }
}

/// Name, version and language of who was audited.
pub(super) fn name(audit: &Audit) -> String {
    let mut name = clean(&audit.subject.name);
    if let Some(version) = &audit.subject.version {
        let _ = write!(name, " {}", clean(version));
    }
    if let Some(language) = &audit.subject.language {
        let _ = write!(name, " ({})", clean(language));
    }
    name
}

/// Without control characters and without those that change the direction of what follows.
pub(super) fn clean(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => clean.push(' '),
            c if c.is_control() || turns(c) => clean.extend(c.escape_unicode()),
            c => clean.push(c),
        }
    }
    clean
}

fn fitted(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(columns.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Lines of at most `columns` characters; a longer word has a line of its own.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

impl Severity {
    /// Its name: `S0`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::S0 => "S0",
            Self::S1 => "S1",
            Self::S2 => "S2",
            Self::S3 => "S3",
        }
    }
}
