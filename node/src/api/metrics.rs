//! Prometheus metrics, in the OpenMetrics text format.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::v1::StatusResponse;

use crate::routing::Routing;

/// The agent's gauges. Most are read from the parts at the moment of the scrape, so that a part
/// counts for itself and knows nothing of Prometheus.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    quorum: Gauge,
    epoch: Gauge,
    members: Family<StateLabel, Gauge>,
    groups: Family<StateLabel, Gauge>,
    backend_requests: Family<BackendLabel, Gauge>,
    backend_failures: Family<BackendLabel, Gauge>,
    backend_in_flight: Family<BackendLabel, Gauge>,
    routing: Routing,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BackendLabel {
    app: String,
    node: String,
    instance: String,
}

impl Metrics {
    pub fn new(routing: Routing) -> Self {
        let mut registry = Registry::with_prefix("holdfast");
        let quorum = Gauge::default();
        registry.register("control_quorum", "1 while the control log takes changes", quorum.clone());
        let epoch = Gauge::default();
        registry.register("controller_epoch", "Epoch of the newest controller", epoch.clone());
        let members = Family::default();
        registry.register("members", "Members by their state in the gossip", members.clone());
        let groups = Family::default();
        registry.register("session_groups", "Session groups by how they are", groups.clone());
        let backend_requests = Family::default();
        registry.register(
            "backend_requests",
            "Requests sent to an instance by this node",
            backend_requests.clone(),
        );
        let backend_failures = Family::default();
        registry.register("backend_failures", "Of these, how many failed", backend_failures.clone());
        let backend_in_flight = Family::default();
        registry.register(
            "backend_in_flight",
            "Requests that an instance is answering",
            backend_in_flight.clone(),
        );
        let inner = Inner {
            registry,
            quorum,
            epoch,
            members,
            groups,
            backend_requests,
            backend_failures,
            backend_in_flight,
            routing,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The text of one scrape.
    pub fn render(&self, status: &StatusResponse) -> String {
        let inner = &self.inner;
        inner.quorum.set(i64::from(status.quorum));
        inner.epoch.set(signed(status.controller.as_ref().map_or(0, |controller| controller.epoch)));
        for state in ["alive", "suspect", "down", "left"] {
            let count = status.members.iter().filter(|member| member.state == state).count();
            let label = StateLabel { state: state.to_owned() };
            inner.members.get_or_create(&label).set(signed(count as u64));
        }
        if let Some(sessions) = &status.sessions {
            let thin = u64::from(sessions.under_replicated);
            let gone = u64::from(sessions.unavailable);
            let whole = u64::from(sessions.groups).saturating_sub(thin + gone);
            for (state, count) in [("whole", whole), ("under_replicated", thin), ("unavailable", gone)] {
                inner.groups.get_or_create(&StateLabel { state: state.to_owned() }).set(signed(count));
            }
        }
        self.backends();
        let mut text = String::new();
        // Writing into a String can not fail.
        let _infallible = encode(&mut text, &inner.registry);
        text
    }

    /// Instances come and go, so the families are made anew each time and stay bounded.
    fn backends(&self) {
        let inner = &self.inner;
        inner.backend_requests.clear();
        inner.backend_failures.clear();
        inner.backend_in_flight.clear();
        for backend in inner.routing.backends() {
            let label = BackendLabel { app: backend.app, node: backend.node, instance: backend.instance };
            inner.backend_requests.get_or_create(&label).set(signed(backend.requests));
            inner.backend_failures.get_or_create(&label).set(signed(backend.failures));
            inner.backend_in_flight.get_or_create(&label).set(i64::from(backend.in_flight));
        }
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
