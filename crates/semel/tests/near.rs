//! Finished records kept near: how often the store is asked, and what is seen of a purge.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use std::sync::Arc;
use std::time::Duration;

use semel::record::DoubtCause;
use semel::store::memory::MemoryStore;
use semel::store::near::NearStore;
use semel::store::{
    ClaimArgs, Claimed, CompleteArgs, DoubtArgs, Ending, ReleaseArgs, ReleaseFrom, Store, Written,
};
use semel::{Fingerprint, Key, Operation, Outcome, Policy, Record, RecordId, Tenant, fingerprint};
use semel_testkit::faulty_store::{FaultyStore, Method};

const SECOND: Duration = Duration::from_secs(1);

struct Scene {
    far: Arc<FaultyStore>,
    near: NearStore,
}

impl Scene {
    fn new() -> Self {
        let far = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
        Self { near: NearStore::new(far.clone(), SECOND), far }
    }

    async fn claim(&self) -> Claimed {
        let fingerprint = Fingerprint {
            target: fingerprint::target("POST", "/charges", None),
            payload: fingerprint::payload(b"100", &fingerprint::PayloadParts::Raw),
        };
        let id = RecordId::new(Tenant::shared(), Operation::http(), Key::new("k").unwrap());
        self.near.claim(ClaimArgs::new(id, fingerprint, &Policy::default())).await.unwrap()
    }

    async fn win(&self) -> Record {
        match self.claim().await {
            Claimed::Won(record) => record,
            Claimed::Standing(record) => panic!("{record:?} stands"),
        }
    }

    async fn complete(&self) -> Record {
        let Record { id, guard, .. } = self.win().await;
        let outcome = Outcome { code: 201, head: "a: b".into(), body: "c".into(), body_kept: true };
        let ending = Ending::Completed(outcome);
        let written = self.near.complete(CompleteArgs { id, guard, ending, retention: SECOND * 60 });
        match written.await.unwrap() {
            Written::Done(Some(record)) => record,
            other => panic!("{other:?}"),
        }
    }

    async fn stands(&self) -> Record {
        match self.claim().await {
            Claimed::Standing(record) => record,
            Claimed::Won(record) => panic!("{record:?} was won"),
        }
    }

    fn asked(&self) -> usize {
        self.far.calls(Method::Claim)
    }
}

fn purge(record: &Record) -> ReleaseArgs {
    ReleaseArgs { id: record.id.clone(), guard: record.guard, from: ReleaseFrom::Finished }
}

#[tokio::test(start_paused = true)]
async fn a_hot_replay_asks_the_store_once_in_a_while() {
    let scene = Scene::new();
    let record = scene.complete().await;
    for _ in 0..100 {
        assert_eq!(scene.stands().await, record);
    }
    assert_eq!(scene.asked(), 2);
    tokio::time::advance(SECOND).await;
    assert_eq!(scene.stands().await, record);
    assert_eq!(scene.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_purge_is_seen_at_once_here_and_within_the_time_elsewhere() {
    let scene = Scene::new();
    let first = scene.complete().await;
    let _ = scene.stands().await;
    scene.near.release(purge(&first)).await.unwrap();
    let second = scene.complete().await;
    let _ = scene.stands().await;
    scene.far.release(purge(&second)).await.unwrap();
    assert_eq!(scene.near.get(&second.id).await.unwrap(), None, "who reads sees what stands");
    assert_eq!(scene.stands().await, second);
    tokio::time::advance(SECOND).await;
    let _ = scene.win().await;
}

#[tokio::test(start_paused = true)]
async fn what_may_still_change_is_not_kept() {
    let scene = Scene::new();
    let Record { id, guard, .. } = scene.win().await;
    let _ = scene.stands().await;
    let _ = scene.stands().await;
    assert_eq!(scene.asked(), 3, "in flight");
    scene.near.doubt(DoubtArgs { id, guard, cause: DoubtCause::NoAnswer }).await.unwrap();
    let _ = scene.stands().await;
    let _ = scene.stands().await;
    assert_eq!(scene.asked(), 5, "in doubt");
}
