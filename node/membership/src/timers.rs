//! foca's timers, in the order in which they are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use foca::Timer;

use crate::identity::Id;

/// All timers that wait.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, TimerOrd)>>,
}

/// foca orders timers that are due together.
#[derive(PartialEq, Eq)]
struct TimerOrd(Timer<Id>);

impl PartialOrd for TimerOrd {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TimerOrd {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl Timers {
    pub fn push(&mut self, at: Instant, timer: Timer<Id>) {
        self.heap.push(Reverse((at, TimerOrd(timer))));
    }

    /// The oldest timer that is due, and by how much it is late.
    pub fn pop_due(&mut self, now: Instant) -> Option<(Timer<Id>, Duration)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        let late = now - *at;
        self.heap.pop().map(|Reverse((_, timer))| (timer.0, late))
    }

    pub fn next_at(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}
