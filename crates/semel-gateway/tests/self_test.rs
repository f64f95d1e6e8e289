//! What a gateway finds out about its store before it listens.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use semel::store::memory::MemoryStore;
use semel::store::{
    Capabilities, ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Guard, Page, ReleaseArgs, RenewArgs, ScanArgs,
    Store, StoreError, StoreErrorKind, StoreFuture, Tier, Written,
};
use semel::{Engine, Record, RecordId};
use semel_gateway::{Config, Gateway, GatewayErrorKind};
use semel_tower::{Decided, Decisions};

/// Where the calls go.
#[derive(Clone, Copy, Debug, PartialEq)]
enum To {
    One,
    /// Claims go to one server and to another in turn, as behind a pooler that knows no better.
    InTurn,
    Nowhere,
}

#[derive(Debug)]
struct Backends {
    to: To,
    both: [Arc<MemoryStore>; 2],
    claims: AtomicUsize,
}

impl Backends {
    fn engine(to: To) -> (Engine, Arc<MemoryStore>) {
        let both = [Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new())];
        let first = both[0].clone();
        (Engine::new(Self { to, both, claims: AtomicUsize::new(0) }), first)
    }
}

impl Store for Backends {
    fn capabilities(&self) -> Capabilities {
        self.both[0].capabilities()
    }
    fn tier(&self) -> Tier {
        self.both[0].tier()
    }
    fn claim(&self, args: ClaimArgs) -> StoreFuture<'_, Claimed> {
        let nth = self.claims.fetch_add(1, Ordering::SeqCst);
        match self.to {
            To::One => self.both[0].claim(args),
            To::InTurn => self.both[nth % 2].claim(args),
            To::Nowhere => Box::pin(async { Err(StoreError::new(StoreErrorKind::Unavailable, "away")) }),
        }
    }
    fn renew(&self, args: RenewArgs) -> StoreFuture<'_, Written> {
        self.both[0].renew(args)
    }
    fn complete(&self, args: CompleteArgs) -> StoreFuture<'_, Written> {
        self.both[0].complete(args)
    }
    fn doubt(&self, args: DoubtArgs) -> StoreFuture<'_, Written> {
        self.both[0].doubt(args)
    }
    fn release(&self, args: ReleaseArgs) -> StoreFuture<'_, Written> {
        self.both[0].release(args)
    }
    fn import(&self, record: Record) -> StoreFuture<'_, Written> {
        self.both[0].import(record)
    }
    fn get(&self, id: &RecordId) -> StoreFuture<'_, Option<Record>> {
        self.both[0].get(id)
    }
    fn scan(&self, args: ScanArgs) -> StoreFuture<'_, Page> {
        self.both[0].scan(args)
    }
    fn purge(&self, limit: usize) -> StoreFuture<'_, usize> {
        self.both[0].purge(limit)
    }
    fn watch(&self, id: &RecordId, seen: Guard) -> StoreFuture<'_, ()> {
        self.both[0].watch(id, seen)
    }
}

#[derive(Debug)]
struct Nobody;

impl Decisions for Nobody {
    fn decided(&self, _decided: &Decided<'_>) {}
}

async fn bind(engine: Engine) -> Result<Gateway, semel_gateway::GatewayError> {
    let text = "upstream = \"http://127.0.0.1:9\"\nlisten = \"127.0.0.1:0\"\n";
    let config = Config::from_toml(text, "semel.toml").expect("it is well formed");
    Gateway::bind(config, engine, Arc::new(Nobody)).await
}

#[tokio::test]
async fn a_store_that_does_not_find_what_it_took_is_refused_at_the_start() {
    let (engine, _) = Backends::engine(To::InTurn);
    let refused = bind(engine).await.map(|_| ()).expect_err("nothing would ever be replayed");
    assert_eq!(refused.kind(), GatewayErrorKind::Store);
    assert!(refused.to_string().contains("does not find"), "{refused}");
}

#[tokio::test]
async fn a_good_store_keeps_nothing_of_the_test_and_one_that_is_away_is_no_reason_not_to_start() {
    let (engine, store) = Backends::engine(To::One);
    assert!(bind(engine).await.is_ok());
    let page = store.scan(ScanArgs { limit: 10, ..ScanArgs::default() }).await.expect("it is in memory");
    assert!(page.records.is_empty());
    let (engine, _) = Backends::engine(To::Nowhere);
    assert!(bind(engine).await.is_ok());
}
