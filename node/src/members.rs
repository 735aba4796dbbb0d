//! Who is here, and what each node says of itself, kept the same on all nodes.
//!
//! ```text
//!   gossip thread ──members──▶ ┐
//!   publish(own state) ──────▶ ├─▶ View (watch) ─▶ balancer, controller, sessions, status
//!   handle_push / handle_sync ▶┘
//!         own state changed ─▶ pushed to every live node at once
//!         each second       ─▶ anti-entropy with one random node
//! ```
//!
//! The gossip carries who is alive, in datagrams; what a node runs is too much for those and goes over
//! the mesh. A push may be lost; the anti-entropy repairs it within a second or two.
//!
//! States are not signed yet: a member relays what it has heard, and its word is taken for it. What a
//! state can do is direct requests; it grants no authority.

mod spread;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use node_core::membership::{MemberStatus, NodeStates};
use node_membership::{Member, MemberEvent, Membership, MembershipError, Settings};
use proto::ids::{Generation, NodeId};
use proto::limits::MEMBERS_MAX;
use proto::peer::{
    NodeState, Phase, PushStatesRequest, PushStatesResponse, SyncStatesRequest, SyncStatesResponse,
};
use tokio::sync::{Notify, watch};
use tonic::Status;

use crate::config::Config;
use crate::identity::{Identity, KnownPeer};
use crate::mesh::Mesh;
use crate::tasks::Tasks;

/// What the membership is made from.
pub struct MembersParts {
    pub identity: Arc<Identity>,
    pub config: Config,
    pub mesh: Mesh,
    pub tasks: Tasks,
}

/// Everybody this node knows of, itself included, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    pub me: NodeId,
    pub members: BTreeMap<NodeId, MemberView>,
    /// Members by the join or the control log of whom the gossip has said nothing in this life.
    pub unheard: BTreeSet<NodeId>,
    /// No members any more.
    pub gone: BTreeSet<NodeId>,
}

/// One node: the gossip's word and its own.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberView {
    pub member: Member,
    /// `None` until it has told of itself.
    pub state: Option<Arc<NodeState>>,
}

/// A handle to the membership. Clones share it.
#[derive(Clone)]
pub struct Members {
    inner: Arc<Inner>,
}

struct Inner {
    me: NodeId,
    generation: Generation,
    table: Mutex<Table>,
    view: watch::Sender<Arc<View>>,
    own_changed: Notify,
    mesh: Mesh,
    gossip: Membership,
    /// The gossip's thread has been told to end.
    has_left: AtomicBool,
    started: Instant,
}

struct Table {
    /// Where members were told to be, by the join or the control log.
    known: BTreeMap<NodeId, KnownPeer>,
    own: NodeState,
    states: NodeStates,
    /// No members any more. Others may still tell of them.
    gone: BTreeSet<NodeId>,
    /// By gossip, and this node.
    members: BTreeMap<NodeId, Member>,
}

impl Members {
    /// Starts the gossip and the exchange of states.
    ///
    /// # Errors
    /// When the gossip's port can not be opened.
    pub fn start(parts: MembersParts) -> Result<Self, MembershipError> {
        let MembersParts { identity, config, mesh, tasks } = parts;
        let (events, told) = watch::channel(Vec::new());
        let gossip = node_membership::start(settings(&identity, &config), move |event| {
            let MemberEvent::Changed(members) = event;
            // The newest list counts; who reads is told that it changed.
            events.send_replace(members);
        })?;
        let own = own_state(&identity, &config);
        let myself = myself(&identity, &config);
        let view = View { me: identity.node, ..View::default() };
        let table = Table {
            known: BTreeMap::new(),
            own,
            states: NodeStates::default(),
            gone: BTreeSet::new(),
            members: BTreeMap::from([(identity.node, myself)]),
        };
        let members = Self {
            inner: Arc::new(Inner {
                me: identity.node,
                generation: identity.generation,
                table: Mutex::new(table),
                view: watch::Sender::new(Arc::new(view)),
                own_changed: Notify::new(),
                mesh,
                gossip,
                has_left: AtomicBool::new(false),
                started: Instant::now(),
            }),
        };
        members.publish(|_| ());
        members.introduce(identity.peers.iter().copied());
        let seeds = config.network.join.clone();
        tasks.essential("announcements", spread::announce(members.clone(), seeds, tasks.stop()));
        tasks.essential("membership", spread::follow_gossip(members.clone(), told, tasks.stop()));
        tasks.essential("state push", spread::push_own(members.clone(), tasks.clone()));
        tasks.essential("anti-entropy", spread::anti_entropy(members.clone(), tasks.stop()));
        tasks.essential("resets", spread::follow_resets(members.clone(), tasks.stop()));
        Ok(members)
    }

    /// Since when this node hears of others.
    pub fn started(&self) -> Instant {
        self.inner.started
    }

    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.inner.view.subscribe()
    }

    /// Changes what this node says of itself, and tells everybody at once.
    pub fn publish(&self, change: impl FnOnce(&mut NodeState)) {
        {
            let mut table = self.table();
            let before = table.own.clone();
            change(&mut table.own);
            // Who it is and which version this is are not the parts' to say.
            table.own.node = before.node;
            table.own.generation = before.generation;
            if table.own == before && before.sequence > 0 {
                return;
            }
            table.own.sequence = before.sequence + 1;
            let own = table.own.clone();
            if let Err(error) = table.states.merge(own) {
                tracing::error!(%error, "this node's own state is not taken");
            }
        }
        self.refresh();
        self.inner.own_changed.notify_one();
    }

    /// Announces this node to members known from elsewhere, such as the control log, now and again
    /// until they are alive: an announcement is one datagram, and they may not have started yet.
    pub fn introduce(&self, peers: impl Iterator<Item = KnownPeer>) {
        for peer in peers.filter(|peer| peer.node != self.inner.me) {
            if self.inner.mesh.address(peer.node).is_none() {
                self.inner.mesh.learn(peer.node, peer.peer);
            }
            let before = self.table().known.insert(peer.node, peer);
            if before.is_none() {
                self.refresh();
            }
            if before != Some(peer) {
                self.inner.gossip.announce(Some(peer.node), peer.gossip);
            }
        }
    }

    /// Drops what is known of nodes that were removed from the cluster. Their ids are not used again.
    pub fn forget(&self, nodes: impl Iterator<Item = NodeId>) {
        let mut changed = false;
        {
            let mut table = self.table();
            for node in nodes.filter(|node| *node != self.inner.me) {
                if table.gone.insert(node) {
                    table.known.remove(&node);
                    table.states.forget(node);
                    self.inner.mesh.forget(node);
                    changed = true;
                }
            }
        }
        if changed {
            self.refresh();
        }
    }

    /// Answers a peer's digest.
    ///
    /// # Errors
    /// When it claims more members than there may be.
    pub async fn handle_sync(
        &self,
        _from: NodeId,
        request: SyncStatesRequest,
    ) -> Result<SyncStatesResponse, Status> {
        if request.have.len() > MEMBERS_MAX {
            return Err(Status::invalid_argument("more states than a cluster has members"));
        }
        let (newer, wanted) = self.table().states.compare(&request.have);
        // A message has its bound; what does not fit comes with a later round.
        let newer = spread::fitting(newer).iter().map(|state| state.as_ref().clone()).collect();
        Ok(SyncStatesResponse { newer, want: wanted.iter().map(|node| node.0).collect() })
    }

    /// Takes states that a peer has pushed.
    ///
    /// # Errors
    /// When they are more than there may be members.
    pub async fn handle_push(
        &self,
        from: NodeId,
        request: PushStatesRequest,
    ) -> Result<PushStatesResponse, Status> {
        if request.states.len() > MEMBERS_MAX {
            return Err(Status::invalid_argument("more states than a cluster has members"));
        }
        self.take(from, request.states);
        Ok(PushStatesResponse {})
    }

    /// Says goodbye to the others. Blocks for a few milliseconds.
    pub fn leave(&self) {
        self.inner.has_left.store(true, Ordering::Relaxed);
        self.inner.gossip.leave();
    }

    /// Falls silent as a kill does. When it returns, the port is free.
    #[cfg(test)]
    pub fn halt(&self) {
        self.inner.has_left.store(true, Ordering::Relaxed);
        self.inner.gossip.stop();
    }

    fn take(&self, from: NodeId, states: Vec<NodeState>) {
        let mut changed = false;
        {
            let mut table = self.table();
            for state in states {
                let node = NodeId(state.node);
                if node == self.inner.me {
                    self.beware_of_double(from, &state);
                } else if !table.gone.contains(&node) && table.states.merge(state).is_ok() {
                    changed = true;
                }
            }
        }
        if changed {
            self.refresh();
        }
    }

    /// Nobody else writes this node's state; a newer one than its own means that its disk was copied.
    fn beware_of_double(&self, from: NodeId, state: &NodeState) {
        if state.generation > self.inner.generation.0 {
            tracing::error!(
                %from, generation = state.generation,
                "another agent runs under this node's identity: was its disk copied?"
            );
        }
    }

    fn refresh(&self) {
        let table = self.table();
        let members = table.members.iter().map(|(node, member)| {
            let state = table.states.get(*node).cloned();
            (*node, MemberView { member: member.clone(), state })
        });
        let unheard = table.known.keys().filter(|node| !table.members.contains_key(*node));
        let view = View {
            me: self.inner.me,
            members: members.collect(),
            unheard: unheard.copied().collect(),
            gone: table.gone.clone(),
        };
        // Under the lock, so that an older view never replaces a newer one.
        self.inner.view.send_if_modified(|known| {
            let changed = **known != view;
            if changed {
                *known = Arc::new(view);
            }
            changed
        });
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is changed by single inserts: there is no half of one.
        self.inner.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn settings(identity: &Identity, config: &Config) -> Settings {
    Settings {
        cluster: identity.cluster,
        node: identity.node,
        generation: identity.generation,
        zone: identity.zone.clone(),
        bind: config.gossip_bind(),
        advertise: config.gossip_advertise(),
        peer: config.peer_advertise(),
        key: identity.gossip_key.clone(),
    }
}

fn own_state(identity: &Identity, config: &Config) -> NodeState {
    let mut state = NodeState {
        node: identity.node.0,
        generation: identity.generation.0,
        name: identity.name.clone(),
        zone: identity.zone.clone(),
        peer_addr: config.peer_advertise().to_string(),
        gossip_addr: config.gossip_advertise().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        roles: config.node.roles.iter().cloned().collect(),
        capacity: config.node.capacity,
        resp_addr: config.resp.bind.to_string(),
        admin_addr: config.api.admin.to_string(),
        http_addrs: config.balancer.http.iter().map(ToString::to_string).collect(),
        // With the first word, so that nobody takes the stream of a later life for a new server's.
        invalidation_sequence: identity.life.begins_after(),
        ..NodeState::default()
    };
    state.set_phase(Phase::Joining);
    state
}

fn myself(identity: &Identity, config: &Config) -> Member {
    Member {
        node: identity.node,
        generation: identity.generation,
        zone: identity.zone.clone(),
        gossip: config.gossip_advertise(),
        peer: config.peer_advertise(),
        state: MemberStatus::Alive,
        since: Instant::now(),
    }
}
