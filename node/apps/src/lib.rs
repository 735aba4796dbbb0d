//! Releases on this node, and the instances that run them.
//!
//! ```text
//!   folder ──collect──▶ files ──▶ ReleaseManifest ──▶ ReleaseStore ──unpack──▶ releases/<id>/
//!                                   │ id = blake3        │ blobs by content          │
//!                                   ▼                    ▼                           ▼
//!                             the control log      other nodes fetch           Supervisor: start,
//!                             holds the id         and verify them             probe, replace, stop
//! ```
//!
//! The crate knows one node. Which release should run here is decided elsewhere, as is where a blob
//! that is missing comes from; this is where a release is checked, kept and run.
//!
//! Architecture Invariant: nothing that came from a folder, a peer or the disk is used as a path or a
//! command before [`ReleaseManifest`] and [`AppSpec`] have accepted it.
//!
//! Architecture Invariant: a process is never signalled because of its number alone.

mod collect;
mod exec;
mod manifest;
mod spec;
mod store;
mod supervisor;

pub use collect::{CollectError, SourceEntry, SourceKind, collect};
pub use exec::{ExecError, exec_instance};
pub use manifest::{
    Content, Entry, EntryPath, FileContent, LinkTarget, ManifestError, PathError, ReleaseManifest,
    VERSION_BYTES_MAX,
};
pub use spec::{
    AppSpec, Health, Keep, Limits, Readiness, Restart, Rollout, Route, Run, SPEC_BYTES_MAX, SPEC_FILE,
    SpecError, Startup, Stop, StopSignal, is_name,
};
pub use store::{BlobWriter, Receiving, ReleaseStore, StoreError, Stored};
pub use supervisor::{
    AppState, AppStatus, Drain, InstanceState, InstanceStatus, Launch, LeftoverError, Statuses, Supervisor,
    SupervisorConfig, SupervisorError,
};
