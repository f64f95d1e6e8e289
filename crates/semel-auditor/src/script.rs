//! How the server fails: a list of steps, one for each attempt of a call; the last repeats.
//!
//! As text: `503|retry-after=2, reset, 200`. A step is a word, for some words a number, and for answers headers behind
//! bars. Not who carries it out: that is the [`server`](crate::server).

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// Steps, at least one.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    steps: Vec<Step>,
}

/// What the server does about one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What it does.
    pub act: Act,
    /// Headers for the answer, as written: values may hold `date+4` and the like, `{base}` and `{other}`.
    pub headers: Vec<(String, String)>,
    /// The body of the answer, where the script has one.
    pub body: Option<String>,
    text: String,
}

/// The words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// `200`: makes the payment and answers as the API does.
    Succeed,
    /// Any other status. 500, 502 and 504 come after the payment was made, all others without it.
    Answer(u16),
    /// `dup-effect 500`: makes the payment, and answers with this status all the same. 500 where none is written.
    ActThen(u16),
    /// `reset`: reads the request, makes the payment, resets the connection (RST).
    Reset,
    /// `close`: reads the request, makes the payment, closes the connection (FIN).
    Close,
    /// `cut`: makes the payment, sends headers and half a body, resets the connection.
    Cut,
    /// `hang 6`: makes the payment, and answers as the API does after so many seconds; without a number, never.
    Hang(Option<Duration>),
    /// `drip 2`: makes the payment, and sends the body a byte at a time over so many seconds. 2 where none is written.
    Drip(Duration),
    /// `goaway`: over HTTP/2 says GOAWAY for this request and closes; over HTTP/1.1 closes. Nothing was done.
    GoAway,
    /// `refuse 1`: first step only; for so many seconds connections are refused. 1 where none is written.
    Refuse(Duration),
}

impl Act {
    /// Whether the payment is made, or may have been for all that the client can know.
    #[must_use]
    pub const fn acts(self) -> bool {
        match self {
            Self::Succeed
            | Self::ActThen(_)
            | Self::Reset
            | Self::Close
            | Self::Cut
            | Self::Hang(_)
            | Self::Drip(_) => true,
            Self::Answer(status) => matches!(status, 200..=299 | 500 | 502 | 504),
            Self::GoAway | Self::Refuse(_) => false,
        }
    }
}

impl Script {
    /// How long connections are refused at first.
    #[must_use]
    pub fn refuses(&self) -> Option<Duration> {
        match self.steps.first()?.act {
            Act::Refuse(time) => Some(time),
            _ => None,
        }
    }

    /// What is done about the attempt with this index of a call.
    #[must_use]
    pub fn step(&self, index: usize) -> &Step {
        let index = index + usize::from(self.refuses().is_some());
        &self.steps[index.min(self.steps.len() - 1)]
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<&str> = self.steps.iter().map(|step| step.text.as_str()).collect();
        f.write_str(&steps.join(", "))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A script that cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError(String);

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScriptError {}

impl FromStr for Script {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Self, ScriptError> {
        let steps = split(text, ',').into_iter().map(Step::parse).collect::<Result<Vec<_>, _>>()?;
        if steps.iter().skip(1).any(|step| matches!(step.act, Act::Refuse(_))) {
            return Err(ScriptError("`refuse` is possible as the first step only".to_owned()));
        }
        if steps.len() == 1 && matches!(steps[0].act, Act::Refuse(_)) {
            return Err(ScriptError("something must follow `refuse`".to_owned()));
        }
        Ok(Self { steps })
    }
}

impl Step {
    fn parse(text: &str) -> Result<Self, ScriptError> {
        let parts = split(text, '|');
        let (word, number) = match parts[0].split_once(' ') {
            Some((word, number)) => (word, Some(number.trim())),
            None => (parts[0], None),
        };
        let mut step =
            Self { act: act(word, number)?, headers: Vec::new(), body: None, text: text.to_owned() };
        for part in &parts[1..] {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| ScriptError(format!("`{part}` is no header: write name=value")))?;
            let value = unquoted(value.trim()).to_owned();
            match name.trim().to_ascii_lowercase() {
                name if name == "body" => step.body = Some(value),
                name => step.headers.push((name, value)),
            }
        }
        Ok(step)
    }
}

/// Splits outside of quotes, and trims.
fn split(text: &str, at: char) -> Vec<&str> {
    let mut quoted = None;
    let parts = text.split(|letter: char| {
        quoted = match (quoted, letter) {
            (None, '"' | '\'') => Some(letter),
            (Some(quote), letter) if quote == letter => None,
            (quoted, _) => quoted,
        };
        letter == at && quoted.is_none()
    });
    parts.map(str::trim).collect()
}

/// Without the quotes around it.
fn unquoted(value: &str) -> &str {
    let inner = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

fn act(word: &str, number: Option<&str>) -> Result<Act, ScriptError> {
    let seconds = || -> Result<Option<Duration>, ScriptError> {
        let Some(number) = number else { return Ok(None) };
        let read = number.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        read.map(Some).ok_or_else(|| ScriptError(format!("`{number}` is no number of seconds")))
    };
    let status = |text: &str| -> Result<u16, ScriptError> {
        let read = text.parse().ok().filter(|status| (200..=599).contains(status));
        read.ok_or_else(|| ScriptError(format!("`{text}` is neither a step nor a status from 200 to 599")))
    };
    Ok(match word {
        "200" => Act::Succeed,
        "dup-effect" => Act::ActThen(number.map_or(Ok(500), status)?),
        "reset" => Act::Reset,
        "close" => Act::Close,
        "cut" => Act::Cut,
        "hang" => Act::Hang(seconds()?),
        "drip" => Act::Drip(seconds()?.unwrap_or(Duration::from_secs(2))),
        "goaway" => Act::GoAway,
        "refuse" => Act::Refuse(seconds()?.unwrap_or(Duration::from_secs(1))),
        word => Act::Answer(status(word)?),
    })
}

/// A header's value as it is sent: `date+4`, `date-60`, `rfc850+2` and `asctime+2` are the time of day so many seconds
/// from `now`, in the three forms of HTTP dates; all else is as written.
#[must_use]
pub fn value(written: &str, now: SystemTime) -> String {
    for (word, form) in [("date", imf as fn(&str) -> String), ("rfc850", rfc850), ("asctime", asctime)] {
        let Some(shift) = written.strip_prefix(word).and_then(|rest| rest.parse::<i64>().ok()) else {
            continue;
        };
        let by = Duration::from_secs(shift.unsigned_abs());
        let moment = if shift < 0 { now.checked_sub(by) } else { now.checked_add(by) };
        return form(&httpdate::fmt_http_date(moment.unwrap_or(now)));
    }
    written.to_owned()
}

fn imf(date: &str) -> String {
    date.to_owned()
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as `Sunday, 06-Nov-94 08:49:37 GMT`.
fn rfc850(date: &str) -> String {
    let days = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let day = days.into_iter().find(|day| day.starts_with(&date[..3])).unwrap_or_default();
    format!("{day}, {}-{}-{} {} GMT", &date[5..7], &date[8..11], &date[14..16], &date[17..25])
}

/// The same as `Sun Nov  6 08:49:37 1994`.
fn asctime(date: &str) -> String {
    let day = date[5..7].trim_start_matches('0');
    format!("{} {} {day:>2} {} {}", &date[..3], &date[8..11], &date[17..25], &date[12..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str) -> Script {
        text.parse().unwrap()
    }

    #[test]
    fn last_step_repeats() {
        let script = script("503|retry-after=2, reset, 200");
        let acts: Vec<Act> = (0..5).map(|index| script.step(index).act).collect();
        assert_eq!(acts, [Act::Answer(503), Act::Reset, Act::Succeed, Act::Succeed, Act::Succeed]);
        assert_eq!(script.step(0).headers, [("retry-after".to_owned(), "2".to_owned())]);
        assert_eq!(script.to_string(), "503|retry-after=2, reset, 200");
    }

    #[test]
    fn words_take_numbers_and_have_defaults() {
        for (text, act) in [
            ("hang", Act::Hang(None)),
            ("hang 1.5", Act::Hang(Some(Duration::from_millis(1500)))),
            ("drip", Act::Drip(Duration::from_secs(2))),
            ("dup-effect 503", Act::ActThen(503)),
            ("dup-effect", Act::ActThen(500)),
            ("goaway", Act::GoAway),
        ] {
            assert_eq!(script(text).step(7).act, act, "{text}");
        }
    }

    #[test]
    fn quotes_keep_commas_bars_and_equals_signs_together() {
        let script = script(r#"409|content-type=application/problem+json|body='{"a": "b|c, d=e"}', 200"#);
        assert_eq!(script.step(0).body.as_deref(), Some(r#"{"a": "b|c, d=e"}"#));
        assert_eq!(script.step(1).act, Act::Succeed);
    }

    #[test]
    fn refusing_takes_no_attempt() {
        let script = script("refuse 2, 503, 200");
        assert_eq!(script.refuses(), Some(Duration::from_secs(2)));
        assert_eq!((script.step(0).act, script.step(1).act), (Act::Answer(503), Act::Succeed));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_reason() {
        for (text, why) in [
            ("", "`` is neither a step nor a status"),
            ("99", "`99` is neither"),
            ("hang soon", "`soon` is no number of seconds"),
            ("503|retry", "`retry` is no header"),
            ("200, refuse", "first step only"),
            ("refuse", "must follow"),
        ] {
            let error = text.parse::<Script>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn dates_have_the_three_forms_of_http() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:33 GMT").unwrap();
        assert_eq!(value("date+4", now), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(value("rfc850+4", now), "Sunday, 06-Nov-94 08:49:37 GMT");
        assert_eq!(value("asctime+4", now), "Sun Nov  6 08:49:37 1994");
        assert_eq!(value("date-3", now), "Sun, 06 Nov 1994 08:49:30 GMT");
        for form in ["rfc850+4", "asctime+4"] {
            let read = httpdate::parse_http_date(&value(form, now)).unwrap();
            assert_eq!(read, now + Duration::from_secs(4), "{form}");
        }
        assert_eq!(value("2", now), "2");
    }
}
