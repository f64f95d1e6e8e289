//! The attempts of one run, drawn to scale: a row for each call, a bar for each attempt from its arrival to its end,
//! a colour and a letter for each key, the delay between attempts, and a ring where a payment was made.

use std::collections::BTreeMap;
use std::time::Duration;

use maud::{Markup, html};

use super::clean;
use crate::attempt::{Attempt, Ended};
use crate::scenario::Seen;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 110.0;
const ROW: f64 = 26.0;
const BAR: f64 = 14.0;
/// Room for a letter beside the ring of a payment.
const BAR_MIN: f64 = 15.0;
const AXIS: f64 = 26.0;
/// Rows beyond are only counted.
const ROWS_MAX: usize = 24;
/// A letter takes so much room.
const LETTER: f64 = 7.0;
const COLOURS: usize = 8;
/// The legend names so many keys.
const LEGEND_MAX: usize = 12;

/// The drawing with its legend, or a word that there is nothing to draw.
pub(super) fn drawing(seen: &Seen) -> Markup {
    if seen.attempts.is_empty() {
        return html! { p.soft { "No request arrived." } };
    }
    let keys = Keys::of(&seen.attempts);
    let rows = rows(&seen.attempts);
    let scale = Scale::of(&seen.attempts);
    let shown = &rows[..rows.len().min(ROWS_MAX)];
    let height = AXIS + ROW * real(shown.len()) + 6.0;
    let paid = Paid::of(&seen.attempts);
    let alt = format!(
        "{} requests on a line of time, {} payments, {} of them again for a call that had one",
        seen.attempts.len(),
        paid.all,
        paid.again.len()
    );
    html! {
        figure {
            (legend(&keys, &paid, seen.attempts.iter().any(|attempt| attempt.keys.is_empty())))
            div.wide {
                svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label=(alt) {
                    (axis(&scale, height))
                    @for (place, row) in shown.iter().enumerate() { (drawn(row, place, &keys, &paid, &scale)) }
                }
            }
            @if rows.len() > shown.len() {
                figcaption { (rows.len() - shown.len()) " more rows are not drawn." }
            }
        }
    }
}

/// Keys by letter, in the order of their first use.
struct Keys<'a>(Vec<&'a str>);

impl<'a> Keys<'a> {
    fn of(attempts: &'a [Attempt]) -> Self {
        let mut keys: Vec<&str> = Vec::new();
        for key in attempts.iter().filter_map(Attempt::key) {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        Self(keys)
    }

    fn place(&self, key: &str) -> usize {
        self.0.iter().position(|own| *own == key).unwrap_or_default()
    }

    /// `A` to `Z`, then `A1` and so on.
    fn letter(place: usize) -> String {
        let letter = char::from(b'A' + u8::try_from(place % 26).unwrap_or_default());
        if place < 26 { letter.to_string() } else { format!("{letter}{}", place / 26) }
    }

    fn class(place: usize) -> String {
        format!("k{}", place % COLOURS)
    }
}

/// The payments of a run.
struct Paid {
    all: usize,
    /// When one was made for a call that had one already.
    again: Vec<(Option<u32>, Duration)>,
}

impl Paid {
    fn of(attempts: &[Attempt]) -> Self {
        let (mut all, mut calls, mut again) = (0, Vec::new(), Vec::new());
        for attempt in attempts.iter().filter(|attempt| attempt.effect) {
            all += 1;
            if calls.contains(&attempt.call) {
                again.push((attempt.call, attempt.at));
            }
            calls.push(attempt.call);
        }
        Self { all, again }
    }

    fn ring(&self, attempt: &Attempt) -> &'static str {
        if self.again.contains(&(attempt.call, attempt.at)) { "paid twice" } else { "paid" }
    }
}

/// Attempts that do not overlap, in one line.
struct Row<'a> {
    label: String,
    attempts: Vec<&'a Attempt>,
}

/// A row for each call; where its attempts overlap, as many as that takes.
fn rows(attempts: &[Attempt]) -> Vec<Row<'_>> {
    let mut calls: BTreeMap<Option<u32>, Vec<Vec<&Attempt>>> = BTreeMap::new();
    for attempt in attempts {
        let lanes = calls.entry(attempt.call).or_default();
        let free = lanes.iter_mut().find(|lane| lane.last().is_none_or(|last| end(last) <= attempt.at));
        match free {
            Some(lane) => lane.push(attempt),
            None => lanes.push(vec![attempt]),
        }
    }
    let mut rows = Vec::new();
    for (call, lanes) in calls {
        for (nth, attempts) in lanes.into_iter().enumerate() {
            let label = match (call, nth) {
                (_, 1..) => String::new(),
                (Some(call), 0) => format!("call {call}"),
                (None, 0) => "no call".to_owned(),
            };
            rows.push(Row { label, attempts });
        }
    }
    rows
}

fn end(attempt: &Attempt) -> Duration {
    attempt.ended_at.unwrap_or(attempt.at).max(attempt.at)
}

/// From time to place: from the first attempt, whatever came before it, to the last thing that happened.
struct Scale {
    from: Duration,
    seconds: f64,
}

impl Scale {
    fn of(attempts: &[Attempt]) -> Self {
        let from = attempts.iter().map(|attempt| attempt.at).min().unwrap_or_default();
        let last = attempts.iter().map(end).max().unwrap_or_default();
        Self { from, seconds: last.saturating_sub(from).as_secs_f64().max(0.001) }
    }

    fn x(&self, at: Duration) -> f64 {
        self.after(at.saturating_sub(self.from).as_secs_f64())
    }

    /// The place of so many seconds after the first attempt.
    fn after(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.seconds
    }

    /// A round step that gives at most ten marks.
    fn step(&self) -> f64 {
        let mut step = 0.000_1;
        for factor in [2.0, 2.5, 2.0].into_iter().cycle() {
            if self.seconds / step <= 10.0 {
                break;
            }
            step *= factor;
        }
        step
    }
}

fn axis(scale: &Scale, height: f64) -> Markup {
    let step = scale.step();
    let marks = std::iter::successors(Some(0.0), |at| Some(at + step)).take_while(|at| *at <= scale.seconds);
    html! {
        @for at in marks {
            @let x = place(scale.after(at));
            line.axis x1=(x) x2=(x) y1="18" y2=(place(height - 4.0)) {}
            text.faint x=(x) y="12" text-anchor="middle" { (seconds(at)) }
        }
    }
}

fn drawn(row: &Row<'_>, nth: usize, keys: &Keys<'_>, paid: &Paid, scale: &Scale) -> Markup {
    let top = AXIS + ROW * real(nth) + (ROW - BAR) / 2.0;
    let base = top + BAR - 3.0;
    html! {
        text.faint x="0" y=(place(base)) { (row.label) }
        @for (nth, attempt) in row.attempts.iter().enumerate() {
            @let (from, to) = (scale.x(attempt.at), scale.x(end(attempt)));
            @let next = row.attempts.get(nth + 1).map(|next| scale.x(next.at));
            (bar(attempt, keys, paid, from, to, top))
            (outcome(attempt, from + width(from, to), next, base))
            @if let Some(following) = row.attempts.get(nth + 1) {
                (delay(attempt, following, from + width(from, to), scale.x(following.at), top + BAR / 2.0))
            }
        }
    }
}

fn width(from: f64, to: f64) -> f64 {
    (to - from).max(BAR_MIN)
}

fn bar(attempt: &Attempt, keys: &Keys<'_>, paid: &Paid, from: f64, to: f64, top: f64) -> Markup {
    let (class, letter) = match attempt.key() {
        Some(key) => {
            let nth = keys.place(key);
            (Keys::class(nth), Keys::letter(nth))
        }
        None => ("keyless".to_owned(), String::new()),
    };
    let wide = width(from, to);
    let ended = match attempt.ended {
        Ended::Running => "still running",
        Ended::Answered => "answered",
        Ended::Broken => "broken off",
        Ended::Left => "the client left",
    };
    let told = format!(
        "{} {} at {}, {}, {ended}, key {}",
        clean(&attempt.method),
        clean(&attempt.target),
        seconds(attempt.at.as_secs_f64()),
        clean(&attempt.step),
        attempt.key().map_or_else(|| "none".to_owned(), clean)
    );
    html! {
        g {
            title { (told) }
            rect class=(class) x=(place(from)) y=(place(top)) width=(place(wide)) height=(BAR) rx="2" {}
            @if !letter.is_empty() {
                text.on x=(place(from + 2.0)) y=(place(top + BAR - 3.0)) { (letter) }
            }
            @if attempt.effect {
                circle class=(paid.ring(attempt)) cx=(place(from + wide)) cy=(place(top)) r="3.6" {}
            }
        }
    }
}

/// What was done, where there is room for it before the next attempt.
fn outcome(attempt: &Attempt, to: f64, next: Option<f64>, base: f64) -> Markup {
    let from = to + 8.0;
    let word = clean(&attempt.step);
    let room = next.map_or(WIDTH - from, |next| (next - from) * 0.5 - 6.0);
    let letters = letters_in(room);
    let word: String = match word.chars().count() {
        count if count <= letters => word,
        _ if letters >= 6 => word.chars().take(letters - 1).chain(['…']).collect(),
        _ => String::new(),
    };
    html! { @if !word.is_empty() { text x=(place(from)) y=(place(base)) { (word) } } }
}

fn delay(one: &Attempt, next: &Attempt, from: f64, to: f64, middle: f64) -> Markup {
    let text = format!("+{}", seconds(next.at.saturating_sub(end(one)).as_secs_f64()));
    let room = to - from - 22.0;
    html! {
        @if room > 4.0 {
            line.gap x1=(place(to - room * 0.5)) x2=(place(to - 3.0)) y1=(place(middle)) y2=(place(middle)) {}
        }
        @if letters_in(room * 0.5 - 8.0) >= text.chars().count() {
            text.faint x=(place(to - 9.0)) y=(place(middle - 4.0)) text-anchor="end" { (text) }
        }
    }
}

fn legend(keys: &Keys<'_>, paid: &Paid, keyless: bool) -> Markup {
    let ring = |class: &str| {
        html! {
            svg.ring width="10" height="10" viewBox="0 0 10 10" aria-hidden="true" { circle class=(class) cx="5" cy="5" r="3.6" {} }
        }
    };
    html! {
        ul.legend {
            @for (nth, key) in keys.0.iter().enumerate().take(LEGEND_MAX) {
                li { i class=(Keys::class(nth)) {} (Keys::letter(nth)) " " code { (shortened(key)) } }
            }
            @if keys.0.len() > LEGEND_MAX { li { (keys.0.len() - LEGEND_MAX) " more keys" } }
            @if keyless { li { i.keyless {} "no key" } }
            li { (ring("paid")) " took effect: " (paid.all) }
            @if !paid.again.is_empty() { li { (ring("paid twice")) " again for the same call: " (paid.again.len()) } }
        }
    }
}

fn shortened(key: &str) -> String {
    let key = clean(key);
    match key.chars().count() {
        0..=40 => key,
        _ => key.chars().take(39).chain(['…']).collect(),
    }
}

/// A length of time in the unit that suits it.
pub(super) fn seconds(seconds: f64) -> String {
    match seconds {
        0.0 => "0".to_owned(),
        small if small < 0.01 && (small * 1e3 - (small * 1e3).round()).abs() > 0.01 => {
            format!("{:.1} ms", small * 1e3)
        }
        small if small < 0.999_5 => format!("{:.0} ms", small * 1e3),
        some if some < 10.0 && (some - some.round()).abs() > 0.000_5 => format!("{some:.2} s"),
        many => format!("{many:.0} s"),
    }
}

fn place(number: f64) -> String {
    format!("{number:.1}")
}

fn letters_in(room: f64) -> usize {
    (0..200_u32).take_while(|count| f64::from(count + 1) * LETTER <= room).count()
}

fn real(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
