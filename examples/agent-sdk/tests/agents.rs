//! The SDK against the control plane behind its gateway.

#![allow(clippy::unwrap_used, reason = "what a test cannot unwrap is a failed test")]

use agent_sdk::server::{Things, app, gateway};
use agent_sdk::{AgentClass, Control, Deployment, Task};
use semel_client::Kind;

async fn control() -> (Control, Things) {
    let things = Things::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    let served = app(things.clone());
    tokio::spawn(async move { axum::serve(listener, served).await });
    let gateway = gateway(&upstream).await.unwrap();
    let url = format!("http://{}", gateway.local_addr().unwrap());
    tokio::spawn(gateway.run(std::future::pending()));
    (Control::new(&url, "token").unwrap(), things)
}

fn made(things: &Things, path: &str) -> usize {
    things.lock().unwrap().get(path).map_or(0, Vec::len)
}

#[tokio::test]
async fn a_deployment_created_twice_under_one_key_is_created_once() {
    let (control, things) = control().await;
    let wanted = Deployment { definition: "1".to_owned(), replicas: 3 };
    let first = control.deployments().create(&wanted).idempotency_key("deploy-v1").send().await.unwrap();
    let (second, third) = tokio::join!(
        control.deployments().create(&wanted).idempotency_key("deploy-v1").send(),
        control.deployments().create(&wanted).idempotency_key("deploy-v1").send(),
    );
    assert_eq!((&second.unwrap(), &third.unwrap()), (&first, &first));
    assert_eq!(made(&things, "deployments"), 1);
    assert_eq!(control.deployments().get(&first.id).await.unwrap().what, wanted);
}

#[tokio::test]
async fn another_deployment_under_the_same_key_is_refused_with_the_key_in_hand() {
    let (control, things) = control().await;
    let wanted = |replicas| Deployment { definition: "1".to_owned(), replicas };
    control.deployments().create(&wanted(3)).idempotency_key("deploy-v1").send().await.unwrap();
    let error =
        control.deployments().create(&wanted(30)).idempotency_key("deploy-v1").send().await.unwrap_err();
    assert_eq!((error.kind(), error.key().unwrap().as_str()), (Kind::KeyReused, "deploy-v1"));
    assert!(!error.is_retryable());
    assert_eq!(made(&things, "deployments"), 1);
}

#[tokio::test]
async fn tasks_and_classes_without_a_key_of_their_own_are_each_created() {
    let (control, things) = control().await;
    for _ in 0..3 {
        control.tasks("7").create(&Task { what: "sort".to_owned() }).send().await.unwrap();
        let class = AgentClass { name: "clerk".to_owned(), tools: Vec::new() };
        control.agent_classes().create(&class).idempotency_key("auto").send().await.unwrap();
    }
    assert_eq!((made(&things, "plans/7/tasks"), made(&things, "agent-classes")), (3, 3));
    assert_eq!(control.tasks("7").list().await.unwrap().len(), 3);
}
