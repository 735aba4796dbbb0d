//! From the membership and the control log's state to the balancer's snapshot: a pure function.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use balancer::{Availability, Backend, BackendKey, BackendStats, Snapshot, Target};
use node_core::control::{ControlState, ReleaseRecord};
use node_core::membership::{MemberStatus, takes_traffic};
use proto::ids::{NodeId, ReleaseId};
use proto::peer::{InstanceState, NodeState};
use proto::v1;

use crate::members::{MemberView, View};

/// The routes of all apps that have a release, with every instance that is known.
pub(super) fn snapshot(view: &View, state: &ControlState) -> Snapshot {
    let mut routes: BTreeMap<&str, balancer::Route> = BTreeMap::new();
    for (app, record) in &state.apps {
        // While a rollout is going on both releases have the same route or the new one's counts: it is
        // what the operator wants next.
        let release = record.target().and_then(|release| state.releases.get(&release));
        if let Some(release) = release {
            routes.insert(app, route(app, release));
        }
    }
    for (node, member) in &view.members {
        let Some(node_state) = &member.state else { continue };
        for instance in &node_state.instances {
            if let Some(route) = routes.get_mut(instance.app.as_str()) {
                route.backends.extend(backend(view, state, *node, member, node_state, instance));
            }
        }
    }
    Snapshot { routes: routes.into_values().collect() }
}

fn route(app: &str, release: &ReleaseRecord) -> balancer::Route {
    let route = release.route.clone().unwrap_or_default();
    balancer::Route {
        app: app.to_owned(),
        hosts: route.hosts.into_iter().collect(),
        path: route.path,
        timeout: Duration::from_millis(route.timeout_ms),
        retries: route.retries,
        backends: Vec::new(),
    }
}

fn backend(
    view: &View,
    state: &ControlState,
    node: NodeId,
    member: &MemberView,
    node_state: &NodeState,
    instance: &InstanceState,
) -> Option<Backend> {
    let availability = availability(view, node, member, node_state, instance)?;
    let target = if node == view.me {
        let port = u16::try_from(instance.port).ok()?;
        Target::Local(SocketAddr::from(([127, 0, 0, 1], port)))
    } else {
        let name = node_security::server_name(state.cluster?, Some(node));
        Target::Peer { address: member.member.peer, name }
    };
    Some(Backend {
        key: BackendKey {
            node: node.0,
            generation: node_state.generation,
            app: instance.app.clone(),
            instance: instance.id.clone(),
        },
        release: ReleaseId::from_slice(&instance.release).map(|id| id.to_string()).unwrap_or_default(),
        target,
        availability,
    })
}

/// `None` for an instance that takes no requests and has none.
fn availability(
    view: &View,
    node: NodeId,
    member: &MemberView,
    node_state: &NodeState,
    instance: &InstanceState,
) -> Option<Availability> {
    let mine = node == view.me;
    match member.member.state {
        MemberStatus::Alive => {}
        MemberStatus::Suspect
            if !mine && instance.state == "ready" && takes_traffic(MemberStatus::Alive, node_state) =>
        {
            return Some(Availability::Suspected);
        }
        MemberStatus::Suspect | MemberStatus::Down | MemberStatus::Left if !mine => {
            return Some(Availability::Lost);
        }
        MemberStatus::Suspect | MemberStatus::Down | MemberStatus::Left => {}
    }
    match instance.state.as_str() {
        "ready" if takes_traffic(MemberStatus::Alive, node_state) => Some(Availability::Serving),
        // While this node comes or goes: who is here anyway is better served by it than not at all.
        "ready" if mine => Some(Availability::Reserve),
        "ready" | "stopping" | "unready" => Some(Availability::Draining),
        _ => None,
    }
}

pub(super) fn route_view(route: &balancer::Route) -> v1::Route {
    let serving = route.backends.iter().filter(|backend| backend.availability == Availability::Serving);
    v1::Route {
        app: route.app.clone(),
        hosts: route.hosts.clone(),
        path: route.path.clone(),
        policy: "round_robin".to_owned(),
        backends: u32::try_from(serving.count()).unwrap_or(u32::MAX),
    }
}

pub(super) fn backend_views(snapshot: &Snapshot, stats: &[BackendStats], view: &View) -> Vec<v1::Backend> {
    let stats: BTreeMap<&BackendKey, &BackendStats> = stats.iter().map(|stats| (&stats.key, stats)).collect();
    let all = snapshot.routes.iter().flat_map(|route| &route.backends);
    all.map(|backend| {
        let seen = stats.get(&backend.key);
        let ejected = seen.is_some_and(|seen| seen.ejected);
        let (verdict, evidence) = verdict(backend.availability, ejected);
        let name = view.members.get(&NodeId(backend.key.node)).and_then(|member| member.state.as_ref());
        v1::Backend {
            app: backend.key.app.clone(),
            node: name.map(|state| state.name.clone()).unwrap_or_default(),
            instance: backend.key.instance.clone(),
            release: backend.release.clone(),
            verdict: verdict.to_owned(),
            evidence: evidence.to_owned(),
            requests: seen.map_or(0, |seen| seen.requests),
            failures: seen.map_or(0, |seen| seen.failures),
            in_flight: seen.map_or(0, |seen| seen.in_flight),
        }
    })
    .collect()
}

fn verdict(availability: Availability, ejected: bool) -> (&'static str, &'static str) {
    match availability {
        Availability::Serving if ejected => ("ejected", "it failed several times in a row from here"),
        Availability::Serving => ("serving", "its agent says that it is ready"),
        Availability::Draining => ("draining", "its agent says that it is stopping or not ready"),
        Availability::Reserve => ("draining", "its agent is coming or going"),
        Availability::Suspected => ("suspected", "its server does not answer the gossip"),
        Availability::Lost => ("lost", "its server is down"),
    }
}

#[cfg(test)]
mod tests {
    use node_membership::Member;
    use proto::ids::Generation;
    use proto::peer::Phase;

    use super::*;

    const ME: NodeId = NodeId(1);
    const OTHER: NodeId = NodeId(2);

    /// Whether an instance of a node takes requests, by all that is known of both.
    fn seen(
        node: NodeId,
        status: MemberStatus,
        phase: Phase,
        draining: bool,
        state: &str,
    ) -> Option<Availability> {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let member = Member {
            node,
            generation: Generation(1),
            zone: "a".to_owned(),
            gossip: address,
            peer: address,
            state: status,
            since: std::time::Instant::now(),
        };
        let mut own = NodeState { draining, ..NodeState::default() };
        own.set_phase(phase);
        let instance = InstanceState { state: state.to_owned(), ..InstanceState::default() };
        let view = View { me: ME, ..View::default() };
        availability(&view, node, &MemberView { member, state: None }, &own, &instance)
    }

    #[test]
    fn a_suspected_server_may_be_asked_and_a_dead_one_may_not() {
        let other = |status, state| seen(OTHER, status, Phase::Ready, false, state);
        assert_eq!(other(MemberStatus::Alive, "ready"), Some(Availability::Serving));
        assert_eq!(other(MemberStatus::Suspect, "ready"), Some(Availability::Suspected));
        assert_eq!(other(MemberStatus::Suspect, "stopping"), Some(Availability::Lost));
        assert_eq!(other(MemberStatus::Down, "ready"), Some(Availability::Lost));
        assert_eq!(other(MemberStatus::Left, "ready"), Some(Availability::Lost));
        assert_eq!(other(MemberStatus::Alive, "starting"), None);
    }

    #[test]
    fn a_node_that_comes_or_goes_serves_its_own_clients_for_want_of_others() {
        let at = |node, phase, draining| seen(node, MemberStatus::Alive, phase, draining, "ready");
        for (phase, draining) in [(Phase::Syncing, false), (Phase::Draining, true)] {
            assert_eq!(at(ME, phase, draining), Some(Availability::Reserve));
            assert_eq!(at(OTHER, phase, draining), Some(Availability::Draining));
        }
        assert_eq!(at(ME, Phase::Ready, false), Some(Availability::Serving));
    }
}
