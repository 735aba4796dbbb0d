//! The control log's state machine: applies commands and publishes the state after each.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use node_consensus::{EntryMeta, Group, Groups, OpenError, RestoreError, Settings, StateMachine};
use node_core::control::{Applied, Command, ControlState, Outcome, Refusal};
use node_storage::{Database, SnapshotFiles};
use tokio::sync::watch;

use super::GROUP;

/// Applies entries to a [`ControlState`].
///
/// The state is small (some kilobytes an app or a node) and changes seldom, so every change makes a
/// new one, and readers keep the one they have.
pub(super) struct ControlLog {
    state: watch::Sender<Arc<ControlState>>,
}

impl ControlLog {
    pub(super) fn new() -> (Self, watch::Receiver<Arc<ControlState>>) {
        let (state, receiver) = watch::channel(Arc::default());
        (Self { state }, receiver)
    }
}

impl StateMachine for ControlLog {
    fn apply(&mut self, meta: &EntryMeta, op: &Bytes) -> Bytes {
        let outcome = match Command::decode(op) {
            Ok(command) => {
                let mut outcome = Outcome::Done;
                self.state.send_if_modified(|state| {
                    let mut next = ControlState::clone(state);
                    outcome = next.apply(meta.index, meta.clock_ms, &command);
                    let changed = next != **state;
                    if changed {
                        *state = Arc::new(next);
                    }
                    changed
                });
                outcome
            }
            // A newer version's command, or damage that passed a checksum: all replicas of this version
            // do the same with it, which is nothing.
            Err(error) => {
                tracing::error!(index = meta.index, %error, "an entry of the control log can not be read");
                Outcome::Refused(Refusal::Unreadable)
            }
        };
        Applied { index: meta.index, outcome }.encode().into()
    }

    fn snapshot(&self) -> Vec<u8> {
        serde_json::to_vec(&**self.state.borrow())
            .expect("the state has only string and number keys, and no failing part")
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let state: ControlState =
            serde_json::from_slice(snapshot).map_err(|error| RestoreError(error.to_string()))?;
        self.state.send_replace(Arc::new(state));
        Ok(())
    }
}

pub(super) async fn open(
    groups: &Groups,
    database: Arc<Database>,
    snapshots: PathBuf,
    log: ControlLog,
) -> Result<Group<ControlLog>, OpenError> {
    let snapshots = Arc::new(SnapshotFiles::new(snapshots));
    groups.open(GROUP, database, snapshots, Settings::default(), log).await
}

#[cfg(test)]
mod tests {
    use node_core::control::{Fingerprint, NewNode};
    use proto::ids::ClusterId;

    use super::*;

    fn genesis() -> Bytes {
        let first = NewNode {
            name: "node-1".to_owned(),
            zone: "a".to_owned(),
            region: "r".to_owned(),
            peer_addr: ([127, 0, 0, 1], 1).into(),
            gossip_addr: ([127, 0, 0, 1], 2).into(),
            roles: ["voter".to_owned()].into(),
            csr_hash: Fingerprint([1; 32]),
        };
        Command::Genesis { cluster: ClusterId([1; 16]), groups: 4, first, token: None }.encode().into()
    }

    fn apply(log: &mut ControlLog, index: u64, op: &Bytes) -> Applied {
        Applied::decode(&log.apply(&EntryMeta { index, clock_ms: 1, seed: 0 }, op)).unwrap()
    }

    #[test]
    fn readers_see_each_change_once_it_is_applied_and_nothing_else() {
        let (mut log, mut state) = ControlLog::new();
        assert_eq!(apply(&mut log, 2, &genesis()), Applied { index: 2, outcome: Outcome::Done });
        assert!(state.has_changed().unwrap());
        assert_eq!(state.borrow_and_update().groups, 4);
        let again = apply(&mut log, 3, &genesis());
        assert_eq!(again.outcome, Outcome::Refused(Refusal::AlreadyInitialised));
        assert!(!state.has_changed().unwrap(), "a refusal changes nothing");
    }

    #[test]
    fn an_entry_that_can_not_be_read_is_refused_and_changes_nothing() {
        let (mut log, mut state) = ControlLog::new();
        let garbage = apply(&mut log, 2, &Bytes::from_static(b"{\"obey\": true}"));
        assert_eq!(garbage.outcome, Outcome::Refused(Refusal::Unreadable));
        assert_eq!(**state.borrow_and_update(), ControlState::default());
    }

    #[test]
    fn a_snapshot_restores_the_state_and_a_damaged_one_leaves_it() {
        let (mut log, state) = ControlLog::new();
        apply(&mut log, 2, &genesis());
        let (mut other, copy) = ControlLog::new();
        other.restore(&log.snapshot()).unwrap();
        assert_eq!(**copy.borrow(), **state.borrow());
        assert!(other.restore(b"{").is_err());
        assert_eq!(copy.borrow().groups, 4);
    }
}
