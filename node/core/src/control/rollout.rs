//! The life of a rollout, as entries of the log.
//!
//! ```text
//!   SetTarget ──> Distribute ──StartRolling──> Rolling ──Finish──> done, the release is stable
//!   Rollback          │                       │ ^ │
//!                     │          Evict, Assign│ │ │TurnBack
//!                     │                       └─┘ v
//!                     └──────TurnBack──────> RollingBack ──Finish──> rolled back, or failed
//! ```
//!
//! There is one rollout per app, and another one is refused until it has ended: with the stable release
//! and the one that is rolled out there are two releases of the app, and a third would break
//! invariant 4. Going straight from one unfinished release to a newer one was the alternative; it needs
//! every assigned node to be rolled back first anyway, so the operator who waits loses nothing.
//!
//! Architecture Invariant: `stable` is written in one place, [`ControlState::finish`], and only from
//! the stage `Rolling`. A release whose rollout was turned back never gets there.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::{NodeId, ReleaseId};

use super::apply::releases_in_use;
use super::outcome::{Outcome, Refusal};
use super::record::{
    AppRecord, NodeRecord, RolloutOutcome, RolloutRecord, RolloutResult, Route, Secret, Stage,
};
use super::{APPS_MAX, ControlState, RELEASES_KEPT};

type Verdict = Result<Outcome, Refusal>;

/// Longest reason that is kept: some lines of an app's last words.
const REASON_CHARS_MAX: usize = 2_000;

impl ControlState {
    pub(super) fn set_target(
        &mut self,
        index: u64,
        now_ms: u64,
        app: &str,
        release: ReleaseId,
        secret: &Secret,
    ) -> Verdict {
        let record = self.releases.get(&release).filter(|record| record.app == app);
        let record = record.ok_or_else(|| Refusal::UnknownRelease { app: app.to_owned(), release })?;
        let deadline_ms = now_ms.saturating_add(record.rollout_ms);
        if let Some(known) = self.apps.get(app) {
            if let Some(rollout) = &known.rollout {
                return self.rollout_going_on(app, rollout, release);
            }
            if known.stable == Some(release) {
                return Ok(Outcome::Targeted { release, attempt: known.stable_attempt, stable: true });
            }
        } else if self.apps.len() >= APPS_MAX {
            return Err(Refusal::TooManyApps { limit: APPS_MAX });
        }
        self.check_route(app, record.route.as_ref())?;
        let attempt = self.take_name(index)?;

        let record = self.apps.entry(app.to_owned()).or_default();
        if record.secret == Secret::default() {
            record.secret = secret.clone();
        }
        record.rollout = Some(RolloutRecord {
            release,
            stage: Stage::Distribute,
            attempt,
            assigned: BTreeSet::new(),
            evicted: BTreeMap::new(),
            rollback_attempt: 0,
            reason: String::new(),
            started_ms: now_ms,
            deadline_ms,
        });
        Ok(Outcome::Targeted { release, attempt, stable: false })
    }

    /// The same release once more is the same rollout; any other has to wait.
    fn rollout_going_on(&self, app: &str, rollout: &RolloutRecord, release: ReleaseId) -> Verdict {
        if rollout.release == release && rollout.stage != Stage::RollingBack {
            return Ok(Outcome::Targeted { release, attempt: rollout.attempt, stable: false });
        }
        let version = self.releases.get(&rollout.release).map(|record| record.version.clone());
        Err(Refusal::RolloutGoingOn {
            app: app.to_owned(),
            version: version.unwrap_or_else(|| rollout.release.short()),
            stage: rollout.stage.as_str().to_owned(),
        })
    }

    /// No request may belong to two apps. Both the stable release and the one that is being rolled out
    /// claim theirs.
    fn check_route(&self, app: &str, route: Option<&Route>) -> Result<(), Refusal> {
        let Some(route) = route else { return Ok(()) };
        for (other, record) in self.apps.iter().filter(|(name, _)| *name != app) {
            let claims = record.stable.into_iter().chain(record.target());
            let mut claims = claims.filter_map(|id| self.releases.get(&id)?.route.as_ref());
            if claims.any(|claim| claim.conflicts_with(route)) {
                let (app, other) = (app.to_owned(), other.clone());
                return Err(Refusal::RouteConflict { app, other, route: route.to_string() });
            }
        }
        Ok(())
    }

    pub(super) fn roll_back_to(
        &mut self,
        index: u64,
        now_ms: u64,
        app: &str,
        to: Option<ReleaseId>,
    ) -> Verdict {
        let record = self.apps.get(app).ok_or_else(|| Refusal::UnknownApp { app: app.to_owned() })?;
        let release = match to {
            Some(release) if record.history.contains(&release) => release,
            Some(release) => return Err(Refusal::UnknownRelease { app: app.to_owned(), release }),
            None => {
                let earlier = record.history.iter().find(|release| Some(**release) != record.stable);
                *earlier.ok_or_else(|| Refusal::NothingEarlier { app: app.to_owned() })?
            }
        };
        self.set_target(index, now_ms, app, release, &Secret::default())
    }

    pub(super) fn start_rolling(&mut self, app: &str, attempt: u64) -> Verdict {
        self.rollout_in(app, attempt, &[Stage::Distribute])?.stage = Stage::Rolling;
        Ok(Outcome::Done)
    }

    pub(super) fn assign(&mut self, index: u64, app: &str, attempt: u64, node: NodeId) -> Verdict {
        if !self.member(node).is_some_and(NodeRecord::runs_apps) {
            return Err(Refusal::UnknownNode { node });
        }
        let rollout = self.rollout_in(app, attempt, &[Stage::Rolling])?;
        if !rollout.assigned.contains(&node) && rollout.evicted.contains_key(&node) {
            let name = self.take_name(index)?;
            self.rollout_in(app, attempt, &[Stage::Rolling])?.evicted.insert(node, name);
        }
        self.rollout_in(app, attempt, &[Stage::Rolling])?.assigned.insert(node);
        Ok(Outcome::Done)
    }

    pub(super) fn evict(&mut self, index: u64, app: &str, attempt: u64, node: NodeId) -> Verdict {
        if !self.member(node).is_some_and(NodeRecord::runs_apps) {
            return Err(Refusal::UnknownNode { node });
        }
        let rollout = self.rollout_in(app, attempt, &[Stage::Rolling])?;
        if rollout.assigned.contains(&node) || rollout.evicted.contains_key(&node) {
            return Ok(Outcome::Done);
        }
        let name = self.take_name(index)?;
        self.rollout_in(app, attempt, &[Stage::Rolling])?.evicted.insert(node, name);
        Ok(Outcome::Done)
    }

    pub(super) fn turn_back(&mut self, index: u64, app: &str, attempt: u64, reason: &str) -> Verdict {
        self.rollout_in(app, attempt, &[Stage::Distribute, Stage::Rolling])?;
        let rollback_attempt = self.take_name(index)?;
        let rollout = self.rollout_in(app, attempt, &[Stage::Distribute, Stage::Rolling])?;
        rollout.stage = Stage::RollingBack;
        rollout.rollback_attempt = rollback_attempt;
        rollout.reason = reason.chars().take(REASON_CHARS_MAX).collect();
        Ok(Outcome::Done)
    }

    /// Ends a rollout: forwards from `Rolling`, with at least one node assigned, or back.
    pub(super) fn finish(
        &mut self,
        now_ms: u64,
        app: &str,
        attempt: u64,
        behind: &BTreeMap<NodeId, String>,
    ) -> Verdict {
        let rollout = self.rollout_in(app, attempt, &[Stage::Rolling, Stage::RollingBack])?.clone();
        if rollout.stage == Stage::Rolling && rollout.assigned.is_empty() {
            return Err(Refusal::NoSuchRollout { app: app.to_owned(), attempt });
        }
        let version = self.releases.get(&rollout.release).map(|record| record.version.clone());
        let record = self.apps.get_mut(app).expect("its rollout was found");
        let result = if rollout.stage == Stage::Rolling {
            record.stable = Some(rollout.release);
            // Above what any node was told that was taken out and has missed that it is over. It was named
            // by an entry before this one, so that no later name is as low.
            let above = rollout.evicted.values().map(|name| name + 1).max().unwrap_or(0);
            record.stable_attempt = rollout.attempt.max(above);
            record.history.retain(|release| *release != rollout.release);
            record.history.insert(0, rollout.release);
            record.history.truncate(RELEASES_KEPT);
            RolloutResult::Done
        } else {
            // The number under which the farm was turned back goes on, so that a node that missed it
            // and still runs the failed release is told so with a higher one than it has.
            record.stable_attempt = rollout.rollback_attempt;
            if record.stable.is_some() { RolloutResult::RolledBack } else { RolloutResult::Failed }
        };
        record.rollout = None;
        record.last_outcome = Some(RolloutOutcome {
            release: rollout.release,
            version: version.unwrap_or_default(),
            attempt,
            result,
            reason: rollout.reason,
            behind: behind.clone(),
            ended_ms: now_ms,
        });
        self.forget_releases(app, rollout.attempt);
        Ok(Outcome::Done)
    }

    /// Drops what can not be rolled back to. A release that was brought in while the rollout went on
    /// stays: its deployment is about to begin.
    fn forget_releases(&mut self, app: &str, rollout_attempt: u64) {
        let in_use = self.apps.get(app).map(releases_in_use).unwrap_or_default();
        self.releases.retain(|id, record| {
            record.app != app || in_use.contains(id) || record.registered_index > rollout_attempt
        });
    }

    fn rollout_in(
        &mut self,
        app: &str,
        attempt: u64,
        stages: &[Stage],
    ) -> Result<&mut RolloutRecord, Refusal> {
        self.apps
            .get_mut(app)
            .and_then(|record: &mut AppRecord| record.rollout.as_mut())
            .filter(|rollout| rollout.attempt == attempt && stages.contains(&rollout.stage))
            .ok_or_else(|| Refusal::NoSuchRollout { app: app.to_owned(), attempt })
    }
}
