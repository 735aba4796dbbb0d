//! Groups of several nodes in one process, over a network that can be cut.

#![allow(clippy::unwrap_used, reason = "a test that can not go on should say where")]

mod chaos;
mod cluster;
mod failures;
mod growth;
mod suite;
mod time;
