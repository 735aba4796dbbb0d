//! The farm's processes, found in /proc.
//!
//! A pid alone is never trusted: between finding and signalling, the process may have ended and
//! the number may be somebody else's. So a process is its pid and its start time, and a signal goes
//! through a pidfd that was opened before the start time was checked again.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// One process, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Process {
    pub pid: u32,
    /// In clock ticks since boot (proc_pid_stat(5), field 22).
    start: u64,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, start: running_since(&stat)? })
    }

    pub fn lives(&self) -> bool {
        Self::read(self.pid) == Some(*self)
    }

    /// Sends `signal` to exactly this process. One that has ended meanwhile is left alone.
    pub fn signal(&self, signal: Signal) {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if self.lives() {
            // It fails only when the process has just ended, which is what was wanted.
            let _ = pidfd_send_signal(handle, signal);
        }
    }
}

/// The start time, unless the process is a zombie: that one has ended.
fn running_since(stat: &str) -> Option<u64> {
    // The name stands in parentheses and may hold anything, parentheses included.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

/// Every agent that runs with these settings, whoever started it.
pub fn agents(config: &Path) -> Vec<Process> {
    let wanted = config.canonicalize().unwrap_or_else(|_| config.to_owned());
    all().filter(|process| runs_agent(process.pid, &wanted)).collect()
}

/// Every process that was given this socket to talk to its agent: the instances of that agent.
pub fn instances(apps_socket: &Path) -> Vec<Process> {
    let mut entry = b"HOLDFAST_SOCKET=".to_vec();
    entry.extend_from_slice(apps_socket.as_os_str().as_bytes());
    let has_it = |process: &Process| {
        let environment = fs::read(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == entry)
    };
    all().filter(has_it).collect()
}

fn all() -> impl Iterator<Item = Process> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(move |pid| *pid != own).filter_map(Process::read)
}

fn runs_agent(pid: u32, config: &Path) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let Some(named) = agent_config(&words) else { return false };
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    let named = folder.join(named);
    named.canonicalize().unwrap_or(named) == config
}

/// The settings that the words of a command line name, if it is one of an agent.
fn agent_config(words: &[&[u8]]) -> Option<PathBuf> {
    let mut words = words.iter().skip(1);
    let mut verb = false;
    let mut config = None;
    while let Some(word) = words.next() {
        match *word {
            b"agent" if !verb => verb = true,
            b"--config" => config = words.next().map(|path| PathBuf::from(OsStr::from_bytes(path))),
            b"--socket" | b"--set" => drop(words.next()),
            option if option.starts_with(b"--config=") => {
                config = Some(PathBuf::from(OsStr::from_bytes(&option[b"--config=".len()..])));
            }
            option if option.starts_with(b"-") || verb => {}
            _ => return None,
        }
    }
    config.filter(|_| verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(line: &str) -> Option<PathBuf> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        agent_config(&words)
    }

    #[test]
    fn an_agent_is_known_by_its_settings_however_they_were_given() {
        let wanted = Some(PathBuf::from("/d/agent.toml"));
        assert_eq!(config("holdfast agent --config /d/agent.toml"), wanted);
        assert_eq!(config("/x/holdfast --socket agent agent --set a.b=c --config=/d/agent.toml"), wanted);
    }

    #[test]
    fn what_only_mentions_an_agent_is_not_one() {
        assert_eq!(config("sudo holdfast agent --config /d/agent.toml"), None);
        assert_eq!(config("vim agent.toml"), None);
        assert_eq!(config("holdfast status --config /d/agent.toml"), None);
        assert_eq!(config("holdfast agent"), None);
    }

    #[test]
    fn a_start_time_is_found_behind_any_name_and_a_zombie_has_none() {
        let rest = "1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1";
        assert_eq!(running_since(&format!("9 (a) S (b) S {rest}")), Some(4711));
        assert_eq!(running_since(&format!("9 (a) Z {rest}")), None);
        assert_eq!(running_since("garbage"), None);
    }

    #[test]
    fn a_signal_ends_exactly_the_process_that_was_found() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::read(child.id()).unwrap();
        let impostor = Process { start: process.start + 1, ..process };
        impostor.signal(Signal::KILL);
        assert!(process.lives());
        process.signal(Signal::KILL);
        child.wait().unwrap();
        assert!(!process.lives());
    }

    #[test]
    fn an_instance_is_known_by_the_socket_in_its_environment() {
        let socket = Path::new("/no/such/place/for/this/test/apps.sock");
        let mut child =
            std::process::Command::new("sleep").arg("60").env("HOLDFAST_SOCKET", socket).spawn().unwrap();
        let found = instances(socket);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.iter().map(|process| process.pid).collect::<Vec<_>>(), [child.id()]);
    }
}
