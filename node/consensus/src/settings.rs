//! How a group behaves in time.

use std::time::Duration;

use openraft::{Config, ConfigError, SnapshotPolicy};

/// The knobs of one group. The defaults are measured (sessions.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How often an idle leader says that it is there.
    pub heartbeat: Duration,
    /// Time-out of AppendEntries and of the read index; it includes a disk sync at the other end.
    pub append_timeout: Duration,
    /// Time-out of a vote request; it includes a disk sync at the other end.
    pub vote_timeout: Duration,
    /// How long after its leader's last word a replica refuses to vote for another.
    pub lease: Duration,
    /// How long a replica that has heard nothing bad of its leader's node waits before it looks for
    /// another.
    pub silence: Duration,
    /// How long a write waits for its commit before its outcome is reported as unknown.
    pub write_timeout: Duration,
    /// How long a read waits for a majority.
    pub read_timeout: Duration,
    /// A snapshot is made after so many entries, ...
    pub snapshot_entries: u64,
    /// ... or after so many bytes of them, if the last snapshot was not larger.
    pub snapshot_bytes: u64,
    /// Entries that stay after a snapshot, so that a follower that is a little behind needs no snapshot.
    pub log_kept_entries: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            append_timeout: Duration::from_millis(300),
            vote_timeout: Duration::from_millis(350),
            lease: Duration::from_millis(400),
            silence: Duration::from_millis(600),
            write_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(2),
            snapshot_entries: 5_000,
            snapshot_bytes: 64 << 20,
            log_kept_entries: 500,
        }
    }
}

/// A snapshot travels in chunks that fit a message of the mesh (4 MiB).
const SNAPSHOT_CHUNK_BYTES: u64 = 1 << 20;
/// One chunk has to arrive and, the last one, be installed in this time.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(10);
const PAYLOAD_ENTRIES_MAX: u64 = 256;

impl Settings {
    pub(crate) fn openraft(&self) -> Result<Config, ConfigError> {
        Config {
            cluster_name: "holdfast".to_owned(),
            // What openraft takes it for besides its own heartbeats: those are sent together (see
            // `heartbeats`).
            heartbeat_interval: millis(self.append_timeout),
            enable_heartbeat: false,
            election_timeout_min: millis(self.vote_timeout),
            election_timeout_max: millis(self.lease),
            install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
            max_payload_entries: PAYLOAD_ENTRIES_MAX,
            replication_lag_threshold: self.snapshot_entries + self.log_kept_entries,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
            max_in_snapshot_log_to_keep: self.log_kept_entries,
            // Elections are the driver's.
            enable_elect: false,
            ..Config::default()
        }
        .validate()
    }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("settings are below an age of the universe")
}
