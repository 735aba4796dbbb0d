//! Group time: Unix milliseconds that never go back and never jump.
//!
//! The wall clock of a server may be stepped. What expires by it must not: neither all at once nor
//! never. So the wall clock is followed by a slewed one that runs by the monotonic clock and is
//! bent towards the wall clock by at most half a percent. A group's time is its last entry's, carried on by
//! the monotonic clock, and bent by its leader towards that slewed clock, again by at most half a percent:
//! who leads next has another clock on its wall, and no more right to it. Where that is behind, time runs
//! slower and neither stops nor goes back; followers that are ahead of the entries they hear do the same.
//! Only a group without any entry begins at what is on the wall. How a replica that was dead learns the time
//! is in [`crate::timekeeping`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::ambient::Ambient;
use crate::wire::TimeAnswer;

/// Half a percent: an hour's error is gone in some eight days of entries, ahead or behind, and a session of
/// 20 minutes lives six seconds more or less.
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
    phase: watch::Sender<Phase>,
}

/// How much there is of a group's time here. It only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The group has no entry that has a time, so that there is nothing that could expire.
    Unbegun,
    /// It goes by the entries, and may be late.
    ByEntries,
    Known,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    last_ms: u64,
    /// The time of the group at some moment, from which it is carried on. It is moved by an entry only when
    /// that is ahead: an entry is heard a commit after it was stamped, so that each that moved it back
    /// would make time go back here.
    base_us: u64,
    base_at: Instant,
    /// How far that was ahead of where it should have been. It runs slower until this is made good.
    ahead_us: u64,
    /// Up to when it was bent forward, by this leader or by another one.
    bent_at: Instant,
    /// What it has stamped, as a leader, before there was any entry.
    first_ms: Option<u64>,
    /// What it has stamped last. That is heard again a commit later, and says nothing new then.
    stamped_ms: Option<u64>,
    /// Whether it was dead since it heard an entry. Who was not goes by the entries, as a new replica does: it
    /// may be late, and no wall knows better.
    was_dead: bool,
    /// Whether this replica knows how long it was dead.
    is_known: bool,
}

impl Default for GroupClock {
    fn default() -> Self {
        Self { reading: Mutex::new(Reading::new(Instant::now())), phase: watch::Sender::new(Phase::Unbegun) }
    }
}

impl GroupClock {
    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry was applied. Replayed entries are older than they look, which only makes time later.
    pub fn heard(&self, clock_ms: u64) {
        self.change(|reading| reading.heard(clock_ms, Instant::now()));
    }

    /// Others have told it.
    pub fn learn(&self, clock_ms: u64) {
        self.change(|reading| reading.learn(clock_ms, Instant::now()));
    }

    fn change(&self, change: impl FnOnce(&mut Reading)) {
        let mut reading = self.reading();
        change(&mut reading);
        let phase = reading.phase();
        // Still under the lock, so that it never goes back.
        self.phase.send_if_modified(|told| std::mem::replace(told, phase) != phase);
    }

    /// What there is of the group is from an earlier life.
    pub fn recovered(&self) {
        self.reading().was_dead = true;
    }

    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Waits for the first entry, or snapshot.
    pub async fn begun(&self) {
        let mut phase = self.phase();
        // The sender is this clock's, and lives as long.
        let _begun = phase.wait_for(|phase| *phase > Phase::Unbegun).await;
    }

    /// The last entry's time.
    pub fn last_ms(&self) -> u64 {
        self.reading().last_ms
    }

    pub fn now_ms(&self, slewed_ms: u64) -> u64 {
        self.reading().now_ms(slewed_ms, Instant::now())
    }

    /// The time of the next entry of a leader that has applied what there was before it led, and knows the
    /// time if there was anything.
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
}

impl Reading {
    fn new(now: Instant) -> Self {
        Self {
            last_ms: 0,
            base_us: 0,
            base_at: now,
            ahead_us: 0,
            bent_at: now,
            first_ms: None,
            stamped_ms: None,
            was_dead: false,
            is_known: false,
        }
    }

    fn heard(&mut self, clock_ms: u64, now: Instant) {
        let clock_ms = clock_ms.min(CLOCK_MS_MAX);
        self.last_ms = self.last_ms.max(clock_ms);
        self.carry(clock_ms, now);
        // By its own it was bent when it stamped them, and a commit ago they were not late.
        if self.stamped_ms != Some(clock_ms) {
            self.run_towards(clock_ms * 1_000, now);
            self.bent_at = now;
        }
        // A group begins by the wall of whoever leads it first, and he has not been dead since.
        self.is_known |= self.first_ms == Some(clock_ms);
    }

    fn learn(&mut self, clock_ms: u64, now: Instant) {
        self.carry(clock_ms.min(CLOCK_MS_MAX), now);
        self.bent_at = now;
        self.is_known = true;
    }

    fn now_ms(&self, slewed_ms: u64, now: Instant) -> u64 {
        let carried_ms = self.carried_us(now) / 1_000;
        let now_ms = if self.has_begun() { carried_ms } else { carried_ms.max(slewed_ms) };
        now_ms.min(CLOCK_MS_MAX)
    }

    fn stamp_ms(&mut self, slewed_ms: u64, now: Instant) -> u64 {
        if self.has_begun() {
            let slewed_us = slewed_ms.saturating_mul(1_000);
            self.run_towards(slewed_us, now);
            let bend_max_us = micros(now.saturating_duration_since(self.bent_at)) / SLEW_DIVISOR;
            let bend_us = slewed_us.saturating_sub(self.base_us).min(bend_max_us);
            self.base_us = self.base_us.saturating_add(bend_us);
            self.bent_at = now;
        }
        let stamp_ms = self.now_ms(slewed_ms, now);
        if !self.has_begun() {
            self.first_ms = Some(stamp_ms);
        }
        self.stamped_ms = Some(stamp_ms);
        stamp_ms
    }

    /// Whether there is a time to go on from.
    fn has_begun(&self) -> bool {
        self.is_known || self.last_ms > 0
    }

    fn phase(&self) -> Phase {
        match (self.is_known, self.has_begun()) {
            (true, _) => Phase::Known,
            (false, true) => Phase::ByEntries,
            (false, false) => Phase::Unbegun,
        }
    }

    fn carry(&mut self, clock_ms: u64, now: Instant) {
        let clock_us = clock_ms * 1_000;
        if clock_us > self.carried_us(now) {
            (self.base_us, self.base_at, self.ahead_us) = (clock_us, now, 0);
        }
    }

    /// Goes on from now, and slower for as long as it is ahead.
    fn run_towards(&mut self, goal_us: u64, now: Instant) {
        (self.base_us, self.base_at) = (self.carried_us(now), now);
        self.ahead_us = self.base_us.saturating_sub(goal_us);
    }

    fn carried_us(&self, now: Instant) -> u64 {
        let elapsed_us = micros(now.saturating_duration_since(self.base_at));
        let slower_us = self.ahead_us.min(elapsed_us / SLEW_DIVISOR);
        self.base_us.saturating_add(elapsed_us - slower_us)
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
            // It runs slower until it is as late as they are heard, and no more than that.
            let (late_ms, slower_ms) = (40, entry.div_ceil(2));
            let due_ms = 1_000_000 + entry * 100;
            assert!((due_ms - slower_ms.min(late_ms)..=due_ms).contains(&clock.now_ms(0, now)));
        }
        assert_eq!(clock.last_ms, 1_000_960);
        clock.heard(2_000_000, now);
        assert_eq!(clock.now_ms(0, now), 2_000_000);
    }

    const MINUTE_MS: u64 = 60_000;
    const HOUR_MS: u64 = 60 * MINUTE_MS;
    const COMMIT_MS: u64 = 40;

    /// What a leader has stamped in the end that writes an entry every 100 ms, each applied a commit later.
    fn led_for(clock: &mut Reading, begun: Instant, minutes: u64, wall_ms: impl Fn(u64) -> u64) -> u64 {
        let mut last_ms = 0;
        for since_ms in (0..=minutes * MINUTE_MS).step_by(100) {
            let at = begun + Duration::from_millis(since_ms);
            let stamped_ms = clock.stamp_ms(wall_ms(since_ms), at);
            assert!(stamped_ms > last_ms, "it stands still at {since_ms} ms");
            clock.heard(stamped_ms, at + Duration::from_millis(COMMIT_MS));
            assert!(clock.now_ms(0, at + Duration::from_millis(COMMIT_MS)) >= stamped_ms);
            last_ms = stamped_ms;
        }
        last_ms
    }

    #[test]
    fn a_busy_leader_whose_clock_is_an_hour_ahead_bends_time_by_half_a_percent() {
        let begun = Instant::now();
        let mut clock = Reading::new(begun);
        clock.heard(HOUR_MS, begun);
        // Ten minutes of another's entries, then ten of its own.
        let at = begun + Duration::from_millis(10 * MINUTE_MS);
        clock.heard(HOUR_MS + 10 * MINUTE_MS, at);
        let last_ms = led_for(&mut clock, at, 10, |since_ms| 2 * HOUR_MS + 10 * MINUTE_MS + since_ms);
        assert_eq!(last_ms, HOUR_MS + 20 * MINUTE_MS + 10 * MINUTE_MS / SLEW_DIVISOR);
    }

    #[test]
    fn a_busy_leader_whose_clock_is_an_hour_behind_slows_time_by_half_a_percent() {
        let begun = Instant::now();
        let mut clock = Reading::new(begun);
        clock.heard(2 * HOUR_MS, begun);
        let last_ms = led_for(&mut clock, begun, 10, |since_ms| HOUR_MS + since_ms);
        let due_ms = 2 * HOUR_MS + 10 * MINUTE_MS - 10 * MINUTE_MS / SLEW_DIVISOR;
        assert!(last_ms.abs_diff(due_ms) <= 10, "{last_ms} and not {due_ms}");
    }

    #[test]
    fn a_busy_leader_whose_clock_is_right_neither_hurries_nor_slows() {
        let begun = Instant::now();
        let mut clock = Reading::new(begun);
        clock.heard(HOUR_MS, begun);
        let last_ms = led_for(&mut clock, begun, 10, |since_ms| HOUR_MS + since_ms);
        assert!(last_ms.abs_diff(HOUR_MS + 10 * MINUTE_MS) <= 1);
    }

    #[test]
    fn what_is_ahead_is_made_good_and_no_more() {
        let begun = Instant::now();
        let mut clock = Reading::new(begun);
        clock.heard(1_000_000, begun);
        clock.stamp_ms(999_000, begun);
        let at_ms = |since_ms| clock.now_ms(0, begun + Duration::from_millis(since_ms));
        assert_eq!(at_ms(100_000), 1_099_500);
        assert_eq!(at_ms(200_000), 1_199_000);
        assert_eq!(at_ms(400_000), 1_399_000);
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
        assert!(clock.now_ms(9_000_000) < 1_001_000);
        assert_eq!(*clock.phase().borrow(), Phase::ByEntries);
        clock.learn(5_000_000);
        assert_eq!(*clock.phase().borrow(), Phase::Known);
        assert!(clock.told(9_000_000).is_known);
        assert!((5_000_000..5_001_000).contains(&clock.stamp_ms(9_000_000)));
    }

    #[test]
    fn a_snapshot_without_any_entry_begins_no_time() {
        let clock = GroupClock::default();
        clock.heard(0);
        assert_eq!(*clock.phase().borrow(), Phase::Unbegun);
        assert_eq!(clock.stamp_ms(900_000), 900_000);
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
