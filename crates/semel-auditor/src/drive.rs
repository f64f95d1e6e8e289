//! Making a client act: one trait, and a file in `drive/` for each way.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Since;
use crate::report::Subject;
use crate::scenario::{End, Said, Scenario};

pub mod command;
pub mod person;
pub mod process;

/// A scenario under way. Dropped, it is given up: whatever still runs of it must not send any more, as far as that can
/// be had.
pub type Driving = Pin<Box<dyn Future<Output = End> + Send>>;

/// What makes a client act.
pub trait Drive: Send + Sync {
    /// Who it is. Asked when the audit is over, so that what it said on the way counts too.
    fn subject(&self) -> Subject;

    /// Makes the calls of one scenario and tells what became of them. Several scenarios may be in progress at once.
    fn drive(&self, scenario: Scenario, heard: Heard) -> Driving;

    /// What it left on its standard error most recently, to explain why nothing was sent.
    fn last_words(&self) -> Option<String> {
        None
    }

    /// For clients that do not say when they are done: a scenario ends when nothing has arrived for so long.
    fn ends_when_quiet(&self) -> Option<Duration> {
        None
    }
}

/// Where what a client says goes to.
#[derive(Clone, Debug)]
pub struct Heard {
    since: Since,
    said: Arc<Mutex<Vec<Said>>>,
}

impl Heard {
    /// Nothing yet; time counts from now.
    #[must_use]
    pub fn new() -> Self {
        Self { since: Since::now(), said: Arc::default() }
    }

    /// One line. When it was heard is set here.
    pub fn say(&self, said: Said) {
        let said = Said { at: self.since.elapsed(), ..said };
        self.said.lock().unwrap_or_else(PoisonError::into_inner).push(said);
    }

    /// All lines so far.
    #[must_use]
    pub fn said(&self) -> Vec<Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Default for Heard {
    fn default() -> Self {
        Self::new()
    }
}
