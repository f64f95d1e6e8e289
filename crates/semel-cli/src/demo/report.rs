//! What the demo found out: for each scenario the charges meant, and on each day the charges made and the answers.
//!
//! The figures come out of the ledgers of `payments.rs`, read again at each look. This is the content of the table
//! (`table.rs`) and the document of `--json`; how it looks is not decided here.

use std::time::Duration;

use serde::Serialize;

use super::client::{Answer, told};
use super::payments::{Payments, Tally};
use super::scenarios::{SCENARIOS, Scenario};

/// The two runs of the same day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Without,
    With,
}

/// How far one scenario is on one day.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Waiting,
    Playing,
    Done(Vec<Answer>),
}

/// One scenario on one day.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) stage: Stage,
    pub(super) charged: Tally,
}

pub(super) struct Row {
    pub(super) scenario: &'static Scenario,
    pub(super) without: Cell,
    pub(super) with: Cell,
}

pub(super) struct Report {
    pub(super) rows: Vec<Row>,
}

impl Report {
    pub(super) fn new() -> Self {
        let waiting = Cell { stage: Stage::Waiting, charged: Tally::default() };
        let row = |scenario| Row { scenario, without: waiting.clone(), with: waiting.clone() };
        Self { rows: SCENARIOS.iter().map(row).collect() }
    }

    /// Reads the ledger of one day afresh, for all scenarios: a charge that comes late is not overlooked.
    pub(super) fn count(&mut self, side: Side, payments: &Payments) {
        for row in &mut self.rows {
            let charged = row.scenario.charged(payments);
            row.cell_mut(side).charged = charged;
        }
    }

    /// What was charged beyond what was meant, in cents; nothing is set off against a charge that is missing.
    pub(super) fn too_much_cents(&self, side: Side) -> u64 {
        let excess = |row: &Row| row.cell(side).charged.cents.saturating_sub(row.scenario.meant().cents);
        self.rows.iter().map(excess).sum()
    }

    /// What was meant and not charged, in cents.
    pub(super) fn too_little_cents(&self, side: Side) -> u64 {
        let missing = |row: &Row| row.scenario.meant().cents.saturating_sub(row.cell(side).charged.cents);
        self.rows.iter().map(missing).sum()
    }

    /// True when each scenario ended with the charges that were meant.
    pub(super) fn as_meant(&self, side: Side) -> bool {
        self.rows.iter().all(|row| row.cell(side).charged == row.scenario.meant())
    }

    /// True when the client was told that an outcome is in doubt.
    pub(super) fn left_in_doubt(&self) -> bool {
        let answers = self.rows.iter().flat_map(|row| row.with.answers());
        answers.into_iter().any(Answer::is_in_doubt)
    }

    /// The document of `--json`.
    pub(super) fn document(&self, took: Duration) -> Document<'_> {
        let scenarios = self.rows.iter().map(|row| ScenarioDocument {
            name: row.scenario.name,
            what: row.scenario.what,
            meant: row.scenario.meant(),
            without: row.without.document(),
            with: row.with.document(),
        });
        Document {
            scenarios: scenarios.collect(),
            charged_too_much_cents: BySide {
                without: self.too_much_cents(Side::Without),
                with: self.too_much_cents(Side::With),
            },
            charged_too_little_cents: BySide {
                without: self.too_little_cents(Side::Without),
                with: self.too_little_cents(Side::With),
            },
            charged_as_meant: BySide {
                without: self.as_meant(Side::Without),
                with: self.as_meant(Side::With),
            },
            took_ms: took.as_millis(),
        }
    }
}

impl Row {
    pub(super) fn cell(&self, side: Side) -> &Cell {
        match side {
            Side::Without => &self.without,
            Side::With => &self.with,
        }
    }

    pub(super) fn cell_mut(&mut self, side: Side) -> &mut Cell {
        match side {
            Side::Without => &mut self.without,
            Side::With => &mut self.with,
        }
    }
}

impl Cell {
    pub(super) fn answers(&self) -> &[Answer] {
        match &self.stage {
            Stage::Done(answers) => answers,
            Stage::Waiting | Stage::Playing => &[],
        }
    }

    fn document(&self) -> DayDocument {
        DayDocument { charged: self.charged, client_was_told: told(self.answers()) }
    }
}

#[derive(Serialize)]
pub(super) struct Document<'a> {
    scenarios: Vec<ScenarioDocument<'a>>,
    charged_too_much_cents: BySide<u64>,
    charged_too_little_cents: BySide<u64>,
    charged_as_meant: BySide<bool>,
    took_ms: u128,
}

#[derive(Serialize)]
struct ScenarioDocument<'a> {
    name: &'a str,
    what: &'a str,
    meant: Tally,
    without: DayDocument,
    with: DayDocument,
}

#[derive(Serialize)]
struct DayDocument {
    charged: Tally,
    client_was_told: String,
}

#[derive(Serialize)]
struct BySide<T> {
    without: T,
    with: T,
}
