//! The mirror image of the audit of a client: asks an API that claims to honour idempotency keys, and says which promises
//! it keeps.
//!
//! [`Plan`] is what the user says of the API, [`cases`] the requests and promises as data. `run` sends, `judge` looks at
//! what came, `effects` counts. The result is an [`Audit`] as that of a client, with a finding for each promise.

pub mod cases;
mod effects;
mod judge;
mod plan;
mod run;
mod wire;

pub use cases::Expect;
pub use plan::{Plan, Refused, Target, UNIQUE};

use cases::{Case, Point};
use effects::{Counter, identity, success, told_of};
use judge::Held;
use run::{Round, Runner};
use wire::{Came, Host};

use crate::clock::Since;
use crate::report::{self, Audit, Figure, Finding, Severity, Subject, Verdict};

/// Why there is no audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoAudit {
    /// The plan cannot be carried out.
    Refused(String),
    /// Nobody listens there.
    Unreachable(String),
}

impl std::fmt::Display for NoAudit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(why) | Self::Unreachable(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for NoAudit {}

impl From<Refused> for NoAudit {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused.0)
    }
}

/// Asks the API of `plan`; `progress` hears what is being sent.
///
/// # Errors
/// When it cannot be asked: what the plan says is not so, or nobody listens.
pub async fn audit(plan: &Plan, progress: &mut (dyn FnMut(&Case) + Send)) -> Result<Audit, NoAudit> {
    let began = Since::now();
    let cases = chosen(plan)?;
    let runner = ready(plan).await?;
    let (mut findings, mut seen, mut sums) = (Vec::new(), Vec::new(), Sums::default());
    for case in &cases {
        let points: Vec<&Point> = case.points.iter().filter(|point| is_chosen(point, plan)).collect();
        if let Some(lacking) = case.needs.iter().find(|need| !plan.has(**need)) {
            let message = format!("Not asked: {}.", lacking.advice());
            findings
                .extend(points.iter().map(|point| finding(point, Verdict::NotApplicable, message.clone())));
            continue;
        }
        progress(case);
        let (rounds, what) = runner.run(case).await?;
        sums.add(case, &rounds, plan.expect);
        for point in points {
            let mut finding = judged(case, point, &rounds, &runner);
            finding.seen = vec![seen.len()];
            findings.push(finding);
        }
        seen.push(what);
    }
    let (score, grade) = report::grade(&findings);
    Ok(Audit {
        version: report::VERSION,
        subject: Subject {
            name: plan.url.to_string(),
            command: Some(format!("semel audit server {} --expect {}", plan.url, plan.expect.as_str())),
            ..Subject::default()
        },
        grade,
        score,
        meant: sums.meant,
        made: sums.made,
        sentence: sums.sentence(),
        findings,
        seen,
        took: began.elapsed(),
    })
}

fn chosen(plan: &Plan) -> Result<Vec<Case>, NoAudit> {
    let mut cases = cases::all().map_err(NoAudit::Refused)?;
    cases.retain(|case| case.points.iter().any(|point| is_chosen(point, plan)));
    match (&plan.only, cases.is_empty()) {
        (Some(only), true) => Err(NoAudit::Refused(format!("no point has `{only}` in its name"))),
        _ => Ok(cases),
    }
}

fn is_chosen(point: &Point, plan: &Plan) -> bool {
    let wanted = plan.only.as_ref().is_none_or(|only| point.name.contains(only.as_str()));
    wanted && (point.profiles.is_empty() || point.profiles.contains(&plan.expect))
}

/// Sends the request twice under two keys: it must work, and its answers are looked at.
async fn ready(plan: &Plan) -> Result<Runner<'_>, NoAudit> {
    let host = Host::of(&plan.url, plan.timeout).map_err(NoAudit::Refused)?;
    let counter = Counter::of(plan)?;
    let mut identities = Vec::new();
    for _ in 0..2 {
        let send: cases::Send = serde_json::from_str(r#"{"send": "trial", "key": "{key}"}"#)
            .map_err(|error| NoAudit::Refused(error.to_string()))?;
        let [key, unique] = [(); 2].map(|()| format!("semel-audit-{}", uuid::Uuid::new_v4()));
        let came = host.send(&plan.request(&send, &key, &unique)?, None).await;
        let Some(answer) = success(&came) else {
            let what = format!("{} {} {}", plan.method, plan.url, told_of(&came));
            return Err(match came {
                Came::NotConnected(_) => NoAudit::Unreachable(what),
                Came::Answer(answer) => NoAudit::Refused(format!(
                    "{what}; an audit needs a request that succeeds. The answer: {}",
                    effects::visible(&answer.body, 200)
                )),
                Came::Broken(_) | Came::Left => NoAudit::Refused(what),
            });
        };
        identities.push(identity(answer, plan.id.as_deref()));
    }
    if let Some(counter) = &counter {
        counter.read().await?;
    }
    let answers_differ = identities[0].is_some() && identities[0] != identities[1];
    Ok(Runner { plan, host, counter, answers_differ })
}

fn finding(point: &Point, verdict: Verdict, message: String) -> Finding {
    Finding {
        check: point.name.clone(),
        title: point.title.clone(),
        severity: point.severity,
        verdict,
        message,
        figures: Vec::new(),
        seen: Vec::new(),
    }
}

/// A point over all rounds of its case.
fn judged(case: &Case, point: &Point, rounds: &[Round], runner: &Runner<'_>) -> Finding {
    let held: Vec<Held> = rounds.iter().map(|round| judge::point(case, point, round, runner)).collect();
    let broken = held.iter().filter(|held| matches!(held, Held::No(_))).count();
    let first = |wanted: fn(&Held) -> Option<&String>| held.iter().find_map(wanted).cloned();
    let mut finding = if let Some(mut message) = first(Held::broken) {
        if rounds.len() > 1 {
            message = format!("{} In {broken} of {} rounds.", message, rounds.len());
        }
        let asked_for = point.note_unless.is_none_or(|need| runner.plan.has(need));
        let note = *point.note.get(runner.plan.expect).unwrap_or(&false) || !asked_for;
        finding(point, if note { Verdict::Info } else { Verdict::Fail }, message)
    } else if let Some(message) = first(Held::kept) {
        finding(point, Verdict::Pass, message)
    } else {
        finding(point, Verdict::NotApplicable, first(Held::untold).unwrap_or_default())
    };
    let effects: Option<Vec<u64>> = rounds.iter().map(|round| round.effects).collect();
    let effects = effects.map(|effects| effects.iter().sum::<u64>());
    let requests: usize = rounds.iter().map(|round| round.replies.len()).sum();
    finding.figures.push(Figure { name: "requests".into(), value: requests.into() });
    if let Some(effects) = effects {
        finding.figures.push(Figure { name: "effects".into(), value: effects.into() });
    }
    finding
}

/// Effects meant and made, over the cases that expect a number of them.
#[derive(Default)]
struct Sums {
    meant: u64,
    made: u64,
    told: bool,
}

impl Sums {
    fn add(&mut self, case: &Case, rounds: &[Round], expect: Expect) {
        // A point that only notes does not say what was meant.
        let faults = case.points.iter().filter(|point| {
            point.severity == Severity::S0 && !point.note.get(expect).is_some_and(|note| *note)
        });
        let counts = faults.flat_map(|point| &point.expect).filter_map(|assertion| match assertion {
            cases::Assertion::Effects { count } => Some(*count),
            _ => None,
        });
        let Some(count) = counts.max() else { return };
        for effects in rounds.iter().filter_map(|round| round.effects) {
            self.told = true;
            self.meant += count;
            self.made += effects;
        }
    }

    fn sentence(&self) -> String {
        let Self { meant, made, told } = self;
        match told {
            true => format!(
                "Asked again, in parallel, with other payloads and after hang-ups, this API acted {made} times where \
                 {meant} were meant."
            ),
            false => "How often this API acted cannot be told from its answers: name a resource that counts \
                      (--count-url), or where an answer has its id (--id-pointer)."
                .to_owned(),
        }
    }
}
