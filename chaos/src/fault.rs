//! Faults: what is done to nodes, and how it is put right again.
//!
//! A [`Fault`] is a value that an experiment names. Once it has begun it is [`Active`], which knows what
//! has to be undone. An agent that ended meanwhile (of a failing disk, of want of memory) is started again
//! when its fault ends, as a supervisor would; one that finds its data damaged and refuses to start is
//! replaced by a new one, as its operator would.

pub mod damage;
mod firewall;
mod limits;
mod process;
mod storage;

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

use crate::cgroup::{Cgroup, CgroupError};
use crate::command::CommandError;
use crate::disk::DiskError;
use crate::farm::{Farm, FarmError};
use crate::lab::{Lab, LabError};
use crate::switch::{Conditions, Hand, Switch};

pub use firewall::Walls;
pub use limits::Limit;
pub use storage::{detach, trace_syncs};

/// What can be done to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// kill -9 of the agent; it is started again.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Pause,
    /// The agent and its instances stop without a signal.
    Freeze,
    /// The agent is told to stop, and started again.
    Restart,
    /// The agent is told to stop, and is of another version while this lasts.
    Version,
    /// Packets between it and others are dropped.
    Partition {
        #[serde(default)]
        direction: Direction,
        #[serde(default)]
        from: Others,
        /// Off and on again, each for so long.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        flap_ms: Option<u64>,
    },
    /// So many of a hundred packets that come to it are dropped.
    Loss {
        percent: u8,
    },
    /// What its network does to every frame, both ways. This needs the switch (the farm gets one).
    Link(Conditions),
    /// The power goes: what was not synced is lost.
    PowerCut,
    DiskFull,
    /// Syncs are answered with EIO.
    FsyncFails,
    /// Syncs take so much longer.
    FsyncSlow {
        delay_ms: u64,
    },
    /// The agent is killed, bits in its databases turn, and it is started again.
    BitRot {
        bits: u32,
    },
    /// The agent is killed, the largest file of its databases loses its end, and it is started again.
    Truncate,
    /// The agent is killed, and one database is as it was when the fault began.
    OldDatabase,
    /// The agent is killed, its disk is empty, and it joins again.
    Wipe,
    /// Its wall clock jumps, and jumps back.
    Clock {
        seconds: i64,
    },
    /// It gets so many hundredths of a core.
    Cpu {
        percent: u8,
    },
    /// It may have so much more memory than it has.
    Memory {
        mib: u64,
    },
    /// It may have so many more descriptors than it has.
    Descriptors {
        more: u64,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    #[default]
    Both,
    /// It hears nobody, and everybody hears it.
    In,
    Out,
}

/// Whom a node is cut from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Others {
    /// From everybody who is not hit by the same fault.
    #[default]
    All,
    /// From one other node: both are seen by everybody else.
    One,
    /// The farm falls in two halves, which see each other only through this node.
    Bridge,
}

const PERCENT_MAX: u8 = 100;
const MS_MAX: u64 = 60_000;
/// A TiB: an agent that may have so much more is limited by nothing, nor is one with so many descriptors.
const MIB_MAX: u64 = 1 << 20;
const DESCRIPTORS_MAX: u64 = 1 << 20;
/// Beyond a day certificates end, which is another fault.
const CLOCK_SECONDS_MAX: u64 = 24 * 3_600;

impl Fault {
    /// Whether its figures can be meant.
    pub fn make_sense(&self) -> Result<(), String> {
        let percent = |name: &str, value: u8| {
            if value <= PERCENT_MAX {
                Ok(())
            } else {
                Err(format!("{name} is {value}, of a hundred percent"))
            }
        };
        let ms = |name: &str, value: u64| {
            if value <= MS_MAX { Ok(()) } else { Err(format!("{name} is more than {MS_MAX}")) }
        };
        let nothing = |name: &str| Err(format!("{name} is 0, which breaks nothing"));
        match self {
            Self::Loss { percent: 0 } => nothing("percent"),
            Self::FsyncSlow { delay_ms: 0 } => nothing("delay_ms"),
            Self::Clock { seconds: 0 } => nothing("seconds"),
            Self::Memory { mib } if *mib > MIB_MAX => {
                Err(format!("mib is {mib}: more than {MIB_MAX} are no limit"))
            }
            Self::Descriptors { more } if *more > DESCRIPTORS_MAX => {
                Err(format!("more is {more}: so many descriptors are no limit"))
            }
            Self::Loss { percent: value } => percent("percent", *value),
            Self::Cpu { percent: value @ 1.. } => percent("percent", *value),
            Self::Cpu { percent: 0 } => Err("without any processor it is paused: percent is 0".to_owned()),
            Self::Partition { flap_ms: Some(value), .. } if *value < 50 => {
                Err(format!("flap_ms is {value}: the firewall is not as fast as that"))
            }
            Self::Partition { flap_ms: Some(value), .. } => ms("flap_ms", *value),
            Self::FsyncSlow { delay_ms } => ms("delay_ms", *delay_ms),
            Self::Link(conditions) => conditions.make_sense(),
            Self::Clock { seconds } if seconds.unsigned_abs() > CLOCK_SECONDS_MAX => {
                Err(format!("seconds is more than {CLOCK_SECONDS_MAX}"))
            }
            Self::BitRot { bits: 0 } => Err("bits is 0".to_owned()),
            Self::Kill
            | Self::Pause
            | Self::Freeze
            | Self::Restart
            | Self::Version
            | Self::Partition { flap_ms: None, .. }
            | Self::PowerCut
            | Self::DiskFull
            | Self::FsyncFails
            | Self::BitRot { .. }
            | Self::Truncate
            | Self::OldDatabase
            | Self::Wipe
            | Self::Clock { .. }
            | Self::Memory { .. }
            | Self::Descriptors { .. } => Ok(()),
        }
    }

    /// Its name, as in the experiment.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Pause => "pause",
            Self::Freeze => "freeze",
            Self::Restart => "restart",
            Self::Version => "version",
            Self::Partition { .. } => "partition",
            Self::Loss { .. } => "loss",
            Self::Link(_) => "link",
            Self::PowerCut => "power_cut",
            Self::DiskFull => "disk_full",
            Self::FsyncFails => "fsync_fails",
            Self::FsyncSlow { .. } => "fsync_slow",
            Self::BitRot { .. } => "bit_rot",
            Self::Truncate => "truncate",
            Self::OldDatabase => "old_database",
            Self::Wipe => "wipe",
            Self::Clock { .. } => "clock",
            Self::Cpu { .. } => "cpu",
            Self::Memory { .. } => "memory",
            Self::Descriptors { .. } => "descriptors",
        }
    }

    /// Whether the agents' data has to be on disks of its own.
    pub fn needs_disks(&self) -> bool {
        matches!(self, Self::PowerCut | Self::DiskFull)
    }

    /// Whether it needs somebody whom it does not hit.
    pub fn cuts_from_the_rest(&self) -> bool {
        matches!(self, Self::Partition { from: Others::All, .. })
    }

    pub fn needs_a_switch(&self) -> bool {
        matches!(self, Self::Link(_))
    }

    pub fn needs_clocks(&self) -> bool {
        matches!(self, Self::Clock { .. })
    }

    pub fn needs_another_version(&self) -> bool {
        matches!(self, Self::Version)
    }

    /// Whether it can not be made on hosts that are no more than addresses, or not by anybody.
    pub fn needs_hosts(&self) -> bool {
        match self {
            Self::Freeze
            | Self::Partition { .. }
            | Self::Loss { .. }
            | Self::Link(_)
            | Self::PowerCut
            | Self::DiskFull
            | Self::Cpu { .. }
            | Self::Memory { .. } => true,
            Self::Kill
            | Self::Pause
            | Self::Restart
            | Self::Version
            | Self::FsyncFails
            | Self::FsyncSlow { .. }
            | Self::BitRot { .. }
            | Self::Truncate
            | Self::OldDatabase
            | Self::Wipe
            | Self::Clock { .. }
            | Self::Descriptors { .. } => false,
        }
    }

    /// Whether an agent that is hit may end of it by itself.
    pub fn may_end_agents(&self) -> bool {
        match self {
            Self::DiskFull | Self::FsyncFails | Self::Memory { .. } | Self::Descriptors { .. } => true,
            // These end it themselves, and it may refuse what it finds afterwards.
            Self::Kill
            | Self::PowerCut
            | Self::BitRot { .. }
            | Self::Truncate
            | Self::OldDatabase
            | Self::Wipe => true,
            Self::Pause
            | Self::Freeze
            | Self::Restart
            | Self::Version
            | Self::Partition { .. }
            | Self::Loss { .. }
            | Self::Link(_)
            | Self::FsyncSlow { .. }
            | Self::Clock { .. }
            | Self::Cpu { .. } => false,
        }
    }
}

/// Where faults happen.
pub struct Field<'a> {
    pub farm: &'a mut Farm,
    pub lab: &'a mut Lab,
    pub switch: Option<&'a Switch>,
    /// What is left to chance, such as which bit turns.
    pub random: &'a mut StdRng,
    /// Nodes whose agents another fault has ended, or may have, which lasts.
    pub ended: BTreeSet<usize>,
}

impl Field<'_> {
    /// The agent of a node that a fault is to hit, or nothing where another fault has ended it: that one is
    /// down, which is worse.
    ///
    /// # Errors
    /// When it does not run though nothing was done to it: a fault that hits nobody tests nothing.
    pub fn pid(&mut self, node: usize) -> Result<Option<u32>, FaultError> {
        // Asked first, as an agent that has ended keeps its pid until somebody asks.
        let pid = if self.farm.is_running(node) { self.farm.agent_pid(node) } else { None };
        if pid.is_none() && !self.ended.contains(&node) {
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
    Filled(Vec<std::path::PathBuf>),
    Tracers(Vec<std::process::Child>),
    OldCopies(Vec<storage::Copy>),
    Descriptors(Vec<limits::Limit>),
}

impl State {
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
        let state = match fault {
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
        };
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

    /// Undoes it, and starts agents that are not running.
    ///
    /// # Errors
    /// When something can not be undone; the rest is all the same.
    pub fn end(self, field: &mut Field<'_>) -> Result<(), FaultError> {
        let undone = match self.state {
            State::Nothing | State::Down => Ok(()),
            State::Paused => {
                process::go_on(&self.targets, field);
                Ok(())
            }
            State::Link(hand) => {
                if let Some(switch) = field.switch {
                    switch.end(hand);
                }
                Ok(())
            }
            State::Changed => process::change_version(&self.targets, field, false),
            State::Groups(groups) => process::release(&groups),
            State::Walls { walls, up: true, .. } => walls.raze(),
            State::Walls { up: false, .. } => Ok(()),
            State::Filled(files) => storage::empty(&files),
            State::Tracers(tracers) => storage::detach(tracers),
            State::OldCopies(copies) => {
                process::kill(&self.targets, field);
                storage::restore(&copies)
            }
            State::Descriptors(limits) => {
                limits.iter().for_each(Limit::restore);
                Ok(())
            }
        };
        if let Fault::Clock { .. } = self.fault {
            limits::set_clocks(&self.targets, field, 0)?;
        }
        if matches!(self.fault, Fault::PowerCut) {
            storage::restore_power(&self.targets, field)?;
        }
        process::start(&self.targets, field, self.fault.may_damage())?;
        undone
    }
}

impl Fault {
    /// Whether an agent may find its data so that it refuses to start.
    fn may_damage(&self) -> bool {
        matches!(self, Self::BitRot { .. } | Self::Truncate | Self::OldDatabase | Self::Wipe)
    }
}

#[cfg(test)]
mod tests;
