//! For people who drive their own client: says where to send what, and goes on when nothing more comes.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use super::{Drive, Driving, Heard};
use crate::report::Subject;
use crate::scenario::Scenario;

/// Somebody who reads what is asked and makes it happen.
#[derive(Clone)]
pub struct Person {
    ask: Arc<dyn Fn(&Scenario) + Send + Sync>,
    quiet: Duration,
}

impl Person {
    /// `ask` is called with each scenario; it is over when its calls have succeeded, or once nothing came in for so
    /// long.
    #[must_use]
    pub fn new(quiet: Duration, ask: impl Fn(&Scenario) + Send + Sync + 'static) -> Self {
        Self { ask: Arc::new(ask), quiet }
    }
}

impl Drive for Person {
    fn subject(&self) -> Subject {
        Subject { name: "a client driven by hand".to_owned(), ..Subject::default() }
    }

    fn drive(&self, scenario: Scenario, _heard: Heard) -> Driving {
        (self.ask)(&scenario);
        Box::pin(pending())
    }

    fn ends_when_quiet(&self) -> Option<Duration> {
        Some(self.quiet)
    }
}
