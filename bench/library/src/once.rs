//! `engine.once` around an effect that does nothing.

use semel::Engine;
use tokio::runtime::{Builder, Runtime};

use crate::case::{Call, RECORDS, engine, key};

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().expect("a runtime of one thread")
}

async fn once(engine: &Engine, key: &str) -> bool {
    let effect = |_| async { Ok("receipt 7".to_owned()) };
    engine.once("charge").key(key).run(effect).await.expect("the effect happens").is_replay()
}

pub(crate) fn fresh() -> Call {
    let (runtime, mut engine, mut number) = (runtime(), engine(), 0);
    Box::new(move || {
        number += 1;
        if number % RECORDS == 0 {
            engine = crate::case::engine();
        }
        assert!(!runtime.block_on(once(&engine, &key(number))));
    })
}

pub(crate) fn replay() -> Call {
    let (runtime, engine) = (runtime(), engine());
    runtime.block_on(once(&engine, &key(0)));
    Box::new(move || assert!(runtime.block_on(once(&engine, &key(0)))))
}
