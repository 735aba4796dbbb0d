//! Group time: Unix milliseconds that never go back and never jump.
//!
//! The wall clock of a server may be stepped. What expires by it must not: neither all at once nor
//! never. So the wall clock is followed by a slewed one that runs by the monotonic clock and is
//! bent towards the wall clock by at most half a percent, and a group's time is the larger of that
//! and its own last entry's time plus the monotonic time since.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::ambient::Ambient;

/// Half a percent: an hour's error is gone in eight days, and a session of 20 minutes lives six
/// seconds more or less.
const SLEW_DIVISOR: u64 = 200;

/// The slewed wall clock of this process.
pub struct SlewedClock {
    ambient: Arc<dyn Ambient>,
    state: Mutex<State>,
}

struct State {
    at: Instant,
    reading_us: u64,
}

impl SlewedClock {
    pub fn new(ambient: Arc<dyn Ambient>) -> Self {
        let state = State { at: Instant::now(), reading_us: ambient.wall_us() };
        Self { ambient, state: Mutex::new(state) }
    }

    pub fn now_ms(&self) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.advance(Instant::now(), self.ambient.wall_us()) / 1_000
    }
}

impl State {
    fn advance(&mut self, now: Instant, wall_us: u64) -> u64 {
        let elapsed_us = micros(now.saturating_duration_since(self.at));
        let free = self.reading_us + elapsed_us;
        let bend_max = elapsed_us / SLEW_DIVISOR;
        self.reading_us = if wall_us > free {
            free + (wall_us - free).min(bend_max)
        } else {
            free - (free - wall_us).min(bend_max)
        };
        self.at = now;
        self.reading_us
    }
}

/// The end of the year 9999. A reading above is none, and would overflow where a deadline is made of it.
pub const CLOCK_MS_MAX: u64 = 253_402_300_799_999;

/// One group's time: what its entries have said, carried on by the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct GroupClock {
    last_ms: u64,
    /// The time of the group at some moment, from which it is carried on. It is moved by an entry only when
    /// that is ahead: an entry is heard a commit after it was stamped, so that each that moved it back
    /// would make time go back here, and slow under load.
    base_ms: u64,
    base_at: Instant,
}

impl GroupClock {
    pub fn new() -> Self {
        Self { last_ms: 0, base_ms: 0, base_at: Instant::now() }
    }

    /// An entry was applied. Replayed entries are older than they look, which only makes time later.
    pub fn heard(&mut self, clock_ms: u64) {
        self.heard_at(clock_ms, Instant::now());
    }

    fn heard_at(&mut self, clock_ms: u64, now: Instant) {
        let clock_ms = clock_ms.min(CLOCK_MS_MAX);
        self.last_ms = self.last_ms.max(clock_ms);
        if clock_ms > self.carried_on(now) {
            (self.base_ms, self.base_at) = (clock_ms, now);
        }
    }

    pub fn last_ms(&self) -> u64 {
        self.last_ms
    }

    pub fn now_ms(&self, slewed_ms: u64) -> u64 {
        slewed_ms.max(self.carried_on(Instant::now())).min(CLOCK_MS_MAX)
    }

    fn carried_on(&self, now: Instant) -> u64 {
        self.base_ms.saturating_add(micros(now.saturating_duration_since(self.base_at)) / 1_000)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_the_wall_clock_bends_the_reading_by_half_a_percent_at_most() {
        let start = Instant::now();
        let hour_us = 3_600_000_000;
        for wall in [10 * hour_us, 0] {
            let mut state = State { at: start, reading_us: 5 * hour_us };
            let reading = state.advance(start + Duration::from_secs(10), wall);
            let free = 5 * hour_us + 10_000_000;
            assert!(reading.abs_diff(free) <= 50_000, "{reading}");
            assert!(reading > 5 * hour_us);
        }
    }

    #[test]
    fn a_groups_time_is_never_behind_its_entries() {
        let mut clock = GroupClock::new();
        clock.heard(1_000_000);
        clock.heard(5);
        assert!(clock.now_ms(10) >= 1_000_000);
        assert_eq!(clock.now_ms(9_000_000), 9_000_000);
    }

    #[test]
    fn a_groups_time_does_not_go_back_when_an_entry_is_heard_late() {
        let mut now = Instant::now();
        let mut clock = GroupClock::new();
        clock.heard_at(1_000_000, now);
        for entry in 1..=10 {
            now += Duration::from_millis(100);
            // Stamped 40 ms ago by a leader of the same time.
            clock.heard_at(1_000_000 + entry * 100 - 40, now);
            assert_eq!(clock.carried_on(now), 1_000_000 + entry * 100);
        }
        assert_eq!(clock.last_ms(), 1_000_960);
        clock.heard_at(2_000_000, now);
        assert_eq!(clock.carried_on(now), 2_000_000);
    }

    #[test]
    fn a_time_that_can_not_be_overflows_nothing() {
        let mut clock = GroupClock::new();
        clock.heard(u64::MAX);
        assert_eq!((clock.last_ms(), clock.now_ms(u64::MAX)), (CLOCK_MS_MAX, CLOCK_MS_MAX));
    }
}
