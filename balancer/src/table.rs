//! A snapshot made ready for requests: routes from the narrowest to the widest.

use std::sync::Arc;

use crate::backends::BackendState;
use crate::instances;
use crate::pick::Standing;
use crate::snapshot::{Availability, Backend, Route, Target};

#[derive(Default)]
pub struct Table {
    routes: Vec<LiveRoute>,
}

pub struct LiveRoute {
    /// Its backends are taken out and in `backends`.
    pub route: Route,
    pub backends: Vec<LiveBackend>,
}

pub struct LiveBackend {
    /// What its owner knows it as.
    pub label: String,
    pub target: Target,
    pub state: Arc<BackendState>,
    availability: Availability,
}

impl LiveBackend {
    pub fn new(backend: Backend, state: Arc<BackendState>) -> Self {
        let label = instances::label(&backend.key.app, &backend.key.instance);
        Self { label, target: backend.target, state, availability: backend.availability }
    }

    /// How it stands for a request, which may or may not move elsewhere when it is not answered.
    pub fn standing(&self, may_move: bool) -> Standing {
        match self.availability {
            Availability::Serving if self.state.is_ejected(may_move) => Standing::Ejected,
            Availability::Serving => Standing::Sound,
            Availability::Reserve | Availability::Suspected => Standing::LastResort,
            Availability::Draining | Availability::Lost => Standing::Out,
        }
    }

    /// Whether nothing at all speaks against it.
    pub fn is_beyond_doubt(&self) -> bool {
        self.availability == Availability::Serving && !self.state.is_suspected()
    }
}

impl Table {
    pub fn new(mut routes: Vec<LiveRoute>) -> Self {
        let breadth = |LiveRoute { route, .. }: &LiveRoute| {
            (route.hosts.is_empty(), usize::MAX - route.path.trim_end_matches('/').len())
        };
        routes.sort_by_key(breadth);
        Self { routes }
    }

    /// The route of a request: a named host before every host, then the longest path.
    pub fn route(&self, host: &[u8], target: &[u8]) -> Option<&LiveRoute> {
        let host = host_name(host);
        self.routes.iter().find(|LiveRoute { route, .. }| {
            let takes_host = |known: &String| known.as_bytes().eq_ignore_ascii_case(host);
            (route.hosts.is_empty() || route.hosts.iter().any(takes_host)) && is_below(target, &route.path)
        })
    }
}

/// Without the port. An IPv6 address keeps its brackets.
fn host_name(host: &[u8]) -> &[u8] {
    let end = match host.iter().rposition(|byte| *byte == b']') {
        Some(bracket) => bracket + 1,
        None => host.iter().position(|byte| *byte == b':').unwrap_or(host.len()),
    };
    &host[..end]
}

fn is_below(target: &[u8], prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/').as_bytes();
    // `OPTIONS *` is about the server as a whole.
    let target = if target == b"*" { b"/" } else { target };
    target.strip_prefix(prefix).is_some_and(|rest| matches!(rest.first(), None | Some(b'/' | b'?')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(app: &str, hosts: &[&str], path: &str) -> LiveRoute {
        let route = Route {
            app: app.to_owned(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            path: path.to_owned(),
            timeout: std::time::Duration::from_secs(1),
            retries: 1,
            backends: Vec::new(),
        };
        LiveRoute { route, backends: Vec::new() }
    }

    #[test]
    fn the_narrowest_route_takes_the_request() {
        let table = Table::new(vec![
            route("any", &[], "/"),
            route("api", &[], "/api"),
            route("shop", &["shop.example"], "/"),
            route("cart", &["shop.example"], "/cart/"),
        ]);
        let app = |host: &str, target: &[u8]| {
            table.route(host.as_bytes(), target).map(|found| found.route.app.as_str())
        };
        assert_eq!(app("other.example", b"/x"), Some("any"));
        assert_eq!(app("other.example", b"/api"), Some("api"));
        assert_eq!(app("other.example", b"/api?x"), Some("api"));
        assert_eq!(app("other.example", b"/apis"), Some("any"));
        assert_eq!(app("SHOP.example:8080", b"/api"), Some("shop"));
        assert_eq!(app("shop.example", b"/cart/1"), Some("cart"));
        assert_eq!(app("[::1]:80", b"/"), Some("any"));
        assert_eq!(app("a", b"*"), Some("any"));
    }

    #[test]
    fn a_route_of_one_host_takes_nothing_of_another() {
        let table = Table::new(vec![route("shop", &["shop.example"], "/")]);
        assert!(table.route(b"other.example", b"/").is_none());
        assert!(table.route(b"", b"/").is_none());
    }
}
