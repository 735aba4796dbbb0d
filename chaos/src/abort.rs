//! When a run has to be given up: for the host's sake, or because nothing is left to be learned.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::experiment::Abort;
use crate::journal::Journal;

/// Files of /proc are read so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Watches the host and the clients.
pub struct Watch {
    limits: Abort,
    folder: PathBuf,
    journal: Journal,
    looked: Instant,
    answered: (u64, Instant),
}

impl Watch {
    /// `folder` is on the disk that has to keep some room.
    pub fn new(limits: Abort, folder: PathBuf, journal: Journal) -> Self {
        let now = Instant::now();
        Self { limits, folder, answered: (journal.answered(), now), journal, looked: now }
    }

    /// Why it has to be given up, if it has.
    pub fn look(&mut self) -> Result<(), String> {
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        let answered = self.journal.answered();
        if answered > self.answered.0 {
            self.answered = (answered, self.looked);
        }
        let silent = self.looked - self.answered.1;
        if silent > Duration::from_secs(self.limits.silent_seconds_max) {
            return Err(format!("nobody was told of success for {} s", silent.as_secs()));
        }
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        if let Some(mib) = available_mib(&meminfo).filter(|mib| *mib < self.limits.memory_mib_min) {
            return Err(format!("the host has {mib} MiB of memory left"));
        }
        if let Ok(about) = rustix::fs::statvfs(&self.folder) {
            let mib = (about.f_bavail.saturating_mul(about.f_frsize)) >> 20;
            if mib < self.limits.disk_mib_min {
                return Err(format!("{} has room for {mib} MiB", self.folder.display()));
            }
        }
        Ok(())
    }
}

fn available_mib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Run;

    #[test]
    fn the_kernels_words_are_understood() {
        assert_eq!(available_mib("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2));
        assert_eq!(available_mib(""), None);
    }

    #[test]
    fn a_run_is_given_up_when_nobody_is_answered_or_the_host_has_nothing_left() {
        let dir = tempfile::tempdir().unwrap();
        let run = Run {
            version: 1,
            seed: 0,
            experiment: String::new(),
            nodes: Vec::new(),
            failed_requests_max: None,
            workloads: Vec::new(),
        };
        let journal = Journal::create(&dir.path().join("history"), run).unwrap();
        let look = |limits: Abort| {
            let mut watch = Watch::new(limits, dir.path().to_owned(), journal.clone());
            watch.looked -= 2 * LOOK_EVERY;
            watch.answered.1 -= Duration::from_secs(100);
            watch.look()
        };
        assert_eq!(look(Abort::default()), Ok(()));
        let told = |limits| look(limits).unwrap_err();
        assert!(told(Abort { silent_seconds_max: 99, ..Abort::default() }).contains("told of success"));
        assert!(told(Abort { memory_mib_min: u64::MAX, ..Abort::default() }).contains("memory"));
        assert!(told(Abort { disk_mib_min: u64::MAX, ..Abort::default() }).contains("room"));
    }
}
