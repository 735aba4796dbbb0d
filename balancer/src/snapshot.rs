//! What the balancer is told: routes and their backends at one moment.

use std::net::SocketAddr;

use rustls_pki_types::ServerName;

/// All routes. The order of the backends is the order in which they take turns.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub routes: Vec<Route>,
}

/// Requests for these hosts and this path go to these backends.
#[derive(Debug, Clone)]
pub struct Route {
    pub app: String,
    /// Lower case, without a port. Empty: every host.
    pub hosts: Vec<String>,
    /// A prefix of whole segments; `/` is everything.
    pub path: String,
    /// From the request's head to the response's.
    pub timeout: std::time::Duration,
    /// How often a request may be tried again elsewhere.
    pub retries: u32,
    pub backends: Vec<Backend>,
}

/// One instance.
#[derive(Debug, Clone)]
pub struct Backend {
    pub key: BackendKey,
    /// Shown to operators only.
    pub release: String,
    pub target: Target,
    pub availability: Availability,
}

/// What a backend's state is kept under: another life of a node is another backend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    pub node: u64,
    pub generation: u64,
    pub app: String,
    pub instance: String,
}

/// Where an instance is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// On this node.
    Local(SocketAddr),
    /// Behind the agent with this peer port, which must prove to be this node.
    Peer { address: SocketAddr, name: ServerName<'static> },
}

/// Whether a backend takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    Serving,
    /// Nothing new; what it has, it finishes.
    Draining,
    /// Its node is suspected or down: nothing new, and what waits for it is better tried elsewhere.
    Lost,
}

impl Snapshot {
    /// The route of a request: a named host before every host, then the longest path.
    pub fn route(&self, host: &str, path: &str) -> Option<&Route> {
        let host = host_name(host);
        let matching = self.routes.iter().filter(|route| {
            (route.hosts.is_empty() || route.hosts.iter().any(|known| known.eq_ignore_ascii_case(host)))
                && is_below(path, &route.path)
        });
        matching.max_by_key(|route| (!route.hosts.is_empty(), route.path.trim_end_matches('/').len()))
    }
}

/// Without the port. An IPv6 address keeps its brackets.
fn host_name(host: &str) -> &str {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    &host[..end]
}

fn is_below(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(app: &str, hosts: &[&str], path: &str) -> Route {
        Route {
            app: app.to_owned(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            path: path.to_owned(),
            timeout: std::time::Duration::from_secs(1),
            retries: 1,
            backends: Vec::new(),
        }
    }

    #[test]
    fn the_narrowest_route_takes_the_request() {
        let snapshot = Snapshot {
            routes: vec![
                route("any", &[], "/"),
                route("api", &[], "/api"),
                route("shop", &["shop.example"], "/"),
                route("cart", &["shop.example"], "/cart/"),
            ],
        };
        let app = |host, path| snapshot.route(host, path).map(|route| route.app.as_str());
        assert_eq!(app("other.example", "/x"), Some("any"));
        assert_eq!(app("other.example", "/api"), Some("api"));
        assert_eq!(app("other.example", "/api?x"), Some("api"));
        assert_eq!(app("other.example", "/apis"), Some("any"));
        assert_eq!(app("SHOP.example:8080", "/api"), Some("shop"));
        assert_eq!(app("shop.example", "/cart/1"), Some("cart"));
        assert_eq!(app("[::1]:80", "/"), Some("any"));
    }
}
