//! Processes of an agent that was killed: recognised, and ended before new ones start.
//!
//! An instance dies with its agent, but what the instance has started itself does not. So every
//! instance has a record on disk: its process id, when that process was started, in which run of the
//! machine, and a mark that is in its environment. Process ids are used again, which is why none of
//! these counts alone:
//!
//! - the leader is ours if the process with the recorded id has the recorded start time;
//! - a member of the recorded group is ours if the leader is; where the leader is gone, if it carries
//!   the mark (a group's number is not given away while the group has members, but the group may have
//!   ended and its number been taken by another);
//! - nobody is ours when another process has the leader's number, or after the machine was restarted.
//!
//! The signal goes to a descriptor of the process (pidfd), opened before it was looked at a second
//! time, so that it reaches the process that was judged and no other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use node_storage::files;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::procfs::{self, Process};

const RECORD_BYTES_MAX: u64 = 4 << 10;
const EXTENSION: &str = "json";

/// Ended processes take a moment to go; those that start others meanwhile take more than one round.
const ROUNDS_MAX: u32 = 200;
const ROUND: Duration = Duration::from_millis(20);

/// What is known of an instance's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Of the leader, and so of its group.
    pub(super) pid: i32,
    pub(super) start_time: u64,
    pub(super) boot_id: String,
    pub(super) mark: String,
}

/// Why leftovers could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum LeftoverError {
    #[error("can not read the records in {}: {source}", path.display())]
    Records { path: PathBuf, source: io::Error },
    #[error("can not look at the processes: {0}")]
    Processes(#[source] io::Error),
    #[error("can not end process {pid}, which an agent before this one left: {source}")]
    Signal { pid: i32, source: io::Error },
}

impl Record {
    /// Of a process that is this one's child and has not been waited for.
    pub(super) fn of(pid: i32, mark: &str) -> io::Result<Self> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "the process is gone");
        let start_time = procfs::process(pid).ok_or_else(gone)?.start_time;
        Ok(Self { pid, start_time, boot_id: procfs::boot_id()?, mark: mark.to_owned() })
    }

    pub(super) fn write(&self, folder: &Path, instance: &str) -> io::Result<()> {
        let bytes = serde_json::to_vec(self).map_err(io::Error::other)?;
        Ok(files::write_atomically(&path(folder, instance), &bytes, 0o600)?)
    }

    /// The instance and its group are gone.
    pub(super) fn remove(folder: &Path, instance: &str) -> io::Result<()> {
        fs::remove_file(path(folder, instance))
    }

    /// Whether a process is of the instance. `leader` is whoever has the leader's number now.
    fn owns(&self, process: &Process, leader: Option<&Process>, has_mark: impl Fn(i32) -> bool) -> bool {
        if process.is_zombie || process.group != self.pid && process.pid != self.pid {
            return false;
        }
        match leader {
            Some(leader) => leader.start_time == self.start_time,
            None => has_mark(process.pid),
        }
    }
}

fn path(folder: &Path, instance: &str) -> PathBuf {
    folder.join(format!("{instance}.{EXTENSION}"))
}

/// Ends what earlier agents left, and returns how many processes that were. Blocks until they are gone.
///
/// # Errors
/// When there is something to end that can not be ended; it would take requests, or a port.
pub(super) fn end_all(folder: &Path) -> Result<usize, LeftoverError> {
    let failed = |source| LeftoverError::Records { path: folder.to_owned(), source };
    let boot_id = procfs::boot_id().map_err(LeftoverError::Processes)?;
    let mut records = Vec::new();
    let mut paths = Vec::new();
    for item in fs::read_dir(folder).map_err(failed)? {
        let path = item.map_err(failed)?.path();
        // A record that can not be read was being written when the machine went down: it is of another
        // boot, and so is what it was about.
        let record = files::read_bounded(&path, RECORD_BYTES_MAX).ok();
        let record = record.and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
        records.extend(record.filter(|record| record.boot_id == boot_id));
        paths.push(path);
    }
    let ended = if records.is_empty() { 0 } else { end(&records)? };
    for path in paths {
        fs::remove_file(path).map_err(failed)?;
    }
    Ok(ended)
}

fn end(records: &[Record]) -> Result<usize, LeftoverError> {
    let mut ended = std::collections::BTreeSet::new();
    for _ in 0..ROUNDS_MAX {
        let ours = ours(records)?;
        if ours.is_empty() {
            return Ok(ended.len());
        }
        for process in ours {
            kill(&process)?;
            ended.insert(process.pid);
        }
        std::thread::sleep(ROUND);
    }
    let pid = ended.last().copied().unwrap_or_default();
    Err(LeftoverError::Signal { pid, source: io::Error::new(io::ErrorKind::TimedOut, "it does not end") })
}

fn ours(records: &[Record]) -> Result<Vec<Process>, LeftoverError> {
    let all = procfs::processes().map_err(LeftoverError::Processes)?;
    let owned = |process: &Process| {
        records.iter().any(|record| {
            let leader = all.iter().find(|other| other.pid == record.pid);
            record.owns(process, leader, |pid| procfs::has_mark(pid, &record.mark))
        })
    };
    Ok(all.iter().copied().filter(owned).collect())
}

fn kill(process: &Process) -> Result<(), LeftoverError> {
    let failed = |error: rustix::io::Errno| match error {
        rustix::io::Errno::SRCH => Ok(()),
        other => Err(LeftoverError::Signal { pid: process.pid, source: other.into() }),
    };
    let Some(pid) = Pid::from_raw(process.pid) else { return Ok(()) };
    let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(descriptor) => descriptor,
        Err(error) => return failed(error),
    };
    if procfs::process(process.pid).is_none_or(|now| now.start_time != process.start_time) {
        return Ok(());
    }
    pidfd_send_signal(&descriptor, Signal::KILL).or_else(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record { pid: 100, start_time: 7, boot_id: "b".into(), mark: "m".into() }
    }

    fn process(pid: i32, group: i32, start_time: u64) -> Process {
        Process { pid, group, start_time, is_zombie: false }
    }

    #[test]
    fn the_group_is_ours_while_its_leader_is() {
        let leader = process(100, 100, 7);
        assert!(record().owns(&leader, Some(&leader), |_| false));
        assert!(record().owns(&process(101, 100, 9), Some(&leader), |_| false));
        assert!(!record().owns(&process(102, 99, 9), Some(&leader), |_| true));
    }

    #[test]
    fn a_process_that_got_the_number_later_is_not_ours_nor_is_its_group() {
        let other = process(100, 100, 8);
        assert!(!record().owns(&other, Some(&other), |_| true));
        assert!(!record().owns(&process(101, 100, 9), Some(&other), |_| true));
    }

    #[test]
    fn without_a_leader_the_mark_decides() {
        assert!(record().owns(&process(101, 100, 9), None, |_| true));
        assert!(!record().owns(&process(101, 100, 9), None, |_| false));
    }

    #[test]
    fn a_zombie_need_not_be_ended_but_speaks_for_its_group() {
        let leader = Process { is_zombie: true, ..process(100, 100, 7) };
        assert!(!record().owns(&leader, Some(&leader), |_| false));
        assert!(record().owns(&process(101, 100, 9), Some(&leader), |_| false));
    }

    #[test]
    fn records_of_another_run_of_the_machine_and_torn_ones_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let me = rustix::process::getpid().as_raw_pid();
        let mut mine = Record::of(me, "m").unwrap();
        mine.boot_id = "another".into();
        mine.write(folder.path(), "a").unwrap();
        fs::write(folder.path().join("b.json"), "{\"pid\":").unwrap();
        assert_eq!(end_all(folder.path()).unwrap(), 0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
