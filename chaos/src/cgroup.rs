//! Control groups of our own, of either version.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::lab::{Lab, LabError, Thing};

/// The kernel's usual scheduling period.
const PERIOD_US: u64 = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// A hierarchy for each controller.
    One,
    /// One hierarchy for all.
    Two,
}

/// What a group is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    Freezer,
    Cpu,
    Memory,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Self::Freezer => "freezer",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }
}

/// A group, which ends with its lab.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    version: Version,
    controller: Controller,
}

/// Why there is no such group.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("no control group has the controller {0:?}")]
    Absent(&'static str),
    #[error("the control group {}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Lab(#[from] LabError),
}

impl Cgroup {
    /// Makes a group.
    ///
    /// # Errors
    /// When the kernel has no such controller, or does not let us.
    pub fn new(lab: &mut Lab, controller: Controller, name: &str) -> Result<Self, CgroupError> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let (root, version) = hierarchy(&mounts, controller).ok_or(CgroupError::Absent(controller.name()))?;
        if version == Version::Two && controller != Controller::Freezer {
            // Groups below the root get it only when the root says so.
            write(&root.join("cgroup.subtree_control"), &format!("+{}", controller.name()))?;
        }
        let path = root.join(name);
        lab.note(Thing::Cgroup { path: path.clone() })?;
        fs::create_dir(&path).map_err(|source| CgroupError::File { path: path.clone(), source })?;
        Ok(Self { path, version, controller })
    }

    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        write(&self.path.join("cgroup.procs"), &pid.to_string())
    }

    /// Stops everything in it, unseen by itself, or lets it go on.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        match (self.version, frozen) {
            (Version::One, true) => write(&self.path.join("freezer.state"), "FROZEN"),
            (Version::One, false) => write(&self.path.join("freezer.state"), "THAWED"),
            (Version::Two, _) => write(&self.path.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
        }
    }

    pub fn is_frozen(&self) -> bool {
        let says = |file: &str, line: &str| {
            fs::read_to_string(self.path.join(file)).is_ok_and(|text| text.lines().any(|one| one == line))
        };
        match self.version {
            Version::One => says("freezer.state", "FROZEN"),
            Version::Two => says("cgroup.events", "frozen 1"),
        }
    }

    /// Lets it have so much memory, of what is asked for from now on.
    pub fn limit_memory(&self, bytes: u64) -> Result<(), CgroupError> {
        let file = match self.version {
            Version::One => "memory.limit_in_bytes",
            Version::Two => "memory.max",
        };
        write(&self.path.join(file), &bytes.to_string())
    }

    /// How often its limit has held anything up, where the kernel counts that.
    pub fn bit(&self) -> Option<u64> {
        let (file, line) = match (self.controller, self.version) {
            (Controller::Freezer, _) => return None,
            // Of its periods, those in which there was nothing left.
            (Controller::Cpu, _) => ("cpu.stat", "nr_throttled "),
            (Controller::Memory, Version::One) => ("memory.failcnt", ""),
            (Controller::Memory, Version::Two) => ("memory.events", "max "),
        };
        let text = fs::read_to_string(self.path.join(file)).ok()?;
        text.lines().find_map(|one| one.strip_prefix(line)?.trim().parse().ok())
    }

    /// Takes away whatever it is limited by.
    pub fn release(&self) -> Result<(), CgroupError> {
        let (file, all) = match (self.controller, self.version) {
            (Controller::Freezer, _) => return self.freeze(false),
            (Controller::Cpu, Version::One) => ("cpu.cfs_quota_us", "-1"),
            (Controller::Cpu, Version::Two) => ("cpu.max", "max"),
            (Controller::Memory, Version::One) => ("memory.limit_in_bytes", "-1"),
            (Controller::Memory, Version::Two) => ("memory.max", "max"),
        };
        write(&self.path.join(file), all)
    }

    /// Lets it have so many hundredths of a core.
    pub fn limit_cpu(&self, percent: u64) -> Result<(), CgroupError> {
        let quota_us = PERIOD_US * percent / 100;
        match self.version {
            Version::One => {
                write(&self.path.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
                write(&self.path.join("cpu.cfs_quota_us"), &quota_us.to_string())
            }
            Version::Two => write(&self.path.join("cpu.max"), &format!("{quota_us} {PERIOD_US}")),
        }
    }
}

/// Lets what is in a group go on, of whatever version it is.
pub fn thaw(path: &Path) {
    // Only one of them is there.
    for (file, text) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        let file = path.join(file);
        if file.exists() {
            let _running_already = fs::write(file, text);
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    fs::write(path, text).map_err(|source| CgroupError::File { path: path.to_owned(), source })
}

/// Where a controller is. The second version has a freezer of its own without any controller.
fn hierarchy(mounts: &str, controller: Controller) -> Option<(PathBuf, Version)> {
    let mounts = || {
        mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((fields.next()?, fields.next()?, fields.next()?))
        })
    };
    let has = |options: &str| options.split(',').any(|option| option == controller.name());
    let one = mounts().find(|(_, kind, options)| *kind == "cgroup" && has(options));
    if let Some((path, ..)) = one {
        return Some((path.into(), Version::One));
    }
    let (path, ..) = mounts().find(|(_, kind, _)| *kind == "cgroup2")?;
    let controllers = fs::read_to_string(Path::new(path).join("cgroup.controllers")).unwrap_or_default();
    let is_there = controller == Controller::Freezer
        || controllers.split_whitespace().any(|name| name == controller.name());
    is_there.then(|| (path.into(), Version::Two))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_is_found_by_its_controller_and_else_the_second() {
        let both = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
                    cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let found = |controller| hierarchy(both, controller);
        assert_eq!(found(Controller::Cpu), Some(("/sys/fs/cgroup/cpu".into(), Version::One)));
        assert_eq!(found(Controller::Freezer), Some(("/sys/fs/cgroup/unified".into(), Version::Two)));
        assert_eq!(hierarchy("tmpfs /tmp tmpfs rw 0 0\n", Controller::Freezer), None);
    }

    #[test]
    fn what_a_limit_has_held_up_is_counted_by_the_kernel() {
        let folder = tempfile::tempdir().unwrap();
        let bit = |controller, version, file: &str, text: &str| {
            fs::write(folder.path().join(file), text).unwrap();
            Cgroup { path: folder.path().to_owned(), version, controller }.bit()
        };
        let (one, two) = (Version::One, Version::Two);
        let stat = "nr_periods 9\nnr_throttled 7\nthrottled_time 5\n";
        assert_eq!(bit(Controller::Cpu, one, "cpu.stat", stat), Some(7));
        assert_eq!(bit(Controller::Memory, one, "memory.failcnt", "12\n"), Some(12));
        assert_eq!(bit(Controller::Memory, two, "memory.events", "low 1\nmax 4\noom 0\n"), Some(4));
        assert_eq!(bit(Controller::Freezer, two, "x", ""), None);
    }

    #[test]
    fn a_group_of_the_second_version_freezes_what_is_in_it() {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let only_two: String = mounts.lines().filter(|line| line.contains(" cgroup2 ")).collect();
        let Some((root, version)) =
            hierarchy(&only_two, Controller::Freezer).filter(|_| crate::lab::is_root())
        else {
            return crate::output::note!("not run: it needs root and control groups of the second version");
        };
        let labs = tempfile::tempdir().unwrap();
        let mut lab = Lab::open(labs.path()).unwrap();
        let path = root.join(lab.name("t"));
        lab.note(Thing::Cgroup { path: path.clone() }).unwrap();
        if let Err(error) = fs::create_dir(&path) {
            return crate::output::note!("not run: {error}");
        }
        let group = Cgroup { path, version, controller: Controller::Freezer };
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let start = crate::lab::start_of(child.id()).unwrap();
        lab.note(Thing::Process { pid: child.id(), start }).unwrap();
        group.add(child.id()).unwrap();
        group.freeze(true).unwrap();
        let began = std::time::Instant::now();
        while !group.is_frozen() {
            assert!(began.elapsed() < std::time::Duration::from_secs(20), "it does not freeze");
        }
        // Frozen as it is, it goes with its lab.
        lab.close().unwrap();
        child.wait().unwrap();
        assert!(!group.path.exists());
    }
}
