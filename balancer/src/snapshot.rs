//! What the balancer is told: routes and their backends at one moment.

use std::net::SocketAddr;

use rustls_pki_types::ServerName;

/// All routes. The order of the backends is the order in which they take turns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub routes: Vec<Route>,
}

/// Requests for these hosts and this path go to these backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub app: String,
    /// Lower case, without a port. Empty: every host.
    pub hosts: Vec<String>,
    /// A prefix of whole segments; `/` is everything.
    pub path: String,
    /// From the end of the request to the response's head.
    pub timeout: std::time::Duration,
    /// How often a request that may have been executed, and is idempotent, may be tried again elsewhere.
    /// One that was certainly not executed may go to every backend once.
    pub retries: u32,
    pub backends: Vec<Backend>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// On this node. Requests go there only while [`crate::Balancer::serve_instance`] says so.
    Local(SocketAddr),
    /// Behind the agent with this peer port, which must prove to be this node.
    Peer { address: SocketAddr, name: ServerName<'static> },
}

/// Whether a backend takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    Serving,
    /// Only what nobody else can take.
    Reserve,
    /// Nothing new; what it has, it finishes.
    Draining,
    /// Its node may be gone: what waits for it is better tried elsewhere, and new requests go there only
    /// where there is nobody else.
    Suspected,
    /// Its node is gone: nothing new, and what waits for it is better tried elsewhere.
    Lost,
}
