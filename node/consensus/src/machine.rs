//! What a group replicates.

use bytes::Bytes;

/// What every replica knows of the entry that it applies, the same on each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryMeta {
    pub index: u64,
    /// The leader's group time when it made the entry: Unix milliseconds that never go back.
    pub clock_ms: u64,
    /// Drawn by the leader, for what needs chance.
    pub seed: u64,
}

/// Why a snapshot can not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot can not be used: {0}")]
pub struct RestoreError(pub String);

/// A deterministic state machine: the same operations in the same order give the same state and
/// answers everywhere. It reads no clock and draws nothing.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one operation. Bytes that make no sense are answered, never panicked upon.
    fn apply(&mut self, meta: &EntryMeta, op: &Bytes) -> Bytes;

    /// The whole state.
    fn snapshot(&self) -> Vec<u8>;

    /// Replaces the whole state.
    ///
    /// # Errors
    /// When the bytes are no snapshot; the state is then as it was.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError>;
}
