//! When a backend is left out because it does not answer: passive ejection with a trial.
//!
//! ```text
//!            5 failures in a row            the pause is over
//!   sound ───────────────────────▶ out ───────────────────────▶ trial: one request at a time
//!     ▲                             ▲                             │
//!     │                             └── it failed: twice the pause┤
//!     └───────────────────── any answer ──────────────────────────┘
//! ```
//!
//! Without the trial every client of a busy proxy would run into a backend that still hangs the moment
//! the pause ends.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Failures in a row after which a backend is left out.
const EJECT_AFTER: u32 = 5;
/// For how long, the first time; it doubles each time, up to 32 s.
const PAUSE_MS: u64 = 1_000;
const DOUBLINGS_MAX: u32 = 5;
/// A trial that has not said anything by then is followed by another. By then a request that may move
/// has moved.
const TRIAL_MS: u64 = 3_000;
/// How much longer it is left out for requests that can not move: the trial may cost one of them its
/// answer, so it is left to others as long as there are any.
const UNMOVABLE_MS: u64 = 10_000;

/// Times are in ms on a clock that begins at 1.
#[derive(Default)]
pub struct Ejection {
    failed_in_a_row: AtomicU32,
    /// Ejections since the last answer. 0 is a sound backend.
    times: AtomicU32,
    /// 0 is never.
    out_until_ms: AtomicU64,
}

impl Ejection {
    /// Whether it has been ejected since its last answer.
    pub fn is_suspected(&self) -> bool {
        self.times.load(Ordering::Relaxed) > 0
    }

    pub fn is_out(&self, now_ms: u64, may_move: bool) -> bool {
        let until = self.out_until_ms.load(Ordering::Relaxed);
        self.is_suspected() && until + if may_move { 0 } else { UNMOVABLE_MS } > now_ms
    }

    /// A request goes there. Returns whether it is the trial.
    pub fn begin(&self, now_ms: u64) -> bool {
        if !self.is_suspected() {
            return false;
        }
        let until = self.out_until_ms.load(Ordering::Relaxed);
        let claim =
            |to| self.out_until_ms.compare_exchange(until, to, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        until <= now_ms && claim(now_ms + TRIAL_MS)
    }

    /// It answered.
    pub fn succeeded(&self) {
        // Most of the time there is nothing to be written, and other workers' caches are left alone.
        if self.failed_in_a_row.load(Ordering::Relaxed) > 0 {
            self.failed_in_a_row.store(0, Ordering::Relaxed);
        }
        if self.is_suspected() {
            self.times.store(0, Ordering::Relaxed);
        }
    }

    /// It did not answer, or not in HTTP.
    pub fn failed(&self, now_ms: u64, was_trial: bool) {
        // Those that were under way when it was ejected say nothing new.
        if self.is_out(now_ms, true) && !was_trial {
            return;
        }
        let in_a_row = self.failed_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        if was_trial || in_a_row >= EJECT_AFTER {
            self.failed_in_a_row.store(0, Ordering::Relaxed);
            let times = self.times.fetch_add(1, Ordering::Relaxed);
            let pause = PAUSE_MS << times.min(DOUBLINGS_MAX);
            self.out_until_ms.store(now_ms + pause, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ejected_at(now_ms: u64) -> Ejection {
        let ejection = Ejection::default();
        for _ in 0..EJECT_AFTER {
            assert!(!ejection.is_out(now_ms, true));
            ejection.failed(now_ms, false);
        }
        assert!(ejection.is_out(now_ms, true));
        ejection
    }

    #[test]
    fn an_answer_in_between_starts_the_count_again() {
        let ejection = Ejection::default();
        for _ in 0..3 * EJECT_AFTER {
            ejection.failed(1, false);
            ejection.succeeded();
        }
        assert!(!ejection.is_out(1, true));
    }

    #[test]
    fn many_failures_at_once_are_one_ejection() {
        let ejection = ejected_at(10);
        for _ in 0..100 {
            ejection.failed(10, false);
        }
        assert!(ejection.is_out(10 + PAUSE_MS - 1, true));
        assert!(!ejection.is_out(10 + PAUSE_MS, true));
    }

    #[test]
    fn after_the_pause_one_request_tries_and_the_others_stay_away() {
        let ejection = ejected_at(10);
        let now = 10 + PAUSE_MS;
        assert!(ejection.begin(now));
        assert!(ejection.is_out(now, true) && !ejection.begin(now));
        ejection.failed(now, true);
        assert!(ejection.is_out(now + 2 * PAUSE_MS - 1, true), "the pause has doubled");
        let now = now + 2 * PAUSE_MS;
        assert!(ejection.begin(now));
        ejection.succeeded();
        assert!(!ejection.is_out(now, true));
    }

    #[test]
    fn a_request_that_can_not_move_is_the_trial_only_when_no_other_has_come() {
        let ejection = ejected_at(10);
        let over = 10 + PAUSE_MS;
        assert!(!ejection.is_out(over, true) && ejection.is_out(over, false));
        assert!(!ejection.is_out(over + UNMOVABLE_MS, false));
        ejection.succeeded();
        assert!(!ejection.is_out(over, false));
    }

    #[test]
    fn a_trial_that_is_never_heard_of_again_is_followed_by_another() {
        let ejection = ejected_at(10);
        assert!(ejection.begin(10 + PAUSE_MS));
        assert!(ejection.begin(10 + PAUSE_MS + TRIAL_MS));
    }
}
