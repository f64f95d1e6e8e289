//! Faults of Semel's own, planted between the engine and the store one at a time: that the seeds find each shows that
//! they look where it hurts.
//!
//! The histories that are judged are recorded below this, so that the checker does not see them: they are found by what
//! callers and the upstream saw. `mutants/` has faults inside the code.

use std::sync::Arc;
use std::time::Duration;

use semel::clock::Clock;
use semel::record::{self, DoubtCause, State, StateKind, Step};
use semel::store::{
    Capabilities, ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Guard, Page, ReleaseArgs, ReleaseFrom,
    RenewArgs, ScanArgs, Store, StoreFuture, Tier, Written,
};
use semel::{Record, RecordId, Tenant};

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A completion is let through whatever its guard.
    CompleteUnfenced,
    /// The purge takes records in flight.
    PurgeTakesInFlight,
    /// A claim takes over a lease that has not run out.
    ClaimTakesLiveLease,
    /// A record whose lease ran out is absent instead of in doubt.
    LeaseIsRetention,
    /// A doubt is taken over although the key holds its doubts.
    HoldTakesOver,
    /// What nobody knows is released.
    DoubtIsReleased,
    /// Callers are told the outcome before it is stored.
    AnswerBeforeStoring,
    /// An outcome is kept for less than was promised.
    OutcomeExpiresEarly,
    /// The state decides before the fingerprint.
    StateBeforeFingerprint,
    /// A completion is tried once.
    CompletionNotRetried,
    /// All tenants are one.
    TenantForgotten,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::CompleteUnfenced,
        Self::PurgeTakesInFlight,
        Self::ClaimTakesLiveLease,
        Self::LeaseIsRetention,
        Self::HoldTakesOver,
        Self::DoubtIsReleased,
        Self::AnswerBeforeStoring,
        Self::OutcomeExpiresEarly,
        Self::StateBeforeFingerprint,
        Self::CompletionNotRetried,
        Self::TenantForgotten,
    ];

    /// The fault of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|plant| format!("{plant:?}") == name)
    }
}

/// A store with a fault in front of it.
#[derive(Clone, Debug)]
pub struct Planted {
    inner: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    plant: Plant,
}

impl Planted {
    /// `inner`, whose clock is `clock`, with `plant` in front.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, clock: Arc<dyn Clock>, plant: Plant) -> Self {
        Self { inner, clock, plant }
    }

    fn id(&self, id: &RecordId) -> RecordId {
        match self.plant {
            Plant::TenantForgotten => {
                RecordId::new(Tenant::public(), id.operation().clone(), id.key().clone())
            }
            _ => id.clone(),
        }
    }

    /// What the fault does to the record before a call.
    async fn spoil(&self, id: &RecordId, claims: bool) {
        let Ok(Some(record)) = self.inner.get(id).await else { return };
        let (id, guard) = (id.clone(), record.guard);
        match (self.plant, &record.state) {
            (Plant::LeaseIsRetention, State::InDoubt { cause: DoubtCause::LeaseExpired, .. }) => {
                let _ = self.inner.release(ReleaseArgs { id, guard, from: ReleaseFrom::Doubt }).await;
            }
            (Plant::ClaimTakesLiveLease, State::InFlight { .. }) if claims => {
                let _ = self.inner.release(ReleaseArgs { id, guard, from: ReleaseFrom::Claim }).await;
            }
            _ => {}
        }
    }

    /// Says that it is stored, and stores it a moment later.
    async fn store_later(&self, args: CompleteArgs) -> Result<Written, semel::store::StoreError> {
        let current = self.inner.get(&args.id).await?;
        let now = self.clock.now();
        let step = record::complete(current, args.guard, args.ending.clone(), args.retention, now);
        let Step::Write(record) = step else { return self.inner.complete(args).await };
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let _ = inner.complete(args).await;
        });
        Ok(Written::Done(Some(record)))
    }
}

impl Store for Planted {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn tier(&self) -> Tier {
        self.inner.tier()
    }
    fn claim(&self, mut args: ClaimArgs) -> StoreFuture<'_, Claimed> {
        args.id = self.id(&args.id);
        args.takeover |= self.plant == Plant::HoldTakesOver;
        let asked = args.fingerprint;
        Box::pin(async move {
            self.spoil(&args.id, true).await;
            let mut claimed = self.inner.claim(args).await;
            if self.plant == Plant::StateBeforeFingerprint
                && let Ok(Claimed::Standing(record)) = &mut claimed
                && record.outcome().is_none()
            {
                record.fingerprint = asked;
            }
            claimed
        })
    }
    fn renew(&self, mut args: RenewArgs) -> StoreFuture<'_, Written> {
        args.id = self.id(&args.id);
        self.inner.renew(args)
    }
    fn complete(&self, mut args: CompleteArgs) -> StoreFuture<'_, Written> {
        args.id = self.id(&args.id);
        Box::pin(async move {
            match self.plant {
                Plant::CompleteUnfenced => {
                    if let Ok(Some(record)) = self.inner.get(&args.id).await {
                        args.guard = record.guard;
                    }
                }
                Plant::AnswerBeforeStoring => return self.store_later(args).await,
                Plant::OutcomeExpiresEarly => args.retention = Duration::from_secs(3),
                _ => {}
            }
            self.inner.complete(args).await
        })
    }
    fn doubt(&self, mut args: DoubtArgs) -> StoreFuture<'_, Written> {
        args.id = self.id(&args.id);
        if self.plant == Plant::DoubtIsReleased {
            let DoubtArgs { id, guard, .. } = args;
            return self.inner.release(ReleaseArgs { id, guard, from: ReleaseFrom::Claim });
        }
        self.inner.doubt(args)
    }
    fn release(&self, mut args: ReleaseArgs) -> StoreFuture<'_, Written> {
        args.id = self.id(&args.id);
        self.inner.release(args)
    }
    fn import(&self, record: Record) -> StoreFuture<'_, Written> {
        self.inner.import(record)
    }
    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>> {
        let id = self.id(id);
        Box::pin(async move {
            self.spoil(&id, false).await;
            self.inner.get(&id).await
        })
    }
    fn scan(&self, args: ScanArgs) -> StoreFuture<'_, Page> {
        self.inner.scan(args)
    }
    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        Box::pin(async move {
            if self.plant == Plant::PurgeTakesInFlight {
                let args = ScanArgs { state: Some(StateKind::InFlight), limit: 100, ..ScanArgs::default() };
                for record in self.inner.scan(args).await?.records {
                    let Record { id, guard, .. } = record;
                    let _ = self.inner.release(ReleaseArgs { id, guard, from: ReleaseFrom::Claim }).await;
                }
            }
            self.inner.purge(limit).await
        })
    }
    fn watch(&self, id: &RecordId, seen: Guard) -> StoreFuture<'_, ()> {
        self.inner.watch(&self.id(id), seen)
    }
}
