//! What this node says of its apps to the others, and to its own balancer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use node_apps::{AppStatus, InstanceStatus, Statuses};
use proto::ids::ReleaseId;
use proto::peer::{self, NodeState};
use tokio::sync::watch;

use super::Deploy;
use super::doors::Doors;

/// Longest message of an app or an instance: a node's state is bounded, and goes to everybody.
const MESSAGE_CHARS_MAX: usize = 500;

/// An app whose release is not here yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stage {
    pub(super) release: ReleaseId,
    pub(super) attempt: u64,
    /// What is in the way; empty when nothing is.
    pub(super) message: String,
}

/// The apps that are being got ready to be started, by name.
#[derive(Debug, Default)]
pub(super) struct Stages {
    apps: watch::Sender<BTreeMap<String, Stage>>,
}

impl Stages {
    pub(super) fn set(&self, app: &str, stage: Stage) {
        self.apps.send_if_modified(|apps| {
            let is_news = apps.get(app) != Some(&stage);
            apps.insert(app.to_owned(), stage);
            is_news
        });
    }

    pub(super) fn clear(&self, app: &str) {
        self.apps.send_if_modified(|apps| apps.remove(app).is_some());
    }
}

/// Tells whenever something has changed.
pub(super) async fn run(deploy: Deploy, doors: Arc<Doors>) {
    let stop = deploy.inner.tasks.stop();
    let mut statuses = deploy.inner.supervisor.watch();
    let mut whole = deploy.inner.store.watch();
    let mut stages = deploy.inner.stages.apps.subscribe();
    loop {
        let seen = statuses.borrow_and_update().clone();
        // A door is open before others hear of it, and they hear of no instance that has none.
        doors.follow(&seen);
        let (staged, releases) = (stages.borrow_and_update().clone(), whole.borrow_and_update().clone());
        let epoch = deploy.inner.fence.seen().0;
        deploy.inner.members.publish(|state| describe(state, &seen, &staged, &releases, epoch));
        // An error would mean that a part is gone, which happens with the agent alone.
        tokio::select! {
            () = stop.cancelled() => return,
            _changed = statuses.changed() => {}
            _changed = whole.changed() => {}
            _changed = stages.changed() => {}
        }
    }
}

fn describe(
    state: &mut NodeState,
    statuses: &Statuses,
    stages: &BTreeMap<String, Stage>,
    releases: &BTreeSet<ReleaseId>,
    epoch: u64,
) {
    let names: BTreeSet<&String> = statuses.keys().chain(stages.keys()).collect();
    let app = |name: &String| match (stages.get(name), statuses.get(name)) {
        (Some(stage), _) => Some(fetching(name, stage)),
        (None, status) => status.map(|status| running(name, status)),
    };
    let apps = names.into_iter().filter_map(app);
    state.apps = apps.map(|app| peer::AppState { epoch, ..app }).collect();
    state.instances = statuses
        .iter()
        .flat_map(|(app, status)| status.instances.iter().map(|instance| one(app, instance)))
        .collect();
    state.releases = releases.iter().map(|release| release.0.to_vec().into()).collect();
}

fn fetching(app: &str, stage: &Stage) -> peer::AppState {
    peer::AppState {
        app: app.to_owned(),
        release: stage.release.0.to_vec().into(),
        state: "fetching".to_owned(),
        message: short(&stage.message),
        epoch: 0,
        action: stage.attempt,
    }
}

fn running(app: &str, status: &AppStatus) -> peer::AppState {
    peer::AppState {
        app: app.to_owned(),
        release: status.release.map(|release| release.0.to_vec()).unwrap_or_default().into(),
        state: status.state.as_str().to_owned(),
        message: short(&status.message),
        epoch: 0,
        action: status.attempt,
    }
}

fn one(app: &str, instance: &InstanceStatus) -> peer::InstanceState {
    peer::InstanceState {
        app: app.to_owned(),
        id: instance.id.clone(),
        release: instance.release.0.to_vec().into(),
        state: instance.state.as_str().to_owned(),
        pid: instance.pid,
        port: u32::from(instance.port),
        started_ms: instance.started_ms,
        restarts: instance.restarts,
        message: short(&instance.message),
    }
}

fn short(message: &str) -> String {
    message.chars().take(MESSAGE_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use node_apps::AppState;

    use super::*;

    fn status(release: u8, attempt: u64, state: AppState) -> AppStatus {
        AppStatus {
            release: Some(ReleaseId([release; 32])),
            attempt,
            state,
            message: "x".repeat(9_000),
            instances: vec![],
        }
    }

    #[test]
    fn a_release_that_is_being_fetched_is_what_is_reported_while_the_old_one_serves() {
        let mut state = NodeState::default();
        let statuses = Arc::new(BTreeMap::from([("shop".to_owned(), status(1, 10, AppState::Ready))]));
        let stage = Stage { release: ReleaseId([2; 32]), attempt: 20, message: "no room".into() };
        let stages = BTreeMap::from([("shop".to_owned(), stage)]);
        describe(&mut state, &statuses, &stages, &BTreeSet::from([ReleaseId([1; 32])]), 7);
        let app = &state.apps[0];
        assert_eq!((app.state.as_str(), app.action, app.epoch), ("fetching", 20, 7));
        assert_eq!((&app.release[..], app.message.as_str()), (&[2; 32][..], "no room"));
        assert_eq!(state.releases, [bytes::Bytes::from(vec![1; 32])]);
        describe(&mut state, &statuses, &BTreeMap::new(), &BTreeSet::new(), 7);
        let app = &state.apps[0];
        assert_eq!((app.state.as_str(), app.action, app.message.len()), ("ready", 10, MESSAGE_CHARS_MAX));
        assert!(state.releases.is_empty());
    }
}
