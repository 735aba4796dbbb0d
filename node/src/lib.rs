//! The agent: every part wired to real sockets, disks and peers.

pub mod config;
pub mod tasks;
