//! HTTP/2 and TLS, towards clients and towards the upstream: the same key, the same outcome.

use std::path::Path;
use std::time::Duration;

use http::{Method, Version};
use semel_testkit::certificates::Certificates;
use semel_testkit::client::{Call, Connection, Raw};
use semel_testkit::gateway::Gateway;
use semel_testkit::upstream::{PythonProtocol, Reply, Upstream};

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");

fn charge(key: &str) -> Call {
    Call::post("/charges", r#"{"amount":500}"#).key(key)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("there is room for temporary files")
}

fn certificates(folder: &Path) -> Certificates {
    Certificates::make(folder).expect("certificates can be made")
}

fn with_tls(certificates: &Certificates) -> String {
    let Certificates { certificate, private_key, .. } = certificates;
    format!("[tls]\ncertificate = {certificate:?}\nprivate_key = {private_key:?}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_by_prior_knowledge_executes_and_replays() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let mut connection = Connection::open_http2(gateway.addr()).await.expect("the gateway speaks HTTP/2");
    let first = connection.send(&charge("h2")).await.expect("an answer");
    assert_eq!((first.status, first.standing()), (201, Some("executed")), "{first:?}");
    let replay = connection.send(&charge("\"h2\"")).await.expect("an answer");
    assert_eq!((replay.standing(), replay.essence()), (Some("replayed"), first.essence()));
    let over_http1 = charge("h2").answer(gateway.addr()).await;
    assert_eq!((over_http1.standing(), over_http1.essence()), (Some("replayed"), first.essence()));
    let mismatch = connection.send(&Call::post("/charges", "{}").key("h2")).await.expect("an answer");
    assert_eq!((mismatch.status, mismatch.problem().as_deref()), (422, Some("mismatch")));
    assert_eq!(upstream.ledger().effects("h2"), 1);
    assert_eq!(upstream.ledger().total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_of_http_1_0_does_not_cost_its_callers_their_connection() {
    let folder = folder();
    let upstream = Upstream::python(folder.path(), PythonProtocol::Http10).await;
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let mut connection = Connection::open(gateway.addr()).await.expect("the gateway listens");
    for n in 0..3 {
        let keyed = connection.send(&charge(&format!("kept-{n}"))).await.expect("the connection is kept");
        assert_eq!(keyed.status, 201);
        let passed = connection.send(&Call::new(Method::GET, "/")).await.expect("the connection is kept");
        assert_eq!(passed.status, 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_racers_on_one_http2_connection_make_one_charge() {
    let upstream = Upstream::charging();
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let connection = Connection::open_http2(gateway.addr()).await.expect("the gateway speaks HTTP/2");
    let racers: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = connection.stream();
            tokio::spawn(async move { stream.send(&charge("race")).await })
        })
        .collect();
    let mut executed = 0;
    for racer in racers {
        let answer = racer.await.expect("no panic").expect("an answer");
        assert_eq!(answer.json()["charge"], 1);
        executed += usize::from(answer.standing() == Some("executed"));
    }
    assert_eq!((executed, upstream.ledger().total()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_may_come_over_tls_with_either_protocol() {
    let folder = folder();
    let certificates = certificates(folder.path());
    let upstream = Upstream::charging();
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), &with_tls(&certificates)).await;
    let mut answers = Vec::new();
    for protocols in [&["http/1.1"][..], &["h2"][..], &[][..]] {
        let tls = certificates.client(protocols).expect("the authority can be read");
        let mut connection = Connection::open_tls(gateway.addr(), tls).await.expect("the gateway speaks TLS");
        assert_eq!(connection.is_http2(), protocols == ["h2"]);
        answers.push(connection.send(&charge("tls")).await.expect("an answer"));
    }
    assert_eq!(answers[0].standing(), Some("executed"), "{answers:?}");
    for replay in &answers[1..] {
        assert_eq!((replay.standing(), replay.essence()), (Some("replayed"), answers[0].essence()));
    }
    assert_eq!(upstream.ledger().total(), 1);
    // Without TLS nothing is served there.
    assert!(charge("plain").send(gateway.addr()).await.is_err());
    assert_eq!(upstream.ledger().total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_may_be_behind_tls_with_an_authority_of_its_own() {
    let folder = folder();
    let certificates = certificates(folder.path());
    for (protocols, version) in
        [(&["http/1.1"][..], Version::HTTP_11), (&["h2", "http/1.1"][..], Version::HTTP_2)]
    {
        let tls = certificates.server(protocols).expect("the certificate can be read");
        let upstream = Upstream::scripted_tls(tls, move |arrived| async move {
            assert_eq!(arrived.head.version, version);
            arrived.charge()
        });
        let url = format!("https://localhost:{}", upstream.addr().port());
        let config = format!("[upstream_tls]\nca = {:?}\n", certificates.authority);
        let gateway = Gateway::start_with(SEMEL, &url, &config).await;
        let first = charge("tls").answer(gateway.addr()).await;
        assert_eq!((first.status, first.standing()), (201, Some("executed")), "{first:?}");
        assert_eq!(charge("tls").answer(gateway.addr()).await.essence(), first.essence());
        assert_eq!(upstream.ledger().effects("tls"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_whose_certificate_is_not_trusted_is_not_sent_anything() {
    let folder = folder();
    let tls = certificates(folder.path()).server(&["http/1.1"]).expect("the certificate can be read");
    let upstream = Upstream::scripted_tls(tls, |arrived| async move { arrived.charge() });
    let gateway = Gateway::start(SEMEL, &format!("https://localhost:{}", upstream.addr().port())).await;
    let refused = charge("untrusted").answer(gateway.addr()).await;
    assert_eq!((refused.status, refused.standing()), (502, Some("refused")), "{refused:?}");
    assert_eq!(refused.problem().as_deref(), Some("upstream-unreachable"));
    assert!(gateway.keys(&["list"]).await.documents.is_empty(), "released");
    assert_eq!(upstream.ledger().total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_is_told_the_host_and_the_peers_of_each_request_on_a_connection() {
    let upstream = Upstream::scripted(|arrived| async move {
        let told = ["host", "x-forwarded-host", "x-forwarded-for", "x-forwarded-proto", "forwarded"]
            .map(|name| arrived.head.headers[name].to_str().expect("it is text").to_owned());
        Reply::Answer(http::Response::new(told.join(" | ").into()))
    });
    let gateway = Gateway::start(SEMEL, &upstream.url()).await;
    let mut raw = Raw::open(gateway.addr()).await;
    let requests = b"GET / HTTP/1.1\r\nHost: one\r\n\r\n\
        GET / HTTP/1.1\r\nHost: two:80\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\n\r\n\
        GET / HTTP/1.1\r\nHost: one\r\nConnection: close\r\n\r\n";
    assert!(raw.write(requests).await);
    let read = raw.read_to_close(Duration::from_secs(10)).await.expect("it closes");
    let text = String::from_utf8(read).expect("it is text");
    let told: Vec<&str> = text.lines().filter(|line| line.contains(" | ")).collect();
    let one = r#"one | one | 127.0.0.1 | http | for=127.0.0.1;proto=http;host="one""#;
    let two = concat!(
        "two:80 | two:80 | 10.0.0.1, 127.0.0.1 | http | ",
        r#"for=10.0.0.1, for=127.0.0.1;proto=http;host="two:80""#
    );
    assert_eq!(told.len(), 3, "{text}");
    for (told, expected) in told.iter().zip([one, two, one]) {
        assert!(told.starts_with(expected), "{told}\n{expected}");
    }
}
