//! What operators and apps ask of an agent, and where.
//!
//! ```text
//!   unix socket agent.sock   every service of holdfast.v1, health, reflection (permissions guard it)
//!   unix socket apps.sock    SessionService and CacheService alone, for the instances
//!   peer port (mTLS)         the same as agent.sock for this cluster's nodes, beside the mesh
//!   127.0.0.1 admin          /healthz /readyz /metrics /v1/status and the page
//! ```

pub mod admin;
pub mod balancer;
mod capped;
pub mod cluster;
pub mod control;
pub mod guard;
pub mod metrics;
pub mod sockets;
pub mod status;
