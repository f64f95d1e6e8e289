//! What `adapters/NAME/` holds: `adapter.toml` and a script that makes one call.
//!
//! Built in are those below `adapters/` of this crate; more come from a folder of the user's, and one with the same
//! name takes the place of a built-in one. `docs/guides/audit-adapters.md` describes both files.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use rust_embed::RustEmbed;
use serde::Deserialize;
use toml::Spanned;

use super::{SdkError, SdkErrorKind};
use crate::api::Api;

/// What a scenario may wish for beyond a number of calls.
const WISHES: [&str; 4] = ["key", "timeout", "max_retries", "deadline"];

#[derive(RustEmbed)]
#[folder = "adapters"]
struct BuiltIn;

/// How to audit one SDK.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// The name after the language: `stripe` in `python:stripe`.
    pub name: String,
    /// What it is written in.
    pub language: Language,
    /// What is installed, each with its exact version; the first is the one audited.
    pub packages: Vec<String>,
    /// The call that the script makes, for people.
    pub call: String,
    /// Which wishes of a scenario the script can pass on: `key`, `timeout`, `max_retries`, `deadline`.
    pub supports: Vec<String>,
    /// What a reader of the report should know.
    pub notes: Option<String>,
    /// What the SDK expects of its API.
    pub api: Api,
    /// The text of `create.py` or `create.mjs`.
    pub script: String,
}

/// What an SDK is written in, and so which driver runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// `driver.py`, run by `python3`.
    Python,
    /// `driver.mjs`, run by `node`.
    Node,
}

impl Language {
    /// The file in an adapter's folder that makes the call.
    #[must_use]
    pub const fn script(self) -> &'static str {
        match self {
            Self::Python => "create.py",
            Self::Node => "create.mjs",
        }
    }

    /// The name of the driver's file, and its text.
    pub(super) fn driver(self) -> (&'static str, String) {
        let name = match self {
            Self::Python => "driver.py",
            Self::Node => "driver.mjs",
        };
        (name, embedded(name).unwrap_or_default())
    }

    /// What stands between a package's name and its version.
    const fn pin(self) -> &'static str {
        match self {
            Self::Python => "==",
            Self::Node => "@",
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Python => "python",
            Self::Node => "node",
        })
    }
}

impl Adapter {
    /// Its name on the command line: `python:stripe`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}:{}", self.language, self.name)
    }

    /// The audited package, without its version.
    #[must_use]
    pub fn package(&self) -> &str {
        let pinned = self.packages.first().map_or("", String::as_str);
        pinned.rsplit_once(self.language.pin()).map_or(pinned, |(name, _)| name)
    }

    /// The version that it is pinned to.
    #[must_use]
    pub fn version(&self) -> &str {
        let pinned = self.packages.first().map_or("", String::as_str);
        pinned.rsplit_once(self.language.pin()).map_or("", |(_, version)| version)
    }

    /// `path` names the text in errors; `script` finds the script once the language is known.
    fn read(
        path: &str,
        text: &str,
        script: impl FnOnce(&'static str) -> Option<String>,
    ) -> Result<Self, SdkError> {
        let bad = |at: usize, what: &str| {
            let (line, column) = position(text, at);
            SdkError::new(SdkErrorKind::BadAdapter, format!("{path}:{line}:{column}: {what}"))
        };
        let file: File = toml::from_str(text).map_err(|error| {
            bad(error.span().map_or(0, |span| span.start), &error.message().replace('\n', "; "))
        })?;
        for wish in &file.supports {
            if !WISHES.contains(&wish.get_ref().as_str()) {
                let what = format!("`{}` is none of {}", wish.get_ref(), WISHES.join(", "));
                return Err(bad(wish.span().start, &what));
            }
        }
        let pin = file.language.pin();
        for package in file.packages.get_ref() {
            // An npm scope begins with the character that pins.
            let pinned = package.get_ref().rsplit_once(pin);
            if pinned.is_none_or(|(name, version)| {
                name.is_empty() || !version.starts_with(|c: char| c.is_ascii_digit())
            }) {
                let what = format!("`{}` has no exact version: write NAME{pin}1.2.3", package.get_ref());
                return Err(bad(package.span().start, &what));
            }
        }
        if file.packages.get_ref().is_empty() {
            return Err(bad(file.packages.span().start, "there is no package to audit"));
        }
        let fits = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        if !fits(file.name.get_ref()) {
            return Err(bad(file.name.span().start, "a name has letters, digits and `-_.` only"));
        }
        let name = file.language.script();
        let script = script(name).ok_or_else(|| bad(0, &format!("there is no {name} beside it")))?;
        Ok(Self {
            name: file.name.into_inner(),
            language: file.language,
            packages: file.packages.into_inner().into_iter().map(Spanned::into_inner).collect(),
            call: file.call,
            supports: file.supports.into_iter().map(Spanned::into_inner).collect(),
            notes: file.notes,
            api: file.api,
            script,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Spanned<String>,
    language: Language,
    packages: Spanned<Vec<Spanned<String>>>,
    call: String,
    #[serde(default)]
    supports: Vec<Spanned<String>>,
    notes: Option<String>,
    #[serde(default)]
    api: Api,
}

/// All adapters that are built in, by name.
///
/// # Errors
/// [`SdkErrorKind::BadAdapter`], which a test of this crate rules out.
pub fn built_in() -> Result<Vec<Adapter>, SdkError> {
    let mut adapters = Vec::new();
    for path in BuiltIn::iter().filter(|path| path.ends_with("/adapter.toml")) {
        let folder = path.trim_end_matches("adapter.toml");
        let text = embedded(&path).unwrap_or_default();
        adapters.push(Adapter::read(&path, &text, |script| embedded(&format!("{folder}{script}")))?);
    }
    adapters.sort_by_key(Adapter::id);
    Ok(adapters)
}

/// The built-in adapters and those below `folder` (`folder/NAME/adapter.toml`, or `folder/adapter.toml` alone).
///
/// # Errors
/// [`SdkErrorKind::BadAdapter`] for the first that cannot be read, and when there is none.
pub fn from_folder(folder: &Path) -> Result<Vec<Adapter>, SdkError> {
    let mut all: BTreeMap<String, Adapter> =
        built_in()?.into_iter().map(|adapter| (adapter.id(), adapter)).collect();
    let unreadable = |path: &Path, error: std::io::Error| {
        SdkError::new(SdkErrorKind::BadAdapter, format!("{} cannot be read: {error}", path.display()))
    };
    let entries = fs::read_dir(folder).map_err(|error| unreadable(folder, error))?;
    let below = entries.flatten().map(|entry| entry.path().join("adapter.toml"));
    let paths = below.chain([folder.join("adapter.toml")]).filter(|path| path.is_file());
    let mut paths: Vec<_> = paths.collect();
    paths.sort();
    if paths.is_empty() {
        let what = format!("there is no NAME/adapter.toml in {}", folder.display());
        return Err(SdkError::new(SdkErrorKind::BadAdapter, what));
    }
    for path in paths {
        let text = fs::read_to_string(&path).map_err(|error| unreadable(&path, error))?;
        let script = |name: &'static str| fs::read_to_string(path.with_file_name(name)).ok();
        let adapter = Adapter::read(&path.display().to_string(), &text, script)?;
        all.insert(adapter.id(), adapter);
    }
    Ok(all.into_values().collect())
}

/// The adapter with this name: `python:stripe`, or the language and the package, `node:@workos-inc/node`.
///
/// # Errors
/// [`SdkErrorKind::Unknown`], naming those that have a similar name.
pub fn find<'a>(adapters: &'a [Adapter], name: &str) -> Result<&'a Adapter, SdkError> {
    let called = |adapter: &&Adapter| {
        adapter.id() == name || format!("{}:{}", adapter.language, adapter.package()) == name
    };
    adapters.iter().find(called).ok_or_else(|| {
        let word = name.rsplit([':', '/', '@']).next().unwrap_or(name);
        let similar = |adapter: &&Adapter| adapter.name.contains(word) || word.contains(&adapter.name);
        let similar: Vec<_> = adapters.iter().filter(similar).map(Adapter::id).collect();
        let hint = match similar.as_slice() {
            [] => "`semel audit sdk --list` names all".to_owned(),
            ids => format!("is it {}?", ids.join(" or ")),
        };
        SdkError::new(SdkErrorKind::Unknown, format!("there is no adapter `{name}`; {hint}"))
    })
}

fn embedded(path: &str) -> Option<String> {
    let file = BuiltIn::get(path)?;
    String::from_utf8(file.data.into_owned()).ok()
}

/// Line and column of a byte, from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "name = \"toy\"\nlanguage = \"python\"\npackages = [\"toy==1.0\"]\ncall = \"create\"\n";

    fn refused(text: &str) -> String {
        let script = |_| Some(String::new());
        Adapter::read("toy/adapter.toml", text, script).expect_err("must be refused").to_string()
    }

    #[test]
    fn every_built_in_adapter_can_be_read_and_is_named_by_its_folder() {
        let adapters = built_in().expect("they are ours");
        assert!(adapters.len() >= 20, "{}", adapters.len());
        for adapter in &adapters {
            let folder = format!("{}-{}/adapter.toml", adapter.language, adapter.name);
            assert!(BuiltIn::get(&folder).is_some(), "{folder}");
            let answer = serde_json::from_str::<serde_json::Value>(&adapter.api.body);
            assert!(answer.is_ok(), "{}: {}", adapter.id(), adapter.api.body);
        }
    }

    #[test]
    fn bad_adapter_is_refused_with_file_line_and_column() {
        let unknown = refused(&format!("{GOOD}colour = 1\n"));
        assert!(unknown.starts_with("toy/adapter.toml:5:1: unknown field `colour`"), "{unknown}");
        let loose = refused(&GOOD.replace("toy==1.0", "toy>=1"));
        assert!(loose.starts_with("toy/adapter.toml:3:13: `toy>=1` has no exact version"), "{loose}");
        let wish = refused(&format!("{GOOD}supports = [\"key\", \"speed\"]\n"));
        assert!(wish.starts_with("toy/adapter.toml:5:20: `speed` is none of key"), "{wish}");
        let language = refused(&GOOD.replace("python", "cobol"));
        assert!(language.starts_with("toy/adapter.toml:2:12: unknown variant `cobol`"), "{language}");
        let scoped = refused(&GOOD.replace("python", "node").replace("toy==1.0", "@scope/toy"));
        assert!(scoped.contains("`@scope/toy` has no exact version"), "{scoped}");
        let none = Adapter::read("a.toml", GOOD, |_| None).expect_err("there is no script").to_string();
        assert_eq!(none, "a.toml:1:1: there is no create.py beside it");
    }

    #[test]
    fn adapter_is_found_by_its_name_or_package() {
        let adapters = built_in().expect("they are ours");
        let by_package = find(&adapters, "node:@workos-inc/node").expect("it is there");
        assert_eq!(by_package.id(), "node:workos");
        assert_eq!(by_package.package(), "@workos-inc/node");
        let unknown = find(&adapters, "ruby:stripe").expect_err("there is none").to_string();
        assert_eq!(unknown, "there is no adapter `ruby:stripe`; is it node:stripe or python:stripe?");
    }
}
