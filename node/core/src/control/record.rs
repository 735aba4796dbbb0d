//! The nouns of the control log.
//!
//! Every field has a default when it is read, so that a log or a snapshot written by the version before
//! is still understood. What has no sensible default is an `Option`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use proto::ids::{BlobHash, NodeId, ReleaseId};
use serde::{Deserialize, Serialize};

/// A blake3 of something that is compared and never shown: a token's secret, a signing request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Compares in constant time, for what somebody may be guessing.
    pub fn matches(&self, other: &Self) -> bool {
        blake3::Hash::from(self.0) == blake3::Hash::from(other.0)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", BlobHash(self.0).short())
    }
}

// The text form of 32 bytes is the one that ids have.
impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        BlobHash(self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BlobHash::deserialize(deserializer).map(|hash| Self(hash.0))
    }
}

/// Text that must not reach a log line: an app's password for its keyspace.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What a token lets a node be, and what its certificate says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Whatever its configuration names.
    Server,
    /// Anything but a voter. The default, because it is the weaker.
    #[default]
    Worker,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Worker => "worker",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeRecord {
    pub name: String,
    pub zone: String,
    pub region: String,
    pub peer_addr: SocketAddr,
    pub gossip_addr: SocketAddr,
    /// By the token that admitted it.
    pub role: Role,
    /// By its configuration: `apps`, `balancer`, `sessions`, `voter`.
    #[serde(default)]
    pub roles: BTreeSet<String>,
    /// Of the signing request that it was admitted with.
    #[serde(default)]
    pub csr_hash: Fingerprint,
    /// Of the token that it was admitted with: a repeated request must show the same.
    #[serde(default)]
    pub token_hash: Fingerprint,
    #[serde(default)]
    pub admitted_index: u64,
    /// No longer a member: another disk took over its name.
    #[serde(default)]
    pub removed: bool,
}

impl NodeRecord {
    pub fn runs_apps(&self) -> bool {
        !self.removed && self.roles.contains("apps")
    }

    pub fn holds_sessions(&self) -> bool {
        !self.removed && self.roles.contains("sessions")
    }

    pub fn may_vote(&self) -> bool {
        !self.removed && self.role == Role::Server && self.roles.contains("voter")
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub hash: Fingerprint,
    pub role: Role,
    /// Unix time, in the group's clock.
    pub expires_ms: u64,
    /// `None`: as many as come in its life.
    #[serde(default)]
    pub uses_left: Option<u32>,
}

/// Which requests are an app's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Empty: every host.
    #[serde(default)]
    pub hosts: BTreeSet<String>,
    pub path: String,
    #[serde(default = "default_policy")]
    pub policy: String,
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    #[serde(default = "default_retries")]
    pub retries: u32,
}

impl Default for Route {
    /// No `[route]`: every host, path `/`.
    fn default() -> Self {
        Self {
            hosts: BTreeSet::new(),
            path: "/".to_owned(),
            policy: default_policy(),
            timeout_ms: default_timeout_ms(),
            retries: default_retries(),
        }
    }
}

fn default_policy() -> String {
    "round_robin".to_owned()
}

fn default_timeout_ms() -> u64 {
    60_000
}

fn default_retries() -> u32 {
    1
}

impl Route {
    /// Whether nobody could say which of two apps a request is for. A named host is narrower than every
    /// host, and a longer path narrower than a shorter one: those do not conflict.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let both_any = self.hosts.is_empty() && other.hosts.is_empty();
        self.path == other.path && (both_any || self.hosts.intersection(&other.hosts).next().is_some())
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hosts.is_empty() {
            return write!(f, "every host, path {}", self.path);
        }
        let hosts: Vec<&str> = self.hosts.iter().map(String::as_str).collect();
        write!(f, "{}, path {}", hosts.join(" "), self.path)
    }
}

/// A release's outline; its manifest and bytes are blobs outside the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    pub app: String,
    pub version: String,
    #[serde(default)]
    pub size_bytes: u64,
    #[serde(default)]
    pub files: u64,
    /// How requests reach it.
    #[serde(default)]
    pub route: Option<Route>,
    /// How long a rollout of it may take.
    #[serde(default = "default_rollout_ms")]
    pub rollout_ms: u64,
    /// Set when the entry is applied: Unix time in the group's clock.
    #[serde(default)]
    pub created_ms: u64,
    /// Set when the entry is applied.
    #[serde(default)]
    pub registered_index: u64,
}

/// `[rollout] deadline` where the manifest has none.
fn default_rollout_ms() -> u64 {
    600_000
}

/// What one app should run, and where.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppRecord {
    /// `None` until a rollout has succeeded.
    pub stable: Option<ReleaseId>,
    /// The attempt by which nodes were last told to run the stable release.
    pub stable_attempt: u64,
    /// Releases that were stable, the newest first, the stable one included.
    pub history: Vec<ReleaseId>,
    /// `None` when nothing is going on.
    pub rollout: Option<RolloutRecord>,
    /// The password of its keyspace.
    pub secret: Secret,
    pub last_outcome: Option<RolloutOutcome>,
}

impl AppRecord {
    /// What the app is on its way to, or runs when nothing is going on.
    pub fn target(&self) -> Option<ReleaseId> {
        self.rollout.as_ref().map(|rollout| rollout.release).or(self.stable)
    }
}

/// A rollout that is going on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutRecord {
    pub release: ReleaseId,
    pub stage: Stage,
    /// Names the rollout: the index of the entry that began it. Nodes are told to run its release under
    /// this number, and a higher one clears a failed state.
    pub attempt: u64,
    /// Nodes that run the release, or were told to. Kept while rolling back.
    #[serde(default)]
    pub assigned: BTreeSet<NodeId>,
    /// Nodes that were to let go of what they served before, with the number under which each was told last:
    /// an agent takes no word under one that it has heard.
    #[serde(default)]
    pub evicted: BTreeMap<NodeId, u64>,
    /// Index of the entry that turned it back; 0 until then.
    #[serde(default)]
    pub rollback_attempt: u64,
    /// Why it was turned back; empty until then.
    #[serde(default)]
    pub reason: String,
    /// Unix time in the group's clock, as the deadline.
    #[serde(default)]
    pub started_ms: u64,
    #[serde(default)]
    pub deadline_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Every reachable node fetches and verifies the release.
    Distribute,
    /// One node after the other is told to run it.
    Rolling,
    /// Every node that was told goes back to the stable release, or to nothing.
    RollingBack,
}

impl Stage {
    /// The name that `holdfast status` shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Distribute => "distribute",
            Self::Rolling => "rolling",
            Self::RollingBack => "rolling_back",
        }
    }
}

/// How an app's last rollout ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutOutcome {
    pub release: ReleaseId,
    /// The release's, which is forgotten when it can not be rolled back to.
    #[serde(default)]
    pub version: String,
    /// The rollout's.
    pub attempt: u64,
    pub result: RolloutResult,
    #[serde(default)]
    pub reason: String,
    /// Nodes that could not be reached, each with what is known of why. They catch up by themselves.
    #[serde(default)]
    pub behind: BTreeMap<NodeId, String>,
    #[serde(default)]
    pub ended_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutResult {
    /// The release is the stable one.
    Done,
    /// The stable release runs everywhere, as before.
    RolledBack,
    /// There was no release to go back to: the app runs nowhere.
    Failed,
}

impl RolloutResult {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::RolledBack => "rolled_back",
            Self::Failed => "failed",
        }
    }
}
