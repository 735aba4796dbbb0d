//! What may never happen in a group, one promise a file.

mod agreement;
mod convergence;
mod durability;
mod leadership;
mod recency;
mod refusal;
mod time;

use std::collections::BTreeMap;

use proto::ids::{GroupId, NodeId};

use super::ledger::{Operation, State};
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
    /// What keeps the groups from it.
    pub unrest: Option<String>,
    pub finals: BTreeMap<GroupId, State>,
}

pub type Jury = jury::Jury<Seen, Rest>;

pub fn all() -> Vec<Box<dyn jury::Invariant<Seen, Rest>>> {
    vec![
        Box::new(agreement::EverybodyAppliesTheSame::default()),
        Box::new(convergence::EverybodyComesToRest),
        Box::new(durability::WhatWasAcknowledgedStays::default()),
        Box::new(leadership::LeadersComeInOrder::default()),
        Box::new(recency::NobodyReadsWhatWas::default()),
        Box::new(refusal::WhatWasRefusedIsNotExecuted::default()),
        Box::new(time::TimeGoesOn::default()),
    ]
}
