//! The agent: every part wired to real sockets, disks and peers.

pub mod agent;
pub mod api;
pub mod bootstrap;
pub mod config;
pub mod control;
pub mod deploy;
pub mod fence;
pub mod identity;
pub mod invalidate;
pub mod members;
pub mod mesh;
pub mod routing;
pub mod sessions;
pub mod tasks;
