//! What the session groups replicate: the pure state of node/core, applied by the consensus module.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use node_consensus::{EntryMeta, RestoreError, StateMachine};
use node_core::sessions::SessionState;

/// Memory that the keys of all groups on this node take, as accounted.
#[derive(Debug, Clone, Default)]
pub(super) struct Used(Arc<AtomicU64>);

impl Used {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn change(&self, before: u64, after: u64) {
        // Two's complement: the sum over all groups is right whatever the order.
        self.0.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }
}

/// One group's replica on this node.
pub(super) struct SessionMachine {
    state: SessionState,
    used: Used,
}

impl SessionMachine {
    pub(super) fn new(used: Used) -> Self {
        Self { state: SessionState::new(), used }
    }

    pub(super) fn state(&self) -> &SessionState {
        &self.state
    }
}

impl StateMachine for SessionMachine {
    fn apply(&mut self, meta: &EntryMeta, op: &Bytes) -> Bytes {
        let before = self.state.bytes();
        let replies = self.state.apply_entry(meta.clock_ms, op);
        self.used.change(before, self.state.bytes());
        replies
    }

    fn snapshot(&self) -> Vec<u8> {
        self.state.snapshot()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let restored = SessionState::restore(snapshot).map_err(|error| RestoreError(error.to_string()))?;
        self.used.change(self.state.bytes(), restored.bytes());
        self.state = restored;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use node_core::sessions::is_read;
    use prost::Message as _;
    use proto::log::{Del, Op, Ops, Set, op};

    use super::*;

    fn entry(key: &'static str, kind: op::Kind) -> Bytes {
        let op = Op { keyspace: String::new(), key: Bytes::from_static(key.as_bytes()), kind: Some(kind) };
        assert!(!is_read(&op));
        Ops { ops: vec![op] }.encode_to_vec().into()
    }

    fn apply(machine: &mut SessionMachine, op: &Bytes) {
        machine.apply(&EntryMeta { index: 1, clock_ms: 1, seed: 0 }, op);
    }

    #[test]
    fn the_memory_of_all_groups_together_is_known_after_writes_deletes_and_restores() {
        let used = Used::default();
        let mut one = SessionMachine::new(used.clone());
        let mut other = SessionMachine::new(used.clone());
        let set = Set { value: Bytes::from_static(b"value"), ..Set::default() };
        apply(&mut one, &entry("a", op::Kind::Set(set.clone())));
        apply(&mut one, &entry("b", op::Kind::Set(set)));
        let two_keys = used.bytes();
        assert!(two_keys > 0);
        other.restore(&one.snapshot()).unwrap();
        assert_eq!(used.bytes(), 2 * two_keys);
        apply(&mut one, &entry("a", op::Kind::Del(Del { get: false })));
        assert_eq!(used.bytes(), two_keys + two_keys / 2);
        assert!(other.restore(b"garbage").is_err());
        assert_eq!(used.bytes(), two_keys + two_keys / 2, "a snapshot that is none changes nothing");
    }
}
