//! Runs the control plane, a gateway in front of it, and a program that uses the SDK.
//!
//! ```sh
//! cargo run -p agent-sdk
//! ```

use agent_sdk::server::{Things, app, gateway};
use agent_sdk::{AgentClass, Control, Definition, Deployment, Plan, Task};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let things = Things::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let upstream = format!("http://{}", listener.local_addr()?);
    let served = app(things.clone());
    tokio::spawn(async move { axum::serve(listener, served).await });
    let gateway = gateway(&upstream).await?;
    let url = format!("http://{}", gateway.local_addr()?);
    tokio::spawn(gateway.run(std::future::pending()));

    let control = Control::new(&url, "token").map_err(|error| error.to_string())?;
    let class = AgentClass { name: "clerk".to_owned(), tools: vec!["mail".to_owned()] };
    let class = control.agent_classes().create(&class).idempotency_key("clerk").send().await?;
    let definition = Definition { class: class.id, instructions: "answer the mail".to_owned() };
    let definition = control.definitions().create(&definition).send().await?;
    for _ in 0..2 {
        let wanted = Deployment { definition: definition.id.clone(), replicas: 3 };
        let deployed = control.deployments().create(&wanted).idempotency_key("deploy-v1").send().await?;
        println!("deployed as {}", deployed.id);
        let plan = Plan { deployment: deployed.id, goal: "an empty inbox".to_owned() };
        let plan = control.plans().create(&plan).idempotency_key("plan-monday").send().await?;
        let task = control.tasks(&plan.id).create(&Task { what: "sort".to_owned() }).send().await?;
        println!("plan {}, task {}", plan.id, task.id);
    }
    let things = things.lock().map_err(|error| error.to_string())?;
    for (path, things) in things.iter() {
        println!("{path}: {} created", things.len());
    }
    Ok(())
}
