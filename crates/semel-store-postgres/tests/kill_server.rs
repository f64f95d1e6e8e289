//! The server is killed, cut off or full while the store is used: what was acknowledged stays, and service comes back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use semel::record::{ClaimArgs, Ending};
use semel::store::{Claimed, CompleteArgs, StoreError, StoreErrorKind, Written};
use semel::{Fingerprint, Key, Operation, Outcome, Policy, RecordId, Store, Tenant, fingerprint};
use semel_store_postgres::{OpenErrorKind, PostgresConfig, PostgresStore};
use semel_testkit::check::Recorder;
use semel_testkit::figures;
use semel_testkit::seeded::{Seeded, number};
use semel_testkit::server::postgres::PostgresServer;
use semel_testkit::shim::{Fault, Shim};
use semel_testkit::volume::Volume;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(30);

fn claiming(key: &str) -> ClaimArgs {
    let id = RecordId::new(Tenant::public(), Operation::http(), Key::new(key).unwrap());
    let request = Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(b"100", &fingerprint::PayloadParts::Raw),
    };
    ClaimArgs::new(id, request, &Policy::default())
}

fn outcome(key: &str) -> Outcome {
    Outcome { code: 201, body: key.to_owned().into(), body_kept: true, ..Outcome::default() }
}

async fn until(what: &str, mut state: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !state().await {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} until {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Callers who claim and complete fresh keys until they are stopped, and never ask twice. What they are answered is
/// recorded.
struct Load {
    recorder: Recorder,
    going: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    callers: JoinSet<Vec<(RecordId, String)>>,
}

impl Load {
    fn start(store: &Arc<PostgresStore>) -> Self {
        Self::named(store, "")
    }

    /// With other keys than those of another name.
    fn named(store: &Arc<PostgresStore>, name: &str) -> Self {
        let mut load = Self {
            recorder: Recorder::new(store.clone()),
            going: Arc::new(AtomicBool::new(true)),
            done: Arc::default(),
            failed: Arc::default(),
            callers: JoinSet::new(),
        };
        for caller in 0..16 {
            let (store, going) = (load.recorder.clone(), Arc::clone(&load.going));
            let (done, failed) = (Arc::clone(&load.done), Arc::clone(&load.failed));
            let name = name.to_owned();
            load.callers.spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    if !going.load(Ordering::SeqCst) {
                        break;
                    }
                    let key = format!("{name}{caller} {number}");
                    match pair(&store, &key).await {
                        Ok(id) => {
                            done.fetch_add(1, Ordering::SeqCst);
                            acknowledged.push((id, key));
                        }
                        Err(kind) => {
                            let expected =
                                [StoreErrorKind::Unavailable, StoreErrorKind::Unknown, StoreErrorKind::Full];
                            assert!(expected.contains(&kind), "{kind:?}");
                            failed.fetch_add(1, Ordering::SeqCst);
                            sleep(Duration::from_millis(10)).await;
                        }
                    }
                }
                acknowledged
            });
        }
        load
    }

    async fn more(&self, pairs: usize) {
        let wanted = self.done.load(Ordering::SeqCst) + pairs;
        until(&format!("{pairs} more are done"), async || self.done.load(Ordering::SeqCst) >= wanted).await;
    }

    /// Stops it. Returns what was acknowledged.
    async fn stop(&mut self) -> Vec<(RecordId, String)> {
        self.going.store(false, Ordering::SeqCst);
        timeout(PATIENCE, std::mem::take(&mut self.callers).join_all()).await.unwrap().concat()
    }

    /// Stops it, and looks for every outcome that was acknowledged. Returns how many those were.
    async fn stop_and_verify(mut self, store: &Arc<PostgresStore>) -> usize {
        let acknowledged = self.stop().await;
        // Also those of which nobody knows whether they were carried out.
        let after = self.recorder.continued(Arc::clone(store) as Arc<dyn Store>);
        for operation in self.recorder.history() {
            after.get(operation.asked.call.id()).await.unwrap();
        }
        for (id, key) in &acknowledged {
            let record =
                after.get(id).await.unwrap().unwrap_or_else(|| panic!("{key} was acknowledged and is lost"));
            assert_eq!(record.outcome(), Some(&outcome(key)));
        }
        let histories = after.verify();
        figures::tell(&[
            ("acknowledged", acknowledged.len()),
            ("acknowledged and lost", 0),
            ("histories judged", histories.keys),
        ]);
        acknowledged.len()
    }
}

async fn pair(store: &impl Store, key: &str) -> Result<RecordId, StoreErrorKind> {
    let record = match store.claim(claiming(key)).await.map_err(|error| error.kind())? {
        Claimed::Won(record) => record,
        Claimed::Standing(record) => panic!("a fresh key stands: {record:?}"),
    };
    let ending = Ending::Completed(outcome(key));
    let args = CompleteArgs { id: record.id.clone(), guard: record.guard, ending, retention: HOUR };
    match store.complete(args).await.map_err(|error| error.kind())? {
        Written::Done(_) => Ok(record.id),
        Written::Refused(standing) => panic!("the holder was refused: {standing:?}"),
    }
}

async fn open(url: &str) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(PostgresConfig::new(url).migrate(true)).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_under_load_has_lost_nothing_and_serves_again() {
    let mut server = PostgresServer::start_with(&[]);
    let store = open(&server.url("postgres")).await;
    let load = Load::start(&store);
    for _ in 0..2 {
        load.more(300).await;
        server.kill();
        let failed = load.failed.load(Ordering::SeqCst);
        until("callers are told", async || load.failed.load(Ordering::SeqCst) > failed + 16).await;
        server.start_again();
        load.more(300).await;
    }
    let acknowledged = load.stop_and_verify(&store).await;
    figures::tell(&[("kills of a server", 2)]);
    assert!(acknowledged >= 1200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_promoted_under_load_has_every_acknowledged_outcome() {
    let mut primary = PostgresServer::start_with(&[]);
    let first = open(&primary.url("postgres")).await;
    let standby = primary.standby("s1");
    primary.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 's1'");
    primary.sql("postgres", "SELECT pg_reload_conf()");
    let waits = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    until("the standby is waited for", async || primary.sql("postgres", waits) == "1").await;
    drop(first);
    let (one, two) = (primary.port(), standby.port());
    let url = format!("postgres://semel@127.0.0.1:{one},127.0.0.1:{two}/postgres");
    let config = PostgresConfig::new(&url).durability(semel::store::Durability::Power);
    let store = Arc::new(PostgresStore::open(config).await.unwrap());
    assert_eq!(store.tier().node_loss, semel::store::Survives::Yes);
    let load = Load::start(&store);
    load.more(500).await;
    primary.kill();
    // It takes over as a primary that waits for nobody: it was copied before the primary waited for it.
    standby.promote();
    let promoted = Instant::now();
    load.more(1).await;
    let back_in = promoted.elapsed();
    load.more(500).await;

    // The old primary comes back and believes it is one. Nobody may be served by it.
    primary.set("synchronous_standby_names", "");
    primary.start_again();
    standby.sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'semel'",
    );
    load.more(500).await;
    let acknowledged = load.stop_and_verify(&store).await;
    figures::tell(&[("failovers", 1)]);
    assert!(acknowledged >= 1500);
    assert!(back_in < Duration::from_secs(3), "served again {back_in:?} after the promotion");
}

/// Until a fresh key is refused because there is no room.
async fn is_full(store: &PostgresStore) -> StoreError {
    let deadline = Instant::now() + PATIENCE;
    for number in 0.. {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} until the disk is full");
        if let Err(error) = store.claim(claiming(&format!("filler {number}"))).await
            && error.kind() == StoreErrorKind::Full
        {
            return error;
        }
    }
    unreachable!("numbers do not end")
}

/// Outcomes that were told are told on a full disk too, claims are refused, and with room again all goes on.
async fn fills_up(server: &PostgresServer, fill: impl FnOnce(), make_room: impl FnOnce()) {
    let store = open(&server.url("postgres")).await;
    let told = pair(&*store, "told").await.unwrap();
    let load = Load::start(&store);
    load.more(300).await;
    fill();
    let refused = is_full(&store).await;
    assert!(
        std::error::Error::source(&refused).unwrap().to_string().contains("No space left"),
        "{refused:?}"
    );
    for round in 0..20 {
        let fresh = |number| store.claim(claiming(&format!("beside {round} {number}")));
        // With those that need room in one statement, or in the next, whoever is served first.
        let (.., standing) =
            tokio::join!(fresh(0), fresh(1), fresh(2), fresh(3), fresh(4), store.claim(claiming("told")));
        let Ok(Claimed::Standing(record)) = standing else { panic!("{standing:?}") };
        assert_eq!(record.outcome(), Some(&outcome("told")));
        assert_eq!(store.get(&told).await.unwrap().unwrap().outcome(), Some(&outcome("told")));
    }
    make_room();
    load.more(300).await;
    let acknowledged = load.stop_and_verify(&store).await;
    figures::tell(&[("full disks", 1)]);
    assert!(acknowledged >= 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_a_full_disk_refuses_claims_tells_outcomes_and_serves_again() {
    let (shim, home) = (Shim::build(false), tempfile::tempdir().unwrap());
    let server = PostgresServer::start_under(Some(&shim), Some(home.path()), &[]);
    fills_up(&server, || shim.set(Fault::NoGrowth, 1), || shim.set(Fault::NoGrowth, 0)).await;
}

/// Needs root, so it is asked for: `SEMEL_VOLUMES=1`, as `cargo xtask torture` does, which fails where it is refused.
fn volume(bytes: u64) -> Option<Volume> {
    match (Volume::make(bytes), number("SEMEL_VOLUMES", 0)) {
        (Ok(volume), 1) => Some(volume),
        (Err(why), 1) => panic!("a disk of its own is refused here: {why}"),
        (made, _) => {
            println!("not run: SEMEL_VOLUMES is not 1; a disk can be made: {}", made.is_ok());
            assert!(made.map_or_else(|why| why.contains("root is needed"), |_| true));
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_a_real_disk_that_is_full_does_the_same() {
    let Some(volume) = volume(192 << 20) else { return };
    let server = PostgresServer::start_under(None, Some(&volume.path()), &[]);
    let filler = volume.path().join("filler");
    let fill = || {
        let mut file = std::fs::File::create(&filler).unwrap();
        for bytes in [1 << 20, 4096] {
            while std::io::Write::write_all(&mut file, &vec![7; bytes]).is_ok() {}
        }
        // Written blocks count at once; those that wait for the disk may be given back.
        let _ = file.sync_all();
    };
    fills_up(&server, fill, || std::fs::remove_file(&filler).unwrap()).await;
}

/// Cuts the power of a server under load, `cuts` times. Returns how many outcomes were told and are gone.
async fn cuts(volume: &Volume, cuts: usize) -> (usize, usize) {
    // No session waits for the disk unless it asks to, as the store's do.
    let settings = [("synchronous_commit", "off"), ("wal_writer_delay", "10s")];
    let mut server = PostgresServer::start_under(None, Some(&volume.path()), &settings);
    let config = |server: &PostgresServer| {
        PostgresConfig::new(server.url("postgres"))
            .migrate(true)
            .durability(semel::store::Durability::Process)
    };
    let mut random = Seeded::new(number("SEMEL_SEED", 1));
    let (mut told, mut lost) = (0, 0);
    for nth in 0..cuts {
        let store = Arc::new(PostgresStore::open(config(&server)).await.unwrap());
        let mut load = Load::named(&store, &format!("cut {nth} "));
        load.more(100 + random.below(400)).await;
        volume.cut().unwrap();
        load.going.store(false, Ordering::SeqCst);
        server.kill();
        volume.restore().unwrap();
        server.start_again();
        let acknowledged = load.stop().await;
        let store = PostgresStore::open(config(&server)).await.unwrap();
        for (id, key) in &acknowledged {
            let record = store.get(id).await.unwrap();
            lost += usize::from(record.as_ref().and_then(|record| record.outcome()) != Some(&outcome(key)));
        }
        told += acknowledged.len();
    }
    (told, lost)
}

#[tokio::test(flavor = "multi_thread")]
async fn power_cuts_of_the_server_lose_nothing_that_was_told() {
    let Some(volume) = volume(1 << 30) else { return };
    let times = usize::try_from(number("SEMEL_SERVER_POWER_CUTS", 3)).unwrap();
    let (told, lost) = cuts(&volume, times).await;
    figures::tell(&[
        ("power cuts of a server", times),
        ("acknowledged", told),
        ("acknowledged and lost", lost),
    ]);
    assert_eq!(lost, 0, "of {told}");
}

/// The cut is one: what a server has committed without waiting for its disk is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_of_the_server_loses_what_was_not_synced() {
    let Some(volume) = volume(1 << 30) else { return };
    let mut server = PostgresServer::start_under(None, Some(&volume.path()), &[("wal_writer_delay", "10s")]);
    server.sql("postgres", "CREATE TABLE told (n int); INSERT INTO told VALUES (1)");
    server.sql("postgres", "SET synchronous_commit = off; INSERT INTO told VALUES (2)");
    volume.cut().unwrap();
    server.kill();
    volume.restore().unwrap();
    server.start_again();
    assert_eq!(server.sql("postgres", "SELECT n FROM told"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_wait_for_the_standby_is_unknown() {
    let primary = PostgresServer::start();
    let config =
        || PostgresConfig::new(primary.url("postgres")).durability(semel::store::Durability::Process);
    let store = Arc::new(PostgresStore::open(config().migrate(true)).await.unwrap());
    let standby = primary.standby("s1");
    primary.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 's1'");
    primary.sql("postgres", "SELECT pg_reload_conf()");
    let waits = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    until("the standby is waited for", async || primary.sql("postgres", waits) == "1").await;
    pair(&*store, "before").await.unwrap();
    for end in ["pg_cancel_backend(pid)", "pg_terminate_backend(pid)"] {
        standby.freeze();
        let args = claiming(end);
        let claiming = tokio::spawn({
            let (store, args) = (Arc::clone(&store), args.clone());
            async move { store.claim(args).await }
        });
        let end = format!(
            "SELECT {end} FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND application_name = 'semel'"
        );
        until("a commit waits for the standby", async || !primary.sql("postgres", &end).is_empty()).await;
        let claimed = claiming.await.unwrap();
        assert_eq!(claimed.unwrap_err().kind(), StoreErrorKind::Unknown, "it may be lost with the primary");
        let read = store.get(&args.id).await;
        assert!(read.is_err(), "what the standby may not have is not shown: {read:?}");
        standby.thaw();
        until("the claim is known", async || match store.claim(args.clone()).await {
            Ok(Claimed::Won(_)) => true,
            Ok(Claimed::Standing(record)) => panic!("{record:?} stands"),
            Err(_) => false,
        })
        .await;
        assert!(store.get(&args.id).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_nothing_is_unknown_in_time_and_serves_again() {
    let server = PostgresServer::start_with(&[]);
    let config = PostgresConfig::new(server.url("postgres")).migrate(true).writers(1);
    let store = PostgresStore::open(config).await.unwrap();
    pair(&store, "before").await.unwrap();
    server.freeze();
    let begun = Instant::now();
    let refused = store.claim(claiming("k")).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unknown);
    assert!(begun.elapsed() < Duration::from_secs(5), "told after {:?}", begun.elapsed());
    server.thaw();
    until("it serves again", async || {
        pair(&store, "after").await.is_ok() || store.claim(claiming("after")).await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_left_is_unavailable_until_there_is_one() {
    let server = PostgresServer::start_with(&[("fsync", "on"), ("max_connections", "12")]);
    let store = open(&server.url("postgres")).await;
    until("the store hears others", async || store.capabilities().watches_elsewhere).await;
    let mut others = Vec::new();
    while let Ok((client, connection)) =
        tokio_postgres::connect(&server.url("postgres"), tokio_postgres::NoTls).await
    {
        tokio::spawn(connection);
        others.push(client);
    }
    assert!(!others.is_empty());
    let refused = store.claim(claiming("k")).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Unavailable);
    let refused = PostgresStore::open(PostgresConfig::new(server.url("postgres"))).await.unwrap_err();
    assert_eq!(refused.kind(), OpenErrorKind::Unreachable);
    assert!(refused.to_string().contains("too many clients"), "{refused}");
    drop(others);
    until("it serves again", async || pair(&*store, "k").await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_on_another_store_are_woken_before_they_poll() {
    let server = PostgresServer::start();
    let config = || PostgresConfig::new(server.url("postgres")).durability(semel::store::Durability::Process);
    let here = PostgresStore::open(config().migrate(true)).await.unwrap();
    let there = PostgresStore::open(config()).await.unwrap();
    until("both hear each other", async || {
        here.capabilities().watches_elsewhere && there.capabilities().watches_elsewhere
    })
    .await;
    let mut fastest = Duration::MAX;
    for round in 0..5 {
        let key = format!("k {round}");
        let Claimed::Won(record) = here.claim(claiming(&key)).await.unwrap() else { panic!("a fresh key") };
        let watch = there.watch(&record.id, record.guard);
        let begun = Instant::now();
        let ending = Ending::Completed(outcome(&key));
        let args = CompleteArgs { id: record.id.clone(), guard: record.guard, ending, retention: HOUR };
        let (written, woken) = tokio::join!(here.complete(args), timeout(PATIENCE, watch));
        written.unwrap();
        woken.unwrap().unwrap();
        fastest = fastest.min(begun.elapsed());
    }
    assert!(fastest < Duration::from_millis(500), "woken after {fastest:?}, which is polling");
}
