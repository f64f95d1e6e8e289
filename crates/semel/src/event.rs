//! What happened, for metrics, alerts and audit logs.
//!
//! The engine calls [`Observer::observe`] on the path of a request: an observer counts or queues and returns; it
//! never waits for a sink.

use std::fmt;
use std::time::Duration;

use crate::error::Code;
use crate::record::DoubtCause;
use crate::scope::RecordId;

/// Something that happened to a record, or to a call of the store.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A claim was won; `generation` above 1 means that a doubt was taken over.
    Claimed {
        /// Which record.
        id: &'a RecordId,
        /// How many times the record was claimed afresh.
        generation: u32,
    },
    /// A stored outcome was given to a later caller.
    Replayed {
        /// Which record.
        id: &'a RecordId,
        /// How long it took, the wait for a running duplicate included.
        waited: Duration,
    },
    /// A caller was refused: mismatch, in progress, outcome unknown, quota, store unavailable.
    Refused {
        /// Which record.
        id: &'a RecordId,
        /// Why.
        code: Code,
    },
    /// An outcome was stored.
    Completed {
        /// Which record.
        id: &'a RecordId,
    },
    /// A claim was given back: the effect did not happen.
    Released {
        /// Which record.
        id: &'a RecordId,
    },
    /// A record became in doubt.
    Doubted {
        /// Which record.
        id: &'a RecordId,
        /// Why.
        cause: DoubtCause,
    },
    /// The effect ran, and meanwhile the claim was lost to another.
    Superseded {
        /// Which record.
        id: &'a RecordId,
    },
    /// The effect ran and its outcome could not be stored in time.
    Unrecorded {
        /// Which record.
        id: &'a RecordId,
    },
    /// A lease could not be renewed.
    RenewFailed {
        /// Which record.
        id: &'a RecordId,
    },
    /// Expired records were removed.
    Purged {
        /// How many.
        records: usize,
    },
    /// The store was called.
    StoreCalled {
        /// `claim`, `complete`, and so on.
        method: &'static str,
        /// How long it took.
        took: Duration,
        /// Whether it succeeded.
        ok: bool,
    },
}

/// Who is told what happened.
pub trait Observer: Send + Sync + fmt::Debug + 'static {
    /// Called once for each event, on the path of a request. Must not block.
    fn observe(&self, event: &Event<'_>);
}

/// Ignores every event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn observe(&self, _event: &Event<'_>) {}
}
