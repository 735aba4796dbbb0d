//! The agent's long-lived tasks, tracked and cancellable.
//!
//! Every part of the agent runs in tasks that end together: one token says stop, one tracker knows
//! when the last is gone. A task that the agent cannot do without is *essential*: when it panics or
//! returns while nobody asked it to stop, the agent as a whole stops, in order, and reports why. A
//! half-dead agent that still answers its probes is the worst of all states.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use futures::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// Spawns tasks and ends them together. Clones share everything.
#[derive(Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    failure: Arc<OnceLock<String>>,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// For parts that spawn tasks of their own.
    pub fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Cancelled when the agent is to stop.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Spawns a task without which the agent can not go on.
    pub fn essential(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let this = self.clone();
        let guarded = async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            match ended {
                Ok(()) if this.stop.is_cancelled() => {}
                Ok(()) => this.fail(format!("the task {name} ended though nobody stopped it")),
                Err(panic) => this.fail(format!("the task {name} panicked: {}", panic_text(&*panic))),
            }
        };
        self.tracker.spawn(guarded.instrument(tracing::info_span!("task", name)));
    }

    /// Ends the agent because of a fault. The first reason is the one that is reported.
    pub fn fail(&self, reason: String) {
        tracing::error!(reason, "stopping");
        // A later failure is a consequence of the first more often than not.
        let _first_wins = self.failure.set(reason);
        self.stop.cancel();
    }

    /// Why the agent stopped, when it was a fault.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Waits for every task; call after `stop` was cancelled.
    pub async fn drained(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_an_essential_task_stops_the_agent_and_says_why() {
        let tasks = Tasks::new();
        tasks.essential("steady", {
            let stop = tasks.stop();
            async move { stop.cancelled().await }
        });
        tasks.essential("faulty", async { panic!("out of kelp") });
        tasks.stop().cancelled().await;
        tasks.drained().await;
        assert_eq!(tasks.failure(), Some("the task faulty panicked: out of kelp"));
    }

    #[tokio::test]
    async fn a_task_that_was_asked_to_stop_is_no_failure() {
        let tasks = Tasks::new();
        let stop = tasks.stop();
        tasks.essential("steady", async move { stop.cancelled().await });
        tasks.stop().cancel();
        tasks.drained().await;
        assert_eq!(tasks.failure(), None);
    }
}
