//! What may never happen in a group, one promise a file.

mod agreement;
mod durability;
mod leadership;
mod recency;
mod refusal;
mod time;

use std::collections::BTreeMap;

use proto::ids::{GroupId, NodeId};

use super::ledger::{Operation, State};
use crate::servers::convergence::{EverythingComesToRest, Restless};
use crate::servers::jury;

/// Something that a promise may be about.
#[derive(Debug, Clone)]
pub enum Seen {
    /// A node believes that it leads.
    Leads {
        group: GroupId,
        node: NodeId,
        term: u64,
    },
    /// A replica has applied its `count`-th operation; `chain` is made of all up to it.
    Applied {
        group: GroupId,
        node: NodeId,
        count: u64,
        chain: u64,
        clock_ms: u64,
        at_ms: u64,
        operation: Operation,
    },
    /// A node has died, and begins another life.
    Restarts {
        node: NodeId,
        at_ms: u64,
    },
    /// A replica has the state after that many operations from its own disk.
    Recovered {
        group: GroupId,
        node: NodeId,
        count: u64,
        chain: u64,
    },
    /// A replica has it from the leader, in place of the log.
    Received {
        group: GroupId,
        node: NodeId,
        count: u64,
        chain: u64,
    },
    /// A client was told that its operation has been executed as this version of its register.
    Acknowledged {
        group: GroupId,
        operation: Operation,
        version: u64,
    },
    /// A client was told that its operation has not been executed.
    Refused {
        group: GroupId,
        operation: Operation,
    },
    /// A client has asked to read; its answer bears the same number.
    Asks {
        group: GroupId,
        read: u64,
        register: u8,
    },
    Answered {
        group: GroupId,
        read: u64,
        register: u8,
        version: u64,
    },
}

/// What is left when every fault has been over for long.
pub struct Rest {
    /// What keeps the groups from it: the voters are not who they are wanted to be, one has another state than
    /// the others, or a write is not taken somewhere.
    pub unrest: Option<String>,
    pub finals: BTreeMap<GroupId, State>,
}

impl Restless for Rest {
    fn unrest(&self) -> Option<&str> {
        self.unrest.as_deref()
    }
}

pub type Jury = jury::Jury<Seen, Rest>;

pub fn all() -> Vec<Box<dyn jury::Invariant<Seen, Rest>>> {
    vec![
        Box::new(agreement::EverybodyAppliesTheSame::default()),
        Box::new(EverythingComesToRest),
        Box::new(durability::WhatWasAcknowledgedStays::default()),
        Box::new(leadership::LeadersComeInOrder::default()),
        Box::new(recency::NobodyReadsWhatWas::default()),
        Box::new(refusal::WhatWasRefusedIsNotExecuted::default()),
        Box::new(time::TimeGoesOn::default()),
    ]
}

#[cfg(test)]
mod examples {
    use super::*;

    pub const GROUP: GroupId = GroupId(1);

    pub fn operation(number: u64) -> Operation {
        Operation { number, register: 0 }
    }

    /// At this count of a replica, whose chain is the same as everybody's there, and when it is.
    pub fn applied(node: u64, count: u64, number: u64, clock_ms: u64, at_ms: u64) -> Seen {
        let (node, operation) = (NodeId(node), operation(number));
        Seen::Applied { group: GROUP, node, count, chain: count, clock_ms, at_ms, operation }
    }

    /// The place of the first that breaks a promise.
    pub fn breaks(invariant: &mut impl jury::Invariant<Seen, Rest>, seen: &[Seen]) -> Option<usize> {
        seen.iter().position(|seen| invariant.see(seen).is_some())
    }
}
