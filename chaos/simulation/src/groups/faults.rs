//! What goes wrong with groups, and what is asked of them meanwhile.

use std::collections::BTreeSet;
use std::fmt;

use proto::ids::NodeId;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::servers::faults::{self, KINDS, Planned, node};

#[derive(Clone)]
pub enum Fault {
    Server(faults::Fault),
    /// Not a fault: the group's voters become these.
    Reconfigure {
        voters: BTreeSet<NodeId>,
    },
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(fault) => fault.fmt(f),
            Self::Reconfigure { voters } => f.debug_struct("Reconfigure").field("voters", voters).finish(),
        }
    }
}

/// The faults of a safety phase, in the order in which they begin. All end with it.
pub fn plan(hosts: usize, voters: usize, phase_us: u64, random: &mut StdRng) -> Vec<Planned<Fault>> {
    faults::plan(phase_us, random, |random| {
        let host = random.random_range(0..hosts);
        match random.random_range(0..KINDS + 2) {
            7 | 8 => {
                let mut hosts: Vec<usize> = (0..hosts).collect();
                hosts.shuffle(random);
                Fault::Reconfigure { voters: hosts.into_iter().take(voters).map(node).collect() }
            }
            kind @ ..7 => Fault::Server(faults::kind(kind, host, hosts, random)),
            kind => Fault::Server(faults::kind(kind - 2, host, hosts, random)),
        }
    })
}
