//! A gibibyte in either direction costs the gateway no memory to speak of, and how much it takes to begin with.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Method, Response};
use http_body_util::BodyExt;
use semel_testkit::client::{Call, Connection, drain};
use semel_testkit::gateway::Gateway;
use semel_testkit::repeat::Repeat;
use semel_testkit::upstream::{Reply, Upstream};
use tokio::time::Instant;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
const MIB: u64 = 1 << 20;
const GROWTH_MAX_BYTES: u64 = 64 * MIB;

fn gibibyte() -> Repeat {
    let chunk: Vec<u8> = (0..=u8::MAX).cycle().take(1 << 20).collect();
    Repeat::new(chunk, 1024)
}

fn downloads(body: Repeat) -> Upstream {
    Upstream::scripted(move |arrived| {
        let reply = match arrived.path() {
            "/gibibyte" => {
                let body = body.clone().map_err(|never| match never {}).boxed_unsync();
                Reply::Stream(Response::new(body))
            }
            _ => arrived.charge(),
        };
        async move { reply }
    })
}

/// After a first request, so that what is allocated once is not counted as growth.
async fn warm(gateway: &Gateway) -> u64 {
    assert_eq!(Call::post("/charges", "{}").key("warm").answer(gateway.addr()).await.status, 201);
    assert_eq!(Call::new(Method::GET, "/warm").answer(gateway.addr()).await.status, 201);
    gateway.resident_bytes()
}

#[track_caller]
fn assert_flat(gateway: &Gateway, before_bytes: u64, what: &str) {
    let growth_bytes = gateway.resident_peak_bytes().saturating_sub(before_bytes);
    println!(
        "{what}: resident {} KiB before, grew by {} KiB at most",
        before_bytes / 1024,
        growth_bytes / 1024
    );
    assert!(growth_bytes < GROWTH_MAX_BYTES, "{growth_bytes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_of_a_gibibyte_passes_with_flat_memory() {
    let body = gibibyte();
    let upstream = downloads(body.clone());
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let before_bytes = warm(&gateway).await;
    let mut connection = Connection::open(gateway.addr()).await.expect("the gateway listens");
    let began = Instant::now();
    let answer = connection.begin(&Call::new(Method::GET, "/gibibyte")).await.expect("a head");
    assert_eq!(answer.headers()["content-length"], "1073741824");
    assert_eq!(drain(answer.into_body()).await.expect("the whole body"), body.digest());
    println!("1 GiB down in {:?}", began.elapsed());
    assert_flat(&gateway, before_bytes, "1 GiB download");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_pauses_holds_the_upstream_back_and_not_the_gateways_memory() {
    let body = gibibyte();
    let upstream = downloads(body.clone());
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let before_bytes = warm(&gateway).await;
    let mut connection = Connection::open(gateway.addr()).await.expect("the gateway listens");
    let answer = connection.begin(&Call::new(Method::GET, "/gibibyte")).await.expect("a head");
    // The upstream has stopped when half a second brought nothing more.
    let (taken, mut seen) = (body.taken(), u64::MAX);
    while seen != taken.load(Ordering::Relaxed) {
        seen = taken.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("{seen} MiB were sent to a reader who does not read");
    assert!(seen < 64, "{seen} MiB were taken of the upstream");
    drop(answer);
    assert_flat(&gateway, before_bytes, "1 GiB download, paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unkeyed_upload_of_a_gibibyte_passes_with_flat_memory() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let before_bytes = warm(&gateway).await;
    let body = gibibyte();
    let began = Instant::now();
    let answer = Call::post_stream("/upload", body.clone()).answer(gateway.addr()).await;
    println!("1 GiB up in {:?}", began.elapsed());
    assert_eq!((answer.status, answer.standing()), (201, Some("unrecorded")));
    let entries = upstream.ledger().entries();
    let upload = entries.iter().find(|entry| entry.target == "/upload").expect("it arrived");
    let (length, digest) = body.digest();
    assert_eq!((upload.body_bytes, &upload.digest), (length, &digest.to_hex().to_string()));
    assert_flat(&gateway, before_bytes, "1 GiB upload");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_quickly_and_idles_in_little_memory() {
    let upstream = Upstream::charging();
    let mut gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let mut quickest = gateway.started_in();
    let first_bytes = gateway.resident_bytes();
    for _ in 0..5 {
        gateway.terminate();
        assert!(gateway.wait().await.status.success());
        gateway.start_again().await;
        quickest = quickest.min(gateway.started_in());
    }
    let resident_bytes = gateway.resident_bytes();
    println!(
        "started in {quickest:?} at best of 6; resident when idle: {} KiB on a new store, {} KiB on an old one",
        first_bytes / 1024,
        resident_bytes / 1024
    );
    // The promise is 25 MiB and 100 ms of a release build. Of a debug build the code alone takes 22 MiB, and it may take
    // longer beside other work.
    let (bytes, limit) = if cfg!(debug_assertions) {
        (30 * MIB, Duration::from_secs(1))
    } else {
        (25 * MIB, Duration::from_millis(100))
    };
    assert!(first_bytes.max(resident_bytes) < bytes);
    assert!(quickest < limit, "{quickest:?}");
}
