//! What the groups replicate here: registers with versions, and the chain of all that was applied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use node_consensus::{EntryMeta, RestoreError, StateMachine};
use proto::ids::{GroupId, NodeId};
use serde::{Deserialize, Serialize};

use super::invariants::{Jury, Seen};
use crate::trace;

/// A client's write, told from all others by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Operation {
    pub number: u64,
    pub register: u8,
}

impl Operation {
    /// Padded, so that a log is not without weight.
    pub fn encode(self) -> Bytes {
        let mut bytes = self.number.to_be_bytes().to_vec();
        bytes.push(self.register);
        bytes.resize(64, 0);
        Bytes::from(bytes)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk()?;
        Some(Self { number: u64::from_be_bytes(*number), register: *rest.first()? })
    }
}

/// All that a replica knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub registers: BTreeMap<u8, u64>,
    pub applied: Vec<u64>,
    pub chain: u64,
}

/// One replica's.
pub struct Ledger {
    jury: Arc<Jury>,
    group: GroupId,
    node: NodeId,
    is_open: AtomicBool,
    pub state: State,
}

impl Ledger {
    pub fn new(jury: Arc<Jury>, group: GroupId, node: NodeId) -> Self {
        Self { jury, group, node, is_open: AtomicBool::new(false), state: State::default() }
    }

    /// It has what its disk had. A snapshot that comes later is another replica's.
    pub fn opened(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }
}

impl StateMachine for Ledger {
    fn apply(&mut self, meta: &EntryMeta, op: &Bytes) -> Bytes {
        let Some(operation) = Operation::decode(op) else { return Bytes::new() };
        let version = self.state.registers.entry(operation.register).or_default();
        *version += 1;
        let answer = *version;
        self.state.applied.push(operation.number);
        let link = [self.state.chain, meta.index, meta.clock_ms, meta.seed, operation.number];
        self.state.chain = trace::hashed(trace::OFFSET_BASIS, link.into_iter().flat_map(u64::to_le_bytes));
        self.jury.see(&Seen::Applied {
            group: self.group,
            node: self.node,
            count: self.state.applied.len() as u64,
            chain: self.state.chain,
            clock_ms: meta.clock_ms,
            at_ms: self.jury.now_ms(),
            operation,
        });
        Bytes::copy_from_slice(&answer.to_be_bytes())
    }

    fn snapshot(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.state).unwrap_or_default()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        self.state = postcard::from_bytes(snapshot).map_err(|error| RestoreError(error.to_string()))?;
        let (group, node, chain) = (self.group, self.node, self.state.chain);
        let count = self.state.applied.len() as u64;
        self.jury.see(&if *self.is_open.get_mut() {
            Seen::Received { group, node, count, chain }
        } else {
            Seen::Recovered { group, node, count, chain }
        });
        Ok(())
    }
}
