//! Every raft group of a node: openraft, with storage and transport injected.
//!
//! ```text
//!   write(op) ──▶ batcher ──client_write──▶ ┌──────────┐ ──append──▶ log ──▶ Engine (one commit
//!   read(f)  ───▶ read index (batched) ───▶ │ openraft │                      thread for all groups)
//!   handle(payload) ◀── peers' RPCs ──────▶ └──────────┘ ──apply──▶ StateMachine, Snapshots
//!                                               ▲
//!   election driver (pre-vote, node_core) ──────┘ trigger().elect()
//! ```
//!
//! One module runs the control log and the session groups alike; they differ in their state machine
//! and their settings. openraft elects nobody by itself here: it has no pre-vote, and a vote request
//! that is refused still raises the term and deposes a healthy leader. The driver of
//! [`node_core::election`] asks first.
//!
//! Architecture Invariant: openraft's types end at this crate's edge; so do the encodings of its
//! messages and of the log. This crate opens no file and no socket.

mod ambient;
mod apply;
mod batcher;
mod clock;
mod elections;
mod engine;
mod fault;
mod group;
mod groups;
mod heartbeats;
mod inbound;
mod log;
mod machine;
pub mod memory;
mod network;
mod reads;
mod replica;
mod saved;
mod settings;
mod timekeeping;
mod transport;
mod types;
mod wire;

#[cfg(any(test, feature = "suite"))]
pub mod suite;

pub use ambient::{Ambient, System};
pub use engine::{Batch, Done, Engine, EngineError, SnapshotError, Snapshots, Write};
pub use group::{Group, GroupView, OpenError, ReadError, ReconfigureError, WriteError};
pub use groups::{Groups, HandleError};
pub use machine::{EntryMeta, RestoreError, StateMachine};
pub use settings::Settings;
pub use transport::{Transport, TransportError};
