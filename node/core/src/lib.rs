//! The agent's heart without I/O.
//!
//! What is decided here is decided by values alone: time and randomness come in as arguments,
//! what is to be done goes out as data, and the shell around it chooses nothing. That is what
//! lets the same code run under real sockets and under a simulation with virtual time.
//!
//! Architecture Invariant: no tokio, no sockets, no files, no clock (the manifest and
//! `node/core/.clippy.toml` see to it).

pub mod control;
pub mod election;
pub mod invalidation;
pub mod membership;
pub mod sessions;
