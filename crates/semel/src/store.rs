//! The store trait: what the engine asks of a place that keeps records, and the guarantees that a store gives.
//!
//! Every method is one atomic step; nobody composes a read with a write. Guarantees, as the conformance suite
//! numbers them:
//!
//! - **S1** Of any number of concurrent claims of one record, at most one is won until that claim ends.
//! - **S2** Tokens of one record grow with every claim and never repeat, also after the record was absent.
//! - **S3** A write whose guard (token and attempt) is not the record's changes nothing and says what stands.
//! - **S4** What was acknowledged is kept as [`Capabilities::durability`] says.
//! - **S5** In flight never expires. It is in doubt from `min(lease_until, execute_until)` on.
//! - **S6** A finished or doubted record is absent from `expires_at` on (`now >= expires_at`), whether it was
//!   purged or not.
//! - **S7** Purge never removes a record that is in flight or not expired.
//! - **S8** A repeated call by the same guard (after a lost reply) is answered as the first one was.
//! - **S9** Tenant, operation, key and variant are verified on every read; another's record is never returned.
//! - **S10** A dropped future changes nothing about whether the step happens: it happens wholly or not at all.
//! - **S11** Time is the store's clock; no method takes a time.
//! - **S12** `watch` resolves after a change of the record by anybody who uses this store value.
//! - **S13** An imported record stands as it stood in the store it came from: state, guard, generation and times.
//!   It never replaces one that stands, and tokens given afterwards are above its own (S2 holds across stores).
//!
//! Next: [`memory`], the reference store; [`tier`], how a store says what its acknowledgements survive;
//! [`crate::record`] has the transitions that a step applies.

pub mod memory;
#[cfg(feature = "near")]
pub mod near;
#[cfg(feature = "encryption")]
pub mod sealed;
pub mod tier;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use crate::record::{ClaimArgs, Ending, Guard, ReleaseFrom};
pub use tier::{Survives, Tier};

use crate::clock::Timestamp;
use crate::record::{DoubtCause, Record, StateKind};
use crate::scope::{Operation, RecordId, Tenant};

/// What a store method returns. It owns its work: dropping it does not undo or interrupt the step (S10).
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A place that keeps records. See the module for the numbered guarantees.
///
/// Errors of every method: [`StoreError`], whose kind says whether the step may have happened.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// What this store can do and how durable its acknowledgements are.
    fn capabilities(&self) -> Capabilities;

    /// What an acknowledged write survives, as far as the server's own settings were read when the store was opened.
    fn tier(&self) -> Tier;

    /// absent -> in flight, or in doubt -> in flight where the arguments allow it; else what stands.
    fn claim(&self, args: ClaimArgs) -> StoreFuture<'_, Claimed>;

    /// Moves the lease on. [`Written::Refused`] with the record in doubt means that it had already lapsed.
    fn renew(&self, args: RenewArgs) -> StoreFuture<'_, Written>;

    /// in flight | in doubt -> completed | failed.
    fn complete(&self, args: CompleteArgs) -> StoreFuture<'_, Written>;

    /// in flight -> in doubt.
    fn doubt(&self, args: DoubtArgs) -> StoreFuture<'_, Written>;

    /// The record becomes absent.
    fn release(&self, args: ReleaseArgs) -> StoreFuture<'_, Written>;

    /// absent -> `record`, finished or in doubt, with its guard, generation and times as they are (S13).
    /// [`Written::Done`] with what stands when the record stands under this very guard already, and with `None` when
    /// it has expired on this store's clock; [`Written::Refused`] when another record stands. One that is in flight
    /// is refused with [`StoreErrorKind::Unavailable`]: see [`Record::doubted`].
    fn import(&self, record: Record) -> StoreFuture<'_, Written>;

    /// The record as it stands now; `None` when absent or expired.
    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>>;

    /// The finished record that a claim would find, where that is known at once; `None` says nothing. The engine asks
    /// before it claims, because a replay that needs no answer from elsewhere needs no turn at its key either.
    fn near(&self, _id: &RecordId) -> Option<Record> {
        None
    }

    /// A page of live records, for people and alerts. Not a snapshot: records may move between pages.
    fn scan(&self, args: ScanArgs) -> StoreFuture<'_, Page>;

    /// Removes up to `limit` expired records and returns how many went.
    fn purge(&self, limit: usize) -> StoreFuture<'_, usize>;

    /// Resolves when the record was written after `seen`, as a hint: it may resolve early, and a change made by
    /// another process may be missed where [`Capabilities::watches_elsewhere`] is false. Callers poll as well.
    fn watch(&self, id: &RecordId, seen: Guard) -> StoreFuture<'_, ()>;
}

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// The caller holds the claim; the record is in flight under the caller's attempt.
    Won(Record),
    /// Somebody else's record stands. Its fingerprint has not been compared, except to refuse a takeover.
    Standing(Record),
}

/// The answer to a guarded write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It was made, now or by an earlier call with the same guard. `None` when the record is now absent.
    Done(Option<Record>),
    /// Nothing was changed; this is what stands.
    Refused(Option<Record>),
}

/// Arguments of [`Store::renew`].
#[derive(Clone, Debug)]
pub struct RenewArgs {
    /// Which record.
    pub id: RecordId,
    /// Whose claim.
    pub guard: Guard,
    /// Counted from the store's now; never past the claim's longest execution.
    pub lease: Duration,
}

/// Arguments of [`Store::complete`].
#[derive(Clone, Debug)]
pub struct CompleteArgs {
    /// Which record.
    pub id: RecordId,
    /// Whose claim.
    pub guard: Guard,
    /// How the effect ended.
    pub ending: Ending,
    /// How long the outcome is kept, from the store's now.
    pub retention: Duration,
}

/// Arguments of [`Store::doubt`].
#[derive(Clone, Debug)]
pub struct DoubtArgs {
    /// Which record.
    pub id: RecordId,
    /// Whose claim.
    pub guard: Guard,
    /// Why.
    pub cause: DoubtCause,
}

/// Arguments of [`Store::release`].
#[derive(Clone, Debug)]
pub struct ReleaseArgs {
    /// Which record.
    pub id: RecordId,
    /// Whose claim, or the guard that was read from the record that is resolved or purged.
    pub guard: Guard,
    /// From which states.
    pub from: ReleaseFrom,
}

/// Arguments of [`Store::scan`]: filters, all of which must hold.
#[derive(Clone, Debug, Default)]
pub struct ScanArgs {
    /// Only this tenant's.
    pub tenant: Option<Tenant>,
    /// Only this operation's.
    pub operation: Option<Operation>,
    /// Only records with this key text.
    pub key: Option<String>,
    /// Only records in this state.
    pub state: Option<StateKind>,
    /// Where the page before ended; `None` for the first.
    pub cursor: Option<String>,
    /// At most so many records, 1 to 1,000.
    pub limit: usize,
}

/// A page of records.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The records. Outcomes' bodies may be left out (empty with `body_kept` as stored).
    pub records: Vec<Record>,
    /// Where the next page begins; `None` when this was the last.
    pub next: Option<String>,
    /// The store's time, for showing ages.
    pub now: Timestamp,
}

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Nothing: it ends with the process.
    None,
    /// The death of the process, not a power cut.
    Process,
    /// The death of the process and a power cut.
    Power,
}

impl Durability {
    /// The configured and printed name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Process => "process",
            Self::Power => "power",
        }
    }
}

/// What a store can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The store's name: `memory`, `embedded`, `postgres`, `redis`.
    pub name: &'static str,
    /// What an acknowledgement survives.
    pub durability: Durability,
    /// Whether several processes may use it at once.
    pub shared: bool,
    /// Whether [`Store::watch`] sees changes made by other processes.
    pub watches_elsewhere: bool,
}

/// What every store answers to the import of a record in flight.
#[must_use]
pub fn refuse_live_import() -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, "a record in flight cannot be imported")
}

/// Why a step could not be made, or nobody knows whether it was.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The kinds of [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// The step did not happen: the store cannot be reached, or refused before doing anything.
    Unavailable,
    /// The step may have happened; only reading with the attempt id tells.
    Unknown,
    /// The step did not happen: no room. Reads go on.
    Full,
    /// What was read is not what was written, or belongs to another record.
    Corrupt,
}

impl StoreError {
    /// An error of `kind`, caused by `source`.
    pub fn new(kind: StoreErrorKind, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { kind, source: source.into() }
    }

    /// Whether the step may have happened, and what stood in its way.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StoreErrorKind::Unavailable => "the store is unavailable; nothing was changed",
            StoreErrorKind::Unknown => "the store did not say whether the change was made",
            StoreErrorKind::Full => "the store is full; nothing was changed",
            StoreErrorKind::Corrupt => "the store returned a damaged or foreign record",
        })
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self.source.as_ref())
    }
}
