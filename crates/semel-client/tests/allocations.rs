//! What a call costs when all goes well: the key, and one allocation more.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use semel_client::core::budget::{Budgets, Share};
use semel_client::core::call::{Call, Plan, Policy, Step};
use semel_client::core::classify::{Answer, Outcome};
use semel_client::core::key::on_the_wire;
use semel_client::{Key, System};

#[test]
fn a_call_that_succeeds_costs_one_allocation_beyond_its_key() {
    let (policy, budgets) = (Policy::default(), Budgets::new(Some(Share::default())));
    let (mut request, answer) = (HeaderMap::with_capacity(8), HeaderMap::new());
    let name = HeaderName::from_static("idempotency-key");
    request.insert(name.clone(), HeaderValue::from_static("x"));
    drop(budgets.of("api.example.com"));
    // The first key of a thread makes the thread's random numbers.
    drop(Key::auto());
    let key = allocation_counter::measure(|| drop(Key::auto()));
    assert_eq!(key.count_total, 1, "the key itself");
    let call = allocation_counter::measure(|| {
        let key = Key::auto();
        let budget = budgets.of("api.example.com");
        let plan =
            Plan { method: Method::POST, keyed: true, trusted: true, body_again: true, follows: false };
        let mut call = Call::begin(plan, &budget, &System);
        request.insert(name.clone(), on_the_wire(&key));
        let answer = Answer { status: StatusCode::CREATED, headers: &answer, body: b"" };
        let step = call.after(&policy, &budget, &Outcome::Answer(answer), || None, &System);
        assert_eq!(step, Step::Done);
    });
    assert_eq!(call.count_total, 2, "the key, and the header's value");
}

/// Beside the core's two there are the future that tower wants boxed, the copy of the head that a second attempt would
/// need, the report in the answer's extensions, and the answer's body, which is read before it is handed out.
#[cfg(feature = "tower")]
#[test]
fn a_call_through_the_tower_layer_costs_ten_with_its_key() {
    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Full;
    use semel_client::Once;
    use semel_client::adapter::layer::OnceLayer;
    use tower::{Layer, Service};

    let mut bare = tower::service_fn(|request: Request<Full<Bytes>>| async move {
        drop(request);
        Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from_static(b"{}"))))
    });
    let mut layered = OnceLayer::new(Once::for_hosts(["api.example.com"])).layer(bare);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut count = |through_layer: bool| {
        let request = Request::post(http::Uri::from_static("https://api.example.com/charges"));
        let request = request.header("content-type", HeaderValue::from_static("application/json"));
        let request = request.body(Full::new(Bytes::from_static(b"4000"))).unwrap();
        let call = || match through_layer {
            true => drop(runtime.block_on(layered.call(request)).unwrap()),
            false => drop(runtime.block_on(bare.call(request)).unwrap()),
        };
        allocation_counter::measure(call).count_total
    };
    // The first call makes the host's budget.
    count(true);
    assert_eq!((count(false), count(true)), (0, 10));
}
