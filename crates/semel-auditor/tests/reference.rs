//! Semel's own client passes all 24 checks, for tasks and for threads, as it comes: nothing is set but what a scenario
//! asks for.

use std::sync::Arc;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use semel_auditor::audit::{Settings, audit};
use semel_auditor::drive::{Drive, Driving, Heard};
use semel_auditor::report::{Audit, Grade, Subject, Verdict};
use semel_auditor::scenario::{End, Said, Scenario};
use semel_client::adapter::ureq::{Client as Threads, Ureq};
use semel_client::{Client as Tasks, Error, Once};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// What is asked for of the program around the client.
fn once(asked: &Scenario) -> Once {
    // The API that is audited against honours keys; a program says so.
    let mut once = Once::for_hosts(["127.0.0.1"]);
    if let Some(retries) = asked.max_retries {
        once = once.retries(retries);
    }
    if let Some(ms) = asked.timeout_ms {
        once = once.attempt_timeout(Duration::from_millis(ms));
    }
    if let Some(ms) = asked.deadline_ms {
        once = once.deadline(Duration::from_millis(ms));
    }
    once
}

fn body(call: u32) -> serde_json::Value {
    serde_json::json!({"name": format!("semel-audit-{call}"), "cents": 4000})
}

/// A typed error in the words of the audit.
fn said<T>(call: u32, outcome: Result<T, Error>) -> Said {
    let Err(error) = outcome else { return Said { call, ok: true, ..Said::default() } };
    Said {
        call,
        ok: false,
        status: error.answer().map(|answer| answer.status().as_u16()),
        error: Some(error.to_string()),
        key: error.key().map(|key| key.as_str().to_owned()),
        retryable: Some(error.is_retryable()),
        attempts: Some(error.attempts()),
        retry_after_s: error.retry_after().map(|wait| wait.as_secs_f64()),
        ..Said::default()
    }
}

fn subject(name: &str) -> Subject {
    let supports = ["calls", "key", "timeout", "max_retries", "deadline"].map(str::to_owned);
    Subject { name: name.to_owned(), supports: Some(supports.to_vec()), ..Subject::default() }
}

struct ForTasks;

impl Drive for ForTasks {
    fn subject(&self) -> Subject {
        subject("semel-client, for tasks")
    }

    fn drive(&self, asked: Scenario, heard: Heard) -> Driving {
        Box::pin(async move {
            let client = Tasks::builder(once(&asked)).base_url(&asked.url).bearer("test").build().unwrap();
            let client = Arc::new(client);
            let places = Arc::new(Semaphore::new(asked.parallel.try_into().unwrap()));
            let mut calls = JoinSet::new();
            for call in 0..asked.calls {
                let (client, places, heard) = (Arc::clone(&client), Arc::clone(&places), heard.clone());
                let key = asked.key.clone();
                calls.spawn(async move {
                    let _place = places.acquire().await.unwrap();
                    let mut making = client.post("payments").json(&body(call));
                    if let Some(key) = key {
                        making = making.idempotency_key(key.as_str());
                    }
                    heard.say(said(call, making.send().await));
                });
            }
            while calls.join_next().await.is_some() {}
            End::Finished
        })
    }
}

struct ForThreads;

impl Drive for ForThreads {
    fn subject(&self) -> Subject {
        subject("semel-client, for threads")
    }

    fn drive(&self, asked: Scenario, heard: Heard) -> Driving {
        Box::pin(async move {
            let client = Threads::builder(once(&asked), Ureq::default());
            let client = client.base_url(&asked.url).bearer("test").build().unwrap();
            let left = Mutex::new(0..asked.calls);
            let asked_for = asked.parallel;
            let all = tokio::task::spawn_blocking(move || {
                thread::scope(|scope| {
                    for _ in 0..asked_for {
                        scope.spawn(|| {
                            loop {
                                let Some(call) = left.lock().unwrap().next() else { return };
                                let mut making = client.post("payments").json(&body(call));
                                if let Some(key) = &asked.key {
                                    making = making.idempotency_key(key.as_str());
                                }
                                heard.say(said(call, making.send()));
                            }
                        });
                    }
                });
            });
            all.await.unwrap();
            End::Finished
        })
    }
}

async fn audited(drive: impl Drive + 'static) -> Audit {
    let (_never, stop) = watch::channel(false);
    let settings = Settings { together: 40, ..Settings::new() };
    audit(Arc::new(drive), settings, Arc::new(|_| {}), stop).await.unwrap()
}

fn passes_all(audit: &Audit) {
    let line = |finding: &semel_auditor::report::Finding| {
        format!("{} {:?}: {} {:?}", finding.check, finding.verdict, finding.message, finding.figures)
    };
    let told = audit.findings.iter().map(line).collect::<Vec<_>>().join("\n");
    let passed = audit.findings.iter().filter(|finding| finding.verdict == Verdict::Pass).count();
    assert_eq!((passed, audit.grade, audit.score), (24, Grade::A, 100), "{told}");
    assert_eq!(audit.made, audit.meant, "{}", audit.sentence);
}

#[tokio::test(flavor = "multi_thread")]
async fn semels_client_for_tasks_passes_all_24() {
    passes_all(&audited(ForTasks).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn semels_client_for_threads_passes_all_24() {
    passes_all(&audited(ForThreads).await);
}
