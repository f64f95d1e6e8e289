//! The store: which lane each call takes.
//!
//! Claims, completions, the rarer writes and reads each gather in a lane of [`crate::writer`] and share statements.

use std::sync::Arc;
use std::time::Duration;

use semel::record::StateKind;
use semel::store::{
    Capabilities, ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Durability, Guard, Page, ReleaseArgs,
    RenewArgs, ScanArgs, StoreError, StoreFuture, Survives, Tier, Written, refuse_live_import,
};
use semel::{Record, RecordId, Store};

use crate::bell::Bell;
use crate::config::{OpenError, PostgresConfig};
use crate::open;
use crate::reader::{Read, Side};
use crate::session::Dialer;
use crate::watch::Watchers;
use crate::write::Write;
use crate::writer::Lane;

/// How often a watcher looks for itself.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// Records in a PostgreSQL database that any number of processes share. Its methods must be called within a tokio
/// runtime. Dropping it closes its connections after what was asked of them.
pub struct PostgresStore {
    pub(crate) claims: Lane<ClaimArgs>,
    pub(crate) completions: Lane<CompleteArgs>,
    pub(crate) writes: Lane<Write>,
    pub(crate) reads: Lane<Read>,
    pub(crate) side: Side,
    pub(crate) bell: Bell,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) unlogged: bool,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").field("tier", &self.tier()).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects, looks at the server's settings and at the tables, and begins to serve.
    ///
    /// # Errors
    /// [`OpenError`], whose kind says what stood in the way.
    pub async fn open(config: PostgresConfig) -> Result<Self, OpenError> {
        open::open(config).await
    }

    /// Makes the tables, or brings them up to date, with the rights of the role in `config`. Does nothing when they
    /// are.
    ///
    /// # Errors
    /// [`OpenError`], whose kind says what stood in the way.
    pub async fn migrate(config: &PostgresConfig) -> Result<(), OpenError> {
        open::migrate(config).await
    }

    async fn write(&self, id: RecordId, write: Write) -> Result<Written, StoreError> {
        let wakes = !matches!(write, Write::Renew(_));
        let written = self.writes.ask(write).await?;
        if wakes && matches!(written, Written::Done(_)) {
            self.wake(&id);
        }
        Ok(written)
    }

    fn wake(&self, id: &RecordId) {
        self.watchers.wake([id.digest()].iter());
        self.bell.tell(id.digest());
    }

    fn durability(&self) -> Durability {
        if self.unlogged {
            return Durability::None;
        }
        self.dialer.server().map_or(Durability::None, |server| server.durability())
    }
}

impl Store for PostgresStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "postgres",
            durability: self.durability(),
            shared: true,
            watches_elsewhere: self.bell.hears(),
        }
    }

    fn tier(&self) -> Tier {
        let mut tier =
            self.dialer.server().map_or_else(|| Tier::of_process(Durability::None), |server| server.tier());
        if self.unlogged {
            (tier.process_kill, tier.power_cut, tier.node_loss) = (Survives::No, Survives::No, Survives::No);
            tier.warnings.push("a table is UNLOGGED: a crash of the server empties it".into());
        }
        tier
    }

    fn claim(&self, args: ClaimArgs) -> StoreFuture<'_, Claimed> {
        Box::pin(async move {
            let id = args.id.clone();
            let claimed = self.claims.ask(args).await?;
            // Whoever watches an older claim of this record sees that it is over.
            if matches!(&claimed, Claimed::Won(record) if record.generation > 1) {
                self.wake(&id);
            }
            Ok(claimed)
        })
    }

    fn renew(&self, args: RenewArgs) -> StoreFuture<'_, Written> {
        Box::pin(self.write(args.id.clone(), Write::Renew(args)))
    }

    fn complete(&self, args: CompleteArgs) -> StoreFuture<'_, Written> {
        Box::pin(async move {
            let id = args.id.clone();
            let written = self.completions.ask(args).await?;
            if matches!(written, Written::Done(_)) {
                self.wake(&id);
            }
            Ok(written)
        })
    }

    fn doubt(&self, args: DoubtArgs) -> StoreFuture<'_, Written> {
        Box::pin(self.write(args.id.clone(), Write::Doubt(args)))
    }

    fn release(&self, args: ReleaseArgs) -> StoreFuture<'_, Written> {
        Box::pin(self.write(args.id.clone(), Write::Release(args)))
    }

    fn import(&self, record: Record) -> StoreFuture<'_, Written> {
        if record.state.kind() == StateKind::InFlight {
            return Box::pin(std::future::ready(Err(refuse_live_import())));
        }
        Box::pin(self.write(record.id.clone(), Write::Import(Box::new(record))))
    }

    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>> {
        Box::pin(self.reads.ask(Read(id.clone())))
    }

    fn scan(&self, args: ScanArgs) -> StoreFuture<'_, Page> {
        Box::pin(self.side.scan(args))
    }

    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        Box::pin(self.side.purge(limit))
    }

    fn watch(&self, id: &RecordId, seen: Guard) -> StoreFuture<'_, ()> {
        let mut watch = self.watchers.register(id.digest());
        let id = id.clone();
        Box::pin(async move {
            loop {
                let standing = self.reads.ask(Read(id.clone())).await?;
                if !standing.is_some_and(|record| record.guard == seen && record.outcome().is_none()) {
                    return Ok(());
                }
                if tokio::time::timeout(POLL_EVERY, watch.wait()).await.is_ok() {
                    return Ok(());
                }
            }
        })
    }
}
