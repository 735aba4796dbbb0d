//! How a rollout goes, told to whoever asked for it.
//!
//! The rollout is the controller's and goes on without anybody listening. What is told is read from
//! this node's copy of the control state and the nodes' own reports.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use node_core::control::{ControlState, RolloutOutcome, RolloutRecord, Stage};
use node_core::membership::MemberStatus;
use proto::ids::{NodeId, ReleaseId};
use proto::v1::{DeployOutcome, DeployProgress, Rollout};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::control::Control;
use crate::members::{MemberView, Members, View};
use crate::tasks::Tasks;

/// Steps that wait for a slow listener; it then misses some, which the next one makes good.
const QUEUE: usize = 16;
/// Longer than a rollout's own deadline by what it takes to turn the farm back.
const SLACK: Duration = Duration::from_secs(300);
/// Without a leader for so long there is no quorum, rather than an election.
const LEADERLESS_MAX: Duration = Duration::from_secs(30);
/// How often what no event tells is looked at: that time has passed.
const TICK: Duration = Duration::from_secs(1);

/// A rollout's steps, and its outcome.
pub type ProgressStream = Pin<Box<dyn Stream<Item = Result<DeployProgress, Status>> + Send>>;

/// An app's rollout as `status` shows it. `None` while nothing is going on.
pub fn rollout_view(state: &ControlState, app: &str) -> Option<Rollout> {
    Some(view_of(state, state.apps.get(app)?.rollout.as_ref()?))
}

fn view_of(state: &ControlState, rollout: &RolloutRecord) -> Rollout {
    let app_nodes = || state.members().filter(|(_, record)| record.runs_apps());
    let names = |assigned: bool| {
        let nodes = app_nodes().filter(|(node, _)| rollout.assigned.contains(node) == assigned);
        nodes.map(|(_, record)| record.name.clone()).collect()
    };
    Rollout {
        stage: rollout.stage.as_str().to_owned(),
        release: rollout.release.to_string(),
        version: version(state, rollout.release),
        updated: names(true),
        pending: names(false),
        reason: rollout.reason.clone(),
    }
}

pub(super) fn version(state: &ControlState, release: ReleaseId) -> String {
    state.releases.get(&release).map(|record| record.version.clone()).unwrap_or_default()
}

/// What is followed, and where it is seen.
pub(super) struct Follow {
    pub(super) app: String,
    pub(super) attempt: u64,
    pub(super) detach: bool,
    pub(super) control: Control,
    pub(super) members: Members,
}

/// Where a rollout is.
#[derive(Debug)]
enum Standing<'a> {
    /// This node has not applied its beginning yet.
    Unknown,
    Going(&'a RolloutRecord),
    Ended(&'a RolloutOutcome),
    /// Another one has taken its place.
    Superseded,
}

fn standing<'a>(state: &'a ControlState, app: &str, attempt: u64) -> Standing<'a> {
    let Some(record) = state.apps.get(app) else { return Standing::Unknown };
    let newest = record.rollout.as_ref().map(|rollout| rollout.attempt);
    let ended = record.last_outcome.as_ref().map(|outcome| outcome.attempt);
    match (&record.rollout, &record.last_outcome) {
        (Some(rollout), _) if newest == Some(attempt) => Standing::Going(rollout),
        (_, Some(outcome)) if ended == Some(attempt) => Standing::Ended(outcome),
        _ if newest.max(ended) > Some(attempt) => Standing::Superseded,
        _ => Standing::Unknown,
    }
}

impl Follow {
    /// A stream that ends with the rollout, or after the first step when nobody wants to wait.
    pub(super) fn stream(self, tasks: &Tasks) -> ProgressStream {
        let (steps, stream) = mpsc::channel(QUEUE);
        let stop = tasks.stop();
        tasks.tracker().spawn(async move {
            let listener = steps.clone();
            tokio::select! {
                () = listener.closed() => {}
                ended = stop.run_until_cancelled(self.run(&steps)) => if ended.is_none() {
                    let _gone = steps.try_send(Err(Status::unavailable("the agent is stopping")));
                },
            }
        });
        Box::pin(ReceiverStream::new(stream))
    }

    async fn run(&self, steps: &mpsc::Sender<Result<DeployProgress, Status>>) {
        let (mut state, mut view) = (self.control.watch(), self.members.view());
        let mut group = self.control.group_view();
        let mut ticks = tokio::time::interval(TICK);
        let mut told = String::new();
        let (began, mut led) = (Instant::now(), Instant::now());
        loop {
            let now = state.borrow_and_update().clone();
            if group.borrow_and_update().leader.is_some() {
                led = Instant::now();
            }
            let step = match standing(&now, &self.app, self.attempt) {
                Standing::Unknown => None,
                Standing::Going(rollout) => Some(going(&now, &view.borrow_and_update(), &self.app, rollout)),
                Standing::Ended(outcome) => Some(ended(&now, outcome)),
                Standing::Superseded => Some(bare("superseded", "another rollout of the app has begun")),
            };
            let step = step.filter(|step| step.outcome.is_some() || step.message != told);
            if let Some(step) = step {
                told.clone_from(&step.message);
                let is_last = step.outcome.is_some() || self.detach;
                if steps.send(Ok(step)).await.is_err() || is_last {
                    return;
                }
            }
            if led.elapsed() > LEADERLESS_MAX {
                let reason =
                    "there is no controller; the rollout goes on when a majority of the voters is up";
                let _gone = steps.send(Ok(bare("no_quorum", reason))).await;
                return;
            }
            if began.elapsed() > self.patience(&now) {
                let late = Status::deadline_exceeded("the rollout has not ended in its time and goes on");
                let _gone = steps.send(Err(late)).await;
                return;
            }
            tokio::select! {
                _changed = state.changed() => {}
                _changed = view.changed() => {}
                _changed = group.changed() => {}
                _ = ticks.tick() => {}
            }
        }
    }

    fn patience(&self, state: &ControlState) -> Duration {
        let rollout = state.apps.get(&self.app).and_then(|app| app.rollout.as_ref());
        let release = rollout.and_then(|rollout| state.releases.get(&rollout.release));
        Duration::from_millis(release.map_or(0, |record| record.rollout_ms)) + SLACK
    }
}

fn going(state: &ControlState, view: &View, app: &str, rollout: &RolloutRecord) -> DeployProgress {
    let message = describe(state, view, app, rollout);
    DeployProgress { rollout: Some(view_of(state, rollout)), message, outcome: None }
}

/// One line for a person: what is going on.
fn describe(state: &ControlState, view: &View, app: &str, rollout: &RolloutRecord) -> String {
    let nodes: BTreeSet<NodeId> =
        state.members().filter(|(_, record)| record.runs_apps()).map(|(node, _)| node).collect();
    let alive: Vec<(NodeId, &MemberView)> = view
        .members
        .iter()
        .filter(|(node, member)| nodes.contains(node) && (**node == view.me || lives(member.member.state)))
        .map(|(node, member)| (*node, member))
        .collect();
    let count = alive.len();
    match rollout.stage {
        Stage::Distribute => {
            let lacking = alive.iter().filter(|(_, member)| !holds(member, rollout.release));
            let lacking: Vec<String> = lacking.map(|(node, _)| name(state, *node)).collect();
            let have = count - lacking.len();
            let waits =
                if lacking.is_empty() { String::new() } else { format!("; not yet: {}", lacking.join(", ")) };
            format!("fetching: {have} of {count} nodes have it{waits}")
        }
        Stage::Rolling => {
            let ready = alive.iter().filter(|(_, member)| runs(member, app, rollout)).count();
            let current = alive
                .iter()
                .find(|(node, member)| rollout.assigned.contains(node) && !runs(member, app, rollout));
            match current {
                None => format!("{ready} of {count} nodes run it"),
                Some((node, member)) => {
                    let words = app_state(member, app).map(|app| app.message.as_str()).unwrap_or_default();
                    let words = if words.is_empty() { String::new() } else { format!(": {words}") };
                    format!("{ready} of {count} nodes run it; starting on {}{words}", name(state, *node))
                }
            }
        }
        Stage::RollingBack => format!("turning back: {}", rollout.reason),
    }
}

fn lives(status: MemberStatus) -> bool {
    match status {
        MemberStatus::Alive | MemberStatus::Suspect => true,
        MemberStatus::Down | MemberStatus::Left => false,
    }
}

fn holds(member: &MemberView, release: ReleaseId) -> bool {
    member.state.as_ref().is_some_and(|state| state.releases.iter().any(|id| id[..] == release.0))
}

fn app_state<'a>(member: &'a MemberView, app: &str) -> Option<&'a proto::peer::AppState> {
    member.state.as_ref()?.apps.iter().find(|state| state.app == app)
}

fn runs(member: &MemberView, app: &str, rollout: &RolloutRecord) -> bool {
    app_state(member, app).is_some_and(|state| {
        state.release[..] == rollout.release.0 && state.state == "ready" && state.action >= rollout.attempt
    })
}

fn name(state: &ControlState, node: NodeId) -> String {
    state.nodes.get(&node).map_or_else(|| format!("node {node}"), |record| record.name.clone())
}

fn ended(state: &ControlState, outcome: &RolloutOutcome) -> DeployProgress {
    let behind: Vec<String> = outcome.behind.keys().map(|node| name(state, *node)).collect();
    let result = outcome.result.as_str();
    let told = DeployOutcome {
        result: result.to_owned(),
        reason: outcome.reason.clone(),
        behind,
        release: outcome.release.to_string(),
        version: outcome.version.clone(),
    };
    DeployProgress { rollout: None, message: result.replace('_', " "), outcome: Some(told) }
}

/// Nothing had to be done.
pub(super) fn already_stable(state: &ControlState, release: ReleaseId) -> DeployProgress {
    let outcome = DeployOutcome {
        result: "done".to_owned(),
        release: release.to_string(),
        version: version(state, release),
        ..DeployOutcome::default()
    };
    DeployProgress {
        rollout: None,
        message: "it is the stable release already".to_owned(),
        outcome: Some(outcome),
    }
}

fn bare(result: &str, reason: &str) -> DeployProgress {
    let outcome =
        DeployOutcome { result: result.to_owned(), reason: reason.to_owned(), ..DeployOutcome::default() };
    DeployProgress { rollout: None, message: reason.to_owned(), outcome: Some(outcome) }
}
