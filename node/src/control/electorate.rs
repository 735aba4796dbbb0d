//! Changes of who votes and who follows, one at a time.

use std::time::Duration;

use node_consensus::Group;
use node_core::control::Electorate;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::log::ControlLog;

/// Before a change that failed is tried again: the learner that did not catch up may have died.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct ElectorateChange {
    group: Group<ControlLog>,
    /// At most one.
    under_way: JoinSet<bool>,
    not_before: Instant,
}

impl ElectorateChange {
    pub(super) fn new(group: Group<ControlLog>) -> Self {
        Self { group, under_way: JoinSet::new(), not_before: Instant::now() }
    }

    /// Begins a change, unless one is going on: then the next plan asks again.
    pub(super) fn begin(&mut self, next: Electorate) {
        if !self.under_way.is_empty() || Instant::now() < self.not_before {
            return;
        }
        tracing::info!(voters = ?next.voters, learners = ?next.learners, "changing the control group");
        let group = self.group.clone();
        self.under_way.spawn(async move {
            match group.reconfigure(next.voters, next.learners).await {
                Ok(_) => true,
                Err(error) => {
                    tracing::warn!(%error, "the control group could not be changed");
                    false
                }
            }
        });
    }

    /// Returns when a change has ended; never while there is none.
    pub(super) async fn finished(&mut self) {
        match self.under_way.join_next().await {
            None => std::future::pending().await,
            Some(Ok(true)) => {}
            Some(Ok(false)) => self.not_before = Instant::now() + RETRY,
            Some(Err(error)) => {
                tracing::error!(%error, "a change of the control group panicked");
                self.not_before = Instant::now() + RETRY;
            }
        }
    }
}
