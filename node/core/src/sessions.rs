//! The session store's decisions: which group a key belongs to, and what each operation does there.
//!
//! A session is a key with a value and, mostly, a deadline. Keys are spread over a fixed number of
//! raft groups by their slot; within a group every replica applies the same operations in the same
//! order to a [`SessionState`], and so holds the same keys.
//!
//! ```text
//!   key ──slot()──▶ 0..16384 ──group_of()──▶ group ──▶ its log ──apply()──▶ SessionState, on each replica
//!                                                                  ▲
//!                                            read(): the leader alone, after a read index
//! ```
//!
//! Time is the log's: an entry carries the clock of the leader that wrote it, and a deadline is
//! judged by that clock alone. A key whose deadline has passed stays until an entry says so, which is
//! why a read that meets one is sent through the log: the answer "gone" is final on every replica,
//! whatever their clocks say.
//!
//! Architecture Invariant: what apply does depends on the entry and the state, never on a setting
//! of the node. The memory cap is therefore checked before an operation is logged ([`Budget`]).

mod admission;
mod apply;
mod error;
mod replicas;
mod slot;
mod snapshot;
mod state;

pub use admission::{Budget, check, is_read, may_answer_value};
pub use error::OpError;
pub use replicas::next_voters;
pub use slot::{SLOTS, group_of, slot};
pub use snapshot::SnapshotError;
pub use state::SessionState;

/// An app's name, ":" and the number of one of Redis's databases.
pub const KEYSPACE_BYTES_MAX: usize = proto::limits::NAME_BYTES_MAX + 3;

#[cfg(test)]
mod tests;
