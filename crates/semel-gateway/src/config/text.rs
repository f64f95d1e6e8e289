//! Values as people write them: durations, addresses, URLs, names. Each is checked where it stands, so that the
//! TOML reader can say where.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use http::{Method, StatusCode, Uri};
use serde::de::{Deserialize, Deserializer, Error};

use super::ProfileName;

const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// A duration such as `"10s"`, `"500ms"` or `"24h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Human(pub Duration);

impl<'de> Deserialize<'de> for Human {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let duration = humantime::parse_duration(&text).map_err(|error| {
            D::Error::custom(format!(
                "`{text}` is not a duration ({error}); write \"500ms\", \"10s\" or \"24h\""
            ))
        })?;
        if duration > LONGEST {
            return Err(D::Error::custom(format!("`{text}` is longer than 10 years")));
        }
        Ok(Self(duration))
    }
}

/// An address, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddr(pub Option<SocketAddr>);

impl std::str::FromStr for ListenAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        text.parse()
            .map(|address| Self(Some(address)))
            .map_err(|_| format!("`{text}` is not an address; write \"127.0.0.1:8788\" or \"off\""))
    }
}

impl<'de> Deserialize<'de> for ListenAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A value that is read from a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<T>(pub T);

/// Reads one kind of value from a text.
pub trait FromText: Sized {
    /// Reads it, or says what was expected.
    fn from_text(text: &str) -> Result<Self, String>;
}

impl<T: FromText> std::str::FromStr for Parsed<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        T::from_text(text).map(Self)
    }
}

impl<'de, T: FromText> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::from_text(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

impl<T: fmt::Display> fmt::Display for Parsed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromText for Uri {
    fn from_text(text: &str) -> Result<Self, String> {
        let refused =
            || format!("`{text}` is not an upstream; write \"http://127.0.0.1:3000\" or \"https://host\"");
        let uri: Uri = text.parse().map_err(|_| refused())?;
        let known = matches!(uri.scheme_str(), Some("http" | "https" | "h2c"));
        if known && uri.host().is_some() && uri.query().is_none() { Ok(uri) } else { Err(refused()) }
    }
}

impl FromText for ProfileName {
    fn from_text(text: &str) -> Result<Self, String> {
        let names = semel_tower::profile::Profile::NAMES;
        names
            .into_iter()
            .find(|name| *name == text)
            .map(Self)
            .ok_or_else(|| format!("there is no profile `{text}`; the profiles are {}", names.join(", ")))
    }
}

impl FromText for Method {
    fn from_text(text: &str) -> Result<Self, String> {
        let known = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_uppercase()));
        known.ok_or_else(|| format!("`{text}` is not a method; write \"POST\""))
    }
}

impl FromText for http::HeaderName {
    fn from_text(text: &str) -> Result<Self, String> {
        Self::try_from(text).map_err(|_| format!("`{text}` is not a header name"))
    }
}

/// A status code.
#[derive(Clone, Copy, Debug)]
pub struct Status(pub StatusCode);

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = u16::deserialize(deserializer)?;
        StatusCode::from_u16(code)
            .map(Self)
            .map_err(|_| D::Error::custom(format!("{code} is not an HTTP status")))
    }
}

/// Line and column, from 1, of a byte in a text.
pub(super) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}
