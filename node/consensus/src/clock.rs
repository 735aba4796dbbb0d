//! Group time: Unix milliseconds that never go back and never jump.
//!
//! The wall clock of a server may be stepped. What expires by it must not: neither all at once nor
//! never. So the wall clock is followed by a slewed one that runs by the monotonic clock and is
//! bent towards the wall clock by at most half a percent. A group's time is its last entry's, carried on by
//! the monotonic clock, and bent by its leader towards that slewed clock, again by at most half a percent:
//! who leads next has another clock on its wall, and no more right to it. Only a group without any entry
//! begins at what is on the wall. How a replica that was dead learns the time is in [`crate::timekeeping`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::ambient::Ambient;
use crate::wire::TimeAnswer;

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

/// One group's time on this node.
pub struct GroupClock {
    reading: Mutex<Reading>,
    has_begun: watch::Sender<bool>,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    last_ms: u64,
    /// The time of the group at some moment, from which it is carried on. It is moved by an entry only when
    /// that is ahead: an entry is heard a commit after it was stamped, so that each that moved it back
    /// would make time go back here, and slow under load.
    base_us: u64,
    base_at: Instant,
    /// Up to when it was bent, by this leader or by another one.
    bent_at: Instant,
    /// What it has stamped, as a leader, before there was any entry.
    first_ms: Option<u64>,
    /// Whether it was dead since it heard an entry. Who was not goes by the entries, as a new replica does: it
    /// may be late, and no wall knows better.
    was_dead: bool,
    /// Whether this replica knows how long it was dead.
    is_known: bool,
}

impl Default for GroupClock {
    fn default() -> Self {
        Self { reading: Mutex::new(Reading::new(Instant::now())), has_begun: watch::Sender::new(false) }
    }
}

impl GroupClock {
    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry was applied. Replayed entries are older than they look, which only makes time later.
    pub fn heard(&self, clock_ms: u64) {
        self.reading().heard(clock_ms, Instant::now());
        self.has_begun.send_if_modified(|has_begun| !std::mem::replace(has_begun, true));
    }

    /// What there is of the group is from an earlier life.
    pub fn recovered(&self) {
        self.reading().was_dead = true;
    }

    /// Waits for the first entry, or snapshot.
    pub async fn begun(&self) {
        let mut has_begun = self.has_begun.subscribe();
        // The sender is this clock's, and lives as long.
        let _begun = has_begun.wait_for(|has_begun| *has_begun).await;
    }

    /// The last entry's time.
    pub fn last_ms(&self) -> u64 {
        self.reading().last_ms
    }

    pub fn now_ms(&self, slewed_ms: u64) -> u64 {
        self.reading().now_ms(slewed_ms, Instant::now())
    }

    /// The time of a leader's next entry.
    pub fn stamp_ms(&self, slewed_ms: u64) -> u64 {
        self.reading().stamp_ms(slewed_ms, Instant::now())
    }

    /// What it tells a replica that does not know.
    pub fn told(&self, slewed_ms: u64) -> TimeAnswer {
        let reading = *self.reading();
        let now_ms = reading.now_ms(slewed_ms, Instant::now());
        let by_the_wall = reading.was_dead && !reading.is_known;
        let clock_ms = if by_the_wall { now_ms.max(slewed_ms).min(CLOCK_MS_MAX) } else { now_ms };
        TimeAnswer { is_known: reading.is_known, clock_ms }
    }

    /// Others have told it.
    pub fn learn(&self, clock_ms: u64) {
        self.reading().learn(clock_ms, Instant::now());
    }
}

impl Reading {
    fn new(now: Instant) -> Self {
        Self {
            last_ms: 0,
            base_us: 0,
            base_at: now,
            bent_at: now,
            first_ms: None,
            was_dead: false,
            is_known: false,
        }
    }

    fn heard(&mut self, clock_ms: u64, now: Instant) {
        let clock_ms = clock_ms.min(CLOCK_MS_MAX);
        self.last_ms = self.last_ms.max(clock_ms);
        self.carry(clock_ms, now);
        self.bent_at = now;
        // A group begins by the wall of whoever leads it first, and he has not been dead since.
        self.is_known |= self.first_ms == Some(clock_ms);
    }

    fn learn(&mut self, clock_ms: u64, now: Instant) {
        self.carry(clock_ms.min(CLOCK_MS_MAX), now);
        self.is_known = true;
    }

    fn now_ms(&self, slewed_ms: u64, now: Instant) -> u64 {
        let carried_ms = self.carried_us(now) / 1_000;
        let now_ms = if self.has_begun() { carried_ms } else { carried_ms.max(slewed_ms) };
        now_ms.min(CLOCK_MS_MAX)
    }

    fn stamp_ms(&mut self, slewed_ms: u64, now: Instant) -> u64 {
        if self.has_begun() {
            let free_us = self.carried_us(now);
            let bend_max_us = micros(now.saturating_duration_since(self.bent_at)) / SLEW_DIVISOR;
            let bend_us = slewed_ms.saturating_mul(1_000).saturating_sub(free_us).min(bend_max_us);
            (self.base_us, self.base_at, self.bent_at) = (free_us.saturating_add(bend_us), now, now);
        }
        let stamp_ms = self.now_ms(slewed_ms, now);
        if !self.has_begun() {
            self.first_ms = Some(stamp_ms);
        }
        stamp_ms
    }

    /// Whether there is a time to go on from.
    fn has_begun(&self) -> bool {
        self.is_known || self.last_ms > 0
    }

    fn carry(&mut self, clock_ms: u64, now: Instant) {
        let clock_us = clock_ms * 1_000;
        if clock_us > self.carried_us(now) {
            (self.base_us, self.base_at) = (clock_us, now);
        }
    }

    fn carried_us(&self, now: Instant) -> u64 {
        self.base_us.saturating_add(micros(now.saturating_duration_since(self.base_at)))
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
    fn a_groups_time_begins_on_the_wall_and_is_never_behind_its_entries() {
        let clock = GroupClock::default();
        assert_eq!(clock.stamp_ms(900_000), 900_000);
        assert!(!clock.told(0).is_known);
        clock.heard(900_000);
        assert!(clock.told(0).is_known);
        clock.heard(1_000_000);
        clock.heard(5);
        assert!((1_000_000..1_001_000).contains(&clock.now_ms(10)));
        assert!((1_000_000..1_001_000).contains(&clock.now_ms(9_000_000)));
    }

    #[test]
    fn a_groups_time_does_not_go_back_when_an_entry_is_heard_late() {
        let mut now = Instant::now();
        let mut clock = Reading::new(now);
        clock.heard(1_000_000, now);
        for entry in 1..=10 {
            now += Duration::from_millis(100);
            // Stamped 40 ms ago by a leader of the same time.
            clock.heard(1_000_000 + entry * 100 - 40, now);
            assert_eq!(clock.now_ms(0, now), 1_000_000 + entry * 100);
        }
        assert_eq!(clock.last_ms, 1_000_960);
        clock.heard(2_000_000, now);
        assert_eq!(clock.now_ms(0, now), 2_000_000);
    }

    #[test]
    fn a_new_leader_whose_clock_is_an_hour_ahead_bends_time_by_half_a_percent_at_most() {
        let hour_ms = 3_600_000;
        let begun = Instant::now();
        let mut clock = Reading::new(begun);
        clock.heard(hour_ms, begun);
        // Ten minutes of another's entries, then ten of its own.
        let since_ms = |minutes: u64| minutes * 60_000;
        let at = |minutes| begun + Duration::from_millis(since_ms(minutes));
        clock.heard(hour_ms + since_ms(10), at(10));
        assert_eq!(clock.stamp_ms(2 * hour_ms + since_ms(10), at(10)), hour_ms + since_ms(10));
        for minutes in 11..=20 {
            let stamped = clock.stamp_ms(2 * hour_ms + since_ms(minutes), at(minutes));
            clock.heard(stamped, at(minutes));
        }
        assert_eq!(clock.last_ms, hour_ms + since_ms(20) + since_ms(10) / SLEW_DIVISOR);
        // Towards what is behind it is not bent: it would stand still for those who have read it.
        assert_eq!(clock.stamp_ms(5, at(21)), clock.last_ms + since_ms(1));
    }

    #[test]
    fn who_has_begun_again_goes_on_from_the_last_entry_until_it_is_told_the_time() {
        let clock = GroupClock::default();
        clock.heard(1_000_000);
        // As a new replica, which was not dead.
        assert!(clock.told(9_000_000).clock_ms < 1_001_000);
        clock.recovered();
        let told = clock.told(9_000_000);
        assert_eq!((told.is_known, told.clock_ms), (false, 9_000_000));
        assert!(clock.stamp_ms(9_000_000) < 1_001_000);
        clock.learn(5_000_000);
        assert!(clock.told(9_000_000).is_known);
        assert!((5_000_000..5_001_000).contains(&clock.stamp_ms(9_000_000)));
    }

    #[test]
    fn a_time_that_can_not_be_overflows_nothing() {
        let clock = GroupClock::default();
        clock.heard(u64::MAX);
        clock.learn(u64::MAX);
        assert_eq!((clock.last_ms(), clock.now_ms(u64::MAX)), (CLOCK_MS_MAX, CLOCK_MS_MAX));
        assert_eq!(clock.stamp_ms(u64::MAX), CLOCK_MS_MAX);
    }
}
