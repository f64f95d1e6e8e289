//! A network of its own for a server, joined to this machine by one cable that can be pulled: packets are lost without
//! a word, as they are between machines, and nobody is told that a connection is gone.
//!
//! Network namespaces of Linux, by `ip`: needs root. [`Network::make`] says so when it is refused.

use std::process::Command;

/// The namespace and its cable, removed when dropped.
#[derive(Debug)]
pub struct Network {
    name: String,
    subnet: u32,
}

impl Network {
    /// Makes one.
    ///
    /// # Errors
    /// What the system said: most often that root is needed.
    pub fn make() -> Result<Self, String> {
        let pid = std::process::id();
        let network = Self { name: format!("semel{}", pid % 100_000), subnet: pid % 250 };
        let (name, host, inside) = (&network.name, network.host_end(), network.inside_end());
        ip(&["netns", "add", name])?;
        // From here on dropping it takes away what was made.
        ip(&["link", "add", &host, "type", "veth", "peer", "name", &inside, "netns", name])?;
        ip(&["addr", "add", &format!("10.77.{}.1/24", network.subnet), "dev", &host])?;
        ip(&["link", "set", &host, "up"])?;
        ip(&["-n", name, "addr", "add", &format!("{}/24", network.address()), "dev", &inside])?;
        network.join()?;
        Ok(network)
    }

    fn host_end(&self) -> String {
        format!("{}h", self.name)
    }

    fn inside_end(&self) -> String {
        format!("{}i", self.name)
    }

    /// Where who is inside is reached.
    #[must_use]
    pub fn address(&self) -> String {
        format!("10.77.{}.2", self.subnet)
    }

    /// A command that runs inside.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Pulls the cable.
    ///
    /// # Errors
    /// What the system said.
    pub fn cut(&self) -> Result<(), String> {
        ip(&["-n", &self.name, "link", "set", &self.inside_end(), "down"])
    }

    /// Puts it in again.
    ///
    /// # Errors
    /// What the system said.
    pub fn join(&self) -> Result<(), String> {
        ip(&["-n", &self.name, "link", "set", &self.inside_end(), "up"])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The cable goes with the namespace, unless it was never put in.
        let _ = ip(&["netns", "del", &self.name]);
        let _ = ip(&["link", "del", &self.host_end()]);
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let what = format!("ip {}", arguments.join(" "));
    let ran = Command::new("ip").args(arguments).output().map_err(|error| format!("{what}: {error}"))?;
    let said = String::from_utf8_lossy(&ran.stderr);
    if ran.status.success() { Ok(()) } else { Err(format!("{what}: {}; root is needed", said.trim())) }
}
