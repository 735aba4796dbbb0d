//! What can be done to a node, as an experiment names it, and what each takes.

use serde::{Deserialize, Serialize};

use crate::switch::Conditions;

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
    /// The disk does nothing any more, reads included, while the agent runs; what was not synced is lost.
    DiskDies,
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
            | Self::DiskDies
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
            Self::DiskDies => "disk_dies",
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
        matches!(self, Self::PowerCut | Self::DiskDies | Self::DiskFull)
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
            | Self::DiskDies
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
            Self::DiskDies
            | Self::DiskFull
            | Self::FsyncFails
            | Self::Memory { .. }
            | Self::Descriptors { .. } => true,
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

    /// Whether it has done what it does once it has begun; the others break nothing unless they last.
    pub fn bites_at_once(&self) -> bool {
        match self {
            Self::Kill
            | Self::Restart
            | Self::PowerCut
            | Self::BitRot { .. }
            | Self::Truncate
            | Self::Wipe => true,
            Self::Pause
            | Self::Freeze
            | Self::Version
            | Self::Partition { .. }
            | Self::Loss { .. }
            | Self::Link(_)
            | Self::DiskDies
            | Self::DiskFull
            | Self::FsyncFails
            | Self::FsyncSlow { .. }
            | Self::OldDatabase
            | Self::Clock { .. }
            | Self::Cpu { .. }
            | Self::Memory { .. }
            | Self::Descriptors { .. } => false,
        }
    }

    /// Whether an agent may find its data so that it refuses to start.
    pub fn may_damage(&self) -> bool {
        matches!(self, Self::BitRot { .. } | Self::Truncate | Self::OldDatabase | Self::Wipe)
    }
}
