//! Which instances the balancer may give requests to.
//!
//! An instance's door is opened when it is ready, and closed for good before it is told to stop. The
//! two come from different tasks, so that a report of *ready* may arrive after the decision to stop;
//! an instance that was closed for good stays closed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use balancer::Balancer;
use futures::future::BoxFuture;
use node_apps::{Drain, InstanceState, Statuses};

/// An app and one of its instances.
type Name = (String, String);

pub(super) struct Doors {
    balancer: Arc<Balancer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: BTreeSet<Name>,
    /// As long as the instance is there.
    closed_for_good: BTreeSet<Name>,
}

/// What the balancer is to be told.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Open(Name, u16),
    Close(Name),
}

impl Doors {
    pub(super) fn new(balancer: Arc<Balancer>) -> Self {
        Self { balancer, state: Mutex::default() }
    }

    /// Opens and closes by what the supervisor says now.
    pub(super) fn follow(&self, statuses: &Statuses) {
        let mut state = self.state();
        for change in state.follow(statuses) {
            match change {
                Change::Open((app, instance), port) => {
                    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                    self.balancer.serve_instance(&app, &instance, address);
                }
                Change::Close((app, instance)) => self.balancer.stop_instance(&app, &instance),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drain for Doors {
    fn drain(&self, app: &str, instance: &str) -> BoxFuture<'static, ()> {
        let (balancer, app, instance) = (Arc::clone(&self.balancer), app.to_owned(), instance.to_owned());
        {
            let mut state = self.state();
            let name = (app.clone(), instance.clone());
            state.open.remove(&name);
            state.closed_for_good.insert(name);
            balancer.stop_instance(&app, &instance);
        }
        Box::pin(async move { balancer.drained(&app, &instance).await })
    }
}

impl State {
    fn follow(&mut self, statuses: &Statuses) -> Vec<Change> {
        let instances = statuses.iter().flat_map(|(app, status)| {
            status.instances.iter().map(move |instance| ((app.clone(), instance.id.clone()), instance))
        });
        let instances: BTreeMap<Name, _> = instances.collect();
        let ready: BTreeMap<Name, u16> = instances
            .iter()
            .filter(|(name, instance)| {
                instance.state == InstanceState::Ready && !self.closed_for_good.contains(*name)
            })
            .map(|(name, instance)| (name.clone(), instance.port))
            .collect();
        let closing = self.open.iter().filter(|name| !ready.contains_key(*name)).cloned().map(Change::Close);
        let opening = ready.iter().filter(|(name, _)| !self.open.contains(*name));
        let changes = closing.chain(opening.map(|(name, port)| Change::Open(name.clone(), *port))).collect();
        self.open = ready.into_keys().collect();
        self.closed_for_good.retain(|name| instances.contains_key(name));
        changes
    }
}

#[cfg(test)]
mod tests {
    use node_apps::{AppState, AppStatus, InstanceStatus};
    use proto::ids::ReleaseId;

    use super::*;

    fn statuses(state: InstanceState) -> Statuses {
        let instance = InstanceStatus {
            id: "shop-1".into(),
            release: ReleaseId([1; 32]),
            state,
            pid: 1,
            port: 20_000,
            started_ms: 0,
            restarts: 0,
            message: String::new(),
        };
        let app = AppStatus {
            release: Some(ReleaseId([1; 32])),
            attempt: 1,
            state: AppState::Ready,
            message: String::new(),
            instances: vec![instance],
        };
        Arc::new(BTreeMap::from([("shop".to_owned(), app)]))
    }

    fn name() -> Name {
        ("shop".to_owned(), "shop-1".to_owned())
    }

    #[test]
    fn a_door_is_open_while_the_instance_is_ready() {
        let mut state = State::default();
        assert_eq!(state.follow(&statuses(InstanceState::Starting)), []);
        assert_eq!(state.follow(&statuses(InstanceState::Ready)), [Change::Open(name(), 20_000)]);
        assert_eq!(state.follow(&statuses(InstanceState::Ready)), []);
        assert_eq!(state.follow(&statuses(InstanceState::Unready)), [Change::Close(name())]);
        assert_eq!(state.follow(&statuses(InstanceState::Ready)), [Change::Open(name(), 20_000)]);
        assert_eq!(state.follow(&Statuses::default()), [Change::Close(name())]);
    }

    #[test]
    fn a_late_report_does_not_open_the_door_of_an_instance_that_is_to_stop() {
        let mut state = State::default();
        state.follow(&statuses(InstanceState::Ready));
        state.open.remove(&name());
        state.closed_for_good.insert(name());
        assert_eq!(state.follow(&statuses(InstanceState::Ready)), []);
        assert_eq!(state.follow(&statuses(InstanceState::Stopping)), []);
        state.follow(&Statuses::default());
        assert!(state.closed_for_good.is_empty(), "nothing is kept of an instance that is gone");
    }
}
