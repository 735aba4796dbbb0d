//! What may never happen under a controller, one promise a file.

mod agreement;
mod authority;
mod gates;
mod mixture;

use std::fmt;
use std::sync::Arc;

use node_core::control::{Act, Command, ControlState, Outcome};
use proto::ids::{Epoch, NodeId, ReleaseId};

use crate::servers::convergence::{EverythingComesToRest, Restless};
use crate::servers::jury;

/// Something that a promise may be about.
pub enum Seen {
    /// A life of a node begins; nothing runs there yet.
    Starts { node: NodeId },
    /// A node is gone with its disk.
    Lost { node: NodeId },
    /// A replica has applied an entry, and has this state now.
    Applied {
        node: NodeId,
        index: u64,
        command: Box<Command>,
        outcome: Outcome,
        state: Arc<ControlState>,
        at_ms: u64,
    },
    /// A replica has a state that others, or itself before, had. It is received from the leader, in place of
    /// the log, or else from its own disk.
    Restored { node: NodeId, state: Arc<ControlState>, is_received: bool },
    /// A node was told that it is the controller.
    Reigns { node: NodeId, epoch: Epoch },
    /// An agent does what a controller has told it.
    Obeyed { node: NodeId, controller: NodeId, epoch: Epoch, act: Act },
    /// From now on a node serves this release of an app, or none.
    Serves { node: NodeId, app: &'static str, release: Option<ReleaseId>, at_ms: u64 },
    /// A fault begins for which these may not be reached.
    Troubled { fault: usize, nodes: Vec<NodeId> },
    /// It is over.
    Relieved { fault: usize, at_ms: u64 },
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starts { node } => write!(f, "{node} has started"),
            Self::Lost { node } => write!(f, "{node} is lost"),
            Self::Applied { node, index, command, outcome, .. } => {
                write!(f, "{node} applies {index}: {command:?}: {outcome:?}")
            }
            Self::Restored { node, is_received, .. } => {
                write!(f, "{node} has {} snapshot", if *is_received { "received a" } else { "its" })
            }
            Self::Reigns { node, epoch } => write!(f, "{node} reigns in {epoch}"),
            Self::Obeyed { node, controller, epoch, act } => {
                write!(f, "{node} obeys {controller} of {epoch}: {act:?}")
            }
            Self::Serves { node, app, release, .. } => {
                write!(f, "{node} serves {app} {:?}", release.map(|release| release.0[0]))
            }
            Self::Troubled { fault, nodes } => write!(f, "fault {fault} troubles {nodes:?}"),
            Self::Relieved { fault, .. } => write!(f, "fault {fault} troubles nobody any more"),
        }
    }
}

/// What is left when every fault has been over for long.
pub struct Rest {
    /// What keeps the farm from it: there is no controller whom all follow, a rollout does not end, a node does
    /// not run what it should, a group is not whole, or a release that is made then is not everywhere.
    pub unrest: Option<String>,
}

impl Restless for Rest {
    fn unrest(&self) -> Option<&str> {
        self.unrest.as_deref()
    }
}

pub type Jury = jury::Jury<Seen, Rest>;

pub fn all() -> Vec<Box<dyn jury::Invariant<Seen, Rest>>> {
    vec![
        Box::new(agreement::EverybodyKnowsTheSame::default()),
        Box::new(authority::OneControllerAtATime::default()),
        Box::new(EverythingComesToRest),
        Box::new(gates::WhatFailsIsNeverStable),
        Box::new(mixture::TwoReleasesAtATime::default()),
    ]
}

#[cfg(test)]
mod examples {
    use node_core::control::Order;

    use super::*;

    /// An entry that any replica has applied, and what it made of the state.
    pub fn applied(index: u64, command: Command, outcome: Outcome, state: ControlState) -> Seen {
        let (command, state) = (Box::new(command), Arc::new(state));
        Seen::Applied { node: NodeId(1), index, command, outcome, state, at_ms: 0 }
    }

    pub fn order(epoch: u64, order: Order) -> Command {
        Command::Order { epoch: Epoch(epoch), order }
    }

    /// The place of the first that breaks a promise.
    pub fn breaks(invariant: &mut impl jury::Invariant<Seen, Rest>, seen: &[Seen]) -> Option<usize> {
        seen.iter().position(|seen| invariant.see(seen).is_some())
    }
}
