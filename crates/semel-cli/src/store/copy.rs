//! `semel store copy`: every live record of one store, with its guard, its generation and the time it has left, goes
//! into another one.
//!
//! Each record is one guarded step of the target, so that a copy can be stopped and repeated at any point.

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use semel::clock::Timestamp;
use semel::record::{DoubtCause, Ending, StateKind};
use semel::store::{CompleteArgs, ScanArgs, StoreError, Written};
use semel::{Record, State, Store};
use serde::Serialize;
use tokio::task::JoinSet;

use super::{CopyArgs, existing};
use crate::exit::{Exit, Failure};
use crate::store_url::{StoreArgs, StoreUrl};

/// How many records are under way at once: enough to share an fsync, few enough to hold in memory with their bodies.
const PAGE_RECORDS: usize = 64;

/// What became of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Counts {
    /// Stand in the target as they stood in the source, now or since an earlier copy.
    copied: usize,
    /// Of these, in flight in the source and in doubt in the target.
    made_doubts: usize,
    /// Not copied: another record stands in the target.
    in_the_way: usize,
    /// Not copied: they expired meanwhile.
    expired: usize,
}

impl Counts {
    fn seen(&self) -> usize {
        self.copied + self.in_the_way + self.expired
    }
}

/// What became of one record.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Copied { made_doubt: bool },
    InTheWay,
    Expired,
}

pub(super) async fn run(args: CopyArgs, json: bool) -> Result<(), Failure> {
    let CopyArgs { from, to, config } = args;
    if from == to {
        return Err(Failure::new(Exit::Usage, "FROM and TO are the same store"));
    }
    let config = StoreArgs { store: None, config }.config()?;
    let source = existing(&from)?.open(&config).await?;
    let target = to.open(&config).await?;
    for url in [&from, &to] {
        if *url == StoreUrl::Memory {
            anstream::eprintln!("warning: {url} is empty now and forgotten when this command ends");
        }
    }
    let live = std::io::stderr().is_terminal();
    let mut counts = Counts::default();
    let copied = copy(&source, &target, &mut counts, |counts| {
        if live {
            anstream::eprint!("\r{} records", counts.seen());
        }
    })
    .await;
    if live {
        anstream::eprintln!();
    }
    copied.map_err(|error| {
        let chain = semel::error::error_chain(&error);
        let seen = counts.seen();
        Failure::new(
            Exit::Unreachable,
            format!("{chain}; {seen} records were done; the same command goes on"),
        )
    })?;
    say(&counts, &to, json)
}

fn say(counts: &Counts, to: &StoreUrl, json: bool) -> Result<(), Failure> {
    if json {
        let document = serde_json::to_string(counts).map_err(std::io::Error::from)?;
        writeln!(anstream::stdout(), "{document}")?;
    } else {
        let Counts { copied, made_doubts, in_the_way, expired } = counts;
        writeln!(
            anstream::stdout(),
            "{copied} records stand in {to}; {made_doubts} of them were in flight and are in doubt now; \
            {expired} expired meanwhile; {in_the_way} left out, because another record has their key"
        )?;
    }
    match counts.in_the_way {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Failed, format!("1 key has another record in {to}"))),
        several => Err(Failure::new(Exit::Failed, format!("{several} keys have other records in {to}"))),
    }
}

/// Copies page by page, telling `progress` after each.
async fn copy(
    source: &Arc<dyn Store>,
    target: &Arc<dyn Store>,
    counts: &mut Counts,
    progress: impl Fn(&Counts),
) -> Result<(), StoreError> {
    let mut cursor = None;
    loop {
        let asked = ScanArgs { cursor, limit: PAGE_RECORDS, ..ScanArgs::default() };
        let page = source.scan(asked).await?;
        let mut under_way = JoinSet::new();
        for record in page.records {
            let (source, target) = (Arc::clone(source), Arc::clone(target));
            under_way.spawn(async move { copy_one(&*source, &*target, &record, page.now).await });
        }
        for fate in under_way.join_all().await {
            match fate? {
                Fate::Copied { made_doubt } => {
                    counts.copied += 1;
                    counts.made_doubts += usize::from(made_doubt);
                }
                Fate::InTheWay => counts.in_the_way += 1,
                Fate::Expired => counts.expired += 1,
            }
        }
        progress(counts);
        match page.next {
            Some(next) => cursor = Some(next),
            None => return Ok(()),
        }
    }
}

async fn copy_one(
    source: &dyn Store,
    target: &dyn Store,
    listed: &Record,
    now: Timestamp,
) -> Result<Fate, StoreError> {
    // The list may leave bodies out.
    let Some(record) = source.get(&listed.id).await? else { return Ok(Fate::Expired) };
    let made_doubt = record.state.kind() == StateKind::InFlight;
    let record = record.doubted(DoubtCause::Abandoned, now);
    let standing = match target.import(record.clone()).await? {
        Written::Done(Some(standing)) => standing,
        Written::Done(None) => return Ok(Fate::Expired),
        Written::Refused(_) => return Ok(Fate::InTheWay),
    };
    // An earlier copy may have found it in doubt, where it has an outcome by now.
    if standing.state.kind() == StateKind::InDoubt
        && let Some((ending, expires_at)) = ending(&record)
    {
        let retention = expires_at.since(now);
        let args = CompleteArgs { id: record.id.clone(), guard: record.guard, ending, retention };
        if let Written::Refused(_) = target.complete(args).await? {
            return Ok(Fate::InTheWay);
        }
    }
    Ok(Fate::Copied { made_doubt })
}

fn ending(record: &Record) -> Option<(Ending, Timestamp)> {
    match &record.state {
        State::Completed { outcome, expires_at, .. } => {
            Some((Ending::Completed(outcome.clone()), *expires_at))
        }
        State::Failed { outcome, expires_at, .. } => Some((Ending::Failed(outcome.clone()), *expires_at)),
        State::InFlight { .. } | State::InDoubt { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use semel::clock::{Clock, ManualClock};
    use semel::fingerprint::{self, PayloadParts};
    use semel::store::memory::MemoryStore;
    use semel::store::{ClaimArgs, Claimed, DoubtArgs};
    use semel::{Fingerprint, Key, Operation, Outcome, Policy, RecordId, Tenant};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    struct Scene {
        clock: Arc<ManualClock>,
        source: Arc<dyn Store>,
        target: Arc<dyn Store>,
    }

    impl Scene {
        fn new() -> Self {
            let clock = Arc::new(ManualClock::at(Timestamp::from_micros(1_800_000_000_000_000)));
            let store = || Arc::new(MemoryStore::with_clock(clock.clone()));
            Self { source: store(), target: store(), clock: clock.clone() }
        }

        async fn copy(&self) -> Counts {
            let mut counts = Counts::default();
            copy(&self.source, &self.target, &mut counts, |_| {}).await.unwrap();
            counts
        }
    }

    fn id(key: &str) -> RecordId {
        RecordId::new(Tenant::id(&["acme"]), Operation::http(), Key::new(key).unwrap())
    }

    async fn claim(store: &Arc<dyn Store>, key: &str) -> Record {
        let fingerprint = Fingerprint {
            target: fingerprint::target("POST", "/", None),
            payload: fingerprint::payload(b"", &PayloadParts::Raw),
        };
        match store.claim(ClaimArgs::new(id(key), fingerprint, &Policy::default())).await.unwrap() {
            Claimed::Won(record) => record,
            Claimed::Standing(record) => panic!("{record:?} stands"),
        }
    }

    async fn complete(store: &Arc<dyn Store>, record: &Record, retention: Duration) {
        let outcome = Outcome { code: 201, body: "paid".into(), body_kept: true, ..Outcome::default() };
        let (id, guard) = (record.id.clone(), record.guard);
        let args = CompleteArgs { id, guard, ending: Ending::Completed(outcome), retention };
        assert!(matches!(store.complete(args).await.unwrap(), Written::Done(_)));
    }

    #[tokio::test]
    async fn every_live_record_arrives_as_it_was_and_what_is_in_flight_in_doubt() {
        let scene = Scene::new();
        for number in 0..200 {
            let record = claim(&scene.source, &format!("done {number}")).await;
            complete(&scene.source, &record, HOUR).await;
        }
        let lapsed = claim(&scene.source, "expired").await;
        complete(&scene.source, &lapsed, Duration::from_secs(1)).await;
        let doubted = claim(&scene.source, "doubted").await;
        let args = DoubtArgs { id: doubted.id, guard: doubted.guard, cause: DoubtCause::NoAnswer };
        scene.source.doubt(args).await.unwrap();
        scene.clock.advance(Duration::from_secs(2));
        let running = claim(&scene.source, "running").await;

        let expected = Counts { copied: 202, made_doubts: 1, ..Counts::default() };
        assert_eq!(scene.copy().await, expected);
        for key in ["done 0", "done 199", "doubted"] {
            let (there, here) = (scene.target.get(&id(key)).await, scene.source.get(&id(key)).await);
            assert_eq!(there.unwrap().unwrap(), here.unwrap().unwrap(), "{key}");
        }
        assert_eq!(scene.target.get(&id("expired")).await.unwrap(), None);
        let there = scene.target.get(&running.id).await.unwrap().unwrap();
        assert_eq!((there.state.kind(), there.guard), (StateKind::InDoubt, running.guard));
        let here = scene.source.get(&running.id).await.unwrap().unwrap();
        assert_eq!(here, running, "the source is as it was");

        assert_eq!(scene.copy().await, expected, "again");
        complete(&scene.source, &running, HOUR).await;
        assert_eq!(scene.copy().await, Counts { copied: 202, ..Counts::default() });
        let there = scene.target.get(&running.id).await.unwrap().unwrap();
        assert_eq!(there.outcome().unwrap().body, "paid", "what was in doubt has its outcome");
        assert_eq!(there.expires_at(), Some(scene.clock.now().plus(HOUR)));
    }

    #[tokio::test]
    async fn a_record_of_the_target_is_never_replaced() {
        let scene = Scene::new();
        let theirs = claim(&scene.source, "k").await;
        complete(&scene.source, &theirs, HOUR).await;
        let ours = claim(&scene.target, "k").await;
        assert_eq!(scene.copy().await, Counts { in_the_way: 1, ..Counts::default() });
        assert_eq!(scene.target.get(&id("k")).await.unwrap(), Some(ours));
    }
}
