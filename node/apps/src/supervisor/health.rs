//! From probes to readiness: counting, without a socket or a clock of its own.

use std::time::{Duration, Instant};

use crate::spec::Health;

/// A starting instance is asked more often than a running one: every rollout waits for it.
const STARTING_INTERVAL_MAX: Duration = Duration::from_millis(200);

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The startup probe has not passed yet.
    Startup,
    /// It has, and the readiness probe not often enough.
    Rising,
    Ready,
    Unready,
}

/// What a probe has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Ready,
    /// With the probe's words.
    Unready(String),
    /// The probe fails for another reason than before.
    Words(String),
    /// It did not become ready in time; with the probe's words.
    TimedOut(String),
}

/// One instance's probes.
#[derive(Debug)]
pub(super) struct Readiness {
    health: Health,
    phase: Phase,
    deadline: Instant,
    /// Passes in a row while it is not ready, failures in a row while it is.
    in_a_row: u32,
    words: String,
}

impl Readiness {
    /// Of an instance that has to be ready by `deadline`.
    pub(super) fn new(health: Health, deadline: Instant) -> Self {
        let phase = if health.startup.path.is_some() { Phase::Startup } else { Phase::Rising };
        Self { health, phase, deadline, in_a_row: 0, words: String::new() }
    }

    /// What to ask for next; `None`: whether it accepts a connection.
    pub(super) fn path(&self) -> Option<&str> {
        match self.phase {
            Phase::Startup => self.health.startup.path.as_deref(),
            Phase::Rising | Phase::Ready | Phase::Unready => self.health.ready.path.as_deref(),
        }
    }

    /// How long to wait before that.
    pub(super) fn pause(&self) -> Duration {
        let interval = self.health.ready.interval;
        match self.phase {
            Phase::Startup | Phase::Rising => interval.min(STARTING_INTERVAL_MAX),
            Phase::Ready | Phase::Unready => interval,
        }
    }

    /// How long to wait for the answer. While it starts, not beyond the deadline.
    pub(super) fn timeout(&self, now: Instant) -> Duration {
        let timeout = self.health.ready.timeout;
        match self.phase {
            Phase::Startup | Phase::Rising => timeout.min(self.deadline.saturating_duration_since(now)),
            Phase::Ready | Phase::Unready => timeout,
        }
    }

    /// A probe has passed, or failed for a reason.
    pub(super) fn observe(&mut self, now: Instant, probe: Result<(), String>) -> Option<Change> {
        match (self.phase, probe) {
            (Phase::Startup, Ok(())) => {
                self.phase = Phase::Rising;
                None
            }
            (Phase::Rising | Phase::Unready, Ok(())) => {
                self.in_a_row += 1;
                (self.in_a_row >= self.health.ready.rise).then(|| {
                    self.enter(Phase::Ready);
                    self.words.clear();
                    Change::Ready
                })
            }
            (Phase::Ready, Ok(())) => {
                self.in_a_row = 0;
                None
            }
            (Phase::Startup | Phase::Rising, Err(words)) => {
                self.in_a_row = 0;
                if now < self.deadline {
                    return self.say(words);
                }
                // The last probe may have been cut short; what was said before tells more.
                let before = std::mem::take(&mut self.words);
                Some(Change::TimedOut(if before.is_empty() { words } else { before }))
            }
            (Phase::Unready, Err(words)) => {
                self.in_a_row = 0;
                self.say(words)
            }
            (Phase::Ready, Err(words)) => {
                self.in_a_row += 1;
                (self.in_a_row >= self.health.ready.fall).then(|| {
                    self.enter(Phase::Unready);
                    self.words.clone_from(&words);
                    Change::Unready(words)
                })
            }
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.in_a_row = 0;
    }

    fn say(&mut self, words: String) -> Option<Change> {
        (self.words != words).then(|| {
            self.words.clone_from(&words);
            Change::Words(words)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Readiness as Ready, Startup};

    fn readiness(startup: Option<&str>, rise: u32, fall: u32) -> (Readiness, Instant) {
        let now = Instant::now();
        let health = Health {
            startup: Startup { path: startup.map(str::to_owned), ..Startup::default() },
            ready: Ready { path: Some("/ready".into()), rise, fall, ..Ready::default() },
        };
        (Readiness::new(health, now + Duration::from_secs(60)), now)
    }

    fn failed() -> Result<(), String> {
        Err("503".to_owned())
    }

    #[test]
    fn it_takes_passes_in_a_row_to_become_ready_and_failures_in_a_row_to_lose_it() {
        let (mut probes, now) = readiness(None, 2, 3);
        let mut observe = |probe| probes.observe(now, probe);
        assert_eq!(observe(Ok(())), None);
        assert_eq!(observe(failed()), Some(Change::Words("503".into())));
        assert_eq!(observe(Ok(())), None);
        assert_eq!(observe(Ok(())), Some(Change::Ready));
        assert_eq!(observe(failed()), None);
        assert_eq!(observe(failed()), None);
        assert_eq!(observe(Ok(())), None);
        assert_eq!(observe(failed()), None);
        assert_eq!(observe(failed()), None);
        assert_eq!(observe(failed()), Some(Change::Unready("503".into())));
        assert_eq!(observe(Ok(())), None);
        assert_eq!(observe(Ok(())), Some(Change::Ready));
    }

    #[test]
    fn the_startup_probe_comes_first_and_only_once() {
        let (mut probes, now) = readiness(Some("/up"), 1, 1);
        assert_eq!(probes.path(), Some("/up"));
        assert_eq!(probes.observe(now, Ok(())), None);
        assert_eq!(probes.path(), Some("/ready"));
        assert_eq!(probes.observe(now, Ok(())), Some(Change::Ready));
        assert_eq!(probes.observe(now, failed()), Some(Change::Unready("503".into())));
        assert_eq!(probes.path(), Some("/ready"));
    }

    #[test]
    fn an_instance_that_never_gets_ready_times_out_with_the_last_words() {
        let (mut probes, now) = readiness(None, 1, 1);
        let late = now + Duration::from_secs(60);
        assert_eq!(probes.observe(now, failed()), Some(Change::Words("503".into())));
        assert_eq!(probes.observe(now, failed()), None);
        assert_eq!(probes.timeout(late), Duration::ZERO);
        let cut_short = Err("no answer in 0s".to_owned());
        assert_eq!(probes.observe(late, cut_short), Some(Change::TimedOut("503".into())));
        let (mut probes, now) = readiness(None, 1, 1);
        let late = now + Duration::from_secs(60);
        assert_eq!(probes.observe(late, failed()), Some(Change::TimedOut("503".into())));
    }

    #[test]
    fn the_deadline_of_the_start_is_none_of_a_running_instance() {
        let (mut probes, now) = readiness(None, 1, 1);
        let late = now + Duration::from_secs(600);
        assert_eq!(probes.observe(now, Ok(())), Some(Change::Ready));
        assert_eq!(probes.observe(late, failed()), Some(Change::Unready("503".into())));
        assert_eq!(probes.observe(late, failed()), None);
        assert!(probes.timeout(late) > Duration::ZERO);
    }
}
