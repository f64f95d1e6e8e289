//! The series that `/metrics` shows. Every label comes from a closed set known when the process starts; a tenant or a
//! key never is a label.
//!
//! [`Metrics`] observes the engine and is told of requests by whoever answers them. Next: [`crate::api`], which shows
//! it.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use semel::Code;
use semel::event::{Event, Observer};
use semel::record::DoubtCause;
use semel::wire::Status;

/// The media type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The methods of the store; a method that is not among them is counted as the last.
const METHODS: [&str; 10] =
    ["claim", "renew", "complete", "doubt", "release", "get", "scan", "purge", "watch", "other"];
/// The status of a request that was passed through.
const PASSED: &str = "passed";

const STORE_SECONDS: [f64; 13] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];
const WAIT_SECONDS: [f64; 11] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

type Label = [(&'static str, &'static str); 1];
type Counters = Labelled<Counter>;

/// Series that differ in one label, whose values are all known: each is there from the start, and is found without the
/// lock of a family that may grow.
#[derive(Debug)]
struct Labelled<M: 'static, C = fn() -> M> {
    family: Family<Label, M, C>,
    series: Vec<(&'static str, M)>,
}

impl<M: Clone, C: MetricConstructor<M>> Labelled<M, C> {
    fn new(
        family: Family<Label, M, C>,
        label: &'static str,
        values: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        let made = values.into_iter().map(|value| (value, family.get_or_create(&[(label, value)]).clone()));
        Self { series: made.collect(), family }
    }

    /// The series of `value`; the last one, where it is not known.
    fn of(&self, value: &'static str) -> &M {
        let found = self.series.iter().find(|(known, _)| *known == value).or(self.series.last());
        &found.expect("there are values").1
    }
}

fn counters(label: &'static str, values: impl IntoIterator<Item = &'static str>) -> Counters {
    Labelled::new(Family::default(), label, values)
}

/// Whether a request could have been protected, and was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// Its route or method is not covered.
    Uncovered,
    /// It is covered and brought no key.
    Unkeyed,
    /// It is covered and has a key.
    Keyed,
}

/// Counts what happens. Never blocks: all series exist from the start, and counting is an atomic addition.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Counters,
    covered: Counter,
    keyed: Counter,
    claims: Counters,
    replays: Counter,
    waits: Histogram,
    refusals: Counters,
    completed: Counter,
    released: Counter,
    doubted: Counters,
    superseded: Counter,
    unrecorded: Counter,
    renew_failures: Counter,
    purged: Counter,
    store_seconds: Labelled<Histogram, StoreBuckets>,
    store_errors: Counters,
    live_claims: Gauge<f64, AtomicU64>,
    in_doubt: Gauge<f64, AtomicU64>,
}

/// Makes the histogram of one store method.
#[derive(Clone, Debug)]
struct StoreBuckets;

impl MetricConstructor<Histogram> for StoreBuckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(STORE_SECONDS)
    }
}

impl Metrics {
    /// All series, at zero.
    #[must_use]
    pub fn new() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("semel"),
            requests: counters("status", Status::ALL.map(Status::as_str).into_iter().chain([PASSED])),
            covered: Counter::default(),
            keyed: Counter::default(),
            claims: counters("takeover", ["false", "true"]),
            replays: Counter::default(),
            waits: Histogram::new(WAIT_SECONDS),
            refusals: counters("code", Code::ALL.map(Code::as_str)),
            completed: Counter::default(),
            released: Counter::default(),
            doubted: counters("cause", DoubtCause::ALL.map(DoubtCause::as_str)),
            superseded: Counter::default(),
            unrecorded: Counter::default(),
            renew_failures: Counter::default(),
            purged: Counter::default(),
            store_seconds: Labelled::new(Family::new_with_constructor(StoreBuckets), "method", METHODS),
            store_errors: counters("method", METHODS),
            live_claims: Gauge::default(),
            in_doubt: Gauge::default(),
        };
        metrics.register()
    }

    fn register(mut self) -> Self {
        let to = &mut self.registry;
        to.register("requests", "Requests answered, by what the answer was", self.requests.family.clone());
        to.register("covered_requests", "Requests to covered routes", self.covered.clone());
        to.register("keyed_requests", "Requests to covered routes that had a key", self.keyed.clone());
        to.register(
            "claims",
            "Claims won; a takeover claimed a record in doubt again",
            self.claims.family.clone(),
        );
        to.register("replays", "Stored outcomes given to later callers", self.replays.clone());
        to.register_with_unit(
            "waits",
            "How long a replay took, the wait for a running duplicate included",
            Unit::Seconds,
            self.waits.clone(),
        );
        to.register("refusals", "Callers that the engine refused, by code", self.refusals.family.clone());
        to.register("completed", "Outcomes stored", self.completed.clone());
        to.register("released", "Claims given back: the effect did not happen", self.released.clone());
        to.register("doubted", "Records that became in doubt, by cause", self.doubted.family.clone());
        to.register("superseded", "Effects whose claim was lost to another", self.superseded.clone());
        to.register("unrecorded", "Effects whose outcome could not be stored", self.unrecorded.clone());
        to.register("renew_failures", "Leases that could not be renewed", self.renew_failures.clone());
        to.register("purged", "Expired records removed", self.purged.clone());
        to.register_with_unit(
            "store",
            "How long the store took, by method",
            Unit::Seconds,
            self.store_seconds.family.clone(),
        );
        to.register(
            "store_errors",
            "Calls of the store that failed, by method",
            self.store_errors.family.clone(),
        );
        to.register("live_claims", "Claims held by this process now", self.live_claims.clone());
        to.register(
            "in_doubt_records",
            "Records in doubt, counted up to 10,000; NaN when the store cannot say",
            self.in_doubt.clone(),
        );
        self
    }

    /// Counts a request that was answered; `status` is `None` when it was passed through unprotected.
    pub fn request(&self, status: Option<Status>, coverage: Coverage) {
        self.requests.of(status.map_or(PASSED, Status::as_str)).inc();
        if coverage != Coverage::Uncovered {
            self.covered.inc();
        }
        if coverage == Coverage::Keyed {
            self.keyed.inc();
        }
    }

    /// All series in the OpenMetrics text format. `in_doubt` is `None` when nobody can say.
    #[must_use]
    pub fn render(&self, live_claims: usize, in_doubt: Option<usize>) -> String {
        self.live_claims.set(gauge(live_claims));
        self.in_doubt.set(in_doubt.map_or(f64::NAN, gauge));
        let mut page = String::new();
        match text::encode(&mut page, &self.registry) {
            Ok(()) => page,
            Err(std::fmt::Error) => unreachable!("writing to a String does not fail"),
        }
    }

    fn store_called(&self, method: &'static str, took: Duration, ok: bool) {
        self.store_seconds.of(method).observe(took.as_secs_f64());
        if !ok {
            self.store_errors.of(method).inc();
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Metrics {
    fn observe(&self, event: &Event<'_>) {
        match *event {
            Event::Claimed { generation, .. } => {
                let takeover = if generation > 1 { "true" } else { "false" };
                self.claims.of(takeover).inc();
            }
            Event::Replayed { waited, .. } => {
                self.replays.inc();
                self.waits.observe(waited.as_secs_f64());
            }
            Event::Refused { code, .. } => {
                self.refusals.of(code.as_str()).inc();
            }
            Event::Completed { .. } => {
                self.completed.inc();
            }
            Event::Released { .. } => {
                self.released.inc();
            }
            Event::Doubted { cause, .. } => {
                self.doubted.of(cause.as_str()).inc();
            }
            Event::Superseded { .. } => {
                self.superseded.inc();
            }
            Event::Unrecorded { .. } => {
                self.unrecorded.inc();
            }
            Event::RenewFailed { .. } => {
                self.renew_failures.inc();
            }
            Event::Purged { records } => {
                self.purged.inc_by(u64::try_from(records).unwrap_or(u64::MAX));
            }
            Event::StoreCalled { method, took, ok } => self.store_called(method, took, ok),
            _ => {}
        }
    }
}

fn gauge(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use semel::{Key, Operation, RecordId, Tenant};

    /// The lines without help, type and unit, in order of the alphabet.
    fn series(page: &str) -> Vec<String> {
        let mut lines: Vec<_> =
            page.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn names_labels_and_values_are_stable() {
        let metrics = Metrics::new();
        let id = RecordId::new(Tenant::id(&["acme"]), Operation::http(), Key::new("order-42").unwrap());
        let id = &id;
        let waited = Duration::from_millis(20);
        for event in [
            Event::Claimed { id, generation: 1 },
            Event::Claimed { id, generation: 2 },
            Event::Replayed { id, waited },
            Event::Refused { id, code: Code::Mismatch },
            Event::Completed { id },
            Event::Released { id },
            Event::Doubted { id, cause: DoubtCause::NoAnswer },
            Event::Superseded { id },
            Event::Unrecorded { id },
            Event::RenewFailed { id },
            Event::Purged { records: 7 },
            Event::StoreCalled { method: "claim", took: Duration::from_micros(300), ok: false },
        ] {
            metrics.observe(&event);
        }
        metrics.request(Some(Status::Executed), Coverage::Keyed);
        metrics.request(None, Coverage::Unkeyed);
        metrics.request(None, Coverage::Uncovered);
        let page = metrics.render(3, Some(2));
        let counted: Vec<_> = series(&page)
            .into_iter()
            .filter(|line| ![" 0", " 0.0"].iter().any(|zero| line.ends_with(zero)) && !line.contains("le="))
            .collect();
        let expected = [
            "semel_claims_total{takeover=\"false\"} 1",
            "semel_claims_total{takeover=\"true\"} 1",
            "semel_completed_total 1",
            "semel_covered_requests_total 2",
            "semel_doubted_total{cause=\"no-answer\"} 1",
            "semel_in_doubt_records 2.0",
            "semel_keyed_requests_total 1",
            "semel_live_claims 3.0",
            "semel_purged_total 7",
            "semel_refusals_total{code=\"SEMEL-0004\"} 1",
            "semel_released_total 1",
            "semel_renew_failures_total 1",
            "semel_replays_total 1",
            "semel_requests_total{status=\"executed\"} 1",
            "semel_requests_total{status=\"passed\"} 2",
            "semel_store_errors_total{method=\"claim\"} 1",
            "semel_store_seconds_count{method=\"claim\"} 1",
            "semel_store_seconds_sum{method=\"claim\"} 0.0003",
            "semel_superseded_total 1",
            "semel_unrecorded_total 1",
            "semel_waits_seconds_count 1",
            "semel_waits_seconds_sum 0.02",
        ];
        assert_eq!(counted, expected);
    }

    #[test]
    fn every_series_is_there_before_anything_happens() {
        let before = series(&Metrics::new().render(0, Some(0))).len();
        let store = (STORE_SECONDS.len() + 3) * METHODS.len();
        let labelled = Status::ALL.len() + 1 + 2 + Code::ALL.len() + DoubtCause::ALL.len() + METHODS.len();
        assert_eq!(before, store + labelled + WAIT_SECONDS.len() + 3 + 11);
    }

    #[test]
    fn tenant_and_key_are_never_shown() {
        let metrics = Metrics::new();
        let id =
            RecordId::new(Tenant::id(&["acme"]), Operation::new("refund"), Key::new("order-42").unwrap());
        metrics.observe(&Event::Claimed { id: &id, generation: 1 });
        metrics.observe(&Event::StoreCalled { method: "acme", took: Duration::ZERO, ok: true });
        let page = metrics.render(1, None);
        assert!(["acme", "refund", "order-42"].iter().all(|secret| !page.contains(secret)));
        assert!(page.contains("semel_store_seconds_count{method=\"other\"} 1"));
        assert!(page.contains("semel_in_doubt_records NaN"));
    }
}
