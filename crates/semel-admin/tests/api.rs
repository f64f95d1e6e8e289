//! The operator's side over a real Unix socket, and the reader over TCP, on the memory store.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use semel::fingerprint::{self, PayloadParts};
use semel::record::DoubtCause;
use semel::store::memory::MemoryStore;
use semel::{Ask, Begun, Claim, Engine, Fingerprint, Key, Operation, Outcome, Policy, Tenant};
use semel_admin::view::{
    Body, FinishedAsk, Given, ListAsk, PurgeAsk, Resolution, ResolveAsk, Selector, ShowAsk,
};
use semel_admin::{Admin, Client, ClientError, Metrics, Problem, Socket, SocketError};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn make(status: u16, headers: Vec<(String, String)>, body: Bytes) -> Outcome {
    let head = headers.into_iter().map(|(name, value)| format!("{name}={value};")).collect::<String>();
    Outcome { code: status, head: head.into(), body, body_kept: true }
}

struct Running {
    engine: Engine,
    admin: Arc<Admin>,
    client: Client,
    path: PathBuf,
    folder: TempDir,
}

impl Running {
    fn start() -> Self {
        let metrics = Arc::new(Metrics::new());
        let engine = Engine::with(Arc::new(MemoryStore::new()), metrics.clone(), Default::default());
        let admin = Admin::new(engine.clone(), metrics, make);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/gateway.sqlite.socket");
        let socket = Socket::bind(&path).unwrap();
        tokio::spawn(Arc::clone(&admin).serve_socket(socket, std::future::pending()));
        let client = Client::at_socket(path.clone());
        Self { engine, admin, client, path, folder }
    }

    async fn claim(&self, tenant: &str, key: &str) -> Claim {
        match self.engine.begin(ask(tenant, key)).await.unwrap() {
            Begun::Run(claim) => claim,
            other => panic!("no claim: {other:?}"),
        }
    }

    async fn doubt(&self, tenant: &str, key: &str) {
        let claim = self.claim(tenant, key).await;
        claim.start();
        claim.doubt(DoubtCause::NoAnswer).await;
    }

    async fn complete(&self, tenant: &str, key: &str) {
        self.claim(tenant, key).await.complete(make(201, vec![], Bytes::from_static(b"made"))).await;
    }

    async fn states(&self) -> Vec<(String, String)> {
        let listing = self.client.list(&ListAsk::default()).await.unwrap();
        let mut states: Vec<_> =
            listing.records.into_iter().map(|record| (record.key, record.state)).collect();
        states.sort();
        states
    }
}

fn ask(tenant: &str, key: &str) -> Ask {
    let fingerprint = Fingerprint {
        target: fingerprint::target("POST", "/charges", None),
        payload: fingerprint::payload(b"{}", &PayloadParts::Raw),
    };
    let policy = Arc::new(Policy { wait_timeout: Duration::from_millis(20), ..Policy::default() });
    Ask::new(Tenant::id(&[tenant]), Operation::http(), Key::new(key).unwrap(), fingerprint, policy)
}

fn named(key: &str) -> Selector {
    Selector { key: key.to_owned(), ..Selector::default() }
}

fn completed(key: &str, status: u16) -> ResolveAsk {
    let headers = vec![("Location".to_owned(), "/charges/7".to_owned())];
    let body = Body::Text("by hand".to_owned());
    let given = Given { status, headers, body, retention_seconds: None };
    ResolveAsk { select: named(key), resolution: Resolution::Completed(given) }
}

fn problem<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Problem {
    match answer.unwrap_err() {
        ClientError::Refused(problem) => *problem,
        other => panic!("not refused: {other}"),
    }
}

#[tokio::test]
async fn the_socket_is_for_its_owner_only_and_goes_with_its_server() {
    let running = Running::start();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&running.path), 0o600);
    assert_eq!(mode(running.path.parent().unwrap()), 0o700);
    assert!(matches!(Socket::bind(&running.path), Err(SocketError::Served(_))));
    let other = running.folder.path().join("other.socket");
    drop(Socket::bind(&other).unwrap());
    assert!(!other.exists());
}

#[tokio::test]
async fn a_socket_left_by_a_dead_process_is_replaced_and_other_files_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let stale = folder.path().join("stale.socket");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let socket = Socket::bind(&stale).unwrap();
    std::fs::remove_file(&stale).unwrap();
    let theirs = Socket::bind(&stale).unwrap();
    drop(socket);
    assert!(stale.exists(), "the file of the process that came later stays");
    drop(theirs);

    let precious = folder.path().join("notes.txt");
    std::fs::write(&precious, "notes").unwrap();
    assert!(matches!(Socket::bind(&precious), Err(SocketError::NotASocket(_))));
    assert_eq!(std::fs::read(&precious).unwrap(), b"notes");
}

#[tokio::test]
async fn a_list_is_read_page_by_page_and_filtered() {
    let running = Running::start();
    for key in 0..7 {
        running.complete("acme", &format!("k{key}")).await;
    }
    running.doubt("acme", "lost").await;
    let (mut keys, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let ask = ListAsk { limit: Some(3), cursor, ..ListAsk::default() };
        let page = running.client.list(&ask).await.unwrap();
        assert!(page.records.len() <= 3);
        keys.extend(page.records.into_iter().map(|record| record.key));
        pages += 1;
        assert!(pages < 10, "the list does not end");
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    keys.sort();
    assert_eq!(keys, ["k0", "k1", "k2", "k3", "k4", "k5", "k6", "lost"]);
    assert_eq!(pages, 3);
    let doubts = ListAsk { state: Some("in-doubt".to_owned()), ..ListAsk::default() };
    let doubts = running.client.list(&doubts).await.unwrap().records;
    assert_eq!(doubts.len(), 1);
    assert_eq!(doubts[0].doubt_cause.as_deref(), Some("no-answer"));
    let wrong = ListAsk { state: Some("locked".to_owned()), ..ListAsk::default() };
    let problem = problem(running.client.list(&wrong).await);
    assert_eq!((problem.status, &*problem.code), (400, "SEMEL-0014"));
    assert!(problem.detail.contains("in-flight, in-doubt, completed, failed"));
}

#[tokio::test]
async fn bodies_are_shown_only_when_asked_for() {
    let running = Running::start();
    running.complete("acme", "k").await;
    let shown = running.client.show(&ShowAsk::new(named("k"), false)).await.unwrap();
    let outcome = shown.outcome.unwrap();
    assert_eq!((shown.record.code, outcome.body_bytes, outcome.body), (Some(201), 4, None));
    let shown = running.client.show(&ShowAsk::new(named("k"), true)).await.unwrap();
    assert_eq!(shown.outcome.unwrap().body, Some(Body::Text("made".to_owned())));
}

#[tokio::test]
async fn a_key_of_several_tenants_is_changed_only_when_the_tenant_is_named() {
    let running = Running::start();
    running.doubt("acme", "k").await;
    running.doubt("bolt", "k").await;
    let refused = problem(running.client.release(&named("k")).await);
    assert_eq!((refused.status, &*refused.code), (409, "SEMEL-0022"));
    let mut tenants: Vec<_> = refused.matches.iter().map(|record| record.tenant.as_str()).collect();
    tenants.sort_unstable();
    assert_eq!(tenants, ["id:acme", "id:bolt"]);
    assert_eq!(running.states().await.len(), 2);

    let one = Selector { tenant: Some("id:acme".to_owned()), ..named("k") };
    running.client.release(&one).await.unwrap();
    let other = Selector { record: Some(refused.matches[1].record.clone()), ..named("k") };
    let left = running.client.show(&ShowAsk::new(named("k"), false)).await.unwrap();
    assert_eq!(left.record.tenant, "id:bolt");
    let absent = problem(running.client.release(&Selector { key: "K".to_owned(), ..other }).await);
    assert_eq!((absent.status, absent.matches.len()), (404, 0));
}

#[tokio::test]
async fn a_claim_that_is_held_is_neither_released_nor_resolved_nor_purged() {
    let running = Running::start();
    let claim = running.claim("acme", "k").await;
    let released = problem(running.client.release(&named("k")).await);
    let resolved = problem(running.client.resolve(&completed("k", 200)).await);
    let purged = problem(running.client.purge(&PurgeAsk::One(named("k"))).await);
    for refused in [released, resolved, purged] {
        assert_eq!((refused.status, &*refused.code), (409, "SEMEL-0023"));
        assert!(refused.detail.contains(&claim.token().to_string()), "{refused}");
        assert!(refused.detail.contains("its lease runs until 20"), "{refused}");
    }
    claim.complete(make(200, vec![], Bytes::new())).await;
    assert_eq!(running.states().await, [("k".to_owned(), "completed".to_owned())]);
}

#[tokio::test]
async fn a_resolved_doubt_replays_the_given_outcome() {
    let running = Running::start();
    running.doubt("acme", "k").await;
    let changed = running.client.resolve(&completed("k", 201)).await.unwrap();
    assert_eq!(
        (changed.before.state.as_str(), changed.after.unwrap().state.as_str()),
        ("in-doubt", "completed")
    );
    let Begun::Replay(record) = running.engine.begin(ask("acme", "k")).await.unwrap() else {
        panic!("the effect would run again")
    };
    let expected = make(201, vec![("Location".into(), "/charges/7".into())], Bytes::from_static(b"by hand"));
    assert_eq!(record.outcome(), Some(&expected));
    let again = problem(running.client.resolve(&completed("k", 200)).await);
    assert_eq!(&*again.code, "SEMEL-0023");
}

#[tokio::test]
async fn an_effect_that_did_not_happen_may_run_again() {
    let running = Running::start();
    for (key, by_resolve) in [("a", true), ("b", false)] {
        running.doubt("acme", key).await;
        let changed = if by_resolve {
            let ask = ResolveAsk { select: named(key), resolution: Resolution::NotHappened };
            running.client.resolve(&ask).await.unwrap()
        } else {
            running.client.release(&named(key)).await.unwrap()
        };
        assert_eq!(changed.after, None);
        running.complete("acme", key).await;
    }
}

#[tokio::test]
async fn an_outcome_that_cannot_be_sent_is_refused() {
    let running = Running::start();
    running.doubt("acme", "k").await;
    let mut unfinal = completed("k", 100);
    assert!(problem(running.client.resolve(&unfinal).await).detail.contains("200 to 599"));
    for (name, value) in [("a b", "c"), ("a", "b\r\nc"), ("Content-Length", "4")] {
        let headers = vec![(name.to_owned(), value.to_owned())];
        let given = Given { status: 200, headers, body: Body::Text(String::new()), retention_seconds: None };
        unfinal.resolution = Resolution::Completed(given);
        assert_eq!(problem(running.client.resolve(&unfinal).await).status, 400);
    }
    assert_eq!(running.states().await, [("k".to_owned(), "in-doubt".to_owned())]);
}

#[tokio::test]
async fn purge_takes_finished_records_and_leaves_doubts() {
    let running = Running::start();
    running.complete("acme", "done").await;
    running.complete("acme", "done too").await;
    running.complete("bolt", "other").await;
    running.doubt("acme", "lost").await;
    let refused = problem(running.client.purge(&PurgeAsk::One(named("lost"))).await);
    assert!(refused.detail.contains("resolve"), "{refused}");
    assert_eq!(running.client.purge(&PurgeAsk::One(named("done"))).await.unwrap().removed, 1);
    let all = PurgeAsk::Finished(FinishedAsk::default());
    assert_eq!(problem(running.client.purge(&all).await).status, 400);
    let acme = FinishedAsk { tenant: Some("id:acme".to_owned()), ..FinishedAsk::default() };
    let purged = running.client.purge(&PurgeAsk::Finished(acme)).await.unwrap();
    assert_eq!((purged.removed, purged.more), (1, false));
    assert_eq!(running.client.purge(&PurgeAsk::Expired).await.unwrap().removed, 0);
    let left = [("lost".to_owned(), "in-doubt".to_owned()), ("other".to_owned(), "completed".to_owned())];
    assert_eq!(running.states().await, left);
}

async fn over_tcp(running: &Running, host: &str, method: &str, target: &str) -> (u16, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(Arc::clone(&running.admin).serve_tcp(listener, std::future::pending()));
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request =
        http::Request::builder().method(method).uri(target).header("host", host).body(Empty::<Bytes>::new());
    let (head, body) = sender.send_request(request.unwrap()).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    serving.abort();
    (head.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn over_tcp_nothing_is_changed_and_no_body_is_shown() {
    let running = Running::start();
    running.doubt("acme", "k").await;
    running.complete("acme", "done").await;
    let local = "127.0.0.1:8788";
    for path in ["/keys/release", "/keys/resolve", "/keys/purge"] {
        let (status, body) = over_tcp(&running, local, "POST", path).await;
        assert_eq!(status, 404, "{path}: {body}");
    }
    assert_eq!(over_tcp(&running, local, "DELETE", "/keys").await.0, 405);
    assert_eq!(over_tcp(&running, local, "GET", "/keys/one?key=done&body=true").await.0, 403);
    let (status, body) = over_tcp(&running, local, "GET", "/keys/one?key=done").await;
    assert!(status == 200 && !body.contains("made"), "{body}");
    assert_eq!(running.states().await.len(), 2);
}

#[tokio::test]
async fn keys_are_not_shown_to_a_page_that_renamed_this_address() {
    let running = Running::start();
    for host in ["127.0.0.1:8788", "localhost:8788", "[::1]:8788", "10.0.0.7"] {
        assert_eq!(over_tcp(&running, host, "GET", "/keys").await.0, 200, "{host}");
    }
    assert_eq!(over_tcp(&running, "rebound.example:8788", "GET", "/keys").await.0, 403);
    assert_eq!(over_tcp(&running, "rebound.example:8788", "GET", "/metrics").await.0, 200);
}

#[tokio::test]
async fn readiness_ends_when_draining_and_health_does_not() {
    let running = Running::start();
    let local = "localhost";
    assert_eq!(over_tcp(&running, local, "GET", "/readyz").await, (200, "ready\n".to_owned()));
    running.admin.drain();
    assert_eq!(over_tcp(&running, local, "GET", "/readyz").await, (503, "draining\n".to_owned()));
    assert_eq!(over_tcp(&running, local, "GET", "/healthz").await, (200, "ok\n".to_owned()));
}

#[tokio::test]
async fn the_scrape_counts_claims_and_doubts_of_this_moment() {
    let running = Running::start();
    let claim = running.claim("acme", "runs").await;
    running.doubt("acme", "lost").await;
    let (status, page) = over_tcp(&running, "scraper", "GET", "/metrics").await;
    assert_eq!(status, 200);
    for line in
        ["semel_live_claims 1.0", "semel_in_doubt_records 1.0", "semel_claims_total{takeover=\"false\"} 2"]
    {
        assert!(page.contains(line), "{line} is missing in\n{page}");
    }
    claim.release().await;
}

#[tokio::test]
async fn nobody_at_the_socket_is_said_as_such() {
    let client = Client::at_socket("/nonexistent/semel.socket".into());
    assert!(matches!(client.list(&ListAsk::default()).await, Err(ClientError::Unreachable(_))));
}

#[tokio::test]
async fn a_head_that_never_ends_is_not_waited_for_over_tcp() {
    let running = Running::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Arc::clone(&running.admin).serve_tcp(listener, std::future::pending()));
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n").await.unwrap();
    tokio::time::pause();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(60), half.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the connection was held open");
}
