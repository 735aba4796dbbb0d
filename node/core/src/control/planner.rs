//! From what is and what should be to what is done next.
//!
//! The planner is asked again and again, on every change and several times a second, and each time it
//! answers with the next steps alone. It keeps nothing: where a rollout stands is in the log, how far a
//! node is in the node's report. So a controller that dies is succeeded by one that goes on where the
//! log says, and a plan that was carried out by half is simply made again.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::{GroupId, NodeId, ReleaseId};

use super::ControlState;
use super::command::{Command, Order};
use super::desired::demand;
use super::inventory::{AppReport, AppStatus, Electorate, Inventory, NodeReport};
use super::placement::{Holder, place};
use super::record::NodeRecord;
use super::voters::{Candidate, VoterPolicy, choose_voters};

mod rollout;

/// The controller's patience and aims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Replicas of a session group.
    pub replicas: usize,
    /// A node that has been dead for so long no longer holds session groups: copying its share costs
    /// more than most restarts take.
    pub holder_dead_ms: u64,
    pub voters: VoterPolicy,
}

impl Default for Policy {
    fn default() -> Self {
        Self { replicas: 3, holder_dead_ms: 300_000, voters: VoterPolicy::default() }
    }
}

/// The next steps. Doing any part of it, or all of it twice, is safe.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// For the log.
    pub commands: Vec<Command>,
    /// For the agents.
    pub acts: Vec<(NodeId, Act)>,
    /// The control group as it should be, when it is not so.
    pub electorate: Option<Electorate>,
}

/// What the controller tells an agent to do. Idempotent under its attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// Fetch a release from its peers, verify it, and report it among its releases.
    Fetch { release: ReleaseId, attempt: u64 },
    /// Run this release of an app and no other; `None`: run none.
    Run { app: String, release: Option<ReleaseId>, attempt: u64 },
}

impl Act {
    pub fn attempt(&self) -> u64 {
        match self {
            Self::Fetch { attempt, .. } | Self::Run { attempt, .. } => *attempt,
        }
    }
}

/// Decides what the controller does next.
///
/// `now_ms` is the control group's time; the inventory's `since_ms` are in it too.
pub fn plan(state: &ControlState, inventory: &Inventory, now_ms: u64, policy: &Policy) -> Plan {
    let farm = Farm { state, inventory, now_ms };
    let orders = state.apps.keys().filter_map(|app| rollout::next_order(&farm, app));
    let orders = orders.chain(placement_order(&farm, policy));
    Plan {
        commands: orders.map(|order| Command::Order { epoch: state.epoch, order }).collect(),
        acts: state.apps.keys().flat_map(|app| acts(&farm, app)).collect(),
        electorate: Some(electorate(&farm, policy))
            .filter(|next| *next != inventory.electorate || inventory.becoming.is_some()),
    }
}

/// What a plan is made from.
struct Farm<'a> {
    state: &'a ControlState,
    inventory: &'a Inventory,
    now_ms: u64,
}

impl<'a> Farm<'a> {
    fn report(&self, node: NodeId) -> Option<&'a NodeReport> {
        self.inventory.nodes.get(&node)
    }

    fn app_report(&self, node: NodeId, app: &str) -> Option<&'a AppReport> {
        self.report(node)?.apps.get(app)
    }

    /// The members that run apps.
    fn app_nodes(&self) -> impl Iterator<Item = (NodeId, &'a NodeRecord)> {
        self.state.members().filter(|(_, record)| record.runs_apps())
    }

    fn is_alive(&self, node: NodeId) -> bool {
        self.report(node).is_some_and(|report| report.alive)
    }

    fn holds(&self, node: NodeId, release: ReleaseId) -> bool {
        self.report(node).is_some_and(|report| report.releases.contains(&release))
    }

    fn name(&self, node: NodeId) -> String {
        self.state.nodes.get(&node).map_or_else(|| node.to_string(), |record| record.name.clone())
    }
}

/// What every reachable node has to be told about an app: to fetch what is being rolled out, and to run
/// what it should and does not.
fn acts(farm: &Farm<'_>, app: &str) -> Vec<(NodeId, Act)> {
    let mut acts = Vec::new();
    let reachable =
        farm.app_nodes().filter(|(node, _)| farm.report(*node).is_some_and(NodeReport::is_active));
    for (node, _) in reachable {
        let coming = rollout::distributing(farm, app);
        let missing = coming.filter(|(release, _)| !farm.holds(node, *release));
        acts.extend(missing.map(|(release, attempt)| (node, Act::Fetch { release, attempt })));
        let Some(demand) = demand(farm.state, app, node) else { continue };
        if is_met(demand.release, demand.attempt, farm.app_report(node, app)) {
            continue;
        }
        let act = match demand.release {
            Some(release) if !farm.holds(node, release) => Act::Fetch { release, attempt: demand.attempt },
            release => Act::Run { app: app.to_owned(), release, attempt: demand.attempt },
        };
        acts.push((node, act));
    }
    acts.dedup();
    acts
}

/// Whether a node does what it should, or is at it.
fn is_met(release: Option<ReleaseId>, attempt: u64, report: Option<&AppReport>) -> bool {
    match (release, report) {
        (Some(release), Some(report)) => report.release == Some(release) && report.attempt >= attempt,
        (Some(_), None) => false,
        (None, Some(report)) => {
            report.release.is_none()
                || report.state == AppStatus::Stopped
                || (report.state == AppStatus::Stopping && report.attempt >= attempt)
        }
        (None, None) => true,
    }
}

fn placement_order(farm: &Farm<'_>, policy: &Policy) -> Option<Order> {
    let placed = place(farm.state.groups, policy.replicas, &holders(farm, policy), &farm.state.placement);
    let changed = placed.into_iter().filter(|(group, nodes)| farm.state.placement.get(group) != Some(nodes));
    let groups: BTreeMap<GroupId, Vec<NodeId>> = changed.collect();
    if groups.is_empty() { None } else { Some(Order::Place { groups }) }
}

/// The nodes that may hold session groups. One that has been dead for long still counts where there is
/// nobody to take its place: two members of three make a majority, two of two do not survive a death.
fn holders(farm: &Farm<'_>, policy: &Policy) -> BTreeMap<NodeId, Holder> {
    let holding: BTreeSet<NodeId> = farm.state.placement.values().flatten().copied().collect();
    let mut holders = BTreeMap::new();
    let mut long_dead = Vec::new();
    for (node, record) in farm.state.members().filter(|(_, record)| record.holds_sessions()) {
        let report = farm.report(node);
        let accepts = report.is_some_and(NodeReport::takes_work);
        let dead_ms = match report {
            Some(report) if report.alive => 0,
            Some(report) => farm.now_ms.saturating_sub(report.since_ms),
            None => u64::MAX,
        };
        let holder = Holder { zone: record.zone.clone(), accepts };
        if accepts || (holding.contains(&node) && dead_ms < policy.holder_dead_ms) {
            holders.insert(node, holder);
        } else if holding.contains(&node) {
            long_dead.push((dead_ms, node, holder));
        }
    }
    long_dead.sort_by_key(|(dead_ms, node, _)| (*dead_ms, *node));
    let lacking = policy.replicas.saturating_sub(holders.len());
    holders.extend(long_dead.into_iter().take(lacking).map(|(_, node, holder)| (node, holder)));
    holders
}

/// Who votes, and who follows the log: every live member does, so that each knows what it should run.
/// (The design has non-voters pull the log from any peer, up to a head that the controller signed; as
/// learners they load the leader instead. That is right for a farm of some nodes.)
///
/// The choice goes on from where a change that is half done leads to: the old and the new voters together
/// are too many, and a choice that never shrinks would keep them all.
fn electorate(farm: &Farm<'_>, policy: &Policy) -> Electorate {
    let now = &farm.inventory.electorate;
    let candidate = |node: NodeId, record: &NodeRecord| {
        let report = farm.report(node);
        Candidate {
            zone: record.zone.clone(),
            may_vote: record.may_vote(),
            alive: report.is_some_and(|report| report.alive),
            for_ms: report.map_or(u64::MAX, |report| farm.now_ms.saturating_sub(report.since_ms)),
            caught_up: report.is_some_and(|report| report.caught_up),
        }
    };
    let candidates = farm.state.members().map(|(node, record)| (node, candidate(node, record))).collect();
    let current = farm.inventory.becoming.as_ref().unwrap_or(&now.voters);
    let voters = choose_voters(current, &candidates, policy.voters);
    // A learner stays one while it is a member: its death says nothing of its disk.
    let follows =
        |node: &NodeId| farm.is_alive(*node) || now.learners.contains(node) || now.voters.contains(node);
    let learners =
        candidates.keys().copied().filter(|node| !voters.contains(node) && follows(node)).collect();
    Electorate { voters, learners }
}
