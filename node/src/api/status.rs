//! What `holdfast status` shows: this node's view, put into the operator's terms.
//!
//! It is computed from what the node knows at the moment and never waits for anybody, so that it
//! answers when things are at their worst.

mod groups;
mod warnings;

use std::collections::BTreeMap;
use std::sync::Arc;

use node_consensus::GroupView;
use node_core::control::ControlState;
use node_core::membership::MemberStatus;
use proto::ids::{GroupId, NodeId, ReleaseId};
use proto::peer::{NodeState, Phase};
use proto::v1;
use tokio::sync::watch;

use crate::control::Control;
use crate::members::View;

/// Reads the parts' newest word. Clones are cheap.
#[derive(Clone)]
pub struct StatusSource {
    control: Control,
    group: watch::Receiver<GroupView>,
    view: watch::Receiver<Arc<View>>,
}

/// One moment of everything that a status is made from.
pub(super) struct Moment {
    pub(super) state: Arc<ControlState>,
    pub(super) group: GroupView,
    pub(super) view: Arc<View>,
}

impl StatusSource {
    pub fn new(
        control: Control,
        group: watch::Receiver<GroupView>,
        view: watch::Receiver<Arc<View>>,
    ) -> Self {
        Self { control, group, view }
    }

    fn moment(&self) -> Moment {
        Moment {
            state: self.control.state(),
            group: self.group.borrow().clone(),
            view: self.view.borrow().clone(),
        }
    }

    pub fn status(&self) -> v1::StatusResponse {
        let moment = self.moment();
        let members = moment.members();
        let sessions = moment.sessions();
        let quorum = moment.quorum();
        let controller = moment.controller();
        let warnings = warnings::of(&moment, &members, &sessions, quorum);
        v1::StatusResponse {
            cluster_id: moment.state.cluster.map(|id| id.to_string()).unwrap_or_default(),
            node: moment.name(moment.view.me),
            controller: Some(controller),
            quorum,
            voters: moment.group.voters.iter().map(|voter| moment.name(*voter)).collect(),
            members,
            apps: moment.apps(),
            sessions: Some(sessions),
            warnings,
        }
    }

    pub fn members(&self) -> Vec<v1::Member> {
        self.moment().members()
    }

    pub fn controller(&self) -> v1::ControllerResponse {
        let moment = self.moment();
        let info = moment.controller();
        let voter = |id: &NodeId| v1::Voter {
            name: moment.name(*id),
            id: id.0,
            state: moment.gossip(*id).to_owned(),
            applied: moment.node_state(*id).map_or(0, |state| state.control_applied),
        };
        v1::ControllerResponse {
            node: info.node,
            epoch: info.epoch,
            term: moment.group.term,
            quorum: moment.quorum(),
            voters: moment.group.voters.iter().map(voter).collect(),
            applied: moment.group.applied,
        }
    }

    /// Whether this node serves.
    ///
    /// # Errors
    /// Why it does not, for the one who probes.
    pub fn readiness(&self) -> Result<(), String> {
        let moment = self.moment();
        let phase = moment.node_state(moment.view.me).map_or(Phase::Unspecified, |state| state.phase());
        match phase {
            Phase::Ready => Ok(()),
            Phase::Unspecified | Phase::Joining => {
                Err("joining: the cluster has not been reached yet".to_owned())
            }
            Phase::Syncing => Err("syncing: the control log or an app is not up to date yet".to_owned()),
            Phase::Draining => Err("draining".to_owned()),
            Phase::Left => Err("left the cluster".to_owned()),
        }
    }
}

impl Moment {
    pub(super) fn name(&self, node: NodeId) -> String {
        self.state
            .nodes
            .get(&node)
            .map(|record| record.name.clone())
            .or_else(|| self.node_state(node).map(|state| state.name.clone()))
            .unwrap_or_else(|| format!("node {node}"))
    }

    pub(super) fn node_state(&self, node: NodeId) -> Option<&Arc<NodeState>> {
        self.view.members.get(&node).and_then(|member| member.state.as_ref())
    }

    fn status_of(&self, node: NodeId) -> MemberStatus {
        self.view.members.get(&node).map_or(MemberStatus::Down, |member| member.member.state)
    }

    fn gossip(&self, node: NodeId) -> &'static str {
        match self.status_of(node) {
            MemberStatus::Alive => "alive",
            MemberStatus::Suspect => "suspect",
            MemberStatus::Down => "down",
            MemberStatus::Left => "left",
        }
    }

    /// Suspicion alone does not make a node dead.
    pub(super) fn lives(&self, node: NodeId) -> bool {
        matches!(self.status_of(node), MemberStatus::Alive | MemberStatus::Suspect)
    }

    /// A majority of the voters lives and one of them leads.
    fn quorum(&self) -> bool {
        let living = self.group.voters.iter().filter(|voter| self.lives(**voter)).count();
        let leads = self.group.leader.is_some_and(|leader| self.lives(leader));
        leads && living * 2 > self.group.voters.len()
    }

    /// A leader is the controller only from its own entry on.
    fn controller(&self) -> v1::ControllerInfo {
        let acting = self.state.controller.filter(|node| Some(*node) == self.group.leader && self.quorum());
        v1::ControllerInfo {
            node: acting.map(|node| self.name(node)).unwrap_or_default(),
            epoch: self.state.epoch.0,
        }
    }

    fn members(&self) -> Vec<v1::Member> {
        let admitted = self.state.nodes.iter().filter(|(_, record)| !record.removed).map(|(id, _)| *id);
        let mut ids: Vec<NodeId> = admitted.chain(self.view.members.keys().copied()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| self.state.nodes.get(id).is_none_or(|record| !record.removed));
        ids.into_iter().map(|id| self.member(id)).collect()
    }

    fn member(&self, id: NodeId) -> v1::Member {
        let gossip = self.view.members.get(&id).map(|member| &member.member);
        let record = self.state.nodes.get(&id);
        let state = self.node_state(id);
        let alive = matches!(self.status_of(id), MemberStatus::Alive);
        let phase = state.map_or(Phase::Unspecified, |state| state.phase());
        v1::Member {
            name: self.name(id),
            id: id.0,
            zone: record.map(|record| record.zone.clone()).unwrap_or_default(),
            state: self.gossip(id).to_owned(),
            ready: alive && phase == Phase::Ready,
            draining: state.is_some_and(|state| state.draining),
            version: state.map(|state| state.version.clone()).unwrap_or_default(),
            apps: state.map(|state| apps_of(state)).unwrap_or_default(),
            peer: gossip
                .map(|member| member.peer.to_string())
                .or_else(|| record.map(|record| record.peer_addr.to_string()))
                .unwrap_or_default(),
            gossip: gossip
                .map(|member| member.gossip.to_string())
                .or_else(|| record.map(|record| record.gossip_addr.to_string()))
                .unwrap_or_default(),
            generation: gossip.map_or(0, |member| member.generation.0),
            phase: phase_name(phase).to_owned(),
            voter: self.group.voters.contains(&id),
            epoch_seen: state.map_or(0, |state| state.epoch_seen),
        }
    }

    fn apps(&self) -> Vec<v1::AppSummary> {
        self.state
            .apps
            .iter()
            .map(|(name, app)| v1::AppSummary {
                name: name.clone(),
                stable: id_text(app.stable),
                target: id_text(app.target()),
                stable_version: self.version(app.stable),
                target_version: self.version(app.target()),
                rollout: crate::deploy::rollout_view(&self.state, name),
            })
            .collect()
    }

    fn version(&self, release: Option<ReleaseId>) -> String {
        release
            .and_then(|release| self.state.releases.get(&release))
            .map(|record| record.version.clone())
            .unwrap_or_default()
    }

    fn sessions(&self) -> v1::SessionsSummary {
        let able = self.state.nodes.values().filter(|record| record.holds_sessions());
        let replicas = able.count().min(3);
        let mut tally = groups::Tally::default();
        for group in 1..=self.state.groups {
            tally.add(&groups::judge(self, GroupId(group), replicas));
        }
        v1::SessionsSummary {
            groups: u32::from(self.state.groups),
            under_replicated: tally.under_replicated,
            unavailable: tally.unavailable,
            durability: "fsync".to_owned(),
            replicas: u32::try_from(replicas).unwrap_or(3),
        }
    }
}

fn apps_of(state: &NodeState) -> BTreeMap<String, v1::MemberApp> {
    let app = |app: &proto::peer::AppState| {
        let release = ReleaseId::from_slice(&app.release).map(|id| id.to_string()).unwrap_or_default();
        (app.app.clone(), v1::MemberApp { release, state: app.state.clone() })
    };
    state.apps.iter().map(app).collect()
}

fn id_text(release: Option<ReleaseId>) -> String {
    release.map(|id| id.to_string()).unwrap_or_default()
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Unspecified => "unknown",
        Phase::Joining => "joining",
        Phase::Syncing => "syncing",
        Phase::Ready => "ready",
        Phase::Draining => "draining",
        Phase::Left => "left",
    }
}
