//! Ports for programs that are told where to listen, and that come back there after they were killed.
//!
//! They lie below the ports that the system hands out: a port of those is taken while its program is down, by any
//! connection's own end, even by a client that asks for that very port and so connects to itself. A lock on a file keeps
//! other tests off. What can listen on port 0 and say where it listens needs none of this.

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

/// The system's own begin at 32,768.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port on loopback that no other test has, until it is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _lock: File,
}

impl Port {
    /// A port where nobody listens.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn take() -> Self {
        let folder = std::env::temp_dir().join("semel-ports");
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let start = u16::try_from(RandomState::new().hash_one(0) % u64::from(COUNT)).expect("it is less");
        let numbers = (0..COUNT).map(|step| FIRST + (start + step) % COUNT);
        let taken = numbers.map(|number| Self::at(number, folder.join(number.to_string())));
        taken.flatten().next().unwrap_or_else(|| panic!("no port is free; see {}", folder.display()))
    }

    fn at(number: u16, path: PathBuf) -> Option<Self> {
        let lock = File::options().create(true).append(true).open(path).ok()?;
        lock.try_lock().ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _lock: lock })
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_nobody_elses_until_it_is_dropped() {
        let taken = Port::take();
        let path = std::env::temp_dir().join("semel-ports").join(taken.number().to_string());
        assert!(Port::at(taken.number(), path.clone()).is_none());
        let number = taken.number();
        drop(taken);
        assert!(Port::at(number, path).is_some());
    }
}
