//! What ends the agent: a disk that failed, or a task that panicked.
//!
//! A replica that can not write, or whose state machine is half way through an operation, must not
//! go on as if it could. It tells the fault and acknowledges nothing more; whoever runs it ends it.

use std::sync::Arc;

use tokio::sync::watch;

/// The first fault of this node's groups, if there was one. Clones share it.
#[derive(Clone)]
pub struct Fault {
    told: Arc<watch::Sender<Option<String>>>,
}

impl Fault {
    pub fn none() -> Self {
        Self { told: Arc::new(watch::Sender::new(None)) }
    }

    pub fn tell(&self, reason: String) {
        tracing::error!(reason, "the groups of this node can not go on");
        self.told.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(reason);
            is_first
        });
    }

    pub fn subscribe(&self) -> watch::Receiver<Option<String>> {
        self.told.subscribe()
    }

    /// To be held by a task for as long as it lives: tells the fault when it panics.
    pub fn guard(&self, task: &'static str) -> Guard {
        Guard { fault: self.clone(), task }
    }
}

pub struct Guard {
    fault: Fault,
    task: &'static str,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fault.tell(format!("{} panicked", self.task));
        }
    }
}
