//! Keys from what a call is about, and how a key looks on the wire. Pure.
//!
//! Not the key itself (that is [`semel::Key`]) and not which call gets which key (see [`crate::idempotency`]).
//! Next: [`crate::core::classify`].

use http::HeaderValue;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use semel::Key;
use semel::key::KeyError;
use sha2::{Digest, Sha256};

/// What stands for itself in a part of a key: letters, digits and these.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What is digested first, so that no other digest over the same parts is the same.
const HASHED: &[u8] = b"semel hashed key v1";

/// The key of a business event: `business("order", "42")` is `order:42`. The same event always has the same key,
/// on every machine and after every restart.
///
/// # Errors
/// As [`composite`].
pub fn business(kind: &str, id: impl AsRef<str>) -> Result<Key, KeyError> {
    composite([kind, id.as_ref()])
}

/// The parts joined by `:`, each with everything but letters, digits and `-._~` percent-encoded as UTF-8, so that
/// different parts never make the same key.
///
/// # Errors
/// [`KeyError::Empty`] without a part or when the only part is empty; [`KeyError::TooLong`] above 255 characters,
/// where [`hashed`] helps.
pub fn composite<P: AsRef<str>>(parts: impl IntoIterator<Item = P>) -> Result<Key, KeyError> {
    let mut text = String::new();
    for (nth, part) in parts.into_iter().enumerate() {
        if nth > 0 {
            text.push(':');
        }
        text.extend(utf8_percent_encode(part.as_ref(), PLAIN));
    }
    Key::new(&text)
}

/// `prefix-` and the SHA-256 of the parts in hexadecimal, each part preceded by its length in bytes as eight bytes,
/// least significant first; the first part is the text `semel hashed key v1`. For what is too long, too private or
/// too free in form to be a key itself.
///
/// # Errors
/// [`KeyError`] when `prefix` does not fit in a key: more than 190 characters, or not printable ASCII.
pub fn hashed<P: AsRef<[u8]>>(prefix: &str, parts: impl IntoIterator<Item = P>) -> Result<Key, KeyError> {
    let mut digest = Sha256::new();
    let mut add = |part: &[u8]| {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        digest.update(part);
    };
    add(HASHED);
    parts.into_iter().for_each(|part| add(part.as_ref()));
    let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Key::new(&format!("{prefix}-{hex}"))
}

/// The key as a header's value: as it is, or as a quoted string of RFC 8941 when it begins with a quote, or begins or
/// ends with a space, because those would be read as another key.
#[must_use]
pub fn on_the_wire(key: &Key) -> HeaderValue {
    let text = key.as_str();
    let raw = !text.starts_with(['"', ' ']) && !text.ends_with(' ');
    let value = match raw {
        true => HeaderValue::from_str(text),
        false => {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
            HeaderValue::from_str(&format!("\"{escaped}\""))
        }
    };
    value.expect("a key is printable ASCII, and so is its quoted form")
}
