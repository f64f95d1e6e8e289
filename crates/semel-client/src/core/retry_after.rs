//! When a host asks its callers to come back: `Retry-After` in seconds or as any of the three HTTP dates, and
//! `retry-after-ms`. Pure.
//!
//! Not how long is waited in the end: [`crate::core::call`] adds jitter and stops where it is too long.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, header};

const MILLISECONDS: &str = "retry-after-ms";

/// How long the host asks to wait, counted from the answer; `None` when it does not say, or says nothing that can
/// be understood. A date that has passed is zero. Of several values the longest counts, because none may be early.
///
/// A date is counted from the answer's own `Date`, so that a client whose clock is wrong waits as long as it should;
/// `wall` is the client's clock, for answers without.
#[must_use]
pub fn retry_after(headers: &HeaderMap, wall: SystemTime) -> Option<Duration> {
    let longest = |name: &str, read: &dyn Fn(&str) -> Option<Duration>| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.filter_map(|value| read(value.trim_matches([' ', '\t']))).max()
    };
    longest(MILLISECONDS, &|value| decimal(value, 1_000)).or_else(|| {
        longest(header::RETRY_AFTER.as_str(), &|value| {
            decimal(value, 1_000_000).or_else(|| until(httpdate::parse_http_date(value).ok()?, headers, wall))
        })
    })
}

fn until(date: SystemTime, headers: &HeaderMap, wall: SystemTime) -> Option<Duration> {
    let said = headers.get(header::DATE).and_then(|value| value.to_str().ok());
    let now = said.and_then(|value| httpdate::parse_http_date(value).ok()).unwrap_or(wall);
    Some(date.duration_since(now).unwrap_or_default())
}

/// Digits, at most one dot between them; nothing else: no sign, no exponent, no infinity. What is too large for a
/// number is as long as there is. Rounded up to microseconds, never down.
fn decimal(value: &str, unit_us: u64) -> Option<Duration> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole_us = whole.parse::<u64>().unwrap_or(u64::MAX).saturating_mul(unit_us);
    // Further digits are below a microsecond, which is waited whole if one of them is not 0.
    let (shown, below) = fraction.split_at(fraction.len().min(9));
    let scale = 10_u64.pow(u32::try_from(shown.len()).unwrap_or(9));
    let rest = u64::from(below.bytes().any(|digit| digit != b'0'));
    let fraction_us = (shown.parse::<u64>().unwrap_or(0) * unit_us + rest).div_ceil(scale);
    Some(Duration::from_micros(whole_us.saturating_add(fraction_us)))
}
