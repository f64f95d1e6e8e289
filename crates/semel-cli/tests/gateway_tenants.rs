//! Whose a key is, by signed tokens and by client certificates: one tenant per principal, none for a forgery.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use semel_testkit::certificates::Certificates;
use semel_testkit::client::{Answer, Call, Connection};
use semel_testkit::gateway::Gateway;
use semel_testkit::tokens::{Signer, by_secret, forged, key_set, secret_jwk};
use semel_testkit::upstream::Upstream;

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");
const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "payments";

fn charge(key: &str) -> Call {
    Call::post("/charges", r#"{"amount":500}"#).key(key)
}

/// Seconds since the epoch, `seconds` from now.
fn in_seconds(seconds: i64) -> i64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    i64::try_from(now).unwrap() + seconds
}

fn claims(sub: &str) -> Value {
    json!({ "sub": sub, "iss": ISSUER, "aud": AUDIENCE, "exp": in_seconds(600) })
}

/// `claims`, with some of them changed; `null` takes one out.
fn but(changes: &Value) -> Value {
    let mut claims = claims("alice");
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            _ => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}

struct Scene {
    signer: Signer,
    keys: PathBuf,
    upstream: Upstream,
    gateway: Gateway,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::new("one");
        let keys = folder.path().join("keys.json");
        fs::write(&keys, key_set(&[signer.jwk(), secret_jwk("shared", b"secret")])).unwrap();
        let upstream = Upstream::charging();
        let config = format!(
            "[defaults]\ntenant = [{{ claim = \"sub\", jwks = {keys:?}, issuer = {ISSUER:?}, audience = {AUDIENCE:?} }}]\n"
        );
        let gateway = Gateway::start_with(SEMEL, &upstream.url(), &config).await;
        Self { signer, keys, upstream, gateway, _folder: folder }
    }

    async fn charge(&self, key: &str, token: &str) -> Answer {
        charge(key).header("authorization", &format!("Bearer {token}")).answer(self.gateway.addr()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_subject_of_a_signed_token_is_the_tenant_whatever_the_token() {
    let scene = Scene::new().await;
    let first = scene.charge("k", &scene.signer.token(&claims("alice"))).await;
    assert_eq!((first.status, first.standing()), (201, Some("executed")), "{first:?}");
    let renewed = scene.signer.token(&but(&json!({ "exp": in_seconds(1200), "jti": "another" })));
    let replay = scene.charge("k", &renewed).await;
    assert_eq!((replay.standing(), replay.essence()), (Some("replayed"), first.essence()));
    let several = scene.signer.token(&but(&json!({ "aud": ["other", AUDIENCE] })));
    assert_eq!(scene.charge("k", &several).await.standing(), Some("replayed"));
    let bob = scene.charge("k", &scene.signer.token(&claims("bob"))).await;
    assert_eq!((bob.status, bob.standing()), (201, Some("executed")), "{bob:?}");
    let nobody = charge("k").answer(scene.gateway.addr()).await;
    assert_eq!(nobody.standing(), Some("executed"), "no credential is the public tenant: {nobody:?}");
    assert_eq!(scene.upstream.ledger().effects("k"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_proves_nothing_is_refused_and_nothing_is_run() {
    let scene = Scene::new().await;
    let stranger = Signer::new("one");
    let good = scene.signer.token(&claims("alice"));
    let (head, rest) = good.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let none = json!({ "alg": "none", "typ": "JWT" });
    let hmac = json!({ "alg": "HS256", "typ": "JWT", "kid": "one" });
    let alice = claims("alice");
    let published = fs::read(&scene.keys).unwrap();
    let jwk = scene.signer.jwk().to_string();
    let tokens = [
        ("another key under the same name", stranger.token(&alice)),
        ("an unknown key", Signer::new("two").token(&alice)),
        ("other claims under a good signature", {
            let body = forged(&none, &claims("bob"), "").split('.').nth(1).unwrap().to_owned();
            format!("{head}.{body}.{signature}")
        }),
        ("no signature", format!("{head}.{}.", rest.split_once('.').unwrap().0)),
        ("no algorithm", forged(&none, &alice, "")),
        ("no algorithm, named", forged(&json!({ "alg": "none", "kid": "one" }), &alice, "")),
        ("no algorithm, another case", forged(&json!({ "alg": "nOnE", "kid": "one" }), &alice, signature)),
        ("the public key as a secret", by_secret("one", &alice, scene.signer.point())),
        ("the published key as a secret", by_secret("one", &alice, jwk.as_bytes())),
        ("the published set as a secret", by_secret("one", &alice, &published)),
        ("a secret that was published", by_secret("shared", &alice, b"secret")),
        ("HS256 without a signature", forged(&hmac, &alice, "")),
        ("expired", scene.signer.token(&but(&json!({ "exp": in_seconds(-120) })))),
        ("without an expiry", scene.signer.token(&but(&json!({ "exp": null })))),
        ("not valid yet", scene.signer.token(&but(&json!({ "nbf": in_seconds(120) })))),
        ("another issuer", scene.signer.token(&but(&json!({ "iss": "https://other.example" })))),
        ("without an issuer", scene.signer.token(&but(&json!({ "iss": null })))),
        ("another audience", scene.signer.token(&but(&json!({ "aud": "mail" })))),
        ("without an audience", scene.signer.token(&but(&json!({ "aud": null })))),
        ("without the claim", scene.signer.token(&but(&json!({ "sub": null })))),
        ("an empty claim", scene.signer.token(&but(&json!({ "sub": "" })))),
        ("a claim that is no name", scene.signer.token(&but(&json!({ "sub": ["alice"] })))),
        ("not a token", "abc".to_owned()),
        ("an empty token", String::new()),
    ];
    for (what, token) in tokens {
        let refused = scene.charge("k", &token).await;
        assert_eq!((refused.status, refused.standing()), (403, Some("refused")), "{what}: {refused:?}");
        assert_eq!(refused.problem().as_deref(), Some("tenant-unknown"), "{what}");
    }
    let two = charge("k").header("authorization", &format!("Bearer {good}"));
    let two = two.header("authorization", &format!("Bearer {}", scene.signer.token(&claims("bob"))));
    assert_eq!(two.answer(scene.gateway.addr()).await.status, 403, "two tokens");
    let basic = charge("k").header("authorization", &format!("Basic {good}"));
    assert_eq!(basic.answer(scene.gateway.addr()).await.status, 403, "another scheme");
    assert_eq!(scene.upstream.ledger().total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_key_file_is_read_again() {
    let scene = Scene::new().await;
    let next = Signer::new("two");
    let (old, new) = (scene.signer.token(&claims("alice")), next.token(&claims("alice")));
    assert_eq!(scene.charge("before", &old).await.status, 201);
    assert_eq!(scene.charge("before", &new).await.status, 403);
    // A file that cannot be read as keys changes nothing.
    fs::write(&scene.keys, "{").unwrap();
    log_says(&scene.gateway, "the key set was not refreshed").await;
    assert_eq!(scene.charge("meanwhile", &old).await.status, 201);
    replace(&scene.keys, &key_set(&[next.jwk()]));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut tries = 0;
    loop {
        tries += 1;
        // A refused request leaves no record, so the key can be the same.
        let answer = scene.charge("after", &new).await;
        if answer.status == 201 {
            break;
        }
        assert_eq!(answer.problem().as_deref(), Some("tenant-unknown"), "{answer:?}");
        assert!(tokio::time::Instant::now() < deadline, "never read again, in {tries} tries");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(scene.charge("before", &old).await.status, 403, "the old key is gone");
    let replay = scene.charge("before", &new).await;
    assert_eq!((replay.status, replay.standing()), (201, Some("replayed")), "a new key, the same tenant");
}

/// As tools that never show half a file do it.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

async fn log_says(gateway: &Gateway, what: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !gateway.log().iter().any(|line| line.contains(what)) {
        assert!(tokio::time::Instant::now() < deadline, "{what:?} is not in\n{}", gateway.log().join("\n"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_is_none_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.json");
    for (text, says) in [(None, "No such file"), (Some("[]"), "is not a JSON Web Key Set")] {
        if let Some(text) = text {
            fs::write(&keys, text).unwrap();
        }
        let config = format!("[defaults]\ntenant = [{{ claim = \"sub\", jwks = {keys:?} }}]\n");
        let file = folder.path().join("semel.toml");
        fs::write(&file, config).unwrap();
        let ran = std::process::Command::new(SEMEL)
            .args(["gateway", "--upstream", "http://127.0.0.1:1", "--store", "memory:", "--admin", "off"])
            .args(["--listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(said.contains(says) && said.contains("keys.json"), "{said}");
        assert_eq!(ran.status.code(), Some(2), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_subject_of_a_client_certificate_is_the_tenant_whatever_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path()).unwrap();
    let Certificates { authority, certificate, private_key, .. } = &certificates;
    let config = format!(
        "[defaults]\ntenant = [{{ certificate = true }}]\n\
        [tls]\ncertificate = {certificate:?}\nprivate_key = {private_key:?}\nclient_ca = {authority:?}\n"
    );
    let upstream = Upstream::charging();
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), &config).await;
    let charge_as = async |name: &str| {
        let tls = certificates.client_named(name).unwrap();
        let mut connection = Connection::open_tls(gateway.addr(), tls).await.unwrap();
        connection.send(&charge("k")).await.unwrap()
    };
    let first = charge_as("alice").await;
    assert_eq!((first.status, first.standing()), (201, Some("executed")), "{first:?}");
    let renewed = charge_as("alice").await;
    assert_eq!((renewed.standing(), renewed.essence()), (Some("replayed"), first.essence()));
    assert_eq!(charge_as("bob").await.standing(), Some("executed"));
    assert_eq!(upstream.ledger().effects("k"), 2);

    // Who shows no certificate, or one of another authority, is served nothing.
    let nameless = certificates.client(&["http/1.1"]).unwrap();
    assert!(answered(&gateway, nameless).await.is_none());
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = Certificates::make(elsewhere.path()).unwrap();
    fs::copy(authority, &stranger.authority).unwrap();
    assert!(answered(&gateway, stranger.client_named("alice").unwrap()).await.is_none());
    assert_eq!(upstream.ledger().total(), 2);
}

/// TLS 1.3 tells a client only when it reads that its certificate was refused.
async fn answered(gateway: &Gateway, tls: std::sync::Arc<rustls::ClientConfig>) -> Option<Answer> {
    let mut connection = Connection::open_tls(gateway.addr(), tls).await.ok()?;
    connection.send(&charge("k")).await.ok()
}
