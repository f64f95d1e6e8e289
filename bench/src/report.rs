//! The tables and plots of docs/performance.md, from the figures that the parts of `cargo xtask bench` left beside them.
//!
//! A table stands between `<!-- figures: NAME -->` and `<!-- end -->`. Where a part has left no figures, what stands there
//! stays. Next: `tables`, `plots`.

use std::error::Error;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IgnoredAny};

mod criterion;
mod plots;
mod tables;

use crate::gateway::rows::Row;
use crate::results::Results;
use crate::store;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder of performance.md; figures and plots are in `performance` below it.
    #[arg(long, default_value = "docs")]
    docs: PathBuf,
    /// Takes criterion's figures over from here.
    #[arg(long)]
    criterion: Option<PathBuf>,
}

/// All figures there are.
struct All {
    folder: PathBuf,
}

impl All {
    /// What a part left; `None` when it was never measured.
    fn part<R: DeserializeOwned>(&self, name: &str) -> Result<Option<Results<R>>, Box<dyn Error>> {
        let path = self.folder.join(format!("{name}.json"));
        if !path.exists() {
            return Ok(None);
        }
        let results = serde_json::from_slice(&std::fs::read(&path)?);
        Ok(Some(results.map_err(|error| format!("{}: {error}", path.display()))?))
    }

    /// The rows of all these parts.
    fn rows<R: DeserializeOwned>(&self, names: &[&str]) -> Result<Vec<R>, Box<dyn Error>> {
        let mut rows = Vec::new();
        for name in names {
            rows.extend(self.part::<R>(name)?.into_iter().flat_map(|results| results.rows));
        }
        Ok(rows)
    }
}

const CALLERS: [&str; 3] = ["callers-1", "callers-32", "callers-256"];
const CROWDS: [&str; 3] = ["crowd", "crowd-slow", "crowd-quick"];
const EMBEDDED: [&str; 5] = ["embedded", "loaded", "steady", "expiry", "kill"];
const PEERS: [&str; 2] = ["peers", "peers-crowd"];
/// Parts without siblings in their table, but for the two at a steady rate.
const ALONE: [&str; 8] =
    ["one-core", "http2", "paced-fresh", "paced-replay", "memory", "redis", "postgres", "library"];

pub(crate) fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let all = All { folder: arguments.docs.join("performance") };
    if let Some(folder) = &arguments.criterion {
        criterion::take_over(folder, &all.folder.join("library.json"))?;
    }
    let page = arguments.docs.join("performance.md");
    let mut text = std::fs::read_to_string(&page).map_err(|error| format!("{}: {error}", page.display()))?;
    for (name, table) in written(&all)? {
        text = put(&text, name, &table)?;
    }
    std::fs::write(&page, text)?;
    let plots = plots::draw(&all)?;
    for (name, svg) in &plots {
        std::fs::write(all.folder.join(name), svg)?;
    }
    println!("{}: {} plots", page.display(), plots.len());
    Ok(())
}

/// Every table for which there are figures.
fn written(all: &All) -> Result<Vec<(&'static str, String)>, Box<dyn Error>> {
    let gateway = |names: &[&str]| all.rows::<Row>(names);
    let store = |names: &[&str]| all.rows::<store::Row>(names);
    let mut tables = vec![
        ("gateway", tables::gateway(&gateway(&CALLERS)?)),
        ("one-core", tables::gateway(&gateway(&["one-core"])?)),
        ("http2", tables::gateway(&gateway(&["http2"])?)),
        ("paced", tables::gateway(&gateway(&["paced-fresh", "paced-replay"])?)),
        ("crowd", tables::crowd(&gateway(&CROWDS)?)),
        ("memory", tables::memory(&gateway(&["memory"])?)),
        ("embedded", tables::stores(&store(&EMBEDDED)?)),
        ("redis", tables::stores(&store(&["redis"])?)),
        ("postgres", tables::stores(&store(&["postgres"])?)),
        ("library", tables::library(&all.rows(&["library"])?)?),
        ("peers", tables::peers(&gateway(&PEERS)?)),
    ];
    let mut measured = Vec::new();
    for name in [&CALLERS[..], &ALONE, &CROWDS, &EMBEDDED, &PEERS].concat() {
        measured.extend(all.part::<IgnoredAny>(name)?.map(|results| (name, results)));
    }
    tables.push(("machines", tables::machines(&measured)));
    tables.retain(|(_, table)| !table.is_empty());
    Ok(tables)
}

/// `text` with `table` between the marks of `name`.
fn put(text: &str, name: &str, table: &str) -> Result<String, String> {
    let begin = format!("<!-- figures: {name} -->\n");
    let missing = || format!("performance.md has no {}…<!-- end -->", begin.trim_end());
    let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once("<!-- end -->").ok_or_else(missing)?;
    Ok(format!("{before}{begin}\n{}\n\n<!-- end -->{after}", table.trim_end()))
}

/// Whole numbers with a comma between thousands.
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What a middle is called where others stand beside it.
fn among_peers(middle: &str) -> String {
    const STORES: [&str; 4] = ["memory", "embedded", "redis", "postgres"];
    let in_axum = middle.strip_prefix("axum-").filter(|store| STORES.contains(store));
    match (middle, in_axum) {
        ("axum", _) => "axum alone".to_owned(),
        (_, Some(store)) => format!("Semel in axum, {store}"),
        _ if STORES.contains(&middle) => format!("Semel, {middle}"),
        _ => middle.to_owned(),
    }
}

/// Where `path` is in the checkout, from the folder that `semel-bench` is started in.
fn read_if_there(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_takes_the_place_between_its_marks_and_nothing_else() {
        let text = "a\n<!-- figures: b -->\nold\n<!-- end -->\nc <!-- end -->\n";
        let expected = "a\n<!-- figures: b -->\n\nnew\n\n<!-- end -->\nc <!-- end -->\n";
        assert_eq!(put(text, "b", "new\n").as_deref(), Ok(expected));
        assert_eq!(put(expected, "b", "new\n").as_deref(), Ok(expected));
        assert!(put(text, "d", "new").is_err());
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([7.4, 999.6, 12_345.0, 1_234_567.0].map(grouped), ["7", "1,000", "12,345", "1,234,567"]);
    }

    #[test]
    fn semel_is_named_among_others() {
        let names = ["floor", "redis", "axum", "axum-redis", "axum-idempotent"].map(among_peers);
        assert_eq!(names, ["floor", "Semel, redis", "axum alone", "Semel in axum, redis", "axum-idempotent"]);
    }

    #[test]
    fn every_table_has_its_place_on_the_page() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let page = std::fs::read_to_string(docs.join("performance.md")).expect("the page");
        let names = [
            "machines", "gateway", "one-core", "http2", "paced", "crowd", "memory", "embedded", "redis",
            "postgres", "library", "peers",
        ];
        for name in names {
            put(&page, name, "").unwrap_or_else(|error| panic!("{error}"));
        }
    }

    #[test]
    fn page_is_as_the_figures_beside_it() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let page = std::fs::read_to_string(docs.join("performance.md")).expect("the page");
        let all = All { folder: docs.join("performance") };
        for (name, table) in written(&all).expect("the figures can be read") {
            assert!(put(&page, name, &table) == Ok(page.clone()), "{name}: cargo xtask bench --report");
        }
    }
}
