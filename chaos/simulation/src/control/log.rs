//! The control log's state machine: as the agent's, with somebody who watches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use node_consensus::{EntryMeta, RestoreError, StateMachine};
use node_core::control::{Applied, Command, ControlState, Outcome, Refusal};
use proto::ids::NodeId;
use tokio::sync::watch;

use super::invariants::{Jury, Seen};

pub struct Log {
    jury: Arc<Jury>,
    node: NodeId,
    is_open: AtomicBool,
    state: watch::Sender<Arc<ControlState>>,
}

impl Log {
    pub fn new(jury: Arc<Jury>, node: NodeId) -> (Self, watch::Receiver<Arc<ControlState>>) {
        let (state, receiver) = watch::channel(Arc::default());
        (Self { jury, node, is_open: AtomicBool::new(false), state }, receiver)
    }

    /// It has what its disk had. A snapshot that comes later is another replica's.
    pub fn opened(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }
}

impl StateMachine for Log {
    fn apply(&mut self, meta: &EntryMeta, op: &Bytes) -> Bytes {
        let mut outcome = Outcome::Refused(Refusal::Unreadable);
        if let Ok(command) = Command::decode(op) {
            self.state.send_modify(|state| {
                let mut next = ControlState::clone(state);
                outcome = next.apply(meta.index, meta.clock_ms, &command);
                *state = Arc::new(next);
            });
            let state = Arc::clone(&self.state.borrow());
            let outcome = outcome.clone();
            let (node, index, at_ms) = (self.node, meta.index, self.jury.now_ms());
            let command = Box::new(command);
            self.jury.see(&Seen::Applied { node, index, command, outcome, state, at_ms });
        }
        Applied { index: meta.index, outcome }.encode().into()
    }

    fn snapshot(&self) -> Vec<u8> {
        serde_json::to_vec(&**self.state.borrow()).unwrap_or_default()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), RestoreError> {
        let state: ControlState =
            serde_json::from_slice(snapshot).map_err(|error| RestoreError(error.to_string()))?;
        let (node, state, is_received) = (self.node, Arc::new(state), *self.is_open.get_mut());
        self.state.send_replace(Arc::clone(&state));
        self.jury.see(&Seen::Restored { node, state, is_received });
        Ok(())
    }
}
