//! What each app should be on a node: the newest word of the controller or of the control log.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::{NodeId, ReleaseId};

use super::{ControlState, demand};

/// What one app should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Goal {
    /// `None`: nothing of it.
    pub release: Option<ReleaseId>,
    pub attempt: u64,
}

/// The goals of all apps that this node was ever told of.
#[derive(Debug, Default)]
pub struct Goals {
    apps: BTreeMap<String, Goal>,
    /// Apps that the control state has shown: one that then is gone was removed. (One that it has not
    /// shown yet is ahead of it, by an act.)
    shown: BTreeSet<String>,
}

impl Goals {
    /// The controller says so. Whether that is news.
    pub fn told(&mut self, app: &str, goal: Goal) -> bool {
        let known = self.apps.get(app).copied();
        if known.is_some_and(|known| goal.attempt <= known.attempt) {
            return false;
        }
        self.apps.insert(app.to_owned(), goal);
        true
    }

    /// The control state says so. It may be behind what the controller has said already.
    pub fn follow(&mut self, state: &ControlState, me: NodeId) {
        for app in state.apps.keys() {
            self.shown.insert(app.clone());
            if let Some(demand) = demand(state, app, me) {
                let goal = Goal { release: demand.release, attempt: demand.attempt };
                // An app that never ran here and should not needs no goal.
                if goal.release.is_some() || self.apps.contains_key(app) {
                    self.told(app, goal);
                }
            }
        }
        let runs_apps = state.nodes.get(&me).is_none_or(|record| record.runs_apps());
        for (app, goal) in &mut self.apps {
            let is_gone = self.shown.contains(app) && !state.apps.contains_key(app);
            if is_gone || !runs_apps {
                goal.release = None;
            }
        }
    }

    pub fn all(&self) -> BTreeMap<String, Goal> {
        self.apps.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{AppRecord, NodeRecord, Role, RolloutRecord, Stage};

    const ME: NodeId = NodeId(2);

    fn goal(release: u8, attempt: u64) -> Goal {
        Goal { release: (release > 0).then_some(ReleaseId([release; 32])), attempt }
    }

    fn state(app: AppRecord) -> ControlState {
        let address = "127.0.0.1:1".parse().unwrap();
        let record = NodeRecord {
            name: "node-2".into(),
            zone: "a".into(),
            region: String::new(),
            peer_addr: address,
            gossip_addr: address,
            role: Role::Server,
            roles: BTreeSet::from(["apps".to_owned()]),
            csr_hash: Default::default(),
            token_hash: Default::default(),
            admitted_index: 2,
            removed: false,
        };
        ControlState {
            nodes: BTreeMap::from([(ME, record)]),
            apps: BTreeMap::from([("shop".to_owned(), app)]),
            ..ControlState::default()
        }
    }

    fn stable(release: u8, attempt: u64) -> AppRecord {
        AppRecord { stable: goal(release, 0).release, stable_attempt: attempt, ..AppRecord::default() }
    }

    fn rolling(from: AppRecord, release: u8, attempt: u64, stage: Stage) -> AppRecord {
        let rollout = RolloutRecord {
            release: ReleaseId([release; 32]),
            stage,
            attempt,
            assigned: BTreeSet::from([ME]),
            evicted: BTreeMap::new(),
            rollback_attempt: attempt + 1,
            reason: String::new(),
            started_ms: 0,
            deadline_ms: 0,
        };
        AppRecord { rollout: Some(rollout), ..from }
    }

    #[test]
    fn a_state_that_is_behind_the_controllers_word_undoes_nothing() {
        let mut goals = Goals::default();
        goals.follow(&state(stable(1, 10)), ME);
        assert!(goals.told("shop", goal(2, 20)));
        goals.follow(&state(stable(1, 10)), ME);
        assert_eq!(goals.all()["shop"], goal(2, 20));
        goals.follow(&state(rolling(stable(1, 10), 2, 20, Stage::Rolling)), ME);
        assert_eq!(goals.all()["shop"], goal(2, 20));
        goals.follow(&state(rolling(stable(1, 10), 2, 20, Stage::RollingBack)), ME);
        assert_eq!(goals.all()["shop"], goal(1, 21));
    }

    #[test]
    fn an_act_that_comes_late_or_twice_is_no_news() {
        let mut goals = Goals::default();
        assert!(goals.told("shop", goal(1, 10)));
        assert!(!goals.told("shop", goal(1, 10)));
        assert!(!goals.told("shop", goal(2, 9)));
        assert_eq!(goals.all()["shop"], goal(1, 10));
    }

    #[test]
    fn a_first_rollout_that_failed_leaves_nothing_to_run() {
        let mut goals = Goals::default();
        goals.follow(&state(rolling(stable(0, 0), 1, 5, Stage::Rolling)), ME);
        assert_eq!(goals.all()["shop"], goal(1, 5));
        goals.follow(&state(stable(0, 6)), ME);
        assert_eq!(goals.all()["shop"], goal(0, 6));
    }

    #[test]
    fn an_app_that_was_removed_and_a_node_that_runs_none_have_nothing_to_run() {
        let mut goals = Goals::default();
        goals.follow(&state(stable(1, 10)), ME);
        goals.follow(&ControlState { apps: BTreeMap::new(), ..state(stable(1, 10)) }, ME);
        assert_eq!(goals.all()["shop"], goal(0, 10));
        let mut goals = Goals::default();
        goals.follow(&state(stable(1, 10)), ME);
        let mut idle = state(stable(1, 10));
        idle.nodes.get_mut(&ME).unwrap().roles.clear();
        goals.follow(&idle, ME);
        assert_eq!(goals.all()["shop"], goal(0, 10));
    }

    #[test]
    fn an_app_that_runs_elsewhere_only_is_not_told_of() {
        let mut goals = Goals::default();
        goals.follow(&state(stable(0, 0)), ME);
        assert!(goals.all().is_empty());
    }
}
