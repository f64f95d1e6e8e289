//! The mirror image finds nothing in an API that honours keys, and names each of its faults by its point.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "mirror/api.rs"]
mod api;

use std::collections::BTreeSet;
use std::time::Duration;

use api::{Fault, serve};
use semel_auditor::mirror::{self, Expect, NoAudit, Plan};
use semel_auditor::report::{Audit, Finding, Verdict};
use tokio::task::JoinSet;

fn plan(url: &str, expect: Expect) -> Plan {
    Plan {
        body: r#"{"amount": 4000, "note": "order {unique}"}"#.to_owned(),
        body_invalid: Some(r#"{"amount": "much"}"#.to_owned()),
        no_content: Some("DELETE /charges/{unique}".parse().unwrap()),
        failing: Some("POST /fails".parse().unwrap()),
        credentials: ["alice", "bob"].map(|who| ("Authorization".to_owned(), format!("Bearer {who}"))).into(),
        count: Some((format!("{url}/count").parse().unwrap(), "/made/n".to_owned())),
        expect,
        parallel: 8,
        timeout: Duration::from_secs(1),
        ..Plan::new(format!("{url}/charges").parse().unwrap())
    }
}

async fn audited(fault: Fault, expect: Expect, change: impl FnOnce(&mut Plan)) -> Result<Audit, NoAudit> {
    let api = serve(fault, expect == Expect::Stripe).await;
    let mut plan = plan(&format!("http://{}", api.addr), expect);
    change(&mut plan);
    mirror::audit(&plan, &mut |_| {}).await
}

fn with(audit: &Audit, verdict: Verdict) -> BTreeSet<&str> {
    let found = audit.findings.iter().filter(|finding| finding.verdict == verdict);
    found.map(|finding| finding.check.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_found_in_an_api_that_honours_keys() {
    for expect in [Expect::Ietf, Expect::Stripe] {
        let audit = audited(Fault::None, expect, |_| {}).await.unwrap();
        assert!(with(&audit, Verdict::Fail).is_empty(), "{audit:#?}");
        let noted =
            BTreeSet::from(["expiry_is_told", "fm54_early_data_is_refused", "missing_key_is_refused"]);
        assert_eq!(with(&audit, Verdict::Info), noted);
        assert_eq!(with(&audit, Verdict::NotApplicable), BTreeSet::new());
        assert_eq!(audit.meant, audit.made, "{}", audit.sentence);
        assert!(audit.meant > 20, "{}", audit.sentence);
    }
}

/// What each fault is called, and what else it may break.
const FAULTS: &[(Fault, &[&str], &[&str])] = &[
    (
        Fault::CheckThenSet,
        &["fm10_parallel_requests_have_one_effect", "fm38_race_of_two_payloads_has_one_winner"],
        &[
            "fm11_losers_of_a_race_get_the_answer_or_409",
            "fm24_waiter_that_hangs_up_changes_nothing",
            "fm38_losing_payload_is_refused",
            "fm67_hang_up_and_retry_have_one_effect",
            "fm67_retry_after_a_hang_up_gets_the_answer",
        ],
    ),
    (
        Fault::NoFingerprint,
        &[
            "fm30_other_payload_is_refused",
            "fm31_replays_do_not_hide_another_payload",
            "fm32_another_path_never_gets_the_first_answer",
            "fm34_another_path_is_refused",
            "fm38_losing_payload_is_refused",
            "fm38_race_of_two_payloads_has_one_winner",
            "fm40_another_query_is_refused",
            "fm40_another_query_never_gets_the_first_answer",
            "fm55_corrected_payload_is_told_apart",
            "mismatch_has_the_documented_status",
        ],
        &[],
    ),
    (
        Fault::NoQuery,
        &["fm40_another_query_never_gets_the_first_answer", "fm40_another_query_is_refused"],
        &[],
    ),
    (
        Fault::SharedTenants,
        &[
            "another_callers_key_cannot_be_detected",
            "another_callers_key_does_not_stop_the_effect",
            "fm42_another_callers_key_never_gets_the_answer",
            "fm43_nobody_gets_the_answer_without_the_credential",
            "fm52_callers_at_once_get_their_own_answers",
        ],
        &[],
    ),
    (
        Fault::TenantInFingerprint,
        &["another_callers_key_cannot_be_detected", "another_callers_key_does_not_stop_the_effect"],
        &["fm52_callers_at_once_get_their_own_answers"],
    ),
    (Fault::EmptyIsNone, &["fm61_answer_without_a_body_is_replayed"], &[]),
    (Fault::QuotedDiffers, &["quoted_and_raw_are_one_key", "empty_key_is_refused"], &[]),
    (Fault::MarkerPassedThrough, &["fm48_marker_cannot_be_spoofed"], &[]),
    (Fault::NoMarker, &["replay_is_marked", "refusal_by_the_api_is_stored"], &[]),
    (Fault::CookieReplayed, &["fm46_set_cookie_is_not_replayed"], &[]),
    (Fault::CacheableReplay, &["fm53_replay_is_not_cacheable"], &[]),
    (Fault::Leaks, &["fm47_mismatch_shows_nothing_of_the_first_request"], &[]),
    (Fault::FirstOfTwo, &["fm37_key_given_twice_is_refused"], &[]),
    (Fault::CutsKeys, &["long_keys_are_not_cut", "key_over_255_characters_is_refused"], &[]),
    (Fault::LongKeys, &["key_over_255_characters_is_refused"], &[]),
    (Fault::EmptyKeys, &["empty_key_is_refused"], &[]),
    (Fault::OddKeys, &["fm41_key_that_is_not_printable_is_refused"], &[]),
    (Fault::LowerCase, &["fm41_keys_that_differ_in_one_mark_are_different"], &[]),
    (Fault::MissingIsBlank, &["fm29_requests_without_a_key_share_nothing"], &[]),
    (
        Fault::StopsAtHangUp,
        &["fm67_hang_up_and_retry_have_one_effect", "fm67_retry_after_a_hang_up_gets_the_answer"],
        &["fm24_waiter_that_hangs_up_changes_nothing"],
    ),
    (
        Fault::ReplaysWith200,
        &["replay_has_the_same_status_and_body"],
        &[
            "each_caller_gets_its_own_replay",
            "fm11_losers_of_a_race_get_the_answer_or_409",
            "fm52_callers_at_once_get_their_own_answers",
            "fm60_compressed_body_is_replayed_byte_for_byte",
            "fm61_answer_without_a_body_is_replayed",
            "fm67_retry_after_a_hang_up_gets_the_answer",
            "key_of_255_characters_is_taken",
            "mismatch_leaves_the_answer_alone",
            "quoted_and_raw_are_one_key",
            "refusal_by_the_api_is_answered_alike",
        ],
    ),
    (
        Fault::LocationLost,
        &["fm62_replay_keeps_location_and_content_headers", "fm65_replay_keeps_every_other_header"],
        &["fm60_compressed_body_is_replayed_byte_for_byte"],
    ),
    (
        Fault::RepeatsLost,
        &["fm62_replay_keeps_location_and_content_headers", "fm65_replay_keeps_every_other_header"],
        &["fm60_compressed_body_is_replayed_byte_for_byte"],
    ),
    (Fault::RequestIdLost, &["fm65_replay_keeps_every_other_header"], &[]),
    (
        Fault::RacersFail,
        &["fm11_losers_of_a_race_get_the_answer_or_409"],
        &[
            "fm24_waiter_that_hangs_up_changes_nothing",
            "fm38_losing_payload_is_refused",
            "fm67_retry_after_a_hang_up_gets_the_answer",
        ],
    ),
    (Fault::NoRetryAfter, &["conflict_says_when_to_come_back"], &[]),
    (Fault::PlainErrors, &["conflict_is_explained", "mismatch_is_explained"], &[]),
    (
        Fault::MismatchIs409,
        &[
            "fm34_another_path_is_refused",
            "fm40_another_query_is_refused",
            "fm55_corrected_payload_is_told_apart",
            "mismatch_has_the_documented_status",
        ],
        &[],
    ),
    (Fault::FailuresRunAgain, &["fm57_failure_is_not_run_again_blindly"], &[]),
    (
        Fault::MismatchForgets,
        &["mismatch_leaves_the_answer_alone", "fm30_other_payload_has_no_effect"],
        &["fm38_losing_payload_is_refused", "fm38_race_of_two_payloads_has_one_winner"],
    ),
    (
        Fault::WaiterRemoves,
        &["fm24_waiter_that_hangs_up_changes_nothing"],
        &[
            "fm10_parallel_requests_have_one_effect",
            "fm11_losers_of_a_race_get_the_answer_or_409",
            "fm38_race_of_two_payloads_has_one_winner",
            "fm38_losing_payload_is_refused",
            "fm67_hang_up_and_retry_have_one_effect",
            "fm67_retry_after_a_hang_up_gets_the_answer",
        ],
    ),
    (
        Fault::NearByKey,
        &["fm31_replays_do_not_hide_another_payload"],
        &[
            "fm38_losing_payload_is_refused",
            "fm38_race_of_two_payloads_has_one_winner",
            "fm55_corrected_payload_is_told_apart",
        ],
    ),
    (
        Fault::SamePayloadRefused,
        &["fm36_same_payload_under_another_key_is_another_request"],
        &[
            "another_callers_key_cannot_be_detected",
            "another_callers_key_does_not_stop_the_effect",
            "fm41_keys_that_differ_in_one_mark_are_different",
            "quoted_and_raw_are_one_key",
            "quoted_form_is_taken",
            "each_caller_gets_its_own_replay",
            "fm52_callers_at_once_get_their_own_answers",
        ],
    ),
    (Fault::SharedFlights, &["fm52_callers_at_once_get_their_own_answers"], &[]),
    (Fault::HeadUsesKeyUp, &["fm07_half_a_request_leaves_nothing_behind"], &[]),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_named_by_its_points() {
    let mut wrong = Vec::new();
    for some in FAULTS.chunks(8) {
        let mut audits = JoinSet::new();
        for (fault, must, may) in some {
            audits.spawn(
                async move { (fault, must, may, audited(*fault, Expect::Ietf, |_| {}).await.unwrap()) },
            );
        }
        for (fault, must, may, audit) in audits.join_all().await {
            let found = with(&audit, Verdict::Fail);
            let more: Vec<_> =
                found.iter().filter(|point| !must.contains(point) && !may.contains(point)).collect();
            let less: Vec<_> = must.iter().filter(|point| !found.contains(*point)).collect();
            if !more.is_empty() || !less.is_empty() {
                wrong.push(format!("{fault:?}: also {more:?}, not {less:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_counter_effects_are_told_from_the_answers() {
    let change = |plan: &mut Plan| {
        plan.count = None;
        plan.only = Some("fm10".to_owned());
    };
    let good = audited(Fault::None, Expect::Ietf, change).await.unwrap();
    assert_eq!((good.findings[0].verdict, good.meant, good.made), (Verdict::Pass, 3, 3));
    let racy = audited(Fault::CheckThenSet, Expect::Ietf, change).await.unwrap();
    assert_eq!(racy.findings[0].verdict, Verdict::Fail);
    assert!(racy.made > racy.meant, "{}", racy.sentence);
    // An API whose answers are all alike can hide a second effect: then nobody claims to know.
    let alike = |plan: &mut Plan| {
        change(plan);
        plan.id = Some("/amount".to_owned());
    };
    let untold = audited(Fault::CheckThenSet, Expect::Ietf, alike).await.unwrap();
    assert_eq!(untold.findings[0].verdict, Verdict::NotApplicable, "{:?}", untold.findings[0]);
    assert!(untold.sentence.contains("--count-url"), "{}", untold.sentence);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_said() {
    let refused = |plan: &mut Plan| plan.body = "{}".to_owned();
    let NoAudit::Refused(why) = audited(Fault::None, Expect::Ietf, refused).await.unwrap_err() else {
        panic!("it was reached");
    };
    assert!(why.contains("was answered 400") && why.contains("amount"), "{why}");
    let nobody = |plan: &mut Plan| plan.url = "http://127.0.0.1:1/charges".parse().unwrap();
    assert!(matches!(audited(Fault::None, Expect::Ietf, nobody).await, Err(NoAudit::Unreachable(_))));
    let less = |plan: &mut Plan| {
        plan.credentials.clear();
        plan.no_content = None;
    };
    let audit = audited(Fault::None, Expect::Ietf, less).await.unwrap();
    let untold = with(&audit, Verdict::NotApplicable);
    assert!(untold.contains("fm61_answer_without_a_body_is_replayed"), "{untold:?}");
    assert!(untold.contains("fm42_another_callers_key_never_gets_the_answer"), "{untold:?}");
    let told =
        |finding: &Finding| finding.verdict != Verdict::NotApplicable || finding.message.contains("--");
    assert!(audit.findings.iter().all(told), "each says what would make it askable");
    let secret = serde_json::to_string(&audited(Fault::None, Expect::Ietf, |_| {}).await.unwrap()).unwrap();
    assert!(!secret.contains("Bearer"), "credentials are not in the report");
}
