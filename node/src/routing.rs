//! What the balancer is told: the membership, the node states and the releases' routes, made into
//! one snapshot.
//!
//! ```text
//!   Members.view ──┐
//!   Control state ─┼─▶ one task, coalescing ─▶ balancer::Snapshot ─▶ every proxy thread
//!   (resets) ──────┘        pure `build`
//! ```
//!
//! A single writer builds snapshots, so that two threads never see two orders of the same change.
//! The balancer learns nothing of gossip: it gets addresses.

mod build;

use std::sync::Arc;
use std::time::Duration;

use balancer::Balancer;
use node_core::control::ControlState;
use proto::v1;
use tokio::sync::watch;

use crate::members::{Members, View};
use crate::tasks::Tasks;

/// Changes that come within this time share a snapshot. Short, because a node that has died gets
/// requests until the snapshot without it is out.
const COALESCE: Duration = Duration::from_millis(5);

/// The newest routes and backends, and the balancer they go to.
#[derive(Clone)]
pub struct Routing {
    balancer: Arc<Balancer>,
    view: watch::Receiver<Arc<View>>,
    state: watch::Receiver<Arc<ControlState>>,
}

impl Routing {
    /// Starts feeding the balancer.
    pub fn start(
        balancer: Arc<Balancer>,
        members: &Members,
        state: watch::Receiver<Arc<ControlState>>,
        tasks: &Tasks,
    ) -> Self {
        let routing = Self { balancer, view: members.view(), state };
        tasks.essential("routing", routing.clone().follow(tasks.clone()));
        routing
    }

    async fn follow(mut self, tasks: Tasks) {
        let stop = tasks.stop();
        let mut published = None;
        loop {
            let snapshot = build::snapshot(&self.view.borrow_and_update(), &self.state.borrow_and_update());
            // Most of what nodes tell of themselves is nothing to the balancer.
            if published.as_ref() != Some(&snapshot) {
                self.balancer.publish(snapshot.clone());
                published = Some(snapshot);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.view.changed() => if changed.is_err() { return },
                changed = self.state.changed() => if changed.is_err() { return },
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    /// The routes as they are now.
    pub fn routes(&self) -> Vec<v1::Route> {
        let snapshot = build::snapshot(&self.view.borrow(), &self.state.borrow());
        snapshot.routes.iter().map(build::route_view).collect()
    }

    /// The backends, with what this node's balancer has seen of each.
    pub fn backends(&self) -> Vec<v1::Backend> {
        let view = self.view.borrow().clone();
        let snapshot = build::snapshot(&view, &self.state.borrow());
        build::backend_views(&snapshot, &self.balancer.stats(), &view)
    }
}
