//! What the gateway asks others before it shows an outcome, and about a doubt.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, Response, StatusCode};
use semel_testkit::client::Call;
use semel_testkit::gateway::Gateway;
use semel_testkit::upstream::{Arrived, Reply, Upstream};

const SEMEL: &str = env!("CARGO_BIN_EXE_semel");

fn status(status: StatusCode) -> Reply {
    let mut answer = Response::new(bytes::Bytes::from("as asked"));
    *answer.status_mut() = status;
    Reply::Answer(answer)
}

fn credential(arrived: &Arrived) -> Option<&str> {
    arrived.head.headers.get("authorization")?.to_str().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_may_not_see_the_outcome_any_more_is_refused_it() {
    let upstream = Upstream::charging();
    let revoked = Arc::new(AtomicUsize::new(0));
    let guard = Upstream::scripted({
        let revoked = revoked.clone();
        move |arrived| {
            let known = arrived.head.method == Method::GET
                && credential(&arrived) == Some("Bearer alice")
                && arrived.head.headers.get("x-original-uri").is_some_and(|uri| uri == "/charges");
            let may = known && revoked.load(Ordering::SeqCst) == 0;
            std::future::ready(status(if may { StatusCode::NO_CONTENT } else { StatusCode::FORBIDDEN }))
        }
    });
    let config = format!("[defaults]\nauthorize_url = \"{}/may-see\"\n", guard.url());
    let gateway = Gateway::start_with(SEMEL, &upstream.url(), &config).await;
    let call = Call::post("/charges", "500").key("k").header("authorization", "Bearer alice");
    let first = call.answer(gateway.addr()).await;
    let again = call.answer(gateway.addr()).await;
    assert_eq!((first.status, first.is_replay(), again.is_replay()), (201, false, true));
    revoked.store(1, Ordering::SeqCst);
    let refused = call.answer(gateway.addr()).await;
    assert_eq!((refused.status, refused.standing()), (403, Some("refused")), "{refused:?}");
    assert_eq!(refused.problem().as_deref(), Some("not-authorised"));
    drop(guard);
    let unanswered = call.answer(gateway.addr()).await;
    assert_eq!((unanswered.status, unanswered.is_replay()), (403, false));
    assert_eq!(upstream.ledger().total(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_is_asked_about_and_completed_run_or_held_as_is_answered() {
    // What is known of a charge: it happened, it did not, nothing.
    for (known, then, effects) in [
        (StatusCode::OK, (200, "replayed"), 1),
        (StatusCode::NOT_FOUND, (201, "executed"), 2),
        (StatusCode::BAD_GATEWAY, (409, "in-doubt"), 1),
    ] {
        let upstream = Upstream::scripted(move |arrived| {
            std::future::ready(match (arrived.head.method.clone(), arrived.nth_of_key) {
                (Method::GET, _) => status(known),
                (_, 1) => Reply::Reset,
                _ => arrived.charge(),
            })
        });
        let config = format!(
            "[defaults]\non_doubt = \"probe\"\nprobe_url = \"{}/charges/by-key/{{key}}\"\n",
            upstream.url()
        );
        let gateway = Gateway::start_with(SEMEL, &upstream.url(), &config).await;
        let call = Call::post("/charges", "500").key("k");
        let lost = call.answer(gateway.addr()).await;
        assert_eq!((lost.status, lost.standing()), (502, Some("in-doubt")), "{lost:?}");
        let again = call.answer(gateway.addr()).await;
        assert_eq!((again.status, again.standing()), (then.0, Some(then.1)), "{known}: {again:?}");
        assert_eq!(upstream.ledger().effects("k"), effects, "{known}");
    }
}
