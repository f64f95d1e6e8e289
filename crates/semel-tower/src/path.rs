//! One spelling for paths and queries that mean the same: `/%70ay` is `/pay`.
//!
//! Only what RFC 3986 says is equivalent everywhere: an encoded letter, digit, `-`, `.`, `_` or `~` stands for itself,
//! and the case of an encoding does not count. Not dot segments, doubled slashes or encoded slashes, which servers
//! read in different ways.

use std::borrow::Cow;

/// `text`, in its one spelling.
pub(crate) fn normal(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut spelled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        spelled.push_str(before);
        rest = after;
        let Some(byte) = after
            .get(..2)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        else {
            spelled.push('%');
            continue;
        };
        rest = &after[2..];
        let character = char::from(byte);
        if character.is_ascii_alphanumeric() || "-._~".contains(character) {
            spelled.push(character);
        } else {
            spelled.push_str(&format!("%{byte:02X}"));
        }
    }
    spelled.push_str(rest);
    Cow::Owned(spelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equivalent_spellings_are_one_and_others_stay_apart() {
        for (sent, one) in [
            ("/pay", "/pay"),
            ("/%70ay", "/pay"),
            ("/%70%61%79", "/pay"),
            ("/a%2db%5F%7e%2E", "/a-b_~."),
            ("/a%2fb", "/a%2Fb"),
            ("/a%2Fb", "/a%2Fb"),
            ("/%c3%a9", "/%C3%A9"),
            ("/100%", "/100%"),
            ("/%7", "/%7"),
            ("/%zz%41", "/%zzA"),
            ("/%+1", "/%+1"),
            ("/%2570ay", "/%2570ay"),
            ("q=%20+%26", "q=%20+%26"),
            ("/é%41", "/éA"),
            ("/%é", "/%é"),
        ] {
            assert_eq!(normal(sent), one, "{sent}");
            assert_eq!(normal(&normal(sent)), normal(sent), "{sent}");
        }
    }
}
