//! `cargo xtask changelog VERSION`: folds `changes/*.md` into CHANGELOG.md and removes them.
//!
//! Not a release: it sets no version and makes no tag. The form of a change file is told in
//! `changes/README.md`; `cargo xtask tidy` holds each one to [`Change::parse`].

use std::collections::BTreeMap;
use std::fs;

use crate::checkout;
use crate::failure::{Done, Failure, While};

/// What `cargo xtask changelog` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The version under which the changes are listed, for example 0.2.0
    version: String,
    /// Print the new part, write and remove nothing
    #[arg(long)]
    dry_run: bool,
}

/// The headings of a version, in the order in which they appear.
const KINDS: [&str; 4] = ["Added", "Changed", "Fixed", "Removed"];

/// One file of `changes/`.
#[derive(Debug)]
pub(crate) struct Change {
    kind: &'static str,
    sentence: String,
    body: String,
}

impl Change {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (first, body) = text.split_once('\n').unwrap_or((text, ""));
        let form = || format!("the first line is not `# {}: sentence`", KINDS.join("|"));
        let (kind, sentence) =
            first.strip_prefix("# ").and_then(|line| line.split_once(": ")).ok_or_else(form)?;
        let kind = KINDS.into_iter().find(|known| *known == kind).ok_or_else(form)?;
        match sentence.trim() {
            "" => Err(form()),
            sentence => Ok(Self { kind, sentence: sentence.to_owned(), body: body.trim().to_owned() }),
        }
    }
}

/// Whether `path` is a change file and not the page that explains them.
pub(crate) fn is_change(path: &str) -> bool {
    path.strip_prefix("changes/").is_some_and(|name| name.ends_with(".md") && name != "README.md")
}

pub(crate) fn run(options: &Options) -> Done {
    let root = checkout::root();
    let mut paths = checkout::files(&root)?;
    paths.retain(|path| is_change(path));
    let mut changes = Vec::new();
    for path in &paths {
        let text = fs::read_to_string(root.join(path)).when(path)?;
        changes.push(Change::parse(&text).when(path)?);
    }
    if changes.is_empty() {
        return Err(Failure::new("changes/ holds no change; nothing to fold"));
    }
    let part = version_part(&options.version, &changes);
    if options.dry_run {
        print!("{part}");
        return Ok(());
    }
    let changelog = root.join("CHANGELOG.md");
    let old =
        if changelog.exists() { fs::read_to_string(&changelog).when("CHANGELOG.md")? } else { String::new() };
    fs::write(&changelog, with_part(&old, &options.version, &part)?).when("CHANGELOG.md")?;
    for path in &paths {
        fs::remove_file(root.join(path)).when(path)?;
    }
    println!("CHANGELOG.md: {} changes under {}", changes.len(), options.version);
    Ok(())
}

fn version_part(version: &str, changes: &[Change]) -> String {
    let mut by_kind: BTreeMap<&str, Vec<&Change>> = BTreeMap::new();
    for change in changes {
        by_kind.entry(change.kind).or_default().push(change);
    }
    let mut part = format!("## {version}\n");
    for (kind, changes) in by_kind {
        part += &format!("\n### {kind}\n\n");
        for Change { sentence, body, .. } in changes {
            part += &format!("- {sentence}\n");
            if !body.is_empty() {
                part.push('\n');
            }
            for line in body.lines() {
                part += format!("  {line}").trim_end();
                part.push('\n');
            }
        }
    }
    part
}

/// The newest version stands first, below the title.
fn with_part(old: &str, version: &str, part: &str) -> Done<String> {
    if old.lines().any(|line| line == format!("## {version}")) {
        return Err(Failure::new(format!("CHANGELOG.md already has {version}; give a new version")));
    }
    let before = old.strip_prefix("# Changelog\n").unwrap_or(old).trim();
    let mut new = format!("# Changelog\n\n{part}");
    if !before.is_empty() {
        new += &format!("\n{before}\n");
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(text: &str) -> Change {
        Change::parse(text).expect("well formed")
    }

    #[test]
    fn changes_are_listed_by_kind_under_the_version() {
        let changes =
            [change("# Fixed: a wait ends.\n"), change("# Added: a store.\n\nIt needs\n\nnothing.\n")];
        let part = version_part("0.2.0", &changes);
        assert_eq!(
            part,
            "## 0.2.0\n\n### Added\n\n- a store.\n\n  It needs\n\n  nothing.\n\n### Fixed\n\n- a wait ends.\n"
        );
    }

    #[test]
    fn newest_version_stands_first_and_none_is_lost() {
        let first = with_part("", "0.1.0", "## 0.1.0\n\n- a\n").expect("new file");
        let second = with_part(&first, "0.2.0", "## 0.2.0\n\n- b\n").expect("another version");
        assert_eq!(second, "# Changelog\n\n## 0.2.0\n\n- b\n\n## 0.1.0\n\n- a\n");
    }

    #[test]
    fn version_that_is_there_is_refused() {
        assert!(with_part("# Changelog\n\n## 0.1.0\n", "0.1.0", "## 0.1.0\n").is_err());
    }

    #[test]
    fn change_without_kind_or_sentence_is_refused() {
        for text in ["", "Added: x", "# Improved: x", "# Added:", "# Added:  \n\nbody"] {
            assert!(Change::parse(text).is_err(), "{text:?}");
        }
    }
}
