//! The balancer between real clients and real backends, on loopback.

#![allow(clippy::unwrap_used, reason = "a test that can not go on should say where")]

mod backend;
mod bodies;
mod drains;
mod faults;
mod heads;
mod kills;
mod leaving;
mod peers;
mod rollouts;
