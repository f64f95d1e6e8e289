//! The lax reading of a tap: every excuse that servers have been seen to make for a request. Refuses nothing.

use super::{Reading, Tapped};

/// The first request in `bytes` and its length; `None` when it is not whole yet.
pub(super) fn parse(bytes: &[u8], reading: Reading) -> Option<(Tapped, usize)> {
    let mut at = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    let request_line = line(bytes, &mut at)?;
    let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
    loop {
        let own = line(bytes, &mut at)?;
        if own.is_empty() {
            break;
        }
        match headers.last_mut() {
            Some((_, value)) if own[0].is_ascii_whitespace() => value.extend_from_slice(own),
            _ => headers.push(header(own)),
        }
    }
    let request_line = String::from_utf8_lossy(request_line).into_owned();
    let tapped = Tapped { request_line, headers, body: Vec::new() };
    let lengths: Vec<usize> = tapped
        .values("content-length")
        .into_iter()
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(number)
        .collect();
    let by_length = match reading {
        Reading::LaxByChunks => lengths.last(),
        _ => lengths.first(),
    };
    let codings = tapped.values("transfer-encoding");
    let chunked =
        codings.iter().any(|coding| coding.to_ascii_lowercase().windows(7).any(|part| part == b"chunked"));
    let (body, end) = match by_length {
        Some(length) if !chunked || reading == Reading::LaxByLength => {
            let end = at.checked_add(*length).filter(|end| *end <= bytes.len())?;
            (bytes[at..end].to_vec(), end)
        }
        _ if chunked => chunks(bytes, at)?,
        _ => (Vec::new(), at),
    };
    Some((Tapped { body, ..tapped }, end))
}

/// Up to a line feed, with or without a carriage return before it.
fn line<'a>(bytes: &'a [u8], at: &mut usize) -> Option<&'a [u8]> {
    let length = bytes.get(*at..)?.iter().position(|byte| *byte == b'\n')?;
    let line = &bytes[*at..*at + length];
    *at += length + 1;
    Some(line.strip_suffix(b"\r").unwrap_or(line))
}

/// Names without the spaces around them, and with underscores as CGI has them.
fn header(line: &[u8]) -> (String, Vec<u8>) {
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
    let name = String::from_utf8_lossy(&line[..colon]).trim().to_ascii_lowercase().replace('_', "-");
    (name, line.get(colon + 1..).unwrap_or_default().trim_ascii().to_vec())
}

/// The digits at its beginning, as `atoi` reads them.
fn number(text: &[u8]) -> usize {
    let text = text.trim_ascii();
    let text = text.strip_prefix(b"+").unwrap_or(text);
    text.iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |all, digit| all.saturating_mul(10).saturating_add(usize::from(digit - b'0')))
}

/// The hexadecimal digits at a line's beginning; whatever follows them is an extension.
fn chunks(bytes: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    loop {
        let size = line(bytes, &mut at)?.trim_ascii();
        let size = size.strip_prefix(b"0x").unwrap_or(size);
        let digits = size.iter().map_while(|byte| char::from(*byte).to_digit(16));
        let size = digits.fold(0_usize, |all, digit| {
            all.wrapping_mul(16).wrapping_add(usize::try_from(digit).unwrap_or(0))
        });
        if size == 0 {
            while !line(bytes, &mut at)?.is_empty() {}
            return Some((body, at));
        }
        body.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size;
        line(bytes, &mut at)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_readings_differ_where_servers_do() {
        let both = b"POST / HTTP/1.1\nTransfer_Encoding : xchunked\nContent-Length: 4\n\n0\r\n\r\n";
        let (_, by_length) = parse(both, Reading::LaxByLength).expect("a whole request");
        let (_, by_chunks) = parse(both, Reading::LaxByChunks).expect("a whole request");
        assert_eq!((by_length, by_chunks), (both.len() - 1, both.len()));
        let two = b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab";
        let bodies = [Reading::LaxByLength, Reading::LaxByChunks]
            .map(|reading| parse(two, reading).map(|(tapped, _)| tapped.body).expect("a whole request"));
        assert_eq!(bodies, [b"a".to_vec(), b"ab".to_vec()]);
    }
}
