//! Power cuts. Without the `sync_data` in `database/sync.rs`, or without its call, both of these lose
//! writes that were acknowledged.

mod ext4;
mod model;

/// Writes that are acknowledged before each cut.
const WRITES: u64 = 100;
const ROUNDS: u64 = 5;
