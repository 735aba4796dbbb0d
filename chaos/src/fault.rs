//! Faults: what is done to nodes, and how it is put right again.
//!
//! A [`Fault`] is a value that an experiment names. Once it has begun it is [`Active`], which knows what
//! has to be undone. An agent that ended meanwhile (of a failing disk, of want of memory) is started again
//! when its fault ends, as a supervisor would; one that finds its data damaged and refuses to start is
//! replaced by a new one, as its operator would.

mod clash;
pub mod damage;
mod firewall;
mod kind;
mod limits;
mod process;
mod storage;

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;

use crate::abort::Watch;
use crate::cgroup::{Cgroup, CgroupError};
use crate::command::CommandError;
use crate::disk::DiskError;
use crate::farm::{Farm, FarmError};
use crate::journal::Journal;
use crate::lab::{Lab, LabError};
use crate::switch::{Hand, Switch};

pub use clash::clash;
pub use firewall::Walls;
pub use kind::{Direction, Fault, Others};
pub use limits::Limit;
pub use storage::{detach, trace_syncs};

/// Where faults happen.
pub struct Field<'a> {
    pub farm: &'a mut Farm,
    pub lab: &'a mut Lab,
    pub switch: Option<&'a Switch>,
    /// What is left to chance, such as which bit turns.
    pub random: &'a mut StdRng,
    /// Nodes whose agents another fault has ended, or may have, which lasts. At the end of a fault: whose disks
    /// are away.
    pub ended: BTreeSet<usize>,
    /// Who is asked while something is waited for.
    pub watch: &'a mut Watch,
    pub journal: &'a Journal,
}

impl Field<'_> {
    /// The agent of a node that a fault is to hit, or nothing where another fault has ended it, or where it
    /// could not join: that one is down, which is worse.
    ///
    /// # Errors
    /// When it does not run though nothing was done to it: a fault that hits nobody tests nothing.
    pub fn pid(&mut self, node: usize) -> Result<Option<u32>, FaultError> {
        // Asked first, as an agent that has ended keeps its pid until somebody asks.
        let pid = if self.farm.is_running(node) { self.farm.agent_pid(node) } else { None };
        if pid.is_none() && !self.ended.contains(&node) && !self.farm.nodes[node].is_lost {
            let name = &self.farm.nodes[node].name;
            return Err(FaultError::Absent(format!(
                "the agent of {name} does not run: there is nobody to hit"
            )));
        }
        Ok(pid)
    }
}

/// Why a fault can not be made, or undone.
#[derive(Debug, thiserror::Error)]
pub enum FaultError {
    #[error(transparent)]
    Farm(#[from] FarmError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error("can not {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{0}")]
    Absent(String),
}

fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> FaultError {
    let what = what.into();
    move |source| FaultError::Io { what, source }
}

/// Whom else of so many nodes a fault at these ones hits. Those that see only one node less are hit by that as
/// much as their target; those from whom a whole node is cut off go on without it.
pub fn also_hit(fault: &Fault, targets: &[usize], count: usize) -> BTreeSet<usize> {
    match fault {
        Fault::Partition { from: from @ (Others::One | Others::Bridge), .. } => {
            let ends =
                firewall::pairs(targets, *from, count).into_iter().flat_map(|(one, other)| [one, other]);
            ends.filter(|end| !targets.contains(end)).collect()
        }
        Fault::Partition { from: Others::All, .. }
        | Fault::Kill
        | Fault::Pause
        | Fault::Freeze
        | Fault::Restart
        | Fault::Version
        | Fault::Loss { .. }
        | Fault::Link(_)
        | Fault::PowerCut
        | Fault::DiskDies
        | Fault::DiskFull
        | Fault::FsyncFails
        | Fault::FsyncSlow { .. }
        | Fault::BitRot { .. }
        | Fault::Truncate
        | Fault::OldDatabase
        | Fault::Wipe
        | Fault::Clock { .. }
        | Fault::Cpu { .. }
        | Fault::Memory { .. }
        | Fault::Descriptors { .. } => BTreeSet::new(),
    }
}

/// A fault that has begun.
pub struct Active {
    fault: Fault,
    targets: Vec<usize>,
    state: State,
}

/// What has to be undone.
enum State {
    Nothing,
    /// Agents that are not running have to be started.
    Down,
    Paused,
    /// Agents that are of another version.
    Changed,
    Link(Hand),
    Groups(Vec<Cgroup>),
    Walls {
        walls: Walls,
        up: bool,
        turn: Instant,
    },
    /// Whoever still runs on them has to be ended.
    DeadDisks,
    Filled(Vec<std::path::PathBuf>),
    Tracers(Vec<storage::Tracer>),
    OldCopies(Vec<damage::Copy>),
    Descriptors(Vec<limits::Limit>),
}

impl State {
    fn begin(fault: &Fault, targets: &[usize], field: &mut Field<'_>) -> Result<Self, FaultError> {
        Ok(match fault {
            Fault::Kill => {
                process::kill(targets, field);
                State::Down
            }
            Fault::Restart => {
                process::stop(targets, field)?;
                State::Down
            }
            Fault::Version => {
                process::change_version(targets, field, true)?;
                State::Changed
            }
            Fault::Pause => {
                process::pause(targets, field)?;
                State::Paused
            }
            Fault::Freeze => State::Groups(process::freeze(targets, field)?),
            Fault::Partition { direction, from, .. } => {
                State::walled(Walls::plan(targets, *direction, *from, &field.farm.hosts()))?
            }
            Fault::Loss { percent } => State::walled(Walls::sieves(targets, *percent, &field.farm.hosts()))?,
            Fault::Link(conditions) => {
                let switch =
                    field.switch.ok_or_else(|| FaultError::Absent("there is no switch".to_owned()))?;
                State::Link(switch.begin(targets, conditions))
            }
            Fault::PowerCut => {
                storage::cut_power(targets, field)?;
                State::Down
            }
            Fault::DiskDies => {
                storage::kill_disks(targets, field)?;
                State::DeadDisks
            }
            Fault::DiskFull => State::Filled(storage::fill(targets, field)?),
            Fault::FsyncFails => State::Tracers(storage::trace_agents(targets, field, "error=EIO")?),
            Fault::FsyncSlow { delay_ms } => {
                let delay = format!("delay_enter={}", delay_ms * 1_000);
                State::Tracers(storage::trace_agents(targets, field, &delay)?)
            }
            Fault::BitRot { bits } => {
                process::kill(targets, field);
                storage::turn_bits(targets, field, *bits)?;
                State::Down
            }
            Fault::Truncate => {
                process::kill(targets, field);
                storage::truncate(targets, field)?;
                State::Down
            }
            Fault::OldDatabase => State::OldCopies(storage::copy(targets, field)?),
            Fault::Wipe => {
                process::kill(targets, field);
                storage::wipe(targets, field)?;
                State::Down
            }
            Fault::Clock { seconds } => {
                limits::set_clocks(targets, field, *seconds)?;
                State::Nothing
            }
            Fault::Cpu { percent } => State::Groups(limits::cpu(targets, field, *percent)?),
            Fault::Memory { mib } => State::Groups(limits::memory(targets, field, *mib)?),
            Fault::Descriptors { more } => State::Descriptors(limits::descriptors(targets, field, *more)?),
        })
    }

    fn walled(walls: Walls) -> Result<Self, FaultError> {
        walls.raise()?;
        Ok(Self::Walls { walls, up: true, turn: Instant::now() })
    }
}

impl Active {
    /// Makes it happen.
    ///
    /// # Errors
    /// When it can not be made here, or would hit nobody; what was begun is undone.
    pub fn begin(fault: &Fault, targets: &[usize], field: &mut Field<'_>) -> Result<Self, FaultError> {
        if targets.is_empty() {
            return Err(FaultError::Absent("there is nobody to hit".to_owned()));
        }
        for target in targets {
            field.pid(*target)?;
        }
        let state = State::begin(fault, targets, field)?;
        Ok(Self { fault: fault.clone(), targets: targets.to_vec(), state })
    }

    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    pub fn targets(&self) -> &[usize] {
        &self.targets
    }

    /// What a fault does while it lasts. To be called often.
    ///
    /// # Errors
    /// When the firewall does not do as it is told.
    pub fn tick(&mut self) -> Result<(), FaultError> {
        if let (Fault::Partition { flap_ms: Some(flap_ms), .. }, State::Walls { walls, up, turn }) =
            (&self.fault, &mut self.state)
            && turn.elapsed() >= Duration::from_millis(*flap_ms)
        {
            if *up {
                walls.raze()?
            } else {
                walls.raise()?
            }
            *up = !*up;
            *turn = Instant::now();
        }
        Ok(())
    }

    /// Undoes it, and starts agents that are not running. Returns how often it has hit anybody, where that can
    /// be told.
    ///
    /// # Errors
    /// When something can not be undone; the rest is all the same.
    pub fn end(self, field: &mut Field<'_>) -> Result<Option<u64>, FaultError> {
        let undone = Self::undo(self.state, &self.targets, field);
        if let Fault::Clock { .. } = self.fault {
            limits::set_clocks(&self.targets, field, 0)?;
        }
        if matches!(self.fault, Fault::PowerCut | Fault::DiskDies) {
            storage::restore_power(&self.targets, field)?;
        }
        process::start(&self.targets, field, self.fault.may_damage())?;
        undone
    }

    fn undo(state: State, targets: &[usize], field: &mut Field<'_>) -> Result<Option<u64>, FaultError> {
        match state {
            State::Nothing | State::Down | State::Walls { up: false, .. } => Ok(None),
            State::Paused => {
                process::go_on(targets, field);
                Ok(None)
            }
            State::Link(hand) => {
                if let Some(switch) = field.switch {
                    switch.end(hand);
                }
                Ok(None)
            }
            State::Changed => process::change_version(targets, field, false).map(|()| None),
            State::Groups(groups) => {
                // Before it is undone, as what is lifted bites no more.
                let bit = process::bit(&groups);
                process::release(&groups).map(|()| bit)
            }
            State::Walls { walls, up: true, .. } => walls.raze().map(|()| None),
            State::DeadDisks => {
                // Who has noticed has ended.
                let ended = targets.iter().filter(|target| !field.farm.is_running(**target)).count();
                process::kill(targets, field);
                Ok(Some(ended as u64))
            }
            State::Filled(files) => storage::empty(&files).map(|()| None),
            State::Tracers(tracers) => storage::detach(tracers),
            State::OldCopies(copies) => {
                process::kill(targets, field);
                copies.iter().try_for_each(damage::Copy::restore).map(|()| None)
            }
            State::Descriptors(limits) => {
                limits.iter().for_each(Limit::restore);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
pub mod tests;
