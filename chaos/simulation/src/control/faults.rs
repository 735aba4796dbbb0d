//! What goes wrong with a farm under control.

use std::collections::BTreeSet;
use std::fmt;

use rand::Rng as _;
use rand::rngs::StdRng;

use crate::servers::faults::{self, KINDS, Planned};

#[derive(Clone)]
pub enum Fault {
    Server(faults::Fault),
    /// Its disk is lost with it; a new node takes its place.
    Wipe {
        host: usize,
    },
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(fault) => fault.fmt(f),
            Self::Wipe { host } => f.debug_struct("Wipe").field("host", host).finish(),
        }
    }
}

/// The faults of a safety phase, in the order in which they begin. All end with it.
pub fn plan(hosts: usize, phase_us: u64, random: &mut StdRng) -> Vec<Planned<Fault>> {
    let mut is_wiped = false;
    faults::plan(phase_us, random, |random| {
        let host = random.random_range(0..hosts);
        let kind = random.random_range(0..=KINDS);
        // A second disk could be that of another voter, and two of three are a majority.
        if kind == KINDS && !is_wiped {
            is_wiped = true;
            return Fault::Wipe { host };
        }
        Fault::Server(faults::kind(kind % KINDS, host, hosts, random))
    })
}

impl Fault {
    /// The hosts that may not be reached because of it, or not be known to be there.
    pub fn troubles(&self, hosts: usize) -> BTreeSet<usize> {
        let those = |side: &[bool]| (0..hosts).filter(|host| side[*host]).collect::<BTreeSet<usize>>();
        match self {
            Self::Wipe { host } => [*host].into(),
            Self::Server(fault) => match fault {
                faults::Fault::Crash { host }
                | faults::Fault::Restart { host }
                | faults::Fault::SlowDisk { host } => [*host].into(),
                faults::Fault::PowerCut | faults::Fault::Rough(_) => (0..hosts).collect(),
                faults::Fault::Clock { .. } => BTreeSet::new(),
                faults::Fault::Suspect { suspects, .. } => {
                    suspects.iter().filter_map(|node| usize::try_from(node.0 - 1).ok()).collect()
                }
                faults::Fault::Cut(cut) => {
                    let (from, to) = (those(&cut.from), those(&cut.to));
                    // Who is alone on his side is the one who is cut off.
                    match (from.len(), to.len()) {
                        (1, 1) => from.union(&to).copied().collect(),
                        (1, _) => from,
                        (_, 1) => to,
                        _ => (0..hosts).collect(),
                    }
                }
            },
        }
    }
}
