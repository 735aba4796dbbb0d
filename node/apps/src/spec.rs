//! What an app says of itself: its `holdfast.toml`, parsed once into meaning.
//!
//! A key that this version does not act on must never look as if it had been obeyed: a limit that is
//! not enforced, a gate that is not waited for. So there are three kinds of key: those that mean
//! something here, those of the documented format that a later version brings (refused, with these
//! words), and mistakes (refused, with the nearest key there is).

mod duration;
mod keys;
mod raw;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Largest `holdfast.toml`: several hundred lines of environment.
pub const SPEC_BYTES_MAX: usize = 64 << 10;

/// Name of the file, in the root of the app's folder.
pub const SPEC_FILE: &str = "holdfast.toml";

/// An app's run specification. Its text travels inside the release's manifest and is parsed again by
/// every node, so that what a node acts on has passed the same checks wherever it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppSpec {
    /// Fits a DNS label.
    pub app: String,
    pub run: Run,
    pub env: BTreeMap<String, String>,
    pub health: Health,
    pub stop: Stop,
    pub limits: Limits,
    pub restart: Restart,
    pub rollout: Rollout,
    pub route: Route,
    pub keep: Keep,
}

/// `[run]`: what an instance is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Program and arguments. `$NAME` in an argument is the instance's environment's.
    pub command: Vec<String>,
    /// On each node.
    pub instances: u32,
    /// A folder inside the release; empty for its root.
    pub workdir: String,
}

/// `[health]`: how it is known that an instance works. Without a path, by a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    pub startup: Startup,
    pub ready: Readiness,
}

/// Until it has passed once, an instance is starting; one that never does has failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// `None`: the readiness probe alone decides.
    pub path: Option<String>,
    /// From the start until the instance is ready.
    pub timeout: Duration,
}

impl Default for Startup {
    fn default() -> Self {
        Self { path: None, timeout: Duration::from_secs(60) }
    }
}

/// Asked as long as an instance runs: whether it takes requests now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    /// `None`: that it accepts a connection is enough.
    pub path: Option<String>,
    pub interval: Duration,
    /// Of one probe.
    pub timeout: Duration,
    /// Passes in a row that make an instance ready.
    pub rise: u32,
    /// Failures in a row that make it unready.
    pub fall: u32,
}

impl Default for Readiness {
    fn default() -> Self {
        let interval = Duration::from_secs(1);
        Self { path: None, interval, timeout: Duration::from_secs(2), rise: 1, fall: 3 }
    }
}

/// `[stop]`: how an instance is ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    pub signal: StopSignal,
    /// For the requests in flight, before the signal.
    pub drain: Duration,
    /// Between the signal and the kill.
    pub grace: Duration,
}

impl Default for Stop {
    fn default() -> Self {
        Self { signal: StopSignal::Term, drain: Duration::from_secs(30), grace: Duration::from_secs(30) }
    }
}

/// The signals that servers take as a request to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    Term,
    Int,
    Quit,
    Hup,
    Usr1,
    Usr2,
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Open files of one process.
    pub nofile: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { nofile: 65_536 }
    }
}

/// `[restart]`: the pause before an instance that ended is started again. Doubles each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restart {
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

impl Default for Restart {
    fn default() -> Self {
        Self { backoff_min: Duration::from_secs(1), backoff_max: Duration::from_secs(60) }
    }
}

/// `[rollout]`. One node at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// After this the farm is turned back.
    pub deadline: Duration,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(600) }
    }
}

/// `[route]`: which requests are the app's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// In lower case; empty for every host.
    pub hosts: BTreeSet<String>,
    /// A prefix, by whole parts.
    pub path: String,
    /// Until the instance has begun to answer.
    pub timeout: Duration,
    /// On another instance, of requests that may be repeated.
    pub retries: u32,
}

impl Default for Route {
    fn default() -> Self {
        Self { hosts: BTreeSet::new(), path: "/".to_owned(), timeout: Duration::from_secs(60), retries: 1 }
    }
}

/// `[keep]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    pub releases: u32,
}

impl Default for Keep {
    fn default() -> Self {
        Self { releases: RELEASES_KEPT }
    }
}

/// What the control log keeps.
const RELEASES_KEPT: u32 = node_core::control::RELEASES_KEPT as u32;

/// What is wrong with a `holdfast.toml`.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    #[error("{SPEC_FILE} has {bytes} bytes; at most {SPEC_BYTES_MAX} are read")]
    TooLarge { bytes: usize },
    #[error("{SPEC_FILE} is not TOML: {0}")]
    Syntax(#[source] Box<toml::de::Error>),
    #[error("{SPEC_FILE} has an unknown key {key:?}{}; the nearest there is: {nearest:?}", in_table(.table))]
    UnknownKey { table: String, key: String, nearest: String },
    #[error("{SPEC_FILE}: {what} is not supported by this version")]
    NotSupported { what: String },
    #[error("{SPEC_FILE}: {key} {problem}")]
    Invalid { key: String, problem: String },
}

impl SpecError {
    fn invalid(key: &str, problem: impl Into<String>) -> Self {
        Self::Invalid { key: key.to_owned(), problem: problem.into() }
    }
}

fn in_table(table: &str) -> String {
    if table.is_empty() { String::new() } else { format!(" in [{table}]") }
}

impl AppSpec {
    /// Parses the text of a `holdfast.toml`.
    ///
    /// # Errors
    /// What is wrong with it, naming the key.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        if text.len() > SPEC_BYTES_MAX {
            return Err(SpecError::TooLarge { bytes: text.len() });
        }
        let table: toml::Table = toml::from_str(text).map_err(|error| SpecError::Syntax(Box::new(error)))?;
        keys::check(&table)?;
        let raw: raw::Raw = table.try_into().map_err(|error| SpecError::Syntax(Box::new(error)))?;
        raw.check()
    }
}

/// Whether a name can be part of a host name, a path and a user name: a DNS label in lower case.
pub fn is_name(name: &str) -> bool {
    let fits = (1..=proto::limits::NAME_BYTES_MAX).contains(&name.len());
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    fits && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}
