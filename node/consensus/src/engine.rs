//! What this crate needs of a disk: an ordered key-value store with durable, ordered commits, and
//! a place for snapshots.

use std::ops::ControlFlow;

use proto::ids::GroupId;

/// Why a disk did not do what it was asked. After any of these the group acknowledges nothing more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// One change of a [`Batch`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    Delete {
        key: Vec<u8>,
    },
    /// `from` inclusive, `to` exclusive. The engine may take its time, a bounded number of keys a
    /// commit: whoever asks does not read these keys again.
    DeleteRange {
        from: Vec<u8>,
        to: Vec<u8>,
    },
}

/// Changes that become durable together or not at all (a range excepted, see [`Write`]).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub writes: Vec<Write>,
}

impl Batch {
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.push(Write::Put { key, value });
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.writes.push(Write::Delete { key });
    }

    pub fn delete_range(&mut self, from: Vec<u8>, to: Vec<u8>) {
        self.writes.push(Write::DeleteRange { from, to });
    }
}

/// Called once when a commit is durable, or has failed.
pub type Done = Box<dyn FnOnce(Result<(), EngineError>) + Send>;

/// An ordered, durable key-value store. Values are at most 4,000 bytes.
pub trait Engine: Send + Sync + 'static {
    /// Queues the batch and returns. Batches take effect in the order of the calls; `done` is called
    /// when this one is on disk, not before. After an error every later commit fails too.
    fn commit(&self, batch: Batch, done: Done);

    /// # Errors
    /// When the disk can not be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError>;

    /// Visits the keys from `from` (inclusive) to `to` (exclusive) in order, until told to stop.
    ///
    /// # Errors
    /// When the disk can not be read.
    fn range(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError>;
}

/// Why a snapshot was not saved or loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// What it takes is not to be had at the moment, such as a file descriptor. Nothing is wrong with
    /// the disk, and the same call may succeed later.
    #[error("{0}")]
    NotNow(String),
    #[error(transparent)]
    Fault(#[from] EngineError),
}

impl From<SnapshotError> for EngineError {
    /// For whoever can not wait.
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::NotNow(reason) => Self(reason),
            SnapshotError::Fault(error) => error,
        }
    }
}

/// One snapshot per group, replaced as a whole.
pub trait Snapshots: Send + Sync + 'static {
    /// Whether nothing here waits for a disk. Then no other thread is needed, whose turn no seed decides.
    fn is_prompt(&self) -> bool {
        false
    }

    /// Returns when the snapshot is durable in place of the one before.
    ///
    /// # Errors
    /// When the disk refuses; the one before is then still there.
    fn save(&self, group: GroupId, bytes: &[u8]) -> Result<(), SnapshotError>;

    /// # Errors
    /// When it can not be read or its checksum is wrong.
    fn load(&self, group: GroupId) -> Result<Option<Vec<u8>>, SnapshotError>;
}
