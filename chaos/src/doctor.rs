//! What this machine lets us break: each fault is tried on something of our own, and has to bite.

mod disk;
mod limits;
mod link;
mod network;
mod process;

use serde::Serialize;

use crate::lab::{Lab, LabError};

pub use limits::faketime;

/// A kind of fault, and how to see that it bites.
struct Probe {
    fault: &'static str,
    how: &'static str,
    /// What to use, or install, where it does not work.
    instead: &'static str,
    probe: fn(&mut Lab) -> Result<(), Lack>,
}

/// Why a fault is not to be had here.
#[derive(Debug, thiserror::Error)]
enum Lack {
    #[error("it needs root")]
    Root,
    #[error("{0}")]
    Words(String),
    #[error(transparent)]
    Network(#[from] crate::network::NetworkError),
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
    #[error(transparent)]
    Disk(#[from] crate::disk::DiskError),
    #[error(transparent)]
    Fault(#[from] crate::fault::FaultError),
    #[error(transparent)]
    Lab(#[from] LabError),
}

impl From<crate::command::CommandError> for Lack {
    fn from(error: crate::command::CommandError) -> Self {
        Self::Lab(error.into())
    }
}

impl From<std::io::Error> for Lack {
    fn from(error: std::io::Error) -> Self {
        Self::Words(error.to_string())
    }
}

fn lack<T>(words: impl Into<String>) -> Result<T, Lack> {
    Err(Lack::Words(words.into()))
}

const PROBES: &[Probe] = &[
    Probe {
        fault: "kill and pause",
        how: "SIGKILL, SIGTERM, SIGSTOP and SIGCONT",
        instead: "nothing: every system has it",
        probe: process::signals,
    },
    Probe {
        fault: "freeze",
        how: "the freezer of control groups",
        instead: "pause, which a process can see",
        probe: process::freezer,
    },
    Probe {
        fault: "hosts",
        how: "network namespaces on a bridge",
        instead: "loopback, without any fault of the network; or install iproute2 and run as root",
        probe: network::namespaces,
    },
    Probe {
        fault: "partition",
        how: "nftables in namespaces: one way, of one other, about a bridge",
        instead: "pause; or install nftables",
        probe: network::partition,
    },
    Probe {
        fault: "packet loss",
        how: "nftables, numgen random",
        instead: "partition, on and off; or install nftables",
        probe: network::loss,
    },
    Probe {
        fault: "flapping link",
        how: "nftables, off and on again",
        instead: "partition, step by step; or install nftables",
        probe: network::flapping,
    },
    Probe {
        fault: "delay and jitter",
        how: "a switch of our own over TAP devices",
        instead: "pause; or load the kernel's module tun and run as root",
        probe: link::delay,
    },
    Probe {
        fault: "link loss and rate",
        how: "the switch",
        instead: "packet loss; or load the kernel's module tun and run as root",
        probe: link::loss_and_rate,
    },
    Probe {
        fault: "duplication",
        how: "the switch",
        instead: "nothing; load the kernel's module tun and run as root",
        probe: link::duplication,
    },
    Probe {
        fault: "reordering",
        how: "the switch",
        instead: "nothing; load the kernel's module tun and run as root",
        probe: link::reordering,
    },
    Probe {
        fault: "corruption",
        how: "the switch, one bit of a frame",
        instead: "packet loss, which it comes to behind checksums; or load the kernel's module tun",
        probe: link::corruption,
    },
    Probe {
        fault: "power cut",
        how: "ext4 on a loop file, shut down without a flush",
        instead: "kill, which loses nothing that was written; or run as root with e2fsprogs and python3",
        probe: disk::power_cut,
    },
    Probe {
        fault: "disk full",
        how: "a small ext4 on a loop file",
        instead: "a quota of your own; or run as root with e2fsprogs",
        probe: disk::full,
    },
    Probe {
        fault: "failing fsync",
        how: "strace, injecting EIO",
        instead: "disk full; or install strace",
        probe: disk::failing_sync,
    },
    Probe {
        fault: "slow fsync",
        how: "strace, delaying the call",
        instead: "CPU starvation; or install strace",
        probe: disk::slow_sync,
    },
    Probe {
        fault: "damaged files",
        how: "bits turned, and ends cut off, in files of a program that is not running",
        instead: "nothing: every system has it",
        probe: disk::damage,
    },
    Probe {
        fault: "old copy, empty disk",
        how: "files of a program that is not running, as they were, or none",
        instead: "nothing: every system has it",
        probe: disk::old_copy,
    },
    Probe {
        fault: "clock jump",
        how: "libfaketime",
        instead: "nothing; install libfaketime",
        probe: limits::clock,
    },
    Probe {
        fault: "CPU starvation",
        how: "the cpu control group's quota",
        instead: "pause, again and again; or run as root",
        probe: limits::cpu,
    },
    Probe {
        fault: "memory pressure",
        how: "the memory control group's limit",
        instead: "kill, which is what it ends in; or run as root",
        probe: limits::memory,
    },
    Probe {
        fault: "no descriptors",
        how: "prlimit",
        instead: "nothing; install util-linux",
        probe: limits::descriptors,
    },
];

/// What became of one probe.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub fault: &'static str,
    pub how: &'static str,
    pub works: bool,
    /// Why it does not.
    pub reason: Option<String>,
    pub instead: Option<&'static str>,
}

impl Finding {
    /// Lines of it.
    pub fn text(&self) -> String {
        let word = if self.works { "works" } else { "absent" };
        let mut text = format!("{word:<8}{:<20}{}\n", self.fault, self.how);
        if let (Some(reason), Some(instead)) = (&self.reason, self.instead) {
            text += &format!("{:<28}{reason}\n{:<28}instead: {instead}\n", "", "");
        }
        text
    }
}

/// Tries every fault. `tell` hears of each as it is known.
///
/// # Errors
/// When something that a probe has made can not be undone.
pub fn run(root: &std::path::Path, mut tell: impl FnMut(&Finding)) -> Result<Vec<Finding>, LabError> {
    let mut findings = Vec::new();
    for Probe { fault, how, instead, probe } in PROBES {
        let mut lab = Lab::open(root)?;
        let reason = probe(&mut lab).err().map(|lack| lack.to_string());
        lab.close()?;
        let instead = reason.is_some().then_some(*instead);
        let finding = Finding { fault, how, works: reason.is_none(), reason, instead };
        tell(&finding);
        findings.push(finding);
    }
    Ok(findings)
}

fn needs_root() -> Result<(), Lack> {
    if crate::lab::is_root() { Ok(()) } else { Err(Lack::Root) }
}
