//! The SDK: types, and a method for each thing the API can do.
//!
//! Not the API itself, which is [`crate::server`]. Next: [`Control`].

use semel_client::client::{Call, Resource};
use semel_client::{BoxError, Client, Error, Idempotency, Once};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// What kind of agent: which tools it may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentClass {
    /// Its name.
    pub name: String,
    /// What it may use.
    pub tools: Vec<String>,
}

/// What one agent is told to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The id of its class.
    pub class: String,
    /// What it is told.
    pub instructions: String,
}

/// A definition that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deployment {
    /// The id of the definition.
    pub definition: String,
    /// How many run.
    pub replicas: u32,
}

/// What a deployment is to achieve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The id of the deployment.
    pub deployment: String,
    /// To what end.
    pub goal: String,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What is to be done.
    pub what: String,
}

/// Something that the control plane has, under its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored<T> {
    /// Its id.
    pub id: String,
    /// What it is.
    #[serde(flatten)]
    pub what: T,
}

/// The control plane, as its users see it.
#[derive(Clone, Debug)]
pub struct Control {
    client: Client,
}

impl Control {
    /// The control plane at `url`, whose gateway honours keys.
    ///
    /// # Errors
    /// When `url` is none, or the token cannot be sent.
    pub fn new(url: &str, token: &str) -> Result<Self, BoxError> {
        Self::with(Once::for_hosts([host(url)]), url, token)
    }

    /// As [`Control::new`], with retries, budget, journal and metrics of the caller's choice.
    ///
    /// # Errors
    /// As [`Control::new`].
    pub fn with(once: Once, url: &str, token: &str) -> Result<Self, BoxError> {
        let agent = concat!("agent-sdk/", env!("CARGO_PKG_VERSION"));
        let client = Client::builder(once).base_url(url).bearer(token).user_agent(agent).build()?;
        Ok(Self { client })
    }

    /// The classes.
    pub fn agent_classes(&self) -> Collection<'_, AgentClass> {
        self.collection("agent-classes")
    }

    /// The definitions.
    pub fn definitions(&self) -> Collection<'_, Definition> {
        self.collection("definitions")
    }

    /// The deployments.
    pub fn deployments(&self) -> Collection<'_, Deployment> {
        self.collection("deployments")
    }

    /// The plans, each with its tasks.
    pub fn plans(&self) -> Collection<'_, Plan> {
        self.collection("plans")
    }

    /// The tasks of the plan `plan`.
    pub fn tasks<'a>(&'a self, plan: &str) -> Collection<'a, Task> {
        self.collection(&format!("plans/{plan}/tasks"))
    }

    fn collection<T>(&self, path: &str) -> Collection<'_, T> {
        Collection { resource: self.client.resource(path), of: std::marker::PhantomData }
    }
}

fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// A collection of the control plane.
pub struct Collection<'a, T> {
    resource: Resource<'a>,
    of: std::marker::PhantomData<fn() -> T>,
}

/// A create that was not sent yet.
#[must_use = "nothing is sent before `send`"]
pub struct Create<'a, T> {
    call: Call<'a>,
    of: std::marker::PhantomData<fn() -> T>,
}

impl<'a, T: Serialize + DeserializeOwned> Collection<'a, T> {
    /// Makes one.
    pub fn create(&self, what: &T) -> Create<'a, T> {
        Create { call: self.resource.create(what), of: std::marker::PhantomData }
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`Error`], by what is known.
    pub async fn get(&self, id: &str) -> Result<Stored<T>, Error> {
        self.resource.get(id).send_json().await
    }

    /// Reads all.
    ///
    /// # Errors
    /// [`Error`], by what is known.
    pub async fn list(&self) -> Result<Vec<Stored<T>>, Error> {
        self.resource.list().send_json().await
    }
}

impl<T: DeserializeOwned> Create<'_, T> {
    /// The name under which it is created once. Without one every create makes another.
    pub fn idempotency_key(mut self, key: impl Into<Idempotency>) -> Self {
        self.call = self.call.idempotency_key(key);
        self
    }

    /// Creates it, or gets what was created under its key.
    ///
    /// # Errors
    /// [`Error`], by what is known, with the key to try again under.
    pub async fn send(self) -> Result<Stored<T>, Error> {
        self.call.send_json().await
    }
}
