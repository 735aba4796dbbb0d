//! What the supervisor says of the apps: the words that node states and `holdfast ps` show.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::ids::ReleaseId;

/// Every app that this node was ever told to run or to stop, by name.
pub type Statuses = Arc<BTreeMap<String, AppStatus>>;

/// One app on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppStatus {
    /// What it should run.
    pub release: Option<ReleaseId>,
    /// The attempt that it was told with.
    pub attempt: u64,
    pub state: AppState,
    /// The last thing worth knowing; empty when all is well.
    pub message: String,
    /// Of the release that it should run and of others on their way out.
    pub instances: Vec<InstanceStatus>,
}

/// How far the app is with the release that it should run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppState {
    Starting,
    /// All instances are, and no other release takes requests.
    Ready,
    /// It was ready and is no longer.
    Unready,
    Stopping,
    /// It did not become ready in time, or it ends again and again. It is tried again after a pause.
    Failed,
    Stopped,
}

/// One process of an app, from its start to its end. One that is started again is another instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceStatus {
    pub id: String,
    pub release: ReleaseId,
    pub state: InstanceState,
    /// 0 while there is no process.
    pub pid: u32,
    pub port: u16,
    /// Unix time.
    pub started_ms: u64,
    /// How often its predecessors had to be started again.
    pub restarts: u32,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceState {
    Starting,
    Ready,
    Unready,
    /// It has been told to stop, or is about to: no request may be sent to it.
    Stopping,
    Failed,
}

impl AppState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl InstanceState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Stopping => "stopping",
            Self::Failed => "failed",
        }
    }
}
