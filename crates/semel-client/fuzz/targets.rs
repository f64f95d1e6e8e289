//! `Retry-After` as hosts should not send it.
//!
//! The inputs of `tests/fuzz.rs` are made from a seed, those of `fuzz/guided.rs` by libFuzzer.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use semel_client::core::retry_after::retry_after as read;

pub(crate) const RETRY_AFTERS: &str = include_str!("retry_after.txt");

/// The duration of a decimal number of `unit`s in picoseconds, cut off; `None` when it is no decimal number.
fn picoseconds(value: &str, unit_us: u128) -> Option<u128> {
    let mut parts = value.split('.');
    let (whole, fraction) = (parts.next()?, parts.next());
    let number =
        |text: &str| (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then_some(());
    number(whole)?;
    fraction.map_or(Some(()), number)?;
    if parts.next().is_some() {
        return None;
    }
    let digit = |total: u128, byte: u8| total.saturating_mul(10).saturating_add(u128::from(byte - b'0'));
    let mut total = whole.bytes().fold(0, digit).saturating_mul(unit_us * 1_000_000);
    let mut place = unit_us * 1_000_000;
    for byte in fraction.unwrap_or_default().bytes() {
        place /= 10;
        total = total.saturating_add(u128::from(byte - b'0') * place);
    }
    Some(total)
}

/// What a host says is never waited for too short, and nonsense is nothing.
pub(crate) fn retry_after(input: &[u8]) -> String {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_445_412_450_500);
    let names = [header::RETRY_AFTER, HeaderName::from_static("retry-after-ms"), header::DATE];
    let mut headers = HeaderMap::new();
    for (name, line) in names.iter().zip(input.split(|byte| *byte == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(line)
            && !line.is_empty()
        {
            headers.insert(name, value);
        }
    }
    let told = read(&headers, wall);
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let exact =
        text(&names[1]).and_then(|value| picoseconds(value.trim_matches([' ', '\t']), 1_000)).or_else(|| {
            text(&names[0]).and_then(|value| picoseconds(value.trim_matches([' ', '\t']), 1_000_000))
        });
    if let Some(exact) = exact {
        let told = told.expect("a number was said").as_micros();
        let exact_us = exact.div_ceil(1_000_000);
        assert!(told >= exact_us.min(u64::MAX.into()), "{told} us is shorter than {exact_us} us");
        assert!(told <= exact_us + 1, "{told} us is longer than {exact_us} us");
        return "a number".to_owned();
    }
    let date =
        text(&names[0]).and_then(|value| httpdate::parse_http_date(value.trim_matches([' ', '\t'])).ok());
    assert_eq!(told.is_some(), date.is_some(), "{told:?}");
    let now = text(&names[2]).and_then(|value| httpdate::parse_http_date(value).ok());
    if let (Some(told), Some(date)) = (told, date) {
        assert!(now.unwrap_or(wall) + told >= date);
        assert!(told.is_zero() || now.unwrap_or(wall) + told == date);
    }
    format!("{} {}", date.is_some(), now.is_some())
}
