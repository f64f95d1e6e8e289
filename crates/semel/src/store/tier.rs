//! The tier of a store: what an acknowledged write survives, fault by fault, and which settings of its server lower
//! that. Printed by `semel store check` and logged at start-up.
//!
//! Not a promise of its own: a store fills it in from what its server says of itself. Next: [`super::Durability`],
//! the one word for it.

use std::borrow::Cow;
use std::fmt;

use super::Durability;

/// What an acknowledged write survives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// The server with its version, as it names itself; `None` when there is none beside this process.
    pub server: Option<String>,
    /// The process that keeps the records is killed.
    pub process_kill: Survives,
    /// Its machine loses power.
    pub power_cut: Survives,
    /// Its machine is gone and another one takes over.
    pub node_loss: Survives,
    /// The network between its machines is cut.
    pub partition: Survives,
    /// What is set lower than it could be and what that costs, one sentence each.
    pub warnings: Vec<String>,
}

/// Whether an acknowledged write survives one fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Survives {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// In part; the text says what is lost: `up to 2 s lost`.
    Partly(Cow<'static, str>),
    /// The fault cannot happen to this store.
    NotApplicable,
}

impl Tier {
    /// The tier of a store that lives in this process, on this machine.
    #[must_use]
    pub fn of_process(durability: Durability) -> Self {
        let (process_kill, power_cut) = match durability {
            Durability::None => (Survives::No, Survives::No),
            Durability::Process => (Survives::Yes, Survives::Partly("the last moments lost".into())),
            Durability::Power => (Survives::Yes, Survives::Yes),
        };
        Self {
            server: None,
            process_kill,
            power_cut,
            node_loss: Survives::NotApplicable,
            partition: Survives::NotApplicable,
            warnings: Vec::new(),
        }
    }

    /// Each fault by the name it is printed under, in the order of how much of the system it takes down.
    #[must_use]
    pub fn faults(&self) -> [(&'static str, &Survives); 4] {
        [
            ("process kill", &self.process_kill),
            ("power cut", &self.power_cut),
            ("node loss and failover", &self.node_loss),
            ("partition", &self.partition),
        ]
    }
}

/// In one line, without the warnings.
impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (fault, survives)) in self.faults().into_iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{fault}: {survives}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Survives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Partly(what) => what,
            Self::NotApplicable => "-",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tier_is_one_line_with_each_fault_once() {
        let mut tier = Tier::of_process(Durability::Process);
        tier.partition = Survives::Partly("stops rather than forks".into());
        let line = "process kill: yes, power cut: the last moments lost, node loss and failover: -, \
                    partition: stops rather than forks";
        assert_eq!(tier.to_string(), line);
    }
}
