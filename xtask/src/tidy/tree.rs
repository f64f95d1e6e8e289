//! The text files of a checkout, or of a tree made up for a test.
//!
//! Not the file system: checks read only this, so a test can show them any tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::checkout;
use crate::failure::{Done, While};

/// Path from the root, with `/`, to text.
pub(crate) struct Tree(BTreeMap<String, String>);

impl Tree {
    /// Leaves out what is not UTF-8.
    pub(crate) fn read(root: &Path) -> Done<Self> {
        let mut files = BTreeMap::new();
        for path in checkout::files(root)? {
            let bytes = fs::read(root.join(&path)).when(&path)?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.insert(path, text);
            }
        }
        Ok(Self(files))
    }

    #[cfg(test)]
    pub(crate) fn made_up(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|&(path, text)| (path.to_owned(), text.to_owned())).collect())
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files().filter(|(path, _)| path.ends_with(".rs"))
    }

    /// The Cargo.toml of each crate.
    pub(crate) fn manifests(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files().filter(|(path, _)| path.ends_with("/Cargo.toml"))
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    pub(crate) fn holds(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }
}

/// The number of the first line for which `wanted` holds, counted from 1; 1 when there is none.
pub(crate) fn line_where(text: &str, wanted: impl Fn(&str) -> bool) -> usize {
    text.lines().position(wanted).map_or(1, |index| index + 1)
}
