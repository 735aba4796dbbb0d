//! Less of what an agent lives on: processor, memory, descriptors, and the right time.

use std::collections::BTreeSet;
use std::fs;

use super::{FaultError, Field, io, process};
use crate::cgroup::{Cgroup, Controller};
use crate::command::run;
use crate::lab::start_of;

pub(super) fn cpu(targets: &[usize], field: &mut Field<'_>, percent: u8) -> Result<Vec<Cgroup>, FaultError> {
    let groups = process::group(targets, field, Controller::Cpu)?;
    for group in &groups {
        group.limit_cpu(percent.into())?;
    }
    Ok(groups)
}

/// What a process has when it comes into a group is not counted there, so this is on top of it.
pub(super) fn memory(targets: &[usize], field: &mut Field<'_>, mib: u64) -> Result<Vec<Cgroup>, FaultError> {
    let groups = process::group(targets, field, Controller::Memory)?;
    for group in &groups {
        group.limit_memory(mib << 20)?;
    }
    Ok(groups)
}

/// The limit that a process had.
pub struct Limit {
    pid: u32,
    start: Option<u64>,
    soft: String,
}

pub(super) fn descriptors(
    targets: &[usize],
    field: &mut Field<'_>,
    more: u64,
) -> Result<Vec<Limit>, FaultError> {
    let mut limits = Vec::new();
    for target in targets {
        if let Some(pid) = field.pid(*target)? {
            limits.push(Limit::new(pid, more)?);
        }
    }
    Ok(limits)
}

impl Limit {
    /// Lets a process open so many more descriptors than it has.
    ///
    /// # Errors
    /// When it has ended, or there is no `prlimit`.
    pub fn new(pid: u32, more: u64) -> Result<Self, FaultError> {
        let path = format!("/proc/{pid}/fd");
        let entries = fs::read_dir(&path).map_err(io(format!("read {path}")))?.flatten();
        let open = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        let process = pid.to_string();
        let soft =
            run("prlimit", &["--pid", &process, "--nofile", "--raw", "--noheadings", "--output", "SOFT"])?;
        let (soft, start) = (soft.trim().to_owned(), start_of(pid));
        // The soft limit alone, which can be raised again.
        run("prlimit", &["--pid", &process, &format!("--nofile={}:", below(&open, more))])?;
        Ok(Self { pid, start, soft })
    }

    /// As it was. A process that has ended needs none, and its pid may be another's.
    pub fn restore(&self) {
        if self.start.is_some() && start_of(self.pid) == self.start {
            let _ended =
                run("prlimit", &["--pid", &self.pid.to_string(), &format!("--nofile={}:", self.soft)]);
        }
    }
}

/// The number below which so many descriptors are free: what is limited is their numbers, and each new one has the
/// lowest that is free.
fn below(open: &BTreeSet<u64>, free: u64) -> u64 {
    let mut left = free;
    let mut number = 0;
    while left > 0 {
        left -= u64::from(!open.contains(&number));
        number += 1;
    }
    number
}

/// Sets the wall clocks of these nodes off by so many seconds.
pub(super) fn set_clocks(targets: &[usize], field: &Field<'_>, seconds: i64) -> Result<(), FaultError> {
    for target in targets {
        let Some(path) = &field.farm.nodes[*target].clock else {
            return Err(FaultError::Absent("the agents have no clocks of their own".to_owned()));
        };
        let has_library =
            |pid| fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default().contains("faketime");
        if field.farm.agent_pid(*target).is_some_and(|pid| !has_library(pid)) {
            let node = &field.farm.nodes[*target].name;
            return Err(FaultError::Absent(format!(
                "{node} has the host's clock: is its program a static one?"
            )));
        }
        fs::write(path, format!("{seconds:+}\n")).map_err(io(format!("write {}", path.display())))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_between_those_that_are_open_are_free() {
        assert_eq!(below(&BTreeSet::from([0, 1, 2]), 2), 5);
        assert_eq!(below(&BTreeSet::from([0, 1, 2, 10]), 2), 5);
        assert_eq!(below(&BTreeSet::from([0, 2, 3, 5]), 3), 7);
        assert_eq!(below(&BTreeSet::from([0, 1]), 0), 0);
    }
}
