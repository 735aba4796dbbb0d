//! Which controller this agent obeys.
//!
//! Every act that a controller asks for carries its epoch. The agent writes down the highest it has
//! seen, durably, before it acts, and refuses a lower one from then on, across restarts. A controller
//! that was deposed and does not know it (its process was stopped, its network was cut) is refused by
//! every agent that its successor has reached. A lease could only shorten the time in which two
//! believe that they reign: a stopped process does not see its lease run out.

use std::sync::Arc;

use node_storage::{Facts, StorageError};
use proto::ids::Epoch;
use tokio::sync::{Mutex, watch};

const FACT: &str = "epoch_seen";

/// Why an act is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    #[error("epoch {given} has been succeeded: this node has seen epoch {seen}")]
    Stale { given: Epoch, seen: Epoch },
    #[error("can not record the epoch {given}: {source}")]
    Record { given: Epoch, source: StorageError },
    #[error("can not read the epoch that was recorded: {0}")]
    Read(StorageError),
    #[error("the epoch that was recorded is damaged: {0:?}")]
    Damaged(Vec<u8>),
}

/// The agent's memory of epochs. Clones share it.
#[derive(Clone)]
pub struct EpochFence {
    facts: Arc<Facts>,
    /// Held while a new highest is written, so that two can not overtake one another.
    writing: Arc<Mutex<()>>,
    seen: watch::Sender<Epoch>,
}

impl EpochFence {
    /// # Errors
    /// What was recorded can not be read, or is not an epoch.
    pub fn open(facts: Arc<Facts>) -> Result<Self, FenceError> {
        let seen = match facts.get(FACT).map_err(FenceError::Read)? {
            None => Epoch(0),
            Some(bytes) => match bytes.as_slice().try_into() {
                Ok(bytes) => Epoch(u64::from_be_bytes(bytes)),
                Err(_) => return Err(FenceError::Damaged(bytes)),
            },
        };
        Ok(Self { facts, writing: Arc::default(), seen: watch::Sender::new(seen) })
    }

    /// Lets an act of this epoch pass, or not. When it returns `Ok`, the epoch is on disk.
    ///
    /// # Errors
    /// [`FenceError::Stale`] for an epoch that has been succeeded; otherwise the disk's fault.
    pub async fn admit(&self, given: Epoch) -> Result<(), FenceError> {
        let _turn = self.writing.lock().await;
        let seen = self.seen();
        if given < seen {
            return Err(FenceError::Stale { given, seen });
        }
        if given > seen {
            self.record(given).await?;
            self.seen.send_replace(given);
        }
        Ok(())
    }

    async fn record(&self, given: Epoch) -> Result<(), FenceError> {
        let facts = Arc::clone(&self.facts);
        let record = move || facts.put(FACT, &given.0.to_be_bytes());
        // A sync takes milliseconds, in which this thread can do something else.
        let recorded = tokio::task::spawn_blocking(record).await;
        let recorded = recorded.unwrap_or_else(|panic| Err(StorageError::Stopped(panic.to_string())));
        recorded.map_err(|source| FenceError::Record { given, source })
    }

    /// The highest epoch that this node has recorded.
    pub fn seen(&self) -> Epoch {
        *self.seen.borrow()
    }

    pub fn watch(&self) -> watch::Receiver<Epoch> {
        self.seen.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use node_storage::{Database, Options};

    use super::*;

    fn facts(folder: &std::path::Path) -> Arc<Facts> {
        let database = Database::open(&folder.join("db"), Options { cache_bytes: 1 << 20 }).unwrap();
        Arc::new(Facts::new(database))
    }

    #[tokio::test]
    async fn an_epoch_that_was_succeeded_is_refused_after_a_restart_too() {
        let folder = tempfile::tempdir().unwrap();
        {
            let fence = EpochFence::open(facts(folder.path())).unwrap();
            fence.admit(Epoch(5)).await.unwrap();
            fence.admit(Epoch(5)).await.expect("the same controller goes on");
            fence.admit(Epoch(7)).await.unwrap();
            assert!(matches!(fence.admit(Epoch(5)).await, Err(FenceError::Stale { seen: Epoch(7), .. })));
        }
        let fence = EpochFence::open(facts(folder.path())).unwrap();
        assert_eq!(fence.seen(), Epoch(7));
        assert!(matches!(fence.admit(Epoch(6)).await, Err(FenceError::Stale { .. })));
    }
}
