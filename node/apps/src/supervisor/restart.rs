//! When an instance that ended is started again, and when that has become a crash loop.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::spec::Restart;

/// So many ends within [`CRASH_WINDOW`] are a crash loop.
const CRASHES_MAX: usize = 5;
const CRASH_WINDOW: Duration = Duration::from_secs(120);

/// An instance that has been ready for so long ended for a new reason: the pauses begin anew.
const STEADY: Duration = Duration::from_secs(60);

/// The ends of one instance and its successors.
#[derive(Debug)]
pub(super) struct Restarts {
    policy: Restart,
    /// Ends in a row without a steady time between them.
    in_a_row: u32,
    crashes: VecDeque<Instant>,
}

/// What to do after an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) pause: Duration,
    pub(super) crash_loop: bool,
}

impl Restarts {
    pub(super) fn new(policy: Restart) -> Self {
        Self { policy, in_a_row: 0, crashes: VecDeque::with_capacity(CRASHES_MAX) }
    }

    /// An instance has ended by itself. `ready_for`: how long it had been ready, if ever. `jitter` is a
    /// random number below 1: many instances that lost the same database must not come back as one.
    pub(super) fn ended(&mut self, now: Instant, ready_for: Option<Duration>, jitter: f64) -> Verdict {
        if ready_for.is_some_and(|time| time >= STEADY) {
            self.in_a_row = 0;
        }
        let doubled =
            self.policy.backoff_min.saturating_mul(1u32.checked_shl(self.in_a_row).unwrap_or(u32::MAX));
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.crashes.push_back(now);
        while self.crashes.len() > CRASHES_MAX {
            self.crashes.pop_front();
        }
        let oldest = self.crashes.front().copied().unwrap_or(now);
        let crash_loop =
            self.crashes.len() == CRASHES_MAX && now.saturating_duration_since(oldest) <= CRASH_WINDOW;
        let pause = if crash_loop { self.policy.backoff_max } else { doubled.min(self.policy.backoff_max) };
        Verdict { pause: spread(pause, jitter), crash_loop }
    }

    /// An instance did not become ready in time. It is tried again, but at leisure.
    pub(super) fn timed_out(&self, jitter: f64) -> Duration {
        spread(self.policy.backoff_max, jitter)
    }
}

/// Between half of it and all of it.
fn spread(pause: Duration, jitter: f64) -> Duration {
    pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn restarts(min: u64, max: u64) -> Restarts {
        let seconds = Duration::from_secs;
        Restarts::new(Restart { backoff_min: seconds(min), backoff_max: seconds(max) })
    }

    #[test]
    fn the_pause_doubles_up_to_its_bound() {
        let mut restarts = restarts(1, 60);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..40 {
            // So far apart that they are no crash loop.
            now += CRASH_WINDOW;
            pauses.push(restarts.ended(now, None, 1.0).pause.as_secs());
        }
        assert_eq!(pauses[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pauses[39], 60);
    }

    #[test]
    fn five_ends_in_two_minutes_are_a_crash_loop_and_four_are_not() {
        let mut restarts = restarts(1, 60);
        let start = Instant::now();
        let ended: Vec<bool> = [0, 10, 20, 30, 120, 300]
            .map(|at| restarts.ended(start + Duration::from_secs(at), None, 1.0).crash_loop)
            .to_vec();
        assert_eq!(ended, [false, false, false, false, true, false]);
    }

    #[test]
    fn a_steady_time_starts_the_pauses_anew() {
        let mut restarts = restarts(1, 60);
        let mut now = Instant::now();
        for _ in 0..4 {
            now += CRASH_WINDOW;
            restarts.ended(now, None, 1.0);
        }
        now += CRASH_WINDOW;
        assert_eq!(restarts.ended(now, Some(STEADY), 1.0).pause, Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn a_pause_is_never_longer_than_its_bound_nor_shorter_than_half_the_least(
            ends in proptest::collection::vec((0u64..300, any::<bool>(), 0.0f64..1.0), 1..50),
        ) {
            let mut restarts = restarts(2, 30);
            let mut now = Instant::now();
            for (after, steady, jitter) in ends {
                now += Duration::from_secs(after);
                let pause = restarts.ended(now, steady.then_some(STEADY), jitter).pause;
                prop_assert!(pause >= Duration::from_secs(1) && pause <= Duration::from_secs(30));
            }
        }
    }
}
