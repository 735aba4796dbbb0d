//! One node: the product's machines, and what its agent does between them.
//!
//! The machines are the product's own: [`node_membership::Machine`] with foca in it, `NodeStates` and
//! `Streams`. What an agent's tasks do between them (`node/src/members/spread.rs` and
//! `node/src/invalidate/push.rs`) is done here with the same intervals, over a network and a time that
//! the seed decides.

mod invalidation;
mod life;
mod states;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use node_core::invalidation::{Event, Gap, Position, Pulled};
use node_core::membership::MemberStatus;
use node_membership::Member;
use proto::ids::{Generation, NodeId};
use proto::peer::{NodeState, StateDigest};
use rand::rngs::StdRng;

pub use life::Life;

/// Where a host is.
pub fn address(host: usize) -> SocketAddr {
    let [_, _, high, low] = u32::try_from(host).unwrap_or(u32::MAX).to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, high, low)), 7_401)
}

/// Which host is there.
pub fn host(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V4(ip) => {
            let [_, _, high, low] = ip.octets();
            Some(usize::from(u16::from_be_bytes([high, low])))
        }
        IpAddr::V6(_) => None,
    }
}

/// What is sent over a connection between two agents.
#[derive(Debug, Clone)]
pub enum Message {
    States(Vec<Arc<NodeState>>),
    Digest(Vec<StateDigest>),
    Difference { newer: Vec<Arc<NodeState>>, want: Vec<NodeId> },
    Invalidate { attempt: u64, event: Event },
    Applied { attempt: u64, sequence: u64, position: Option<Position> },
    Pull { fill: u64, gap: Gap },
    Pulled { fill: u64, gap: Gap, pulled: Pulled },
}

/// What an agent has to look at later.
#[derive(Debug, Clone)]
pub enum Timer {
    /// foca's, whatever is due.
    Gossip,
    Look,
    Announce,
    Sync,
    /// What it has published goes out.
    PushOwn,
    Ready,
    Push {
        sequence: u64,
        node: NodeId,
    },
    PushTimeout {
        sequence: u64,
        node: NodeId,
        attempt: u64,
    },
    Report {
        sequence: u64,
    },
    Fill {
        fill: u64,
    },
    FillTimeout {
        fill: u64,
        tries: u32,
    },
}

/// What an agent does to the world.
pub enum Effect {
    Datagram { to: SocketAddr, bytes: Vec<u8> },
    Call { node: NodeId, to: SocketAddr, message: Message },
    Later { after_us: u64, timer: Timer },
    Saw(Seen),
}

/// What is judged.
#[derive(Debug)]
pub enum Seen {
    Members(Vec<Member>),
    Published(Arc<NodeState>),
    /// A state was taken over from whomever.
    Took(Arc<NodeState>),
    /// Subscribers were told that something is stale.
    Delivered(Position),
    Flushed,
    /// Somebody was told that nobody serves anything older any more.
    Complete {
        key: usize,
        version: u64,
        /// Whom it has as members of the farm.
        members: Vec<NodeId>,
    },
    /// Somebody was told who may still do so.
    Incomplete {
        missing: usize,
    },
}

/// When something happens and what decides the rest of it.
pub struct Context<'a> {
    pub now: Instant,
    pub random: &'a mut StdRng,
    pub effects: Vec<Effect>,
}

impl Context<'_> {
    pub fn later(&mut self, after_us: u64, timer: Timer) {
        self.effects.push(Effect::Later { after_us, timer });
    }

    pub fn saw(&mut self, seen: Seen) {
        self.effects.push(Effect::Saw(seen));
    }
}

/// What of a node survives its agent.
#[derive(Debug, Clone)]
pub struct Disk {
    pub node: NodeId,
    pub generation: Generation,
    pub life: node_core::invalidation::Life,
    /// The farm's members by the control log, as far as it was followed.
    pub members: BTreeMap<NodeId, SocketAddr>,
}

/// Whether requests and news go there.
pub fn is_live(status: MemberStatus) -> bool {
    matches!(status, MemberStatus::Alive | MemberStatus::Suspect)
}
