//! An SDK for a control plane of agents: agent classes, definitions, deployments, plans, tasks.
//!
//! **A create is sent again only because the control plane is behind a gateway that honours keys**, which
//! [`Control::new`] declares for its host. Every create and append has a key of its own, which outlives its retries; a
//! caller who has a name for what is created gives that name as the key, and gets the first one's answer for every
//! later create under it.
//!
//! An SDK is one file: types, and a method for each thing an API can do. Keys, retries, errors and credentials are
//! [`semel_client`]'s. The control plane itself is in [`server`], for the example to run against.

mod control;
pub mod server;

pub use control::{AgentClass, Collection, Control, Create, Definition, Deployment, Plan, Stored, Task};
