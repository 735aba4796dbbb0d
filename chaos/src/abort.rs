//! When a run has to be given up: because somebody wants that, for the host's sake, or because nothing is
//! left to be learned.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::experiment::Abort;
use crate::journal::Journal;

/// Files of /proc are read so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the farm's files are, without which agents fail for want of a disk that nobody has filled on purpose.
const HOMES_MIB_MIN: u64 = 64;

/// Watches the host, the clients, and whoever may want to stop. Whatever waits asks it meanwhile.
pub struct Watch {
    limits: Abort,
    /// On each disk that has to keep some room, and how much, in MiB.
    folders: Vec<(PathBuf, u64)>,
    stop: Arc<AtomicBool>,
    looked: Instant,
    clients: Option<Clients>,
}

/// Who has to be told of success now and then.
struct Clients {
    journal: Journal,
    answered: u64,
    since: Instant,
}

impl Watch {
    /// For a run that is kept in `kept` and whose farm's files are below `homes`, which may be a small part of
    /// memory. `stop` is set by a signal.
    pub fn new(limits: Abort, kept: &Path, homes: &Path, stop: Arc<AtomicBool>) -> Self {
        let of_homes = limits.disk_mib_min.min(HOMES_MIB_MIN);
        let folders = vec![(kept.to_owned(), limits.disk_mib_min), (homes.to_owned(), of_homes)];
        Self { limits, folders, stop, looked: Instant::now(), clients: None }
    }

    /// From now on clients are at work, and silence says that nothing is left to be learned.
    pub fn listen(&mut self, journal: Journal) {
        self.clients = Some(Clients { answered: journal.answered(), journal, since: Instant::now() });
    }

    /// From now on silence is no reason: once all is put right it is the farm's, and is judged.
    pub fn listen_no_more(&mut self) {
        self.clients = None;
    }

    /// Why nothing may be waited for any longer, if so: somebody wants to stop, or the host has too little left.
    pub fn host(&mut self) -> Result<(), String> {
        if self.stop.load(Ordering::Relaxed) {
            return Err("a signal".to_owned());
        }
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        if let Some(mib) = memory_mib().filter(|mib| *mib < self.limits.memory_mib_min) {
            return Err(format!("the host has {mib} MiB of memory left"));
        }
        for (folder, mib_min) in &self.folders {
            if let Some(mib) = room_mib(folder).filter(|mib| mib < mib_min) {
                return Err(format!("{} has room for {mib} MiB", folder.display()));
            }
        }
        Ok(())
    }

    /// The same, and whether clients are told of success.
    pub fn look(&mut self) -> Result<(), String> {
        self.host()?;
        let Some(clients) = &mut self.clients else { return Ok(()) };
        let answered = clients.journal.answered();
        if answered > clients.answered {
            (clients.answered, clients.since) = (answered, Instant::now());
        }
        let silent = clients.since.elapsed();
        if silent > Duration::from_secs(self.limits.silent_seconds_max) {
            return Err(format!("nobody was told of success for {} s", silent.as_secs()));
        }
        Ok(())
    }
}

/// What this host has left for us, where it says so.
pub fn memory_mib() -> Option<u64> {
    available_mib(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// What a file system has left for us, where it says so.
pub fn room_mib(folder: &Path) -> Option<u64> {
    let about = rustix::fs::statvfs(folder).ok()?;
    Some(about.f_bavail.saturating_mul(about.f_frsize) >> 20)
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
        let journal = Journal::create(&dir.path().join("history"), Run::of_nobody()).unwrap();
        let watch = |limits: Abort| {
            let mut watch = Watch::new(limits, dir.path(), dir.path(), Arc::default());
            watch.listen(journal.clone());
            watch.looked -= 2 * LOOK_EVERY;
            watch.clients.as_mut().unwrap().since -= Duration::from_secs(100);
            watch
        };
        let look = |limits: Abort| watch(limits).look();
        assert_eq!(look(Abort::default()), Ok(()));
        let told = |limits| look(limits).unwrap_err();
        assert!(told(Abort { silent_seconds_max: 99, ..Abort::default() }).contains("told of success"));
        assert!(told(Abort { memory_mib_min: u64::MAX, ..Abort::default() }).contains("memory"));
        assert!(told(Abort { disk_mib_min: u64::MAX, ..Abort::default() }).contains("room"));
        let mut silent = watch(Abort { silent_seconds_max: 99, ..Abort::default() });
        assert_eq!(silent.host(), Ok(()), "what waits for the farm does not wait for clients");
        silent.listen_no_more();
        assert_eq!(silent.look(), Ok(()));
        // Whoever wants to stop need not wait until the host is looked at again.
        silent.stop.store(true, Ordering::Relaxed);
        assert_eq!(silent.host(), Err("a signal".to_owned()));
    }
}
