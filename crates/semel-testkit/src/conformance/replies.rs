//! S8, as callers see it: an engine whose replies are lost, once for each step, neither runs an effect twice nor
//! leaves a record behind.

use semel::engine::Limits;
use semel::event::Silent;
use semel::record::StateKind;
use semel::{Ask, Begun, Claim, Completion, Engine};

use super::*;
use crate::faulty_store::{Fault, FaultyStore, Method};

fn ask(key: &str) -> Ask {
    let id = id(key);
    let policy = Policy { lease: Duration::from_secs(60), ..Policy::default() };
    Ask { id, fingerprint: request("100"), policy: Arc::new(policy) }
}

async fn begin(engine: &Engine, key: &str) -> Claim {
    match engine.begin(ask(key)).await.unwrap() {
        Begun::Run(claim) => claim,
        other => panic!("the claim was not won: {other:?}"),
    }
}

/// S8.
pub async fn s08_lost_replies_cost_neither_an_effect_nor_a_record(subject: Subject) {
    let faulty = Arc::new(FaultyStore::new(subject.store()));
    let engine = Engine::with(faulty.clone(), Arc::new(Silent), Limits::default());
    for fault in [Fault::LoseReply, Fault::Delay(MILLI)] {
        for method in [Method::Claim, Method::Complete, Method::Release, Method::Doubt] {
            faulty.once(method, fault);
        }
        let key = format!("{fault:?}");
        let claim = begin(&engine, &key).await;
        claim.release().await;
        assert_eq!(faulty.get(&id(&key)).await.unwrap(), None, "released");
        let claim = begin(&engine, &key).await;
        claim.start();
        let Completion::Stored(stored) = claim.complete(outcome("receipt")).await else {
            panic!("the outcome was not stored")
        };
        assert_eq!(faulty.get(&id(&key)).await.unwrap().as_ref(), Some(&*stored));
        let replayed = engine.begin(ask(&key)).await.unwrap();
        assert!(matches!(&replayed, Begun::Replay(record) if *record == stored), "{replayed:?}");

        let doubted = format!("{key} in doubt");
        begin(&engine, &doubted).await.doubt(semel::record::DoubtCause::NoAnswer).await;
        let doubt = faulty.get(&id(&doubted)).await.unwrap().unwrap();
        assert_eq!(doubt.state.kind(), StateKind::InDoubt);
    }
}
