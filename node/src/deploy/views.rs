//! `holdfast apps` and `holdfast ps`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use node_core::control::{AppRecord, ControlState, ReleaseRecord};
use node_core::membership::MemberStatus;
use proto::ids::ReleaseId;
use proto::peer::{InstanceState, NodeState};
use proto::v1::{AppDetail, Instance, ReleaseInfo};

use super::progress::{rollout_view, version};
use crate::members::View;

/// One app. `instances` is how many of it a node should run.
pub(super) fn app(
    state: &ControlState,
    view: &View,
    name: &str,
    record: &AppRecord,
    instances: u32,
) -> AppDetail {
    let id = |release: Option<ReleaseId>| release.map(|id| id.to_string()).unwrap_or_default();
    let version = |release: Option<ReleaseId>| release.map(|id| version(state, id)).unwrap_or_default();
    let ready = live(view).flat_map(|node| &node.instances);
    let ready = ready.filter(|instance| instance.app == name && instance.state == "ready").count();
    let nodes = state.members().filter(|(_, node)| node.runs_apps()).count();
    let nodes = if record.target().is_some() { nodes } else { 0 };
    let route = state.route(name);
    let mut releases: Vec<(&ReleaseId, &ReleaseRecord)> =
        state.releases.iter().filter(|(_, release)| release.app == name).collect();
    releases.sort_by_key(|(_, release)| std::cmp::Reverse(release.registered_index));
    AppDetail {
        name: name.to_owned(),
        stable: id(record.stable),
        target: id(record.target()),
        stable_version: version(record.stable),
        target_version: version(record.target()),
        rollout: rollout_view(state, name),
        hosts: route.map(|route| route.hosts.iter().cloned().collect()).unwrap_or_default(),
        path: route.map(|route| route.path.clone()).unwrap_or_default(),
        ready: u32::try_from(ready).unwrap_or(u32::MAX),
        wanted: u32::try_from(nodes).unwrap_or(u32::MAX).saturating_mul(instances),
        releases: releases.into_iter().map(|(id, release)| release_info(*id, release)).collect(),
    }
}

fn release_info(id: ReleaseId, release: &ReleaseRecord) -> ReleaseInfo {
    let created = UNIX_EPOCH.checked_add(Duration::from_millis(release.created_ms)).unwrap_or(UNIX_EPOCH);
    ReleaseInfo {
        release: id.to_string(),
        version: release.version.clone(),
        size_bytes: release.size_bytes,
        files: release.files,
        created: humantime::format_rfc3339_seconds(created).to_string(),
    }
}

/// The instances of the nodes that live, by app, node and id. `app` empty: of all apps.
pub(super) fn instances(state: &ControlState, view: &View, app: &str) -> Vec<Instance> {
    let mut rows: Vec<Instance> = live(view)
        .flat_map(|node| node.instances.iter().map(move |instance| (node, instance)))
        .filter(|(_, instance)| app.is_empty() || instance.app == app)
        .map(|(node, instance)| row(state, node, instance))
        .collect();
    rows.sort_by(|a, b| (&a.app, &a.node, &a.id).cmp(&(&b.app, &b.node, &b.id)));
    rows
}

fn row(state: &ControlState, node: &NodeState, instance: &InstanceState) -> Instance {
    let release = ReleaseId::from_slice(&instance.release);
    let started = UNIX_EPOCH.checked_add(Duration::from_millis(instance.started_ms)).unwrap_or(UNIX_EPOCH);
    let is_running = instance.pid > 0;
    let uptime = SystemTime::now().duration_since(started).ok().filter(|_| is_running);
    Instance {
        app: instance.app.clone(),
        node: node.name.clone(),
        id: instance.id.clone(),
        release: release.map(|id| id.to_string()).unwrap_or_default(),
        version: release.map(|id| version(state, id)).unwrap_or_default(),
        state: instance.state.clone(),
        pid: instance.pid,
        port: instance.port,
        uptime_seconds: uptime.unwrap_or_default().as_secs(),
        restarts: instance.restarts,
        message: instance.message.clone(),
    }
}

/// What the nodes that live say of themselves in this life.
fn live(view: &View) -> impl Iterator<Item = &NodeState> {
    view.members.iter().filter_map(|(node, member)| {
        let lives =
            *node == view.me || matches!(member.member.state, MemberStatus::Alive | MemberStatus::Suspect);
        let state = member.state.as_deref()?;
        (lives && state.generation >= member.member.generation.0).then_some(state)
    })
}
