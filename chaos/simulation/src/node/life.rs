//! An agent from its start to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Instant;

use node_core::invalidation::Streams;
use node_core::membership::{MemberStatus, NodeStates};
use node_membership::{Machine, Member, Settings};
use node_security::GossipKey;
use proto::ids::{ClusterId, Generation, NodeId};
use proto::peer::{NodeState, Phase};
use rand::RngCore as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use super::invalidation::{Fill, Wait};
use super::{Context, Disk, Effect, Message, Seen, Timer, is_live};
use crate::caches::Cache;

/// How often an agent of a small farm hands on what the gossip has found out. The product does it at once.
const LOOK_US: u64 = 100_000;
/// Comparing what has changed costs each node as much as there are nodes.
const LOOK_OF_MANY_US: u64 = 500_000;
const MANY: usize = 64;
const ANNOUNCE_US: u64 = 1_000_000;
const SYNC_US: u64 = 1_000_000;
const COALESCE_US: u64 = 2_000;
const ANNOUNCED_MAX: usize = 5;
/// From a start until an agent is ready.
const READY_US: u64 = 500_000;
/// A refused connection is noticed after a round trip.
const CLUSTER: ClusterId = ClusterId([7; 16]);

/// One life of a node.
pub struct Life {
    pub node: NodeId,
    pub generation: Generation,
    pub machine: Machine,
    /// By the gossip, without this one.
    pub members: BTreeMap<NodeId, Member>,
    /// By the control log, this one included.
    pub admitted: BTreeMap<NodeId, SocketAddr>,
    pub gone: BTreeSet<NodeId>,
    pub own: NodeState,
    pub states: NodeStates,
    pub streams: Streams,
    pub cache: Cache,
    pub(super) waits: BTreeMap<u64, Wait>,
    pub(super) fills: BTreeMap<u64, Fill>,
    pub(super) next_fill: u64,
    pub(super) next_attempt: u64,
    /// What is published has not been sent.
    pub(super) push_waits: bool,
    look_us: u64,
    /// When the gossip's next timer is looked at.
    wakes_at: Option<Instant>,
}

impl Life {
    pub fn start(disk: &Disk, seed_address: SocketAddr, hosts: usize, cx: &mut Context<'_>) -> Self {
        let own_address = disk.members.get(&disk.node).copied().unwrap_or(seed_address);
        let settings = Settings {
            cluster: CLUSTER,
            node: disk.node,
            generation: disk.generation,
            zone: "a".to_owned(),
            bind: own_address,
            advertise: own_address,
            peer: own_address,
            key: GossipKey::from_slice(&[9; 32]).expect("a key has 32 bytes"),
        };
        let mut seed = [0; 32];
        cx.random.fill_bytes(&mut seed);
        let own = NodeState {
            node: disk.node.0,
            generation: disk.generation.0,
            invalidation_sequence: disk.life.begins_after(),
            ..NodeState::default()
        };
        let mut life = Self {
            node: disk.node,
            generation: disk.generation,
            machine: Machine::new(settings, seed),
            members: BTreeMap::new(),
            admitted: disk.members.clone(),
            gone: BTreeSet::new(),
            own,
            states: NodeStates::default(),
            streams: Streams::new(disk.node, disk.generation, disk.life),
            cache: Cache::default(),
            waits: BTreeMap::new(),
            fills: BTreeMap::new(),
            next_fill: 0,
            next_attempt: 0,
            push_waits: false,
            look_us: if hosts > MANY { LOOK_OF_MANY_US } else { LOOK_US },
            wakes_at: None,
        };
        life.publish(cx, |state| state.set_phase(Phase::Joining));
        life.machine.announce(None, seed_address, cx.now);
        life.announce(cx);
        // Not all at the same moment.
        let offset = u64::from(cx.random.next_u32());
        cx.later(offset % life.look_us, Timer::Look);
        cx.later(offset % SYNC_US, Timer::Sync);
        cx.later(READY_US, Timer::Ready);
        life.settle(cx);
        life
    }

    /// After anything that the gossip was given: what it wants sent, and when it wants to be woken.
    pub fn settle(&mut self, cx: &mut Context<'_>) {
        cx.effects.extend(self.machine.outbox().map(|(to, bytes)| Effect::Datagram { to, bytes }));
        if let Some(at) = self.machine.next_timer()
            && self.wakes_at.is_none_or(|wakes| at < wakes)
        {
            self.wakes_at = Some(at);
            let after = at.saturating_duration_since(cx.now);
            cx.later(u64::try_from(after.as_micros()).unwrap_or(u64::MAX), Timer::Gossip);
        }
    }

    pub fn datagram(&mut self, bytes: &[u8], cx: &mut Context<'_>) {
        self.machine.receive(bytes, cx.now);
        self.settle(cx);
    }

    pub fn timer(&mut self, timer: Timer, cx: &mut Context<'_>) {
        match timer {
            Timer::Gossip => {
                self.wakes_at = None;
                self.machine.fire(cx.now);
                self.settle(cx);
            }
            Timer::Look => {
                self.look(cx);
                cx.later(self.look_us, Timer::Look);
            }
            Timer::Announce => self.announce(cx),
            Timer::Sync => {
                self.sync(cx);
                self.compare_tails(cx);
                cx.later(SYNC_US, Timer::Sync);
            }
            Timer::PushOwn => self.push_own(cx),
            Timer::Ready => self.publish(cx, |state| state.set_phase(Phase::Ready)),
            Timer::Push { sequence, node } => self.push(sequence, node, cx),
            Timer::PushTimeout { sequence, node, attempt } => self.push_timeout(sequence, node, attempt, cx),
            Timer::Report { sequence } => self.report(sequence, cx),
            Timer::Fill { fill } => self.pull(fill, cx),
            Timer::FillTimeout { fill, tries } => self.fill_timeout(fill, tries, cx),
        }
    }

    pub fn message(
        &mut self,
        from: NodeId,
        from_address: SocketAddr,
        message: Message,
        cx: &mut Context<'_>,
    ) {
        let answer = |message| Effect::Call { node: from, to: from_address, message };
        match message {
            Message::States(states) => self.take(states, cx),
            Message::Digest(have) => {
                let (newer, want) = self.states.compare(&have);
                cx.effects.push(answer(Message::Difference { newer, want }));
            }
            Message::Difference { newer, want } => {
                self.take(newer, cx);
                let wanted: Vec<_> = want.iter().filter_map(|node| self.states.get(*node).cloned()).collect();
                if !wanted.is_empty() {
                    cx.effects.push(answer(Message::States(wanted)));
                }
            }
            Message::Invalidate { attempt, event } => {
                let sequence = event.position.sequence;
                let outcome = self.streams.receive(event);
                self.deliver(outcome, cx);
                let position = self.streams.vector().into_iter().find(|position| position.node == from);
                cx.effects.push(answer(Message::Applied { attempt, sequence, position }));
            }
            Message::Applied { attempt, sequence, position } => {
                self.applied(from, attempt, sequence, position, cx);
            }
            Message::Pull { fill, gap } => {
                let pulled =
                    self.streams.pull(gap.generation, gap.from, super::invalidation::PULL_EVENTS_MAX);
                cx.effects.push(answer(Message::Pulled { fill, gap, pulled }));
            }
            Message::Pulled { fill, gap, pulled } => self.pulled(fill, gap, pulled, cx),
        }
    }

    /// A connection to the node was refused.
    pub fn refused(&mut self, node: NodeId, cx: &mut Context<'_>) {
        self.machine.unreachable(node, cx.now);
        self.settle(cx);
    }

    /// Says goodbye.
    pub fn leave(&mut self, cx: &mut Context<'_>) {
        self.machine.leave(cx.now);
        cx.effects.extend(self.machine.outbox().map(|(to, bytes)| Effect::Datagram { to, bytes }));
    }

    /// The control log says who belongs to the farm.
    pub fn admit(&mut self, members: &BTreeMap<NodeId, SocketAddr>, cx: &mut Context<'_>) {
        let gone: Vec<NodeId> =
            self.admitted.keys().filter(|node| !members.contains_key(*node)).copied().collect();
        for node in &gone {
            self.gone.insert(*node);
            self.states.forget(*node);
        }
        self.admitted.clone_from(members);
        if !gone.is_empty() {
            let outcome = self.streams.forget(gone.into_iter());
            self.deliver(outcome, cx);
        }
    }

    fn look(&mut self, cx: &mut Context<'_>) {
        if let Some(news) = self.machine.news(cx.now) {
            let mut told = news.clone();
            told.sort_by_key(|member| member.node);
            self.members = news.into_iter().map(|member| (member.node, member)).collect();
            cx.saw(Seen::Members(told));
            self.compare_tails(cx);
        }
    }

    /// Announces this node to some of those that it does not hear.
    fn announce(&mut self, cx: &mut Context<'_>) {
        let hears = |node: &NodeId| {
            *node == self.node
                || self.members.get(node).is_some_and(|member| member.state == MemberStatus::Alive)
        };
        let mut silent: Vec<(NodeId, SocketAddr)> = self
            .admitted
            .iter()
            .filter(|(node, _)| !hears(node))
            .map(|(node, address)| (*node, *address))
            .collect();
        silent.partial_shuffle(cx.random, ANNOUNCED_MAX);
        // The chosen ones are put at the end.
        for (node, address) in silent.iter().rev().take(ANNOUNCED_MAX) {
            self.machine.announce(Some(*node), *address, cx.now);
        }
        self.settle(cx);
        cx.later(ANNOUNCE_US, Timer::Announce);
    }

    fn sync(&mut self, cx: &mut Context<'_>) {
        let live = self.live();
        if let Some((node, to)) = live.choose(cx.random) {
            let message = Message::Digest(self.states.digest());
            cx.effects.push(Effect::Call { node: *node, to: *to, message });
        }
    }

    /// Where news goes.
    pub(super) fn live(&self) -> Vec<(NodeId, SocketAddr)> {
        let live = self.members.values().filter(|member| is_live(member.state));
        live.map(|member| (member.node, member.peer)).collect()
    }

    pub(super) fn push_soon(&mut self, cx: &mut Context<'_>) {
        if !std::mem::replace(&mut self.push_waits, true) {
            cx.later(COALESCE_US, Timer::PushOwn);
        }
    }
}
