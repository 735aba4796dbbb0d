//! openraft's own storage suite, to be run over any engine.

use std::sync::Arc;

use bytes::Bytes;
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, StorageError};
use proto::ids::GroupId;

use crate::apply::Machine;
use crate::engine::{Engine, Snapshots};
use crate::fault::Fault;
use crate::log::Log;
use crate::machine::{EntryMeta, RestoreError, StateMachine};
use crate::saved::Saved;
use crate::types::{LogId, Types};

/// Runs the suite; each of its tests gets a fresh engine, whose guard lives as long as the test.
///
/// # Errors
/// The suite's own. It panics where an expectation does not hold.
pub fn run<G: Send + Sync + 'static>(
    fresh: impl Fn() -> (G, Arc<dyn Engine>, Arc<dyn Snapshots>) + Send + Sync + 'static,
) -> Result<(), String> {
    Suite::test_all(Builder { fresh }).map_err(|error: StorageError<u64>| error.to_string())
}

struct Builder<F> {
    fresh: F,
}

impl<G, F> StoreBuilder<Types, Log, Machine<Nothing>, G> for Builder<F>
where
    G: Send + Sync + 'static,
    F: Fn() -> (G, Arc<dyn Engine>, Arc<dyn Snapshots>) + Send + Sync,
{
    async fn build(&self) -> Result<(G, Log, Machine<Nothing>), StorageError<u64>> {
        let (guard, engine, snapshots) = (self.fresh)();
        let group = GroupId(1);
        // The suite purges logs without a snapshot.
        let all = LogId::new(CommittedLeaderId::new(u64::MAX, u64::MAX), u64::MAX);
        let log = Log::open(group, engine, Saved::new(Some(all))).expect("a fresh engine opens");
        let machine =
            Machine::open(group, snapshots, Fault::none(), Nothing).expect("there is no snapshot yet");
        Ok((guard, log, machine))
    }
}

/// A state machine with no state: the suite looks at logs and membership.
struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, _meta: &EntryMeta, _op: &Bytes) -> Bytes {
        Bytes::new()
    }

    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&mut self, _snapshot: &[u8]) -> Result<(), RestoreError> {
        Ok(())
    }
}
