//! What the planner knows of the farm: the reports of the nodes, made typed once.

use std::collections::{BTreeMap, BTreeSet};

use proto::ids::{NodeId, ReleaseId};
use proto::peer;

/// What the controller sees at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inventory {
    /// Members of the cluster, as far as anything is known of them. One that is absent counts as dead for
    /// ever.
    pub nodes: BTreeMap<NodeId, NodeReport>,
    /// The control group as it is now.
    pub electorate: Electorate,
    /// Where a change of the voters that is half done leads to; the electorate has the old and the new ones.
    pub becoming: Option<BTreeSet<NodeId>>,
}

/// Voters and learners of the control group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Electorate {
    pub voters: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
}

/// One node, as the membership and its own state tell.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    pub alive: bool,
    /// When it became alive, or dead, in the planner's time.
    pub since_ms: u64,
    /// As a learner or voter of the control group it is close to the log's end.
    pub caught_up: bool,
    pub phase: peer::Phase,
    pub draining: bool,
    /// Whole and verified on its disk.
    pub releases: BTreeSet<ReleaseId>,
    pub apps: BTreeMap<String, AppReport>,
    /// By app, the releases of which an instance serves, or may at any moment.
    pub serving: BTreeMap<String, BTreeSet<ReleaseId>>,
}

/// What a node says of an app.
///
/// The attempt is that of the last `Run` it carried out or, when the agent started the app by what the
/// log says, the one of [`demand`](super::demand). An agent ignores a `Run` with a lower one than it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppReport {
    pub release: Option<ReleaseId>,
    pub state: AppStatus,
    pub message: String,
    /// The attempt that it carries out, or has.
    pub attempt: u64,
}

/// How far a node is with the release that it reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppStatus {
    Fetching,
    Starting,
    Ready,
    Unready,
    Stopping,
    Failed,
    Stopped,
    /// A word of a later version.
    Unknown,
}

impl AppStatus {
    /// From the word that node states carry.
    pub fn parse(word: &str) -> Self {
        match word {
            "fetching" => Self::Fetching,
            "starting" => Self::Starting,
            "ready" => Self::Ready,
            "unready" => Self::Unready,
            "stopping" => Self::Stopping,
            "failed" => Self::Failed,
            "stopped" => Self::Stopped,
            _ => Self::Unknown,
        }
    }
}

impl NodeReport {
    /// Joins the membership's verdict with the node's own state, as far as that is known.
    pub fn new(alive: bool, since_ms: u64, caught_up: bool, state: Option<&peer::NodeState>) -> Self {
        Self {
            alive,
            since_ms,
            caught_up,
            phase: state.map_or(peer::Phase::Unspecified, peer::NodeState::phase),
            draining: state.is_some_and(|state| state.draining),
            releases: state
                .map(|state| state.releases.iter().filter_map(|id| ReleaseId::from_slice(id)).collect())
                .unwrap_or_default(),
            apps: state.map(app_reports).unwrap_or_default(),
            serving: state.map(serving).unwrap_or_default(),
        }
    }

    /// It is here and can be told something.
    pub fn is_active(&self) -> bool {
        match self.phase {
            peer::Phase::Syncing | peer::Phase::Ready => self.alive,
            peer::Phase::Unspecified | peer::Phase::Joining | peer::Phase::Draining | peer::Phase::Left => {
                false
            }
        }
    }

    /// It is here and may be given something new.
    pub fn takes_work(&self) -> bool {
        self.is_active() && !self.draining
    }

    /// In a word, why nothing can be expected of it.
    pub fn condition(&self) -> &'static str {
        if !self.alive {
            return "down";
        }
        match self.phase {
            peer::Phase::Unspecified => "not heard of yet",
            peer::Phase::Joining => "joining",
            peer::Phase::Syncing => "syncing",
            peer::Phase::Ready if self.draining => "draining",
            peer::Phase::Ready => "not ready with it",
            peer::Phase::Draining => "draining",
            peer::Phase::Left => "left",
        }
    }
}

fn app_reports(state: &peer::NodeState) -> BTreeMap<String, AppReport> {
    let report = |app: &peer::AppState| AppReport {
        release: ReleaseId::from_slice(&app.release),
        state: AppStatus::parse(&app.state),
        message: app.message.clone(),
        attempt: app.action,
    };
    state.apps.iter().map(|app| (app.app.clone(), report(app))).collect()
}

fn serving(state: &peer::NodeState) -> BTreeMap<String, BTreeSet<ReleaseId>> {
    let mut serving: BTreeMap<String, BTreeSet<ReleaseId>> = BTreeMap::new();
    for instance in &state.instances {
        let serves = match AppStatus::parse(&instance.state) {
            AppStatus::Starting | AppStatus::Ready | AppStatus::Unready | AppStatus::Unknown => true,
            AppStatus::Fetching | AppStatus::Stopping | AppStatus::Failed | AppStatus::Stopped => false,
        };
        if let Some(release) = ReleaseId::from_slice(&instance.release).filter(|_| serves) {
            serving.entry(instance.app.clone()).or_default().insert(release);
        }
    }
    serving
}
