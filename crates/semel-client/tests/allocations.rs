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
