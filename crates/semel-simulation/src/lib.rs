//! Deterministic simulation: the real gateway, engine and client, a store that forgets nothing behind a way that does
//! everything else, and a fake upstream, on a simulated network and clock in one thread. A seed decides what strikes;
//! the same seed is the same run, to the line.
//!
//! Not a test of sockets, of real stores or of threads: those have tests of their own. Modules in reading order:
//! [`options`] (what a seed decides), [`fault`] (the kinds of fault), [`world`] (one run), its hosts [`client`],
//! [`process`] (a gateway) and [`upstream`], what is between them, [`network`], [`wire`] and [`gate`] (the way to the
//! store), and [`judge`] (what may not be). [`plant`] has faults of Semel's own, [`report`] says how a seed failed.

pub mod chance;
pub mod client;
pub mod clock;
pub mod fault;
pub mod gate;
pub mod judge;
pub mod network;
pub mod options;
pub mod plant;
pub mod process;
pub mod report;
pub mod sim;
pub mod upstream;
pub mod wire;
pub mod world;

pub use fault::{Fault, Tally};
pub use options::{Mode, Options};
pub use plant::Plant;
pub use report::{Failure, Run, run_seed, run_seeds};
