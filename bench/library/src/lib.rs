//! What Semel costs inside a program, one call at a time: keys, fingerprints, the engine, the layer around an axum handler.
//!
//! `benches/library.rs` times these calls with criterion, `src/main.rs` makes them under callgrind for
//! `cargo xtask counts`. No network and no disk: the store is the memory store. Next: [`case::ALL`].

pub mod case;
mod layer;
mod once;
