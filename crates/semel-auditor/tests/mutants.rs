//! Clients with one fault each: the audit names it by the check that is about it, and by no other check than those that
//! the row declares.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "a test that cannot go on fails")]

mod mutants {
    pub(crate) mod client;
}

use std::sync::Arc;

use mutants::client::{Client, Fault};
use semel_auditor::audit::{Settings, audit};
use semel_auditor::drive::{Drive, Driving, Heard};
use semel_auditor::report::{Audit, Grade, Severity, Subject, Verdict};
use semel_auditor::scenario::{End, Scenario};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

struct Mutant(Fault);

impl Drive for Mutant {
    fn subject(&self) -> Subject {
        let supports = ["calls", "key", "timeout", "max_retries", "deadline"].map(str::to_owned);
        Subject { name: format!("{:?}", self.0), supports: Some(supports.to_vec()), ..Subject::default() }
    }

    fn drive(&self, scenario: Scenario, heard: Heard) -> Driving {
        let client = Arc::new(Client::new(self.0, scenario.clone()));
        Box::pin(async move {
            let places = Arc::new(Semaphore::new(scenario.parallel.try_into().unwrap()));
            let mut calls = JoinSet::new();
            for call in 0..scenario.calls {
                let (client, places, heard) = (Arc::clone(&client), Arc::clone(&places), heard.clone());
                calls.spawn(async move {
                    let _place = places.acquire().await.unwrap();
                    heard.say(client.call(call).await);
                });
            }
            while calls.join_next().await.is_some() {}
            End::Finished
        })
    }
}

async fn audited(fault: Fault) -> Audit {
    let (_never, stop) = watch::channel(false);
    let settings = Settings { together: 40, ..Settings::new() };
    audit(Arc::new(Mutant(fault)), settings, Arc::new(|_| {}), stop).await.unwrap()
}

fn failed(audit: &Audit) -> Vec<&str> {
    let failed = audit.findings.iter().filter(|finding| finding.verdict == Verdict::Fail);
    failed.map(|finding| finding.check.as_str()).collect()
}

/// The message of a check, for a failure of the test.
fn told(audit: &Audit) -> String {
    let line = |finding: &semel_auditor::report::Finding| {
        format!("{} {:?}: {}", finding.check, finding.verdict, finding.message)
    };
    audit.findings.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The fault makes its own check fail, and those that the row declares; and nothing else. The message has a word that
/// says what happened.
async fn is_caught(fault: Fault, check: &str, declared: &[&str], word: &str) -> Audit {
    let audit = audited(fault).await;
    let mut expected = vec![check];
    expected.extend(declared);
    expected.sort_by_key(|check| check[1..].parse::<u32>().unwrap());
    assert_eq!(failed(&audit), expected, "{fault:?}:\n{}", told(&audit));
    let finding = audit.findings.iter().find(|finding| finding.check == check).unwrap();
    assert!(finding.message.contains(word), "{check} says: {}", finding.message);
    assert_eq!(
        audit.grade == Grade::F,
        audit
            .findings
            .iter()
            .any(|finding| { finding.verdict == Verdict::Fail && finding.severity == Severity::S0 })
    );
    audit
}

#[tokio::test(flavor = "multi_thread")]
async fn client_without_a_fault_passes_all_24() {
    let audit = audited(Fault::None).await;
    let passed = audit.findings.iter().filter(|finding| finding.verdict == Verdict::Pass).count();
    assert_eq!((passed, audit.grade, audit.score), (24, Grade::A, 100), "{}", told(&audit));
    assert_eq!(audit.made, audit.meant);
    assert!(audit.meant >= 5, "{}", audit.sentence);
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_no_key_by_default() {
    is_caught(Fault::NoKeyByDefault, "C1", &["C19", "C21"], "without a key").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c2_new_key_after_a_failure() {
    let audit = is_caught(Fault::NewKeyAfterFailure, "C2", &[], "3 different keys").await;
    assert!(audit.made > audit.meant, "{}", audit.sentence);
    assert_eq!(audit.grade, Grade::F);
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_replay_without_a_key() {
    let audit = is_caught(Fault::KeylessReplay, "C3", &["C1", "C19", "C21"], "without a key").await;
    assert!(audit.made > audit.meant + 3, "{}", audit.sentence);
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_two_calls_share_each_key() {
    is_caught(Fault::SharedKeys, "C4", &[], "only 32 different keys").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_callers_own_key_is_ignored() {
    is_caught(Fault::IgnoresOwnKey, "C5", &[], "instead").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c6_body_has_the_number_of_the_attempt() {
    is_caught(Fault::BodyHasAttempt, "C6", &[], "another body").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c7_keys_from_a_counter() {
    is_caught(Fault::CounterKeys, "C7", &[], "bits change").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c8_keys_of_324_characters() {
    is_caught(Fault::LongKeys, "C8", &[], "324 characters").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c9_never_gives_up() {
    is_caught(Fault::NeverGivesUp, "C9", &[], "sent 7 times").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c10_delay_stays_the_same() {
    is_caught(Fault::ConstantDelay, "C10", &[], "should grow").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c11_all_come_back_together() {
    is_caught(Fault::NoJitter, "C11", &[], "came back within the same 50 ms").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c12_retry_after_is_ignored_on_503() {
    is_caught(Fault::IgnoresRetryAfterOn503, "C12", &[], "503 with Retry-After: 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c13_dates_are_not_understood() {
    is_caught(Fault::IgnoresDates, "C13", &[], "date four seconds ahead").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c14_comes_back_at_once_where_an_hour_is_too_long() {
    is_caught(Fault::ComesBackWhenTooLong, "C14", &[], "came back after 0.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c15_sleeps_for_an_hour() {
    is_caught(Fault::SleepsForAnHour, "C15", &[], "still waited").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c16_negative_wait_is_no_wait() {
    is_caught(Fault::TakesNegativeAsZero, "C16", &[], "Retry-After: -5: came back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c17_refusal_is_retried() {
    is_caught(Fault::RetriesUnprocessable, "C17", &[], "answered 422").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c18_outstanding_request_is_an_error() {
    is_caught(Fault::GivesUpOnOutstanding, "C18", &[], "gave up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c19_half_an_answer_is_an_error_without_the_key() {
    is_caught(Fault::ForgetsKeyOfHalfAnswer, "C19", &[], "does not carry the key").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c20_waits_as_long_as_the_server_likes() {
    is_caught(Fault::NoTimeout, "C20", &[], "for a server that hung").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c21_error_says_nothing() {
    is_caught(Fault::BareError, "C21", &[], "how many attempts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c22_retries_cannot_be_switched_off() {
    is_caught(Fault::AlwaysRetriesOnce, "C22", &[], "sent 2 times").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c23_credentials_go_to_another_origin() {
    is_caught(Fault::TakesCredentialsAlong, "C23", &[], "`authorization`").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c24_no_budget_in_an_outage() {
    is_caught(Fault::NoBudget, "C24", &[], "a factor of 4.00").await;
}
