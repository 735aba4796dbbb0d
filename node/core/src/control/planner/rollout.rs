//! The next step of a rollout.
//!
//! A node counts as long as it is there: one that is down delays nothing, is named as behind, and
//! runs what the log says when it is back. A node that is there and says that the release failed turns
//! the whole farm back, as the deadline does.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::{NodeId, ReleaseId};
use proto::peer;

use super::super::command::Order;
use super::super::desired::demand;
use super::super::inventory::{AppStatus, NodeReport};
use super::super::record::{AppRecord, NodeRecord, RolloutRecord, Stage};
use super::{Farm, is_met};

/// Releases of an app that may be served at a time: invariant 4.
const RELEASES_MAX: usize = 2;

/// The release that every node should have on its disk although it may not run it yet, with the
/// attempt under which it is fetched.
pub(super) fn distributing(farm: &Farm<'_>, app: &str) -> Option<(ReleaseId, u64)> {
    let rollout = farm.state.apps.get(app)?.rollout.as_ref()?;
    match rollout.stage {
        Stage::Distribute | Stage::Rolling => Some((rollout.release, rollout.attempt)),
        Stage::RollingBack => None,
    }
}

/// What the log should say next about an app's rollout, if anything.
pub(super) fn next_order(farm: &Farm<'_>, app: &str) -> Option<Order> {
    let record = farm.state.apps.get(app)?;
    let rollout = Rollout { farm, app, record, rollout: record.rollout.as_ref()? };
    match rollout.rollout.stage {
        Stage::Distribute => rollout.distribute(),
        Stage::Rolling => rollout.roll(),
        Stage::RollingBack => rollout.roll_back(),
    }
}

struct Rollout<'a> {
    farm: &'a Farm<'a>,
    app: &'a str,
    record: &'a AppRecord,
    rollout: &'a RolloutRecord,
}

impl Rollout<'_> {
    fn distribute(&self) -> Option<Order> {
        let lacking: Vec<NodeId> =
            self.takers().filter(|node| !self.farm.holds(*node, self.rollout.release)).collect();
        if lacking.is_empty() && self.takers().next().is_some() {
            return Some(Order::StartRolling { app: self.app.to_owned(), attempt: self.rollout.attempt });
        }
        self.is_late().then(|| match lacking.as_slice() {
            [] => self.turn_back("the deadline passed: no node that runs apps could be reached".to_owned()),
            some => self.turn_back(format!("the deadline passed while fetching it to {}", self.names(some))),
        })
    }

    fn roll(&self) -> Option<Order> {
        if let Some(failed) = self.assigned_alive().find(|node| self.has_failed(*node)) {
            let words = self.farm.app_report(failed, self.app).map_or("", |report| report.message.as_str());
            let words = if words.is_empty() { "no reason given" } else { words };
            return Some(self.turn_back(format!("failed on {}: {words}", self.farm.name(failed))));
        }
        let waiting: Vec<NodeId> = self.assigned_alive().filter(|node| !self.is_ready(*node)).collect();
        if !waiting.is_empty() {
            let late = || format!("the deadline passed: not ready on {}", self.names(&waiting));
            return self.is_late().then(|| self.turn_back(late()));
        }
        let left: Vec<NodeId> = self.takers().filter(|node| !self.rollout.assigned.contains(node)).collect();
        let able = left.iter().filter(|node| self.farm.holds(**node, self.rollout.release));
        let able: Vec<NodeId> = able.copied().collect();
        // One that joined in the meantime may still be fetching: it is waited for up to the deadline,
        // and does not undo what works on all others.
        if left.is_empty() || (able.is_empty() && self.is_late()) {
            return self.finish_forwards();
        }
        let strays = self.strays();
        if self.is_late() {
            let mut reason = format!("the deadline passed with {} still to come", self.names(&left));
            if !strays.is_empty() {
                reason += &format!(", while {} did not come to the stable release", self.names(&strays));
            }
            return Some(self.turn_back(reason));
        }
        let (app, attempt) = (self.app.to_owned(), self.rollout.attempt);
        if self.would_serve() > RELEASES_MAX {
            // Those that are still coming to the stable release are waited for.
            let node = strays.into_iter().find(|node| self.has_failed_to_go_back(*node))?;
            return Some(Order::Evict { app, attempt, node });
        }
        // Who serves nothing goes first.
        let node = able.into_iter().min_by_key(|node| (!self.rollout.evicted.contains_key(node), *node))?;
        Some(Order::Assign { app, attempt, node })
    }

    /// How many releases would be served if one more node got this one.
    fn would_serve(&self) -> usize {
        #[cfg(holdfast_mutants)]
        if mutation::is("strays-ignored") {
            return 0;
        }
        let here = self.farm.app_nodes().map(|(node, _)| node).filter(|node| self.farm.is_alive(*node));
        let served: BTreeSet<ReleaseId> = here.flat_map(|node| self.serving(node).copied()).collect();
        served.union(&BTreeSet::from([self.rollout.release])).count()
    }

    /// Nodes that serve a release which is neither the stable one nor this: they were away while a
    /// rollout ended, and are catching up, or they can not go back. To begin anything beside them would bring a
    /// third release, so it waits for the first and takes out the second.
    fn strays(&self) -> Vec<NodeId> {
        let known =
            |release: &ReleaseId| *release == self.rollout.release || Some(*release) == self.record.stable;
        let here = self.farm.app_nodes().map(|(node, _)| node).filter(|node| self.farm.is_alive(*node));
        here.filter(|node| !self.serving(*node).all(known)).collect()
    }

    fn serving(&self, node: NodeId) -> impl Iterator<Item = &ReleaseId> {
        self.farm.report(node).and_then(|report| report.serving.get(self.app)).into_iter().flatten()
    }

    /// Everybody who can be reached runs it: it is the stable one. With nobody there to show that it
    /// works nothing is decided, until the deadline.
    fn finish_forwards(&self) -> Option<Order> {
        if self.assigned_alive().next().is_none() {
            let late = || "the deadline passed: no node that was to run it can be reached".to_owned();
            return self.is_late().then(|| self.turn_back(late()));
        }
        let behind = self.farm.app_nodes().map(|(node, _)| node).filter(|node| !self.is_ready(*node));
        Some(self.finish(behind))
    }

    /// Waits for every node that is there, however long: to call it done while one still serves the
    /// failed release would let the next rollout bring a third one. Not for one that can not let go of it,
    /// as the stable release fails there: nothing would ever change that, and no other rollout could bring
    /// what mends it. It is named as behind, and what comes next takes it out first (`strays`).
    fn roll_back(&self) -> Option<Order> {
        if self.assigned_alive().any(|node| !self.is_back(node) && !self.is_stuck(node)) {
            return None;
        }
        let is_behind = |node: &NodeId| !self.farm.is_alive(*node) || self.is_stuck(*node);
        Some(self.finish(self.assigned().filter(is_behind)))
    }

    /// Nodes that are to run the release in the end, as far as they can be reached.
    fn takers(&self) -> impl Iterator<Item = NodeId> {
        let nodes = self.farm.app_nodes().map(|(node, _)| node);
        nodes.filter(|node| self.farm.report(*node).is_some_and(NodeReport::takes_work))
    }

    /// Nodes that were told to run it and are still members.
    fn assigned(&self) -> impl Iterator<Item = NodeId> {
        let runs_apps = |node: &NodeId| self.farm.state.member(*node).is_some_and(NodeRecord::runs_apps);
        self.rollout.assigned.iter().copied().filter(runs_apps)
    }

    fn assigned_alive(&self) -> impl Iterator<Item = NodeId> {
        let here = |report: &NodeReport| report.alive && report.phase != peer::Phase::Left;
        self.assigned().filter(move |node| self.farm.report(*node).is_some_and(here))
    }

    fn is_ready(&self, node: NodeId) -> bool {
        #[cfg(holdfast_mutants)]
        if mutation::is("gates-skipped") && self.reports(node, AppStatus::Failed) {
            return true;
        }
        self.farm.is_alive(node) && self.reports(node, AppStatus::Ready)
    }

    fn has_failed(&self, node: NodeId) -> bool {
        #[cfg(holdfast_mutants)]
        if mutation::is("gates-skipped") {
            return false;
        }
        self.reports(node, AppStatus::Failed)
    }

    /// Whether a node says this of the release, and of this rollout of it.
    fn reports(&self, node: NodeId, state: AppStatus) -> bool {
        self.farm.app_report(node, self.app).is_some_and(|report| {
            report.release == Some(self.rollout.release)
                && report.attempt >= self.rollout.attempt
                && report.state == state
        })
    }

    /// Whether a node has let go of the release. That its old one is ready again is not asked: the old
    /// one was stable, and if it fails now, nothing is gained by waiting.
    fn is_back(&self, node: NodeId) -> bool {
        let Some(demand) = demand(self.farm.state, self.app, node) else { return true };
        let report = self.farm.app_report(node, self.app);
        if self.lingers(node) || !is_met(demand.release, demand.attempt, report) {
            return false;
        }
        let Some(report) = report else { return true };
        match report.state {
            AppStatus::Ready | AppStatus::Unready | AppStatus::Failed | AppStatus::Stopped => true,
            AppStatus::Fetching | AppStatus::Starting | AppStatus::Stopping | AppStatus::Unknown => {
                demand.release.is_none() && report.release.is_none()
            }
        }
    }

    /// Whether a node still serves the release, since the one that it was told to go back to has failed
    /// there.
    fn is_stuck(&self, node: NodeId) -> bool {
        self.lingers(node) && self.has_failed_to_go_back(node)
    }

    /// Whether a node says that the stable release failed there, and has not been told anything since.
    fn has_failed_to_go_back(&self, node: NodeId) -> bool {
        let report = self.farm.app_report(node, self.app);
        let has_failed = report.is_some_and(|report| report.state == AppStatus::Failed);
        let was_told = demand(self.farm.state, self.app, node)
            .is_some_and(|demand| demand.release.is_some() && is_met(demand.release, demand.attempt, report));
        has_failed && was_told
    }

    fn lingers(&self, node: NodeId) -> bool {
        self.serving(node).any(|release| *release == self.rollout.release)
    }

    fn is_late(&self) -> bool {
        self.farm.now_ms >= self.rollout.deadline_ms
    }

    fn turn_back(&self, reason: String) -> Order {
        Order::TurnBack { app: self.app.to_owned(), attempt: self.rollout.attempt, reason }
    }

    fn finish(&self, behind: impl Iterator<Item = NodeId>) -> Order {
        let why = |node: NodeId| match self.farm.report(node) {
            Some(_) if self.rollout.stage == Stage::RollingBack && self.is_stuck(node) => {
                "still on the release that was turned back, as the stable one fails there".to_owned()
            }
            report => report.map_or("down", NodeReport::condition).to_owned(),
        };
        let behind: BTreeMap<NodeId, String> = behind.map(|node| (node, why(node))).collect();
        Order::Finish { app: self.app.to_owned(), attempt: self.rollout.attempt, behind }
    }

    fn names(&self, nodes: &[NodeId]) -> String {
        nodes.iter().map(|node| self.farm.name(*node)).collect::<Vec<_>>().join(", ")
    }
}
