//! What a node takes from the world besides messages and disks: the time of day, and chance.
//!
//! Injected, so that a simulation is the same for the same seed. The monotonic clock is tokio's, which a
//! simulation's runtime moves by itself.

use std::time::{SystemTime, UNIX_EPOCH};

pub trait Ambient: Send + Sync + 'static {
    /// The wall clock, which may be stepped at any time: microseconds since 1970.
    fn wall_us(&self) -> u64;

    /// Evenly distributed.
    fn random(&self) -> u64;
}

/// The operating system's.
pub struct System;

impl Ambient for System {
    fn wall_us(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX / 4))
    }

    fn random(&self) -> u64 {
        rand::random()
    }
}
