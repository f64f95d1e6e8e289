//! `cargo xtask failure-modes`: writes docs/failure-modes.md from docs/failure-modes.toml.
//!
//! The table says, for each way in which others broke, which tests hold Semel to it and which seeded faults turn them
//! red. Not a test run: `cargo xtask tidy` holds the table to the tree (`tidy/modes.rs`), nextest runs the tests and
//! `cargo xtask mutants --seeded` the faults. Next: `failure_modes/table.rs`, then `page.rs`.

use std::fs;

use crate::checkout;
use crate::failure::{Done, Failure, While};
use crate::tidy::tree::Tree;

pub(crate) mod page;
pub(crate) mod table;

pub(crate) const TABLE: &str = "docs/failure-modes.toml";
pub(crate) const PAGE: &str = "docs/failure-modes.md";
/// Where the reasons are, a heading each.
pub(crate) const REASONS: &str = "docs/decisions/failure-modes.md";

pub(crate) fn run() -> Done {
    let root = checkout::root();
    let tree = Tree::read(&root)?;
    let text = tree.text(TABLE).ok_or_else(|| Failure::new(format!("{TABLE} is not there")))?;
    let table = table::Table::parse(text).when(TABLE)?;
    fs::write(root.join(PAGE), page::render(&table, &tree)).when(PAGE)?;
    println!("{PAGE}: {}", page::counts(&table));
    Ok(())
}
