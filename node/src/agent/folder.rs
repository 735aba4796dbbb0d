//! The data folder, taken over from whoever had it before.

use std::path::Path;
use std::time::Duration;

use node_storage::{DirLock, StorageError};

use super::AgentError;

/// An agent that was killed has its files and ports until the kernel is done with its last thread, and
/// one that waits for a slow disk is not done soon. Whoever starts the next one at once, a supervisor or
/// a person, means to replace it; an agent that lives still has the folder after this.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
/// The files of a dying process are closed one after another, this one among the first: its ports follow.
const PORTS_FOLLOW: Duration = Duration::from_millis(200);

/// Takes the folder, and waits for a predecessor that is about to end.
///
/// # Errors
/// When another agent keeps it, or it can not be written.
pub(super) async fn take(data_dir: &Path) -> Result<DirLock, AgentError> {
    let failed = |source| AgentError::Storage { path: data_dir.to_owned(), source };
    let locked = match DirLock::acquire(data_dir) {
        Err(locked @ StorageError::Locked(_)) => locked,
        taken => return taken.map_err(failed),
    };
    tracing::info!(folder = %data_dir.display(), "another agent has the data folder; waiting for it to end");
    let wait = async {
        loop {
            tokio::time::sleep(PAUSE).await;
            match DirLock::acquire(data_dir) {
                Err(StorageError::Locked(_)) => {}
                taken => return taken,
            }
        }
    };
    let lock = tokio::time::timeout(PATIENCE, wait).await.unwrap_or(Err(locked)).map_err(failed)?;
    tokio::time::sleep(PORTS_FOLLOW).await;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_predecessor_that_ends_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let held = DirLock::acquire(dir.path()).unwrap();
        let ends = async {
            tokio::time::sleep(PATIENCE / 2).await;
            drop(held);
        };
        let (taken, ()) = tokio::join!(take(dir.path()), ends);
        assert!(matches!(DirLock::acquire(dir.path()), Err(StorageError::Locked(_))));
        drop(taken.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_lives_keeps_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let _held = DirLock::acquire(dir.path()).unwrap();
        let refused = take(dir.path()).await;
        assert!(
            matches!(refused, Err(AgentError::Storage { source: StorageError::Locked(_), .. })),
            "{refused:?}"
        );
    }
}
