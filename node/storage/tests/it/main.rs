//! The storage against what really happens to disks: kills and power cuts.

#![allow(clippy::unwrap_used, reason = "a test that can not go on should say where")]

mod descriptors;
mod kill;
mod power;
mod replica;
mod suite;
mod writer;
